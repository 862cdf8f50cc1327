"""From prediction tables to numbers: resolutions, profiles, comparisons.

Nothing is drawn here, and nothing is computed where it is drawn. Units are those of
`xecml.evaluation.tables`: resolutions in deg, MeV, %, ps, mm. Figures of merit: `xecml.resolution`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.evaluation.background import Background, background
from xecml.evaluation.energy_line import EnergyLine, energy_line
from xecml.evaluation.linearity import LINEAR_WITHIN, Linearity, linearities
from xecml.evaluation.photostatistics import photostatistics
from xecml.evaluation.profiles import AGAINST as AGAINST
from xecml.evaluation.profiles import Profile as Profile
from xecml.evaluation.profiles import Slices, opening_slices
from xecml.evaluation.profiles import energy_resolution_fit as energy_resolution_fit
from xecml.evaluation.profiles import profile as profile
from xecml.evaluation.tables import (
    PREFIX,
    QUANTITIES,
    Reference,
    Table,
    find_column,
    impossible,
    n_events,
    opening_angles,
    pulls,
    quantities,
    residuals,
    same_events,
)
from xecml.evaluation.trivial import apply_linear as apply_linear
from xecml.evaluation.trivial import centroid_table as centroid_table
from xecml.evaluation.trivial import constant_table as constant_table
from xecml.evaluation.trivial import fit_linear as fit_linear
from xecml.evaluation.trivial import light_centroid as light_centroid
from xecml.evaluation.trivial import mean_truth as mean_truth
from xecml.events import number_of
from xecml.resolution import Containment, Resolution, containment, figures_of_merit, without_nan

ALL = "all"
DEPTHS = {"w < 2 cm": (-math.inf, 2.0), "w 2-10 cm": (2.0, 10.0), "w > 10 cm": (10.0, math.inf)}
"""Bins of the reference depth w in cm."""

VERTEX_LIMITS = {ALL: {"theta": 3.23, "phi": 0.90}, "w > 10 cm": {"theta": 2.85, "phi": 0.79}}
"""s68 in degrees that the spread of signal vertices leaves to who knows the true first interaction."""
_LEAK_ERRORS = 5.0
_LEAK_EVENTS = 100
"""With fewer events a width may be narrow by chance, and its error says little."""
_TARGET_SLANT = -0.268

_ROUNDING = 1e-5
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
    "all" or one of `DEPTHS`; `events[bin]` are the events in it, whether answered or not. Another model beside the
    first is a `rival`, of which tables show errors; predictors that know nothing are none.

    `line` is the fitted line of the energy, `linearity[quantity]` the slope of the mean answer, `background` the
    photon's part of the accidental background, `slices[condition]` the opening angle by what events are like, and
    `limits[quantity]` what the statistics of the photons alone would leave of the width.
    """

    name: str
    reference: Reference
    n_events: int
    figures: dict[str, dict[str, Resolution]]
    opening: dict[str, Containment] = field(default_factory=dict)
    pulls: dict[str, dict[str, Pull]] = field(default_factory=dict)
    n_gamma_accuracy: float | None = None
    warnings: tuple[str, ...] = ()
    events: dict[str, int] = field(default_factory=dict)
    rival: bool = False
    line: EnergyLine | None = None
    linearity: dict[str, Linearity] = field(default_factory=dict)
    background: Background | None = None
    slices: dict[str, Slices] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def title(self, depth: str) -> str:
        """The events of a bin of depth, for the head of a table."""
        where = "" if len(self.events) < 2 else ", all depths" if depth == ALL else f", {depth}"
        return number_of(self.events[depth]) + where

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
            "n_events_by_depth": self.events,
            "figures": figures,
            "pulls": {q: {b: p.as_dict() for b, p in bins.items()} for q, bins in self.pulls.items()},
            "n_gamma_accuracy": self.n_gamma_accuracy,
            "energy_line": self.line.as_dict() if self.line else None,
            "linearity": {q: line.as_dict() for q, line in self.linearity.items()},
            "background": self.background.as_dict() if self.background else None,
            "opening_angle_slices": {name: s.as_dict() for name, s in self.slices.items()},
            "photostatistics_s68": self.limits,
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
    if angles is None or not np.isfinite(angles).any():
        opening = {}
    else:
        opening = {b: containment(angles[m], seed=seed) for b, m in bins.items()}
    widths = {q: {b: pull(x[m], seed=seed) for b, m in bins.items()} for q, x in pulls(table, reference).items()}
    right = _n_gamma_accuracy(table, reference)
    warnings = (*impossible(table, reference), *(leak_warnings(figures) if has_signal_vertices(table) else ()))
    events = {b: int(m.sum()) for b, m in bins.items()}
    return Evaluation(
        name,
        reference,
        n_events(table),
        figures,
        opening,
        widths,
        right,
        warnings,
        events,
        line=energy_line(table, reference, seed=seed) if "energy_relative" in found else None,
        linearity=linearities(table, found, reference),
        background=background(table, reference),
        slices=opening_slices(table, reference, seed=seed),
        limits=photostatistics(table, found) if reference == "truth" else {},
    )


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
    known, said = find_column(table, PREFIX[reference] + "n_gamma"), find_column(table, "pred_n_gamma")
    if known is None or said is None:
        return None
    good = np.isfinite(known) & np.isfinite(said).all(axis=-1)
    return float(np.mean(np.argmax(said[good], axis=1) == known[good])) if good.any() else None


def has_signal_vertices(table: Table) -> bool:
    """Whether the vertices (`xyzVTX`, cm) lie on the slanted stopping target, x = -0.268 z."""
    vertex = find_column(table, "xyzVTX")
    if vertex is None or not np.isfinite(vertex).any():
        return False
    return bool(np.nanmedian(np.abs(vertex[:, 0] - _TARGET_SLANT * vertex[:, 2])) < 0.2)


def further_lines(model: Evaluation) -> list[str]:
    """Sentences on the energy line, the linearity, the background and the photon statistics."""
    said = []
    if (line := model.line) is not None:
        core, upper = with_error(line.line.sigma, line.line.sigma_error), with_error(line.upper, line.upper_error)
        said.append(
            f"Energy line: peak off by {with_error(line.peak, line.line.error)} %, core {core} % (exponential-Gauss "
            f"fit, chi2 {line.line.chi2:.2f} per degree), upper edge {upper} %."
        )
    for quantity, found in model.linearity.items():
        if quantity == "energy" or found.verdict() == "no":
            what, place = QUANTITIES[quantity], f"{found.at * 1e3:.1f} MeV" if quantity == "energy" else "the upper end"
            said.append(
                f"Linearity of {what.label}: slope {with_error(found.slope, found.slope_error)} (1 within "
                f"{100 * LINEAR_WITHIN:g} %: {found.verdict()}); at {place} the mean is off by "
                f"{with_error(found.shift, found.shift_error)} {what.unit}."
            )
    if (b := model.background) is not None:
        said.append(
            f"Accidental background, the photon's part: {with_error(b.value, b.error)} times that of published "
            f"resolutions ({b.line()})."
        )
    shares = [
        f"{QUANTITIES[q].label} {100 * limit / model.figures[q][ALL].s68:.2g} %"
        for q, limit in model.limits.items()
        if model.figures[q][ALL].s68 > 0
    ]
    if shares:
        said.append(f"Share of s68 that photon statistics alone would leave (Cramer-Rao): {', '.join(shares)}.")
    return said


def leak_warnings(figures: Mapping[str, Mapping[str, Resolution]]) -> tuple[str, ...]:
    """Warn of directions better than physics allows for signal vertices by over five standard errors, in 100 events."""
    found = []
    for bin_name, limits in VERTEX_LIMITS.items():
        for quantity, limit in limits.items():
            r = figures.get(quantity, {}).get(bin_name)
            if r is not None and r.n >= _LEAK_EVENTS and r.s68 + _LEAK_ERRORS * r.s68_error < limit:
                found.append(
                    f"{quantity} s68 {with_error(r.s68, r.s68_error)} deg ({bin_name}) is below the limit "
                    f"of the vertex spread, {limit:.2f} deg; look for a leak."
                )
    return tuple(found)


# ------------------------------------------------------------------------------- several tables, for people


def compare(tables: Mapping[str, Table], *, reference: Reference = "truth", seed: int = 0) -> list[Evaluation]:
    """Evaluate a model (first) and baselines beside it on the events that all of them hold."""
    common = same_events(tables)
    return [evaluate(table, name, reference=reference, seed=seed) for name, table in common.items()]


def with_error(value: float, error: float = math.nan, scale: float = 1.0) -> str:
    """Write a value to the digits that its error deserves (the PDG's rule), or to three without an error.

    What is below 1e-5 of the unit is taken for rounding.
    """
    value, error = (0.0 if abs(x * scale) < _ROUNDING else x * scale for x in (value, error))
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
    bias exceeds its s68, the bias stands beside: a constant is narrow on a sample of one energy. Events left out, since
    they have no answer or no reference, have a column where there are any.
    """
    model, *others = evaluations
    sure = ["pull width", "in 1 sigma [%]", "in 1.96 sigma [%]"] if model.pulls else []
    lost = _left_out(model, depth)
    left = ["left out"] if lost else []
    beside = [f"s68 {o.name}" for o in others]
    headers = ["quantity", "unit", "bias", "s68", "FWHM/2.355", "tail [%]", *left, *sure, *beside]
    rows = []

    def add(quantity: str, label: str, unit: str, own: list[str], cells: list[str]) -> None:
        number = [str(lost.get(quantity, "-"))] if lost else []
        rows.append([label, unit, *own, *number, *_sureness(model, quantity, depth), *cells])

    for q, bins in model.figures.items():
        if (r := bins.get(depth)) is not None:
            pairs = ((r.bias, r.bias_error), (r.s68, r.s68_error), (r.fwhm, r.fwhm_error))
            own = [*(with_error(*p) for p in pairs), with_error(r.tail, r.tail_error, 100)]
            cells = [_beside(o.figures.get(q, {}).get(depth), o.rival) for o in others]
            add(q, QUANTITIES[q].label, QUANTITIES[q].unit, own, cells)
    for q in sorted(model.pulls.keys() - model.figures.keys()):
        add(q, q, "", ["-"] * 4, ["-" for _ in others])
    if (c := model.opening.get(depth)) is not None:
        angles = [(o.opening.get(depth), o.rival) for o in others]
        cells = [with_error(a.q68, a.q68_error if rival else math.nan) if a else "-" for a, rival in angles]
        add(_OPENING, "opening angle", "deg", ["-", with_error(c.q68, c.q68_error), "-", "-"], cells)
    return headers, rows


_OPENING = "opening_angle"


def _left_out(model: Evaluation, depth: str) -> dict[str, int]:
    """Events of a bin that a quantity's figures do without, by quantity; empty where all take part."""
    lost = {q: bins[depth].n_not_finite for q, bins in model.figures.items() if depth in bins}
    if depth in model.opening:
        lost[_OPENING] = model.opening[depth].n_not_finite
    return lost if any(lost.values()) else {}


def _sureness(model: Evaluation, output: str, depth: str) -> list[str]:
    """Pull width and coverages of an output; nothing where the model predicts no sigma at all."""
    p = model.pulls.get(output, {}).get(depth)
    if p is None:
        return ["-"] * 3 if model.pulls else []
    coverages = [with_error(*pair, 100) for pair in p.coverages().values()]
    return [with_error(p.figures.s68, p.figures.s68_error), *coverages]


def _beside(r: Resolution | None, rival: bool) -> str:
    if r is None or not math.isfinite(r.s68):
        return "-"
    bias = f" (bias {with_error(r.bias)})" if abs(r.bias) > r.s68 else ""
    return with_error(r.s68, r.s68_error if rival else math.nan) + bias
