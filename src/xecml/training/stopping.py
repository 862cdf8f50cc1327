"""Stopping between two steps when asked to by a scheduler's signal; several processes agree on the step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import distributed

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """While active, SIGTERM and SIGUSR1 ask for a stop instead of killing; the old handlers come back after.

    A signal reaches some processes only, or each between other steps. So they tell each other, in the background of
    the next step and on the processor's own channel, and all stop after the same one.

    Args:
        several: whether there are other processes.
    """

    def __init__(self, *, several: bool = False) -> None:
        self.requested: str | None = None
        self._before: dict[int, Any] = {}
        self._group = distributed.new_group(backend="gloo") if several else None
        self._asking: tuple[torch.Tensor, Any] | None = None

    def after_step(self) -> str | None:
        """The signal to stop for, the same in all processes; if there are several, as they stood a step ago."""
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
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: nobody sends signals to us there
                break
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
