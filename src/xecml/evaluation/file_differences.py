"""Two prediction files event by event: which columns changed, in how many events, and where most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.evaluation.event_identity import named
from xecml.evaluation.stored_tables import Rows, StoredTable
from xecml.evaluation.tables import Table, event_ids, n_events
from xecml.events import measured, number_of

_NAMED = 5


@dataclass(frozen=True)
class Changed:
    """A column that differs.

    Attributes:
        name: of the column.
        events: in which it differs by more than the tolerance, or has a number in one file only.
        in_one: of these, events with a number in one file only.
        largest: difference, second minus first; NaN where no event has a number in both.
        relative: its size over the column's spread (s.d.) in the first file.
        where: event of the largest difference.
        first: its value in the first file.
        second: in the second.
    """

    name: str
    events: int
    in_one: int
    largest: float
    relative: float
    where: str
    first: float
    second: float


@dataclass(frozen=True)
class Differences:
    """Everything in which two files differ.

    Attributes:
        events: in both.
        only_first: events of the first alone, in words; empty if there are none.
        only_second: of the second alone.
        columns_first: columns of the first alone.
        columns_second: of the second alone.
        same: columns without a difference.
        changed: the others, those that changed most first.
        tolerance: share of a column's spread up to which numbers count as equal.
    """

    events: int
    only_first: str
    only_second: str
    columns_first: tuple[str, ...]
    columns_second: tuple[str, ...]
    same: tuple[str, ...]
    changed: tuple[Changed, ...]
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all."""
        return not (self.only_first or self.only_second or self.columns_first or self.columns_second or self.changed)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items() if k != "changed"}
        changed = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in vars(c).items()}
            for c in self.changed
        ]
        return {"equal": self.equal, **plain, "changed": changed}

    def lines(self) -> list[str]:
        """What is no column, and the verdict, a sentence each."""
        said = [
            f"Only the {which} has {what}."
            for which, what in (
                ("first", self.only_first),
                ("second", self.only_second),
                ("first", self._columns(self.columns_first)),
                ("second", self._columns(self.columns_second)),
            )
            if what
        ]
        within = f" within {self.tolerance:g} of their spread" if self.tolerance else ""
        columns = number_of(len(self.same) + len(self.changed), "column")
        same = f"{len(self.same)} of {columns} are the same{within}, in {number_of(self.events)} of both."
        return [*said, same]

    @staticmethod
    def _columns(names: tuple[str, ...]) -> str:
        return f"the {'columns' if len(names) > 1 else 'column'} {', '.join(names)}" if names else ""

    def rows(self) -> list[list[str]]:
        """The changed columns as a table: see `HEADERS`."""
        return [
            [
                c.name,
                str(c.events),
                str(c.in_one),
                f"{c.largest:.4g}" if np.isfinite(c.largest) else "-",
                f"{c.relative:.2g}" if np.isfinite(c.relative) else "-",
                c.where,
                f"{c.first:.7g}",
                f"{c.second:.7g}",
            ]
            for c in self.changed
        ]


HEADERS = ["column", "events", "in one only", "largest", "in spreads", "where", "first", "second"]


def compare_files(first: str, second: str, *, tree: str = "predictions", tolerance: float = 0.0) -> Differences:
    """Compare two prediction files, matched by run and event; memory holds a few columns.

    Args:
        first: file, or pattern of the files of one model.
        second: likewise.
        tree: name of the tree in them.
        tolerance: share of a column's spread in the first file up to which numbers count as equal.

    Raises:
        InputError: files cannot be read, have no event in common, or repeat numbers in different orders.
    """
    a, b = StoredTable(first, tree), StoredTable(second, tree)
    for name, table in ((first, a), (second, b)):
        if not table.n_events:
            raise InputError(f"{name} holds no events; name files with events.")
    (one, other, ids), only_first, only_second = _matched(first, a, second, b)
    found, same = [], []
    for name in sorted(a.keys() & b.keys() - {"run", "event"}):
        changed = _changed(name, one[name], other[name], ids, tolerance)
        found += [changed] if changed else []
        same += [] if changed else [name]
    size = {c.name: c.relative if np.isfinite(c.relative) else np.inf for c in found}
    changed_columns = tuple(sorted(found, key=lambda c: -size[c.name]))
    alone = [tuple(sorted(x.keys() - y.keys())) for x, y in ((a, b), (b, a))]
    return Differences(len(ids), only_first, only_second, alone[0], alone[1], tuple(same), changed_columns, tolerance)


def _matched(
    first: str, a: StoredTable, second: str, b: StoredTable
) -> tuple[tuple[Table, Table, NDArray[np.int64]], str, str]:
    """Both tables with the events of both in one order, their numbers, and what either has alone."""
    ids, others = event_ids(a), event_ids(b)
    if np.array_equal(ids, others):
        return (a, b, ids), "", ""
    for name, numbers in ((first, ids), (second, others)):
        if len(np.unique(numbers)) < len(numbers):
            raise InputError(
                f"{name} repeats run and event numbers, and the files differ in their events, so that the events "
                "cannot be matched; compare predictions of the same files."
            )
    common, rows, other_rows = np.intersect1d(ids, others, assume_unique=True, return_indices=True)
    if not len(common):
        raise InputError(f"{first} and {second} have no event in common; compare predictions of the same files.")
    first_alone, second_alone = (_events(np.setdiff1d(x, common, assume_unique=True)) for x in (ids, others))
    return (Rows(a, rows), Rows(b, other_rows), common), first_alone, second_alone


def _events(ids: NDArray[np.int64]) -> str:
    return f"{number_of(len(ids))}: {named(ids, _NAMED)}" if len(ids) else ""


def _changed(
    name: str, one: NDArray[Any], other: NDArray[Any], ids: NDArray[np.int64], tolerance: float
) -> Changed | None:
    if one.shape != other.shape:
        raise InputError(
            f"'{name}' has {one.shape[1:]} numbers per event in one file and {other.shape[1:]} in the other; compare "
            "files of the same version."
        )
    a, b = (values.astype(np.float64).reshape(n_events({name: values}), -1) for values in (one, other))
    here, there = measured(a), measured(b)
    both = here & there
    known = a[here]
    spread = float(known.std()) if known.size else 0.0
    off = np.where(both, b - a, 0.0)
    apart = (here != there).any(1)
    wrong = (np.abs(off) > tolerance * spread).any(1) | apart
    if not wrong.any():
        return None
    flat = int(np.abs(off).argmax())
    row, column = divmod(flat, a.shape[1])
    if not off[row, column]:
        row, column = int(np.flatnonzero(apart)[0]), 0
        return Changed(name, int(wrong.sum()), int(apart.sum()), np.nan, np.nan, named(ids[row : row + 1]),
                       float(a[row, column]), float(b[row, column]))  # fmt: skip
    largest = float(off[row, column])
    relative = abs(largest) / spread if spread else np.nan
    place = named(ids[row : row + 1]) + (f" [{column}]" if a.shape[1] > 1 else "")
    values = float(a[row, column]), float(b[row, column])
    return Changed(name, int(wrong.sum()), int(apart.sum()), largest, relative, place, *values)
