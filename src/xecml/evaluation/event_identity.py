"""Whether tables hold the same events, matched by run and event number; events that differ are named in the error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.evaluation.stored_tables import Rows
from xecml.evaluation.tables import QUANTITIES, Table, event_ids, find_column, n_events
from xecml.events import number_of

Ids = NDArray[np.int64]
_SIGN = 1 << 31
_NAMED = 5
"""Events that a sentence names."""
_ROUNDING = 1e-5
"""Of a column's spread, by which a truth may differ that went through other types."""


def named(ids: Ids, most: int = _NAMED) -> str:
    """Events in words: `run 3 event 7, run 3 event 9 and 12 more`."""
    # event numbers are of 32 bits with a sign
    first = [f"run {i >> 32} event {((i & 0xFFFFFFFF) ^ _SIGN) - _SIGN}" for i in ids[:most].tolist()]
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(first) + more


def aligned(tables: Mapping[str, Table]) -> dict[str, Table]:
    """Tables of the same events, rows in the order of the first.

    Raises:
        InputError: they are not of the same events, which are named: events that one lacks, numbers that repeat in
            another order, or a truth that differs.
    """
    (first_name, first), *others = tables.items()
    ids, found = event_ids(first), dict[str, Table]({first_name: first})
    for name, table in others:
        own = event_ids(table)
        if np.array_equal(own, ids):
            found[name] = table
        else:
            _refuse_repeated(first_name, ids, name)
            _refuse_repeated(name, own, first_name)
            _refuse_missing(first_name, ids, name, own)
            order = np.argsort(own)
            found[name] = Rows(table, order[np.searchsorted(own, ids, sorter=order)])
        _refuse_other_truth(first_name, first, name, found[name], ids)
    return found


def refuse_lacking(one_name: str, one: Table, other_name: str, other: Table) -> None:
    """Make sure that a table has all events of another; it may have more.

    Raises:
        InputError: it lacks some, which are named.
    """
    missing = np.setdiff1d(event_ids(one), event_ids(other))
    if len(missing):
        raise InputError(
            f"These are not the same events: '{other_name}' lacks {number_of(len(missing))} of '{one_name}' "
            f"({named(missing)}); predict the same files with both."
        )


def _refuse_repeated(name: str, ids: Ids, other: str) -> None:
    values, numbers = np.unique(ids, return_counts=True)
    if (repeated := values[numbers > 1]).size:
        raise InputError(
            f"'{name}' has {named(repeated)} more than once, in another order than '{other}', so that the events "
            "cannot be matched; compare files whose events have numbers of their own."
        )


def _refuse_missing(one_name: str, one: Ids, other_name: str, other: Ids) -> None:
    lacking = [
        f"'{name}' lacks {number_of(len(missing))} of '{of}' ({named(missing)})"
        for name, of, missing in (
            (other_name, one_name, np.setdiff1d(one, other)),
            (one_name, other_name, np.setdiff1d(other, one)),
        )
        if len(missing)
    ]
    if lacking:
        raise InputError(f"These are not the same events: {' and '.join(lacking)}; predict the same files with both.")


def _refuse_other_truth(one_name: str, one: Table, other_name: str, other: Table, ids: Ids) -> None:
    if n_events(one) != n_events(other):
        raise InputError(
            f"'{one_name}' has {number_of(n_events(one))} and '{other_name}' {n_events(other)}, without run and event "
            "numbers; predict the same files with both."
        )
    for what in {q.column for q in QUANTITIES.values()}:
        a, b = (find_column(table, f"true_{what}") for table in (one, other))
        if a is None or b is None:
            continue
        good = np.isfinite(a) & np.isfinite(b)
        away = np.abs(a - b)[good]
        limit = _ROUNDING * max(float(np.ptp(a[good])), float(np.abs(a[good]).max())) if good.any() else 0.0
        if (wrong := away > limit).any():
            raise InputError(
                f"These are not the same events, though their numbers are: true_{what} of '{other_name}' differs from "
                f"that of '{one_name}' in {int(wrong.sum())} of {number_of(len(wrong))} "
                f"({named(ids[good][wrong])}); predict the same files with both."
            )
