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

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_SAME_PRESS_S = 1.0
"""A terminal and what started several processes both pass a Ctrl-C on: what comes so soon after is no second one."""


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """A validation was left because a stop was asked for."""


class StopRequest:
    """While active, signals ask for a stop after the step instead of killing; the old handlers come back after.

    SIGINT (Ctrl-C), SIGTERM, SIGHUP (a closed terminal) and SIGUSR1 (a scheduler's warning) ask alike; a second SIGINT
    ends at once. Before the first step there is nothing to save, and signals but SIGUSR1 do what they did before. A
    signal that is ignored, as `nohup` has it, stays so.

    A signal reaches some processes only, or each between other steps. So they tell each other, in the background of
    the next step and on the processor's own channel, and all stop after the same one.

    Args:
        several: whether there are other processes.
        silent: say nothing when asked by Ctrl-C.
    """

    def __init__(self, *, several: bool = False, silent: bool = False) -> None:
        self.requested: str | None = None
        self._silent = silent
        self._begun = False
        self._pressed: float | None = None
        self._before: dict[int, Any] = {}
        self._group = distributed.new_group(backend="gloo") if several else None
        self._asking: tuple[torch.Tensor, Any] | None = None

    def after_step(self) -> str | None:
        """The signal to stop for, the same in all processes; if there are several, as they stood a step ago."""
        self._begun = True
        if self._group is None:
            return self.requested
        answer = self._answer()
        number = signal.Signals[self.requested].value if self.requested else 0
        asked = torch.tensor([number])
        work = distributed.all_reduce(asked, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._asking = (asked, work)
        return answer

    def at_epoch_end(self) -> str | None:
        """The signal to stop for, as all processes stand now."""
        if self._group is None:
            return self.requested
        return self.after_step() or self._answer()

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
        (asked, work), self._asking = self._asking, None
        work.wait()
        number = int(asked)
        return signal.Signals(number).name if number else None

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
        if not self._begun and number != getattr(signal, "SIGUSR1", None):
            self._end_at_once(number, frame)
        elif number == signal.SIGINT and self._pressed is not None:
            if self._group is None or time.monotonic() - self._pressed > _SAME_PRESS_S:
                self._end_at_once(number, frame)
        elif number == signal.SIGINT:
            self._pressed = time.monotonic()
            if not self._silent:
                # printing could meet a print that the signal came into
                os.write(2, b"\nxec: stopping after this step; Ctrl-C once more ends at once.\n")
        self.requested = self.requested or signal.Signals(number).name

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
