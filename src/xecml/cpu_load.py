"""Use as many threads as other processes leave cores free, since threads that share a core wait for each other.

PyTorch's threads meet hundreds of times in a training step, and wait for one another without giving their core away.
With as many threads as cores, one busy neighbour makes all of them wait for the one that it has displaced; no setting
of OpenMP's waiting that was tried helped (docs/training.md has the numbers). So commands look how much of the cores
that they may use others are using, and take a thread a core that is left. `OMP_NUM_THREADS` fixes the number.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_S = 5.0
"""From one look to the next."""
_LEAST_S = 0.5
"""What is measured over less says nothing."""
_STATISTICS = Path("/proc/stat")
_IDLE_COLUMNS = (3, 4)
"""Of a line of that file, after the core's name: idle, and idle while a disk works."""


class CoresOfOthers:
    """How many of the cores that this process may use are used by others, measured between two looks.

    Raises:
        OSError: the system does not say; it is none of Linux.
    """

    def __init__(self) -> None:
        self.cores = os.sched_getaffinity(0)
        self._before = self._now()

    def since_last_look(self) -> tuple[float, float]:
        """Cores in use by others on average, and the seconds since the last look; a new look begins."""
        before, now = self._before, self._now()
        seconds = now[0] - before[0]
        self._before = now
        used, own = now[1] - before[1], now[2] - before[2]
        return max(used - own, 0.0) / max(seconds, 1e-9), seconds

    def seconds(self) -> float:
        """Since the last look."""
        return time.monotonic() - self._before[0]

    def _now(self) -> tuple[float, float, float]:
        """The time, and for how many seconds the cores, and this process, have been busy so far."""
        ticks = os.sysconf("SC_CLK_TCK")
        busy = 0.0
        for line in _STATISTICS.read_text(encoding="ascii").splitlines():
            name, *numbers = line.split()
            if name.startswith("cpu") and name != "cpu" and int(name[3:]) in self.cores:
                # guests are in the first columns already
                busy += sum(int(n) for i, n in enumerate(numbers[:8]) if i not in _IDLE_COLUMNS) / ticks
        own = os.times()
        return time.monotonic(), busy, own.user + own.system


class ThreadsByLoad:
    """The number of PyTorch's threads, followed to what others leave."""

    def __init__(self, others: CoresOfOthers) -> None:
        self._others, self._most, self._wanted_before = others, 0, 0

    def look(self) -> None:
        """Set the number anew, if it is time to look; a change in mid-work needs two looks that agree."""
        import torch

        first = not self._most
        if self._others.seconds() < (_LEAST_S if first else _EVERY_S):
            return
        used, _ = self._others.since_last_look()
        self._most = self._most or torch.get_num_threads()
        now = torch.get_num_threads()
        wanted = threads_beside(used, len(self._others.cores), self._most)
        if wanted != now and (first or wanted == self._wanted_before):
            torch.set_num_threads(wanted)
            print(
                f"xec: other processes use {used:.1f} of {len(self._others.cores)} cores; going on with "
                f"{wanted} {'thread' if wanted == 1 else 'threads'} (OMP_NUM_THREADS fixes the number)",
                file=sys.stderr,
                flush=True,
            )
        self._wanted_before = wanted

    def go_on_with(self, threads: int) -> None:
        """Take the number of threads of the run that continues, so that its sums are rounded alike."""
        import torch

        self._most = self._most or torch.get_num_threads()
        torch.set_num_threads(min(threads, self._most))
        self._wanted_before = 0  # what was seen before speaks of another number


def threads_beside(used: float, cores: int, most: int) -> int:
    """How many threads to take where others use so many cores."""
    return max(1, min(most, round(cores - used)))


_following: ThreadsByLoad | None = None


def follow() -> None:
    """From now on the threads of this process follow the load; commands ask for it when they start."""
    global _following
    if "OMP_NUM_THREADS" in os.environ:
        return
    try:
        _following = ThreadsByLoad(CoresOfOthers())
    except (OSError, AttributeError, ValueError):  # another system than Linux
        _following = None


def stop_following() -> None:
    """Leave the number of threads as it is."""
    global _following
    _following = None


def look() -> None:
    """Between two pieces of work: look whether the number of threads is to change, where it is followed."""
    if _following is not None:
        _following.look()


def threads_for_libraries() -> int | None:
    """How many threads libraries with threads of their own are to take; None where that is theirs to choose."""
    if (fixed := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return max(int(fixed), 1)
    if _following is None:
        return None
    import torch

    look()
    return torch.get_num_threads()


def go_on_with(threads: int) -> None:
    """The number of threads of a run that is continued, if it is followed."""
    if _following is not None:
        _following.go_on_with(threads)


def jobs(asked: int | None = None) -> int:
    """How many pieces of work to do side by side: as many as asked for, or as there are threads to take."""
    import torch

    return max(1, asked or threads_for_libraries() or torch.get_num_threads())


@contextmanager
def one_thread_each() -> Iterator[Callable[[], None]]:
    """While active, pieces of work run side by side in threads of this process, each with one thread of PyTorch.

    Such threads wait for nobody, so that a busy neighbour slows down only the one whose core it takes; their number is
    not followed meanwhile. Yields what each thread calls first.
    """
    global _following
    import torch

    before, following = torch.get_num_threads(), _following
    _following = None
    try:
        yield lambda: torch.set_num_threads(1)
    finally:
        _following = following
        torch.set_num_threads(before)
