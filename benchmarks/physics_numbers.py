"""Numbers of the physics benchmark: figures by depth, paired differences, lines and linearity, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.evaluation.linearity import linearity
from xecml.evaluation.metrics import depth_bins, evaluate
from xecml.evaluation.paired import MORE_THAN_CHANCE, compare_paired
from xecml.evaluation.tables import Table, find_column, residuals
from xecml.resolution import MIN_FOR_PEAK, figures_of_merit, peak

Numbers = dict[str, Any]

LINE_WITHIN = 0.1
"""Percent by which a line may be off."""
SLOPE_WITHIN = 0.2
"""Percent by which the slope of energies may differ from 1."""
_SIGNAL = 52.8
"""MeV"""
_SURE = 2.0
_REPLICAS = 100
_CORE = "energy / truth"


def measured(tables: Mapping[str, Table], rivals: Sequence[tuple[str, str]]) -> Numbers:
    """All numbers of a sample.

    Args:
        tables: predictions by method, of the same events.
        rivals: pairs of methods that are compared event by event.

    Returns:
        `n`, `events` by depth, `figures[method][quantity][depth]`, `opening[method][depth]`, `pulls`, `linearity`,
        `warnings` by method, and `pairs`.
    """
    found: Numbers = {"figures": {}, "opening": {}, "linearity": {}, "warnings": {}, "pulls": {}, "line": {}}
    for name, table in tables.items():
        said = evaluate(table, name)
        found |= {"n": said.n_events, "events": said.events}
        found["figures"][name] = {q: {b: r.as_dict() for b, r in bins.items()} for q, bins in said.figures.items()}
        found["opening"][name] = {b: c.as_dict() for b, c in said.opening.items()}
        found["pulls"][name] = {q: {b: p.as_dict() for b, p in bins.items()} for q, bins in said.pulls.items()}
        found["linearity"][name] = {q: line.as_dict() for q, line in said.linearity.items()}
        found["line"][name] = line_of(table, said.line.as_dict() if said.line else None)
        found["warnings"][name] = list(said.warnings)
    found["pairs"] = [
        {"first": a, "second": b, "bins": differences(tables[a], tables[b], (a, b))}
        for a, b in rivals
        if a in tables and b in tables
    ]
    return found


def differences(one: Table, other: Table, names: tuple[str, str]) -> dict[str, list[Numbers]]:
    """Paired differences by depth: half-widths, biases, opening angle, and the core of the energy."""
    found = {}
    for depth, rows in depth_bins(one).items():
        some, others = _of(one, rows), _of(other, rows)
        (pair,) = compare_paired({names[0]: some, names[1]: others})
        found[depth] = [d.as_dict() for d in pair.differences if d.label != "energy"] + core(some, others)
    return found


def _of(table: Table, rows: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(table[name])[rows] for name in table}


def core(one: Table, other: Table, seed: int = 0) -> list[Numbers]:
    """The difference of FWHM/2.355 of energy over truth, with its error by drawing the same events for both again."""
    values = [residuals(table, "energy_relative") for table in (one, other)]
    both = np.stack(values)[:, np.isfinite(values[0]) & np.isfinite(values[1])]
    n = both.shape[1]
    if n < 2 * MIN_FOR_PEAK:
        return []
    rng = np.random.default_rng(seed)
    drawn = (both[:, rng.integers(0, n, n)] for _ in range(_REPLICAS))
    spread = float(np.std([peak(x)[1] - peak(y)[1] for x, y in drawn]))
    first, second = (peak(x)[1] for x in both)
    sigmas = (first - second) / spread if spread > 0 else None
    return [
        {
            "quantity": _CORE, "figure": "FWHM/2.355", "unit": "%", "first": first, "second": second,
            "difference": first - second, "error": spread, "sigmas": sigmas, "n": n,
            "more_than_chance": sigmas is not None and abs(sigmas) >= MORE_THAN_CHANCE,
        }
    ]  # fmt: skip


def line_of(table: Table, fit: Numbers | None) -> Numbers:
    """Where the energies lie about the truth, in percent: mode by a kernel density, fitted peak, median, mean."""
    off = residuals(table, "energy_relative")
    off = off[np.isfinite(off)]
    if len(off) < MIN_FOR_PEAK:
        return {}
    rng = np.random.default_rng(0)
    modes = [peak(rng.choice(off, len(off)))[0] for _ in range(_REPLICAS)]
    r = figures_of_merit(off, replicas=0)
    found: Numbers = {"mean": r.bias, "mean_error": r.bias_error, "median": r.median}
    found |= {"mode": peak(off)[0], "mode_error": float(np.std(modes))}
    if fit is not None:
        found |= {"peak": fit["peak"], "peak_error": fit["peak_error"]}
    return found


def verdict(off: float | None, error: float | None, within: float = LINE_WITHIN) -> str:
    """Whether something is off by no more than it may be: `yes`, `no`, or `undecided` by so few events."""
    if off is None or error is None or not (math.isfinite(off) and math.isfinite(error)):
        return "not known"
    if abs(off) + _SURE * error <= within:
        return "yes"
    return "no" if abs(off) - _SURE * error > within else "undecided"


def slope_of_lines(tables: Sequence[Table]) -> Numbers | None:
    """The straight line of the mean energies of lines against the true ones; None without two lines."""
    names = ("pred_energy", "true_energy")
    if any(find_column(table, name) is None for table in tables for name in names):
        return None
    joined = {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in names}
    found = linearity(joined, "energy")
    return None if found is None else found.as_dict()


def slope_of_peaks(low: Numbers, high: Numbers) -> Numbers | None:
    """The straight line through the fitted peaks of two lines, which leaking showers do not move; None without both.

    Args:
        low: of a sample, with `line_mev` and what `line_of` says of one method as `line`.
        high: of the sample of the higher line.

    Returns:
        `slope` with its error, and `shift` in keV at 52.8 MeV with its error.
    """
    ends = [(one["line_mev"], one["line"].get("peak"), one["line"].get("peak_error")) for one in (low, high)]
    if any(peak is None or error is None for _, peak, error in ends):
        return None
    (a, off_a, error_a), (b, off_b, error_b) = ((e, e * off / 100, e * error / 100) for e, off, error in ends)
    share = (_SIGNAL - a) / (b - a)
    return {
        "slope": 1 + (off_b - off_a) / (b - a),
        "slope_error": math.hypot(error_a, error_b) / (b - a),
        "shift": 1e3 * (off_a + share * (off_b - off_a)),
        "shift_error": 1e3 * math.hypot((1 - share) * error_a, share * error_b),
    }


def in_short(samples: Mapping[str, Numbers]) -> Numbers:
    """What a short table needs: of each quantity in all events half-width, core, bias, tail and their errors."""
    wanted = ("n", "bias", "bias_error", "s68", "s68_error", "fwhm", "fwhm_error", "tail", "tail_error")
    found: Numbers = {}
    for name, sample in samples.items():
        found[name] = {"label": sample["label"], "events": sample["n"], "methods": {}}
        for method, figures in sample["figures"].items():
            row = {q: _short(bins["all"], wanted) for q, bins in figures.items()}
            if sample["opening"].get(method):
                angles = sample["opening"][method]["all"]
                row["opening_angle"] = _short(angles, tuple(angles))
            found[name]["methods"][method] = row
    return found


def _short(values: Numbers, names: Sequence[str]) -> Numbers:
    """Values by name, to five digits."""
    given = {name: values[name] for name in names}
    return {name: float(f"{v:.5g}") if isinstance(v, float) else v for name, v in given.items()}
