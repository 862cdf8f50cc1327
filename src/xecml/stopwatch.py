"""Where the seconds of a command went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by part, in the order in which the parts first began.

    Attributes:
        seconds: by part.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as a part; a part may come several times."""
        self.seconds.setdefault(name, 0.0)
        before = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - before

    def add_before(self, name: str, seconds: float) -> None:
        """Count a part that came before the watch began."""
        self.seconds = {name: seconds} | self.seconds
        self._started -= seconds

    def total(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def lines(self) -> list[str]:
        """A line a part, and one for what is left, if that is more than a tenth of a second."""
        rest = self.total() - sum(self.seconds.values())
        shown = self.seconds | ({"the rest": rest} if rest > 0.1 else {})
        wide = max(map(len, shown), default=0)
        return [f"  {name:<{wide}} {seconds:8.1f} s" for name, seconds in shown.items()]
