"""From prediction tables to numbers: resolutions, profiles, comparisons, and the trivial predictors.

Nothing is drawn here, and nothing is computed where it is drawn. Units are those of
`xecml.evaluation.tables`: resolutions in deg, MeV, %, ps, mm. Figures of merit: `xecml.resolution`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.evaluation.tables import (
    PREFIX,
    QUANTITIES,
    Columns,
    Reference,
    Table,
    find_column,
    n_events,
    opening_angles,
    pulls,
    quantities,
    residuals,
    same_events,
    truth_columns,
    with_predictions,
)
from xecml.events import Chunk, valid_counts
from xecml.geometry import N_SIPM, positions, uvw_from_xyz
from xecml.resolution import Containment, Floats, Resolution, containment, figures_of_merit, without_nan

ALL = "all"
DEPTHS = {"w < 2 cm": (-math.inf, 2.0), "w 2-10 cm": (2.0, 10.0), "w > 10 cm": (10.0, math.inf)}
"""Bins of the reference depth w in cm."""

VERTEX_LIMITS = {ALL: {"theta": 3.23, "phi": 0.90}, "w > 10 cm": {"theta": 2.85, "phi": 0.79}}
"""s68 in degrees that the spread of signal vertices leaves to who knows the true first interaction."""
_LEAK_ERRORS = 5.0
_TARGET_SLANT = -0.268

AGAINST = ("theta", "phi", "energy", "u", "v", "w")
"""What bias and resolution are profiled against: columns in the units of files."""


_CENTRAL_95 = 1.959964  # half width of the central 95 % of a Gaussian, in sigmas


@dataclass(frozen=True)
class Pull:
    """How far predicted sigmas are right: residuals over sigmas, of width 1 where they are.

    `coverage_68` and `coverage_95` are the fractions within 1 and 1.96 sigma: 0.683 and 0.95 for right Gaussian ones.
    """

    figures: Resolution
    coverage_68: float = math.nan
    coverage_95: float = math.nan

    def coverages(self) -> dict[str, tuple[float, float]]:
        """Both with their binomial errors."""
        pairs = {"coverage_68": self.coverage_68, "coverage_95": self.coverage_95}
        return {name: (c, math.sqrt(c * (1 - c) / max(self.figures.n, 1))) for name, c in pairs.items()}

    def as_dict(self) -> dict[str, float | None]:
        """Everything by name, ready for JSON."""
        both = {n: v for name, (c, e) in self.coverages().items() for n, v in ((name, c), (f"{name}_error", e))}
        return self.figures.as_dict() | without_nan(both)


@dataclass(frozen=True)
class Evaluation:
    """Resolutions of one predictor on one sample.

    `figures[quantity][bin]`, `opening[bin]` and, where the model predicts sigmas, `pulls[output][bin]`, where bin is
    "all" or one of `DEPTHS`.
    """

    name: str
    reference: Reference
    n_events: int
    figures: dict[str, dict[str, Resolution]]
    opening: dict[str, Containment] = field(default_factory=dict)
    pulls: dict[str, dict[str, Pull]] = field(default_factory=dict)
    n_gamma_accuracy: float | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything by name with units, ready for JSON."""
        figures: dict[str, dict[str, Any]] = {
            q: {"unit": QUANTITIES[q].unit} | {b: r.as_dict() for b, r in bins.items()}
            for q, bins in self.figures.items()
        }
        if self.opening:
            figures["opening_angle"] = {"unit": "deg"} | {b: c.as_dict() for b, c in self.opening.items()}
        return {
            "name": self.name,
            "reference": self.reference,
            "n_events": self.n_events,
            "figures": figures,
            "pulls": {q: {b: p.as_dict() for b, p in bins.items()} for q, bins in self.pulls.items()},
            "n_gamma_accuracy": self.n_gamma_accuracy,
            "warnings": list(self.warnings),
        }


def evaluate(table: Table, name: str = "model", *, reference: Reference = "truth", seed: int = 0) -> Evaluation:
    """Compute the resolutions of every quantity, overall and in bins of depth, with statistical errors.

    Raises:
        InputError: the table predicts nothing that it knows the reference of.
    """
    found = quantities(table, reference)
    if not found:
        raise InputError(
            f"The table of '{name}' has no quantity with both pred_ and {PREFIX[reference]} columns; "
            f"it has {', '.join(sorted(table)) or 'no column'}."
        )
    bins = depth_bins(table, reference)
    values = {q: residuals(table, q, reference) for q in found}
    figures = {q: {b: figures_of_merit(x[m], seed=seed) for b, m in bins.items()} for q, x in values.items()}
    angles = opening_angles(table, reference)
    opening = {} if angles is None else {b: containment(angles[m], seed=seed) for b, m in bins.items()}
    widths = {q: {b: pull(x[m], seed=seed) for b, m in bins.items()} for q, x in pulls(table, reference).items()}
    right = _n_gamma_accuracy(table, reference)
    warnings = leak_warnings(figures) if has_signal_vertices(table) else ()
    return Evaluation(name, reference, n_events(table), figures, opening, widths, right, warnings)


def depth_bins(table: Table, reference: Reference = "truth") -> dict[str, NDArray[np.bool_]]:
    """Masks (N,) of all events and, where the depth w is known, of its bins."""
    w = find_column(table, PREFIX[reference] + "w")
    masks = {ALL: np.ones(n_events(table), bool)}
    if w is None or not np.isfinite(w).any():
        return masks
    return masks | {name: (w >= low) & (w < high) for name, (low, high) in DEPTHS.items()}


def pull(values: ArrayLike, *, seed: int = 0) -> Pull:
    """Width and coverage of pulls, any shape; those not finite are counted and left out."""
    x = np.asarray(values, np.float64)
    size = np.abs(x[np.isfinite(x)])
    inside = [float((size <= limit).mean()) if len(size) else math.nan for limit in (1.0, _CENTRAL_95)]
    return Pull(figures_of_merit(x, seed=seed), *inside)


def _n_gamma_accuracy(table: Table, reference: Reference) -> float | None:
    known = table.get(PREFIX[reference] + "n_gamma")
    if known is None or "pred_n_gamma" not in table or not len(known):
        return None
    return float(np.mean(np.argmax(table["pred_n_gamma"], axis=1) == known))


def has_signal_vertices(table: Table) -> bool:
    """Whether the vertices (`xyzVTX`, cm) lie on the slanted stopping target, x = -0.268 z."""
    vertex = find_column(table, "xyzVTX")
    if vertex is None or not np.isfinite(vertex).any():
        return False
    return bool(np.nanmedian(np.abs(vertex[:, 0] - _TARGET_SLANT * vertex[:, 2])) < 0.2)


def leak_warnings(figures: Mapping[str, Mapping[str, Resolution]]) -> tuple[str, ...]:
    """Warn of directions better than physics allows for signal vertices by over five standard errors."""
    found = []
    for bin_name, limits in VERTEX_LIMITS.items():
        for quantity, limit in limits.items():
            r = figures.get(quantity, {}).get(bin_name)
            if r is not None and r.s68 + _LEAK_ERRORS * r.s68_error < limit:
                found.append(
                    f"{quantity} s68 {with_error(r.s68, r.s68_error)} deg ({bin_name}) is below the limit "
                    f"of the vertex spread, {limit:.2f} deg; look for a leak."
                )
    return tuple(found)


# ------------------------------------------------------------------------------------------------ profiles


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
    if x is None or not (good := np.isfinite(x)).any():
        return None
    y, x = residuals(table, quantity, reference)[good], x[good]
    edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
    if np.ptp(x) <= 1e-6 * np.abs(x).max() or len(edges) < 2:
        return None
    which = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    inside = [which == i for i in range(len(edges) - 1)]
    results = [figures_of_merit(y[m], replicas=50, seed=seed, with_peak=False) for m in inside]
    results = [r if r.n >= min_events else Resolution(r.n, r.n_not_finite) for r in results]
    centre = np.bincount(which, x, len(inside)) / np.maximum(np.bincount(which, minlength=len(inside)), 1)
    values = (np.array([getattr(r, f) for r in results]) for f in ("n", "bias", "bias_error", "s68", "s68_error"))
    return Profile(quantity, against, edges, centre, *values)


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


# ------------------------------------------------------------------------------- several tables, for people


def compare(tables: Mapping[str, Table], *, reference: Reference = "truth", seed: int = 0) -> list[Evaluation]:
    """Evaluate a model (first) and baselines beside it on the events that all of them hold."""
    common = same_events(tables)
    return [evaluate(table, name, reference=reference, seed=seed) for name, table in common.items()]


def with_error(value: float, error: float = math.nan, scale: float = 1.0) -> str:
    """Write a value to the digits that its error deserves (the PDG's rule), or to three without an error."""
    value, error = value * scale, error * scale
    if not math.isfinite(value):
        return "-"
    if not (math.isfinite(error) and error > 0):
        digits = 2 - math.floor(math.log10(abs(value))) if value else 0
        return f"{value:.{max(digits, 0)}f}"
    power = math.floor(math.log10(error))
    digits = max((1 if error / 10**power < 3.55 else 0) - power, 0)
    # adding zero turns -0.0 into 0.0
    return f"{round(value, digits) + 0.0:.{digits}f} \N{PLUS-MINUS SIGN} {error:.{digits}f}"


def summary(evaluations: Sequence[Evaluation], depth: str = ALL) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the table to read: the figures of the first evaluation, s68 of the others beside.

    Of the opening angle, the column s68 holds the angle that contains 68 % of the events. Where a baseline's
    bias exceeds its s68, the bias stands beside: a constant is narrow on a sample of one energy.
    """
    model, *others = evaluations
    sure = ["pull width", "in 1 sigma [%]", "in 1.96 sigma [%]"] if model.pulls else []
    headers = ["quantity", "unit", "bias", "s68", "FWHM/2.355", "tail [%]", *sure, *(f"s68 {o.name}" for o in others)]
    rows = []
    for q, bins in model.figures.items():
        if (r := bins.get(depth)) is not None:
            pairs = ((r.bias, r.bias_error), (r.s68, r.s68_error), (r.fwhm, r.fwhm_error))
            own = [*(with_error(*p) for p in pairs), with_error(r.tail, r.tail_error, 100), *_sureness(model, q, depth)]
            cells = [_beside(o.figures.get(q, {}).get(depth)) for o in others]
            rows.append([QUANTITIES[q].label, QUANTITIES[q].unit, *own, *cells])
    for q in sorted(model.pulls.keys() - model.figures.keys()):
        rows.append([q, "", "-", "-", "-", "-", *_sureness(model, q, depth), *("-" for _ in others)])
    if (c := model.opening.get(depth)) is not None:
        angles = [o.opening.get(depth) for o in others]
        cells = [with_error(a.q68) if a else "-" for a in angles]
        row = ["opening angle", "deg", "-", with_error(c.q68, c.q68_error), "-", "-", *("-" for _ in sure), *cells]
        rows.append(row)
    return headers, rows


def _sureness(model: Evaluation, output: str, depth: str) -> list[str]:
    """Pull width and coverages of an output; nothing where the model predicts no sigma at all."""
    p = model.pulls.get(output, {}).get(depth)
    if p is None:
        return ["-"] * 3 if model.pulls else []
    coverages = [with_error(*pair, 100) for pair in p.coverages().values()]
    return [with_error(p.figures.s68, p.figures.s68_error), *coverages]


def _beside(r: Resolution | None) -> str:
    if r is None or not math.isfinite(r.s68):
        return "-"
    return with_error(r.s68) + (f" (bias {with_error(r.bias)})" if abs(r.bias) > r.s68 else "")


# -------------------------------------------------------------------------------------- trivial predictors


def mean_truth(chunks: Iterable[Chunk]) -> dict[str, float]:
    """Mean over training events of each truth column (theta, phi, energy, timing, u, v, w), file units."""
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for chunk in chunks:
        # through the table's eyes: what is 1e10 there was not measured
        truth = {f"true_{name}": values for name, values in truth_columns(chunk).items()}
        for name in (what.column for what in QUANTITIES.values() if not what.relative):
            values = find_column(truth, f"true_{name}")
            if values is not None:
                total[name] = total.get(name, 0.0) + float(np.nansum(values))
                count[name] = count.get(name, 0) + int(np.isfinite(values).sum())
    return {name: total[name] / count[name] for name in total if count[name]}


def constant_table(table: Table, means: Mapping[str, float]) -> Columns:
    """Predict the mean of the training truth for every event of a table, whatever the detector saw."""
    return with_predictions(table, {name: np.full(n_events(table), value) for name, value in means.items()})


def light_centroid(npho: ArrayLike, power: int = 1) -> Floats:
    """Centroid (N, 2) of u and v in cm of the light on the inner face.

    Args:
        npho: counts (N, 4760), relative or not; sensors with an invalid count do not take part.
        power: of the counts in the weights: 1, or 2 as is commonly used to follow the brightest sensors.

    Returns:
        NaN for events without a valid inner sensor.
    """
    inner = np.asarray(npho)[:, :N_SIPM]
    # relative to the largest count first: squares of raw counts could overflow single precision
    counts = np.where(valid_counts(inner), inner, 0).astype(np.float32)
    largest = counts.max(axis=1, keepdims=True)
    weight = (counts / np.where(largest > 0, largest, 1)) ** power
    total = weight.sum(axis=1, keepdims=True, dtype=np.float64)
    uv = uvw_from_xyz(positions()[:N_SIPM])[:, :2].astype(np.float32)
    return np.asarray(weight @ uv / np.where(total > 0, total, np.nan), np.float64)


def fit_linear(centroid: ArrayLike, truth: ArrayLike) -> Floats:
    """Least-squares coefficients (3, 2) of true u, v as a linear function of 1 and the centroid's u, v.

    Fit on one sample and apply to another: on the sample of the fit the result is too good.

    Raises:
        InputError: fewer than ten events have both a centroid and a truth.
    """
    x, y = np.asarray(centroid, np.float64), np.asarray(truth, np.float64)[:, :2]
    good = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    if good.sum() < 10:
        raise InputError(f"Only {int(good.sum())} events with light and truth to calibrate the centroid; give ten.")
    return np.asarray(np.linalg.lstsq(_with_one(x[good]), y[good], rcond=None)[0])


def apply_linear(coefficients: Floats, centroid: ArrayLike) -> Floats:
    """Corrected u, v (N, 2) in cm of centroids (N, 2)."""
    return np.asarray(_with_one(np.asarray(centroid, np.float64)) @ coefficients)


def _with_one(x: Floats) -> Floats:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def centroid_table(table: Table, uv: ArrayLike) -> Columns:
    """Table of the events with positions u, v (N, 2) in cm, such as corrected centroids, as predictions."""
    position = np.asarray(uv, np.float64)
    return with_predictions(table, {"u": position[:, 0], "v": position[:, 1]})
