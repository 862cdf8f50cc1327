"""Periods of data-taking: ranges of runs that are compared with one another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xecml.conditions import run_range
from xecml.errors import InputError
from xecml.evaluation.tables import Table
from xecml.limits import LARGEST_INT32, cut

_MOST = 5
"""More colours than that cannot be told apart."""


@dataclass(frozen=True)
class Period:
    """Runs from the first to the last, both included, under a name."""

    name: str
    first: int
    last: int

    def mask(self, table: Table) -> NDArray[np.bool_]:
        """Events (N,) of a table that are of its runs."""
        runs = table["run"]
        return np.asarray((runs >= self.first) & (runs <= self.last))


def parse_periods(text: str) -> tuple[Period, ...]:
    """Read periods, such as `430000-430499, after=430500-430999`, separated by blanks or commas.

    Without a name of its own a period is called after its runs.

    Raises:
        InputError: a part is no range of runs, two have one name, or there are too many.
    """
    found = []
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"(?:([^=]{1,40})=)?(\d{1,10})(?:-(\d{1,10}))?", part)
        first = int(match[2]) if match else 0
        last = int(match[3] or match[2]) if match else 0
        if not match or first > last or last > LARGEST_INT32:
            raise InputError(
                f"'{cut(part)}' is no range of runs; give the first and the last run, such as 430000-430499, or with "
                "a name: before=430000-430499."
            )
        found.append(Period(match[1] or run_range(first, last), first, last))
    if not found:
        raise InputError("There is no period; give ranges of runs, such as '430000-430499 430500-430999'.")
    if len({p.name for p in found}) < len(found):
        raise InputError("Two periods have the same name; give each its own: before=430000-430499.")
    if len(found) > _MOST:
        raise InputError(f"{len(found)} periods are more than a picture can show; give {_MOST} at most.")
    return tuple(found)


def check_periods(table: Table, periods: Sequence[Period], where: str) -> None:
    """Make sure that every period has events.

    Args:
        table: with the runs of the events.
        periods: that are asked for.
        where: file that the table is of, for the message.

    Raises:
        InputError: names a period without events, and the runs that there are.
    """
    for period in periods:
        if not period.mask(table).any():
            runs = table["run"]
            there = f"its runs are {run_range(int(runs.min()), int(runs.max()))}" if len(runs) else "it has no events"
            raise InputError(f"No event of {where} is of the runs {run_range(period.first, period.last)}; {there}.")
