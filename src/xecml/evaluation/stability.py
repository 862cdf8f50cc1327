"""Residuals in the order in which events were taken: by run, and in groups of equal size.

Residuals are those of `xecml.evaluation.tables`, in deg, MeV, %, ps, mm. Files have no time of day: within a run the
event number is the order in which events were taken, and from run to run the run number.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.evaluation.tables import Reference, Table, n_events, residuals
from xecml.geometry import Ints
from xecml.inference.calibration_fit import median
from xecml.resolution import Floats, Resolution, figures_of_merit

LEAST_EVENTS = 20
"""In a group; runs with fewer are taken together with their neighbours."""
MOST_GROUPS = 60
"""In a picture."""
_GROUPS_OF_A_FILE = 24


@dataclass(frozen=True)
class Groups:
    """Groups of events, in the order in which they were taken.

    Attributes:
        first: where each begins (k,): its first run, or the place of its first event in the order, from 0.
        last: where it ends (k,), included.
        of: the group of each event (N,).
    """

    first: Ints
    last: Ints
    of: Ints


@dataclass(frozen=True)
class Trend:
    """Residuals of a quantity by group: arrays (k,) in the quantity's unit; NaN where a group tells nothing.

    `mean` is the weighted mean of the medians, and `chi2` that of the medians about it, with `free` degrees of freedom
    and the `chance` of a larger one where nothing drifts.
    """

    first: Ints
    last: Ints
    n: Ints
    median: Floats
    median_error: Floats
    s68: Floats
    s68_error: Floats
    mean: float
    chi2: float
    free: int
    chance: float

    @property
    def centre(self) -> Floats:
        """The middle of each group (k,)."""
        middle: Floats = (self.first + self.last) / 2
        return middle

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        return {k: for_json(v) for k, v in asdict(self).items()}


def for_json(value: Any) -> Any:
    """Arrays as lists, with None in place of NaN."""
    if isinstance(value, np.ndarray):
        return for_json(value.tolist())
    if isinstance(value, list | tuple):
        return [for_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def by_run(table: Table, *, most: int = MOST_GROUPS) -> Groups:
    """Events by run; neighbouring runs together where there are more than `most`, or few events in one."""
    runs, of, counts = np.unique(table["run"].astype(np.int64), return_inverse=True, return_counts=True)
    wanted = LEAST_EVENTS if len(runs) <= most else max(LEAST_EVENTS, -(-n_events(table) // most))
    group, number, inside = np.empty(len(runs), np.int64), 0, 0
    for i, n in enumerate(counts.tolist()):
        if inside >= wanted and counts[i:].sum() >= wanted:
            number, inside = number + 1, 0
        group[i] = number
        inside += n
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    ends = np.append(starts[1:], len(runs)) - 1
    return Groups(runs[starts], runs[ends], group[of.reshape(-1)])


def in_order(table: Table, *, most: int = _GROUPS_OF_A_FILE) -> Groups:
    """Groups of equal size in the order of run and event number."""
    n = n_events(table)
    order = np.lexsort((table["event"], table["run"]))
    parts = max(min(most, n // (2 * LEAST_EVENTS)), 1)
    edges = np.round(np.linspace(0, n, parts + 1)).astype(np.int64)
    of = np.empty(n, np.int64)
    of[order] = np.repeat(np.arange(parts), np.diff(edges))
    return Groups(edges[:-1], np.maximum(edges[1:] - 1, edges[:-1]), of)


def trend(table: Table, quantity: str, groups: Groups, reference: Reference) -> Trend:
    """Median and s68 of the residuals of each group, with errors."""
    found = summaries(residuals(table, quantity, reference), groups.of, len(groups.first))
    centres, errors = found["median"], found["median_error"]
    known = np.isfinite(centres) & (errors > 0)
    weights = 1 / errors[known] ** 2
    mean = float(weights @ centres[known] / weights.sum()) if known.any() else math.nan
    chi2, free = float(weights @ (centres[known] - mean) ** 2), int(known.sum()) - 1
    return Trend(groups.first, groups.last, found["n"].astype(np.int64), centres, errors, found["s68"],
                 found["s68_error"], mean, chi2, max(free, 0), chance(chi2, free))  # fmt: skip


def chance(chi2: float, free: int) -> float:
    """Chance of a larger chi2 with so many degrees of freedom; NaN without any."""
    from scipy.stats import chi2 as distribution

    return float(distribution.sf(chi2, free)) if free > 0 else math.nan


def summaries(values: Floats, of: NDArray[np.int64], groups: int) -> dict[str, Floats]:
    """Number, median and s68 of the finite values (N,) of each group, with errors; arrays (groups,).

    Groups with fewer than `LEAST_EVENTS` have NaN; a negative group is none.
    """
    order = np.argsort(of, kind="stable")
    places = np.searchsorted(of[order], np.arange(groups + 1))
    names = ("n", "median", "median_error", "s68", "s68_error")
    found = {name: np.full(groups, math.nan) for name in names}
    for i in range(groups):
        inside = values[order[places[i] : places[i + 1]]]
        inside = inside[np.isfinite(inside)]
        r = Resolution(len(inside), 0)
        if len(inside) >= LEAST_EVENTS:
            r = figures_of_merit(inside, replicas=50, with_peak=False)
            found["median_error"][i] = median(inside)[1]
        for name in ("n", "median", "s68", "s68_error"):
            found[name][i] = getattr(r, name)
    return found
