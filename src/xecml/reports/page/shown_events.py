"""Which events a report shows, and their light: the worst of a table, some at random, read from their files again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.data import source
from xecml.evaluation.tables import QUANTITIES, Reference, Table, event_ids, n_events, quantities, residuals
from xecml.figures.worst_events import Event
from xecml.resolution import Floats, s68

WORST, RANDOM = 3, 2
_LARGEST = 30.0
"""Widths beyond which one quantity alone does not make an event worse."""


@dataclass(frozen=True)
class Found:
    """An event to show: why, and what it is."""

    why: str
    event: Event


def worst_rows(table: Table, reference: Reference = "truth", most: int = WORST) -> list[tuple[int, float, str]]:
    """Rows of the events with the largest errors, the worst first, with the size and where it comes from.

    The size of an error is the mean over quantities of |residual - median| / s68; what is not answered does not count.
    """
    sizes: dict[str, Floats] = {}
    for quantity in (q for q in quantities(table, reference) if not QUANTITIES[q].relative):
        off = residuals(table, quantity, reference)
        if (width := s68(off)) > 0:
            sizes[quantity] = np.minimum(np.abs(off - np.nanmedian(off)) / width, _LARGEST)
    if not sizes:
        return []
    every = np.stack(list(sizes.values()))
    known = np.isfinite(every)
    total = np.where(known, every, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    rows = np.argsort(-total, kind="stable")[:most]
    labels = [QUANTITIES[quantity].label for quantity in sizes]
    return [
        (int(row), float(total[row]), ", ".join(f"{n} {v:.1f}" for n, v in zip(labels, every[:, row], strict=True)))
        for row in rows
    ]


def random_rows(table: Table, most: int = RANDOM, seed: int = 0) -> list[int]:
    """Rows of some events, the same for the same seed."""
    total = n_events(table)
    chosen = np.random.default_rng(seed).choice(total, min(most, total), replace=False)
    return [int(row) for row in chosen]


def row_of(table: Table, row: int) -> dict[str, Any]:
    """One event's values by column."""
    return {name: table[name][row] for name in table}


def find_light(
    table: Table,
    rows: Sequence[int],
    files: Sequence[str],
    branches: tuple[str, str],
    *,
    tree: str = rootio.DEFAULT_TREE,
    names: Mapping[str, str] | None = None,
) -> dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Counts and times (4760,) of rows of a table, by row, as far as the files hold events of their numbers.

    Of files without numbers, events are numbered through all files, as predictions number them.

    Raises:
        InputError: a file cannot be read, or lacks counts or times.
    """
    wanted = {int(event_ids(table)[row]): row for row in reversed(rows)}
    found: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    before = 0
    for path in source.expand(files):
        with source.open_events(path, tree, source.names_here(path, tree, names)) as reader:
            numbered = [b for b in ("run", "event") if reader.has(b)]
            columns = reader.arrays(numbered, 0, reader.n_events) if numbered else {}
            run = columns.get("run", np.zeros(reader.n_events, np.int32))
            event = columns.get("event", np.arange(before, before + reader.n_events, dtype=np.int32))
            ids = event_ids({"run": run, "event": event})
            for entry in np.flatnonzero(np.isin(ids, list(wanted))).tolist():
                row = wanted[int(ids[entry])]
                if row not in found:
                    chunk = reader.arrays(branches, entry, entry + 1)
                    found[row] = (chunk[branches[0]][0].copy(), chunk[branches[1]][0].copy())
            before += reader.n_events
        if len(found) == len(wanted):
            break
    return found


def shown(
    table: Table,
    light: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]],
    worst: Sequence[tuple[int, float, str]],
    random: Sequence[int],
) -> list[Found]:
    """Events whose light is there, the worst first."""
    found = []
    for place, (row, size, parts) in enumerate(worst, 1):
        if row in light:
            why = f"worst event {place}: off by {size:.3g} widths on average ({parts})"
            found.append(Found(why, Event(size, {}, *light[row], row_of(table, row))))
    for row in random:
        if row in light:
            found.append(Found("random event", Event(0.0, {}, *light[row], row_of(table, row))))
    return found
