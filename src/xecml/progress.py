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
        """Say that `count` more units are done; `note` is shown beside the bar until there is another."""


class _Lines:
    """Plain lines with the time of day and what is left, at most one every ten seconds and one at the end."""

    def __init__(self, total: int | None, label: str, unit: str, before: int) -> None:
        self.total, self.label, self.unit = total, label, unit
        self.done, self.before, self.start, self.note = before, before, time.monotonic(), ""
        self.next_line = self.start + _LINE_EVERY_S

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now >= self.next_line or self.done == self.total:
            self.next_line = now + _LINE_EVERY_S
            rate = (self.done - self.before) / max(now - self.start, 1e-9)
            parts = [f"{self.done}{f' of {self.total}' if self.total else ''} {self.unit}", f"{rate:.4g}/s"]
            if self.total and rate and self.done < self.total:
                parts.append(f"{_clock((self.total - self.done) / rate)} left")
            line = ", ".join([*parts, *([self.note] if self.note else [])])
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.label}: {line}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    """A length of time as hours, minutes and seconds: 1:02:03, or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class _Nothing:
    def advance(self, count: int, note: str = "") -> None:
        """Show nothing."""


@contextmanager
def progress(
    total: int | None, label: str, unit: str = "events", *, done: int = 0, silent: bool = False
) -> Iterator[Progress]:
    """Show progress of work on standard error.

    Args:
        total: units; None where it is not known.
        label: what is being done.
        unit: what is counted.
        done: units that were done before; they do not count for the speed.
        silent: show nothing, as all but one of several processes do.
    """
    if silent or not sys.stderr.isatty():
        yield _Nothing() if silent else _Lines(total, label, unit, done)
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
        task = bar.add_task(label, total=total or 0, completed=done, unit=unit, rate=0.0, note="")
        start, before, said = time.monotonic(), done, ""

        class _Bar:
            def advance(self, count: int, note: str = "") -> None:
                nonlocal done, said
                done += count
                said = note or said
                rate = (done - before) / max(time.monotonic() - start, 1e-9)
                bar.update(task, completed=done, total=total or done, rate=rate, note=said)

        yield _Bar()
