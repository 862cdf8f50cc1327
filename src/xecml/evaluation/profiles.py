"""Figures of merit in bins: bias and width against the truth and against other quantities of an event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.evaluation.tables import PREFIX, Reference, Table, find_column, n_events, opening_angles, residuals
from xecml.geometry import N_SENSORS
from xecml.resolution import Floats, Resolution, containment, figures_of_merit

AGAINST = ("theta", "phi", "energy", "u", "v", "w")
"""What bias and resolution are profiled against: columns in the units of files."""
_ROUNDING = 1e-6
"""Of a column's size, below which its spread is none."""


@dataclass(frozen=True)
class Profile:
    """Bias and s68 of a quantity in bins of a reference column; arrays (bins,), the edges one longer.

    `edges` and `centre` (the mean of the bin's events) are in the unit of files, the rest in the quantity's.
    Bins with too few events hold NaN.
    """

    quantity: str
    against: str
    edges: Floats
    centre: Floats
    n: NDArray[np.int64]
    bias: Floats
    bias_error: Floats
    s68: Floats
    s68_error: Floats


@dataclass(frozen=True)
class Bins:
    """Events by bins of about equal population: edges (bins + 1,), means (bins,), and the bin of each event (N,)."""

    edges: Floats
    centre: Floats
    which: NDArray[np.int64]

    @classmethod
    def of(cls, x: Floats, bins: int) -> Bins | None:
        """Bins of finite values (N,); None where they have no spread."""
        edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
        if np.ptp(x) <= _ROUNDING * np.abs(x).max() or len(edges) < 2:
            return None
        which = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        n = np.bincount(which, minlength=len(edges) - 1)
        return cls(edges, np.bincount(which, x, len(edges) - 1) / np.maximum(n, 1), which)

    def parts(self, values: Floats) -> list[Floats]:
        """The values (N,) of each bin's events, in the order of the events."""
        order = np.argsort(self.which, kind="stable")
        n = np.bincount(self.which, minlength=len(self.centre))
        return np.split(values[order], np.cumsum(n)[:-1])


def profile(
    table: Table,
    quantity: str,
    against: str,
    *,
    reference: Reference = "truth",
    bins: int = 10,
    min_events: int = 20,
    seed: int = 0,
) -> Profile | None:
    """Profile bias and s68 against a reference column, in bins of about equal population.

    Returns:
        The profile, or None where the column is unknown or has no spread, such as a single energy.
    """
    x = find_column(table, PREFIX[reference] + against)
    if x is None or not (good := np.isfinite(x)).any() or (found := Bins.of(x[good], bins)) is None:
        return None
    parts = found.parts(residuals(table, quantity, reference)[good])
    results = [figures_of_merit(y, replicas=50, seed=seed, with_peak=False) for y in parts]
    results = [r if r.n >= min_events else Resolution(r.n, r.n_not_finite) for r in results]
    values = (np.array([getattr(r, f) for r in results]) for f in ("n", "bias", "bias_error", "s68", "s68_error"))
    return Profile(quantity, against, found.edges, found.centre, *values)


def energy_resolution_fit(energy: Profile) -> tuple[float, float] | None:
    """Fit s68 = a / sqrt(E) (+) b, added in quadrature, to the profile of the relative energy against energy.

    Returns:
        a in % sqrt(GeV) and b in %, neither below zero, or None for fewer than three filled bins.
    """
    good = np.isfinite(energy.s68) & (energy.s68_error > 0)
    if good.sum() < 3:
        return None
    variance, weight = energy.s68[good] ** 2, 1 / (2 * energy.s68 * energy.s68_error)[good]
    terms = np.stack([1 / energy.centre[good], np.ones(good.sum())], axis=1)
    # a negative term means that the other alone describes the points best
    both = np.linalg.lstsq(terms * weight[:, None], variance * weight, rcond=None)[0]
    if both.min() < 0:
        alone = int(both.argmax())
        both = np.zeros(2)
        both[alone] = np.sum(variance * terms[:, alone] * weight**2) / np.sum((terms[:, alone] * weight) ** 2)
    return float(np.sqrt(both[0])), float(np.sqrt(both[1]))


# --------------------------------------------------------------------------------- slices of the opening angle


@dataclass(frozen=True)
class Condition:
    """What an event is like: its name for people, its unit, the factor to it, and how a table tells it (N,)."""

    label: str
    unit: str
    scale: float
    of: Callable[[Table, Reference], Floats | None]


def _reference(name: str) -> Callable[[Table, Reference], Floats | None]:
    return lambda table, reference: find_column(table, PREFIX[reference] + name)


def _without_count(table: Table, _: Reference) -> Floats | None:
    found = find_column(table, "n_valid")
    return None if found is None else N_SENSORS - found


CONDITIONS = {
    "energy": Condition("energy", "MeV", 1e3, _reference("energy")),
    "w": Condition("depth w", "cm", 1.0, _reference("w")),
    "u": Condition("u", "cm", 1.0, _reference("u")),
    "v": Condition("v", "cm", 1.0, _reference("v")),
    "n_dead": Condition("dead sensors", "", 1.0, lambda table, _: find_column(table, "n_dead")),
    "n_without": Condition("sensors without a count", "", 1.0, _without_count),
    "light": Condition("total light", "photons", 1.0, lambda table, _: find_column(table, "total_npho")),
}
"""What the opening angle is sliced by, where a table tells it."""


@dataclass(frozen=True)
class Slices:
    """The opening angle that contains 68 % of the events, in bins of a condition; arrays (bins,), edges one longer.

    Edges and centres are in the condition's unit, angles in degrees; NaN for too few events.
    """

    against: str
    edges: Floats
    centre: Floats
    n: NDArray[np.int64]
    q68: Floats
    q68_error: Floats

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        arrays = {name: getattr(self, name) for name in ("edges", "centre", "n", "q68", "q68_error")}
        plain = {name: [v if np.isfinite(v) else None for v in values.tolist()] for name, values in arrays.items()}
        return {"unit": CONDITIONS[self.against].unit, **plain}


def opening_slices(
    table: Table, reference: Reference = "truth", *, bins: int = 5, min_events: int = 20, seed: int = 0
) -> dict[str, Slices]:
    """Slices of the opening angle by every condition that the table tells and that has a spread, by its name."""
    angles = opening_angles(table, reference)
    found = {}
    for name, condition in CONDITIONS.items():
        if name == "n_without" and "n_dead" in table:  # which tells the same, and dark sensors apart
            continue
        if angles is None or (x := condition.of(table, reference)) is None or len(x) != n_events(table):
            continue
        good = np.isfinite(x)
        if not good.any() or (binned := Bins.of(x[good] * condition.scale, bins)) is None:
            continue
        results = [containment(part, replicas=50, seed=seed) for part in binned.parts(angles[good])]
        n = np.array([r.n for r in results])
        values, errors = (
            np.array([getattr(r, f) if r.n >= min_events else np.nan for r in results]) for f in ("q68", "q68_error")
        )
        found[name] = Slices(name, binned.edges, binned.centre, n, values, errors)
    return found
