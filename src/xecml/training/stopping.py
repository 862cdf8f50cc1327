"""Stopping between two steps when asked to by a signal; several processes agree on the step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import distributed

from xecml.data.batch import Batch

_WARNINGS = ("SIGUSR1", "SIGUSR2")
"""What a scheduler is told to send some minutes before it ends a job."""
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", *_WARNINGS) if hasattr(signal, name))
_BEFORE_VALIDATION_S = 60.0
"""Since the last saving, from which on a validation, which may be long, is not added to what a lost node costs."""
_SAME_PRESS_S = 1.0
"""A terminal and what started several processes both pass a Ctrl-C on: what comes so soon after is no second one."""


EARLY = "early"
"""What `StopRequest` answers where no signal asks to stop, but the run itself does; a signal goes before it."""


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """A validation was left because a stop was asked for."""


class StopRequest:
    """While active, signals ask for a stop after the step instead of killing; the old handlers come back after.

    SIGINT (Ctrl-C), SIGTERM, SIGHUP (a closed terminal), SIGUSR1 and SIGUSR2 (a scheduler's warning) ask alike; a
    second SIGINT ends at once. Before the first step there is nothing to save, and signals but SIGUSR1 and SIGUSR2 do
    what they did before. A signal that is ignored, as `nohup` has it, stays so.

    A signal reaches some processes only, or each between other steps. So they tell each other, in the background of
    the next step and on the processor's own channel, and all stop after the same one. In the same way they agree on the
    step after which it is time to save.

    Args:
        several: whether there are other processes.
        silent: say nothing when asked by Ctrl-C.
        save_every_s: seconds after which it is time to save; never by default.
    """

    def __init__(self, *, several: bool = False, silent: bool = False, save_every_s: float | None = None) -> None:
        self.requested: str | None = None
        self.save_due = False
        """Whether it is time to save, the same in all processes; as of the last `after_step`."""
        self._save_every_s, self._saved_at = save_every_s, time.monotonic()
        self._silent = silent
        self._begun = False
        self._pressed: float | None = None
        self._before: dict[int, Any] = {}
        self._group = distributed.new_group(backend="gloo") if several else None
        self._asking: tuple[torch.Tensor, Any, bool] | None = None
        """What is being agreed on, and whether its word on saving counts."""

    def after_step(self) -> str | None:
        """The signal to stop for, the same in all processes; if there are several, as they stood a step ago."""
        self._begun = True
        if self._group is None:
            self.save_due = self._late()
            return self.requested
        answer = self._answer()
        asked = torch.tensor([_number(self.requested), int(self._late())])
        work = distributed.all_reduce(asked, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._asking = (asked, work, True)
        return answer

    def at_epoch_end(self) -> str | None:
        """The signal to stop for, as all processes stand now."""
        if self._group is None:
            return self.requested
        return self.after_step() or self._answer()

    def saved(self) -> None:
        """Say that all was saved just now, in all processes after the same step."""
        self._saved_at, self.save_due = time.monotonic(), False
        if self._asking is not None:  # what was asked before is answered after, and means the time before
            self._asking = (*self._asking[:2], False)

    def worth_saving(self) -> bool:
        """Whether to save before a validation; the same in all processes, which all ask."""
        if self._save_every_s is None:
            return False
        late = time.monotonic() - self._saved_at >= _BEFORE_VALIDATION_S
        if self._group is None:
            return late
        asked = torch.tensor([int(late)])
        distributed.all_reduce(asked, distributed.ReduceOp.MAX, self._group)
        return bool(asked.item())

    def _late(self) -> bool:
        return self._save_every_s is not None and time.monotonic() - self._saved_at >= self._save_every_s

    def during(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches of a validation, which a single process leaves when asked to stop.

        Raises:
            Stopped: it was asked.
        """
        for batch in batches:
            if self.requested and self._group is None:
                raise Stopped
            yield batch

    def _answer(self) -> str | None:
        """What the processes said when they were last asked."""
        if self._asking is None:
            return None
        (asked, work, counts), self._asking = self._asking, None
        work.wait()
        number, late = asked.tolist()
        self.save_due = counts and bool(late)
        return _word(number)

    def end_early(self) -> None:
        """Ask for a stop without a signal; all processes then answer `EARLY`."""
        self.requested = self.requested or EARLY

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: nobody sends signals to us there
                break
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._begun and signal.Signals(number).name not in _WARNINGS:
            self._end_at_once(number, frame)
        elif number == signal.SIGINT and self._pressed is not None:
            if self._group is None or time.monotonic() - self._pressed > _SAME_PRESS_S:
                self._end_at_once(number, frame)
        elif number == signal.SIGINT:
            self._pressed = time.monotonic()
            if not self._silent:
                # printing could meet a print that the signal came into
                os.write(2, b"\nxec: stopping after this step; Ctrl-C once more ends at once.\n")
        if self.requested in (None, EARLY):
            self.requested = signal.Signals(number).name

    def _end_at_once(self, number: int, frame: FrameType | None) -> None:
        """Do what the signal did before."""
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _number(asked: str | None) -> int:
    """What was asked for as a number of which the largest of several processes counts."""
    if asked is None:
        return 0
    return 1 if asked == EARLY else signal.Signals[asked].value + 1


def _word(number: int) -> str | None:
    if number <= 1:
        return EARLY if number else None
    return signal.Signals(number - 1).name
