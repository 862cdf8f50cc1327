"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_LINE_EVERY_S = 10.0


class Progress(Protocol):
    """What long work reports to."""

    def advance(self, count: int, note: str = "") -> None:
        """Say that `count` more units are done; `note` is shown beside the bar."""


class _Lines:
    """Plain lines, at most one every ten seconds and one at the end."""

    def __init__(self, total: int | None, label: str, unit: str) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done, self.start = 0, time.monotonic()
        self.next_line = self.start + _LINE_EVERY_S

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if now >= self.next_line or self.done == self.total:
            self.next_line = now + _LINE_EVERY_S
            of = f" of {self.total}" if self.total else ""
            rate = self.done / max(now - self.start, 1e-9)
            tail = f", {note}" if note else ""
            print(f"{self.label}: {self.done}{of} {self.unit}, {rate:.4g}/s{tail}", file=sys.stderr, flush=True)


@contextmanager
def progress(total: int | None, label: str, unit: str = "events") -> Iterator[Progress]:
    """Show progress of `total` units (None where it is not known) on standard error."""
    if not sys.stderr.isatty():
        yield _Lines(total, label, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}, {task.fields[rate]:.4g}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total or 0, unit=unit, rate=0.0, note="")
        start, done = time.monotonic(), 0

        class _Bar:
            def advance(self, count: int, note: str = "") -> None:
                nonlocal done
                done += count
                rate = done / max(time.monotonic() - start, 1e-9)
                bar.update(task, completed=done, total=total or done, rate=rate, note=note)

        yield _Bar()
