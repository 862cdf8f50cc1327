"""Errors of repairs of dead sensors: of the filled counts and times, and of the resolutions after the repair.

Sensors of undamaged events are taken for dead in patterns of `xecml.data.damage`, filled by each repair, and compared
with the expected count that the simulation stores, so that the sensor's own Poisson noise does not drown the
comparison, and with the drawn count. Events are streamed; what is kept of them are sums, and predictions where there is
a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.checks.dead_sensors import DEAD, DeadSensors, without_dead
from xecml.conventional.dead_sensor_estimates import live_sensors
from xecml.data import source
from xecml.data.damage import PATTERNS, Pattern, draw_damage
from xecml.data.selected_events import Chosen, read_selected
from xecml.errors import InputError
from xecml.evaluation.metrics import ALL, Evaluation, evaluate, with_error
from xecml.evaluation.tables import QUANTITIES, Columns, quantities, residuals
from xecml.events import INVALID, TASKS, Chunk, measured, photoelectrons, taken_by, valid_times
from xecml.geometry import FACES, face_codes
from xecml.inference.prediction_columns import table_columns, true_columns
from xecml.inference.repair_models import Repair
from xecml.inference.trained_model import Model
from xecml.notebook import table_html
from xecml.progress import progress
from xecml.resolution import Floats, s68, without_nan

EXPECTED = "npho_expected"
"""Branch of simulated files with the mean photons of every sensor."""
REFERENCES = ("expected", "drawn", "time")
"""What is compared: photons with the expected and with the drawn count, and times (ns) with the drawn ones."""
LIGHT = (0.0, 10.0, 100.0, 1000.0, 10000.0, np.inf)
"""Edges of the bins of the expected count, photons; of the drawn count in files without it."""
FRACTIONS = (0.01, 0.03, 0.05, 0.1)
UNDAMAGED, NO_REPAIR = "undamaged", "no repair"

_TIMED_ABOVE = 50.0
"""Times are compared on sensors with this many photoelectrons."""
_GROUPS = 20
_REPLICAS = 200
_CENTRAL = (0.15865, 0.84135)

Marks = NDArray[np.bool_]
Case = tuple[Pattern, float]


def light_labels() -> list[str]:
    """Names of the bins of light."""
    return [f"{low:g}-{high:g}" if np.isfinite(high) else f"> {low:g}" for low, high in pairwise(LIGHT)]


# ------------------------------------------------------------------------------------------ errors of counts


@dataclass(frozen=True)
class FillErrors:
    """Errors of filled values, repair minus reference, in photons or ns; `rmse_error` is statistical."""

    n: int
    mae: float
    rmse: float
    rmse_error: float
    bias: float


class ErrorSums:
    """Sums of errors by reference, group of events, face and light; groups give the statistical errors."""

    def __init__(self) -> None:
        self.sums = np.zeros((len(REFERENCES), 4, _GROUPS, len(FACES), len(LIGHT) - 1))
        self.not_filled = 0

    def add(self, reference: int, error: Floats, event: NDArray[Any], sensor: NDArray[Any], light: Floats) -> None:
        """Add errors of sensors of events; `light` decides the bin."""
        shape = self.sums.shape[2:]
        bins = np.clip(np.searchsorted(LIGHT, light, side="right") - 1, 0, shape[2] - 1)
        cell = np.ravel_multi_index((event % _GROUPS, face_codes()[sensor].astype(np.int64), bins), shape)
        for i, values in enumerate((np.ones(len(error)), np.abs(error), error**2, error)):
            self.sums[reference, i].flat += np.bincount(cell, values, self.sums[reference, i].size)

    def figures(self) -> dict[str, dict[str, FillErrors]]:
        """Errors by reference, and by "all", face and bin of light."""
        return {name: self._of(self.sums[i]) for i, name in enumerate(REFERENCES) if self.sums[i, 0].any()}

    def _of(self, sums: Floats) -> dict[str, FillErrors]:
        cells = {ALL: sums.sum((2, 3))}
        cells |= {face: sums[:, :, i].sum(-1) for i, face in enumerate(FACES)}
        cells |= {label: sums[..., i].sum(2) for i, label in enumerate(light_labels())}
        return {name: _fill_errors(values) for name, values in cells.items() if values[0].any()}


def _fill_errors(sums: Floats) -> FillErrors:
    """From sums (4, groups) of 1, |error|, error^2, error; the error of the RMSE is a jackknife over groups."""
    n, absolute, square, plain = sums.sum(1)
    used = sums[0] > 0
    without = np.sqrt((square - sums[2, used]) / np.maximum(n - sums[0, used], 1))
    groups = int(used.sum())
    spread = float(np.sqrt((groups - 1) * without.var())) if groups > 1 else np.nan
    return FillErrors(int(n), float(absolute / n), float(np.sqrt(square / n)), spread, float(plain / n))


# ------------------------------------------------------------------------------------------- effect on physics


@dataclass(frozen=True)
class Effect:
    """Resolutions after a repair.

    Attributes:
        evaluation: all figures of merit.
        shift: by quantity, s68 of the prediction's change from that of the undamaged event, in the quantity's unit.
        recovered: by quantity, the share of the loss of s68 that the repair gives back, 1 for undamaged events, and
            its error, from events drawn anew; NaN where nothing is lost.
    """

    evaluation: Evaluation
    shift: dict[str, float] = field(default_factory=dict)
    recovered: dict[str, tuple[float, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        shares = {q: without_nan(dict(zip(("value", "error"), r, strict=True))) for q, r in self.recovered.items()}
        return {"evaluation": self.evaluation.as_dict(), "shift": without_nan(self.shift), "recovered": shares}


def _effects(tables: Mapping[str, Columns], undamaged: Columns) -> dict[str, Effect]:
    """Effects of one damage pattern from the tables of its repairs, that without repair among them."""
    whole = evaluate(undamaged, UNDAMAGED)
    before = {q: residuals(undamaged, q) for q in whole.figures}
    lost = {q: residuals(tables[NO_REPAIR], q) for q in whole.figures}
    found = {}
    for name, table in tables.items():
        after = {q: residuals(table, q) for q in whole.figures}
        shift = {q: s68(after[q] - before[q]) for q in after}
        recovered = {q: _recovered(before[q], after[q], lost[q]) for q in after} if name != NO_REPAIR else {}
        found[name] = Effect(evaluate(table, name), shift, recovered)
    return found


def _recovered(before: Floats, after: Floats, lost: Floats) -> tuple[float, float]:
    """Share of the loss of s68 that is given back, and its error: the same events are drawn anew for all three."""
    good = np.isfinite(before) & np.isfinite(after) & np.isfinite(lost)
    if good.sum() < 2:
        return np.nan, np.nan
    sample = np.stack([before, after, lost])[:, good]
    rng, widths = np.random.default_rng(0), np.empty((3, _REPLICAS))
    for i in range(_REPLICAS):  # one at a time: all together would take as much memory as a large sample has events
        low, high = np.quantile(sample[:, rng.integers(sample.shape[1], size=sample.shape[1])], _CENTRAL, axis=1)
        widths[:, i] = (high - low) / 2
    nominal = np.array([[s68(x)] for x in sample])
    return float(_share(nominal)[0]), float(np.std(_share(widths)))


def _share(widths: Floats) -> Floats:
    before, after, lost = widths
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lost > before, (lost - after) / (lost - before), np.nan)


# --------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class RepairReport:
    """Errors by case (pattern, fraction) and repair, and effects on physics where there was a model."""

    n_events: int
    errors: dict[Case, dict[str, dict[str, dict[str, FillErrors]]]]
    not_filled: dict[Case, dict[str, int]]
    undamaged: Evaluation | None = None
    effects: dict[Case, dict[str, Effect]] = field(default_factory=dict)

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, headers and rows of the tables to read."""
        against = "expected" if any("expected" in r for c in self.errors.values() for r in c.values()) else "drawn"
        places = [ALL, *FACES, *light_labels()]
        found = [("Error of filled counts and times", *self._overview())]
        for figure in ("rmse", "mae", "bias"):
            title = f"{figure.upper() if figure != 'bias' else 'Bias'} in photons against the {against} count"
            found.append((title, [*_CASE, *places], self._by_place(against, figure, places)))
        return found + ([("Resolution (s68) after repair", *self._physics())] if self.undamaged else [])

    def headline(self, name: str) -> dict[str, float]:
        """Errors of one repair on all filled sensors, in photons, by kind of damage."""
        found = {}
        for case, repairs in self.errors.items():
            by_reference = repairs.get(name, {})
            known = next((r for r in REFERENCES if r != "time" and r in by_reference), None)
            if known is not None:
                found[f"RMSE {' '.join(_case(case))} [photons]"] = by_reference[known][ALL].rmse
        return found

    def _repr_html_(self) -> str:
        """As a notebook shows it: all tables."""
        return "".join(table_html(headers, rows, title) for title, headers, rows in self.tables())

    def _overview(self) -> tuple[list[str], list[list[str]]]:
        headers = [*_CASE, "sensors", "not filled"]
        headers += [f"{f} {r}" for r in REFERENCES[:2] for f in ("MAE", "RMSE", "bias")] + ["RMSE time [ns]"]
        rows = []
        for case, repairs in self.errors.items():
            for name, by_reference in repairs.items():
                all_of = {r: figures[ALL] for r, figures in by_reference.items()}
                count = next((e.n for e in all_of.values()), 0)
                cells = [c for r in REFERENCES[:2] for c in _cells(all_of.get(r), ("mae", "rmse", "bias"))]
                cells += _cells(all_of.get("time"), ("rmse",))
                rows.append([*_case(case, name), str(count), str(self.not_filled[case][name]), *cells])
        return headers, rows

    def _by_place(self, reference: str, figure: str, places: Sequence[str]) -> list[list[str]]:
        return [
            [*_case(case, name), *(_cells(by_reference.get(reference, {}).get(p), (figure,))[0] for p in places)]
            for case, repairs in self.errors.items()
            for name, by_reference in repairs.items()
        ]

    def _physics(self) -> tuple[list[str], list[list[str]]]:
        assert self.undamaged is not None
        shown = [q for q in QUANTITIES if q in self.undamaged.figures]
        headers = [*_CASE, *(f"{QUANTITIES[q].label} [{QUANTITIES[q].unit}]" for q in shown)]
        headers += ["energy shift [%]", "recovered"]
        rows = [["-", "-", UNDAMAGED, *_widths(self.undamaged, shown), "0", "-"]]
        for case, effects in self.effects.items():
            for name, effect in effects.items():
                share = effect.recovered.get("energy_relative", (np.nan, np.nan))
                moved = with_error(effect.shift.get("energy_relative", np.nan))
                rows.append([*_case(case, name), *_widths(effect.evaluation, shown), moved, with_error(*share)])
        return headers, rows

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON; cases are written `pattern fraction`."""
        errors = {
            " ".join(_case(case)): {
                name: {r: {p: without_nan(asdict(e)) for p, e in v.items()} for r, v in by_reference.items()}
                for name, by_reference in repairs.items()
            }
            for case, repairs in self.errors.items()
        }
        effects = {" ".join(_case(c)): {n: e.as_dict() for n, e in r.items()} for c, r in self.effects.items()}
        whole = None if self.undamaged is None else self.undamaged.as_dict()
        not_filled = {" ".join(_case(case)): numbers for case, numbers in self.not_filled.items()}
        return {
            "n_events": self.n_events,
            "errors": errors,
            "not_filled": not_filled,
            "undamaged": whole,
            "effects": effects,
        }


_CASE = ["damage", "dead", "repair"]


def _case(case: Case, *more: str) -> list[str]:
    return [case[0], f"{100 * case[1]:g} %", *more]


def _cells(errors: FillErrors | None, figures: Sequence[str]) -> list[str]:
    if errors is None:
        return ["-"] * len(figures)
    spread = {"rmse": errors.rmse_error}
    return [with_error(getattr(errors, f), spread.get(f, np.nan)) for f in figures]


def _widths(evaluation: Evaluation, shown: Sequence[str]) -> list[str]:
    figures = [evaluation.figures[q][ALL] for q in shown]
    return [with_error(r.s68, r.s68_error) for r in figures]


# ------------------------------------------------------------------------------------------------ the comparison


def compare_repairs(
    files: str | Path | Iterable[str | Path],
    repairs: Mapping[str, Repair],
    *,
    model: Model | None = None,
    fractions: Sequence[float] = FRACTIONS,
    patterns: Sequence[Pattern] = PATTERNS,
    dead: DeadSensors | None = None,
    max_events: int | None = None,
    seed: int = 0,
    tree: str = "tree",
    names: Mapping[str, str] | None = None,
    chunk_events: int = 250,
    chosen: Mapping[str, Chosen] | None = None,
) -> RepairReport:
    """Damage events, repair them by each of `repairs`, and measure what comes out.

    Args:
        files: undamaged events with `npho` and `time`; with `npho_expected` the comparison is free of noise.
        repairs: name -> repair.
        model: a trained regression model, for the effect on its resolutions.
        fractions: shares of dead sensors.
        patterns: of `xecml.data.damage`.
        dead: sensors that are dead already: they are not measured for any repair, and not compared.
        max_events: no more than these; all by default.
        seed: of the damage.
        tree: name of the tree.
        names: canonical branch name -> name in the files.
        chunk_events: events in memory at a time.
        chosen: which events of the files are looked at; all by default.

    Raises:
        InputError: files are unusable, hold no events, or no truth of what the model predicts; or a fraction or pattern
            does not exist.
    """
    cases: list[Case] = [(pattern, fraction) for pattern in patterns for fraction in fractions]
    sums = {case: {name: ErrorSums() for name in repairs} for case in cases}
    tables: dict[tuple[Case | None, str], list[Chunk]] = {}
    paths = source.expand(files)
    known = source.count_events(paths, tree) if chosen is None else sum(len(chosen[path]) for path in paths)
    total = len(cases) * (known if max_events is None else min(known, max_events))
    first = 0
    with progress(total, "repair", "damaged events") as bar:
        for path, chunk in _events(paths, tree, names, max_events, chunk_events, chosen or {}):
            npho, time = without_dead(path, chunk, dead)
            if model is not None:
                predicted = _predicted(model, chunk, npho, time)
                if not quantities(predicted):
                    raise InputError(
                        f"{path} has no truth of what the model predicts; leave it out, and errors of counts and times "
                        "are measured."
                    )
                tables.setdefault((None, UNDAMAGED), []).append(predicted)
            for case in cases:
                lost = draw_damage(*case, len(npho), seed=seed, first=first) & live_sensors(npho, dead=False)
                damaged = np.where(lost, np.float32(INVALID), npho), np.where(lost, np.float32(INVALID), time)
                if model is not None:
                    tables.setdefault((case, NO_REPAIR), []).append(_predicted(model, chunk, *damaged))
                for name, repair in repairs.items():
                    filled = filled_by(repair, *damaged, lost)
                    _add(sums[case][name], chunk, filled, lost, first)
                    if model is not None:
                        tables.setdefault((case, name), []).append(_predicted(model, chunk, *filled))
                bar.advance(len(npho))
            first += len(npho)
    if first == 0:
        raise InputError("The files hold no events to damage and repair; name files with events.")
    return _report(first, sums, tables)


def _events(
    paths: Sequence[str],
    tree: str,
    names: Mapping[str, str] | None,
    most: int | None,
    chunk_events: int,
    chosen: Mapping[str, Chosen],
) -> Iterator[tuple[str, Chunk]]:
    left = most
    optional = (EXPECTED, DEAD, "run", "event", *(task.truth for task in TASKS.values()))
    options: dict[str, Any] = {"tree": tree, "chunk_events": chunk_events, "optional": optional}
    for path in paths:
        here = source.names_here(path, tree, names)
        for _, chunk in read_selected(path, ["npho", "time"], chosen.get(path), names=here, **options):
            if left is not None and left <= 0:
                return
            yield path, chunk if left is None else {name: values[:left] for name, values in chunk.items()}
            left = None if left is None else left - len(chunk["npho"])


def filled_by(repair: Repair, npho: NDArray[Any], time: NDArray[Any], dead: Marks) -> tuple[NDArray[Any], NDArray[Any]]:
    """Photons and seconds (N, 4760) with `dead` (N, 4760) sensors filled by a repair of photons, on the events' clock.

    A repair that takes relative times is given those of the live sensors.
    """
    pair: tuple[str, str] = getattr(repair, "branches", ("npho", "time"))
    if pair[1] != "relative_time":
        return repair.fill(npho, time, dead)
    n, t = (np.where(dead, np.float32(INVALID), x) for x in (npho, time))
    own = taken_by(("npho", pair[1]), n, t)[1]
    begin = np.where(valid_times(n, t), t.astype(np.float64) - own, -np.inf).max(1, keepdims=True)
    counts, times = repair.fill(n, own, dead)
    known = dead & measured(times) & np.isfinite(begin)
    absolute = np.where(known, times + np.where(np.isfinite(begin), begin, 0.0), INVALID).astype(np.float32)
    return counts, np.where(dead, absolute, time)


def _add(sums: ErrorSums, chunk: Chunk, filled: tuple[NDArray[Any], NDArray[Any]], dead: Marks, first: int) -> None:
    """Compare what was filled with what was there."""
    event, sensor = np.nonzero(dead)
    npho, time = (values[dead].astype(np.float64) for values in filled)
    drawn, clock = chunk["npho"][dead].astype(np.float64), chunk["time"][dead].astype(np.float64)
    expected = chunk[EXPECTED][dead].astype(np.float64) if EXPECTED in chunk else None
    light = drawn if expected is None else expected
    ok = measured(npho)
    sums.not_filled += int((~ok).sum())
    event = event + first
    for reference, truth in ((0, expected), (1, drawn)):
        if truth is not None:
            sums.add(reference, (npho - truth)[ok], event[ok], sensor[ok], light[ok])
    bright = drawn * photoelectrons(np.ones(dead.shape[1]))[sensor] >= _TIMED_ABOVE
    timed = ok & bright & valid_times(drawn, clock) & measured(time)
    sums.add(2, (time - clock)[timed] * 1e9, event[timed], sensor[timed], light[timed])


def _predicted(model: Model, chunk: Chunk, npho: NDArray[Any], time: NDArray[Any]) -> Chunk:
    """Columns of the prediction tree for given inputs; relative ones are made where the model was trained on them."""
    inputs = taken_by(model.branches, npho, time)
    columns: Chunk = {name: chunk[name] for name in ("run", "event") if name in chunk}
    columns |= table_columns(model.predict(*inputs))
    return columns | true_columns(chunk, [task for task in TASKS if task != "n_gamma"])


def _report(
    n_events: int,
    sums: Mapping[Case, Mapping[str, ErrorSums]],
    tables: Mapping[tuple[Case | None, str], Sequence[Chunk]],
) -> RepairReport:
    errors = {case: {name: s.figures() for name, s in by_repair.items()} for case, by_repair in sums.items()}
    not_filled = {case: {name: s.not_filled for name, s in by_repair.items()} for case, by_repair in sums.items()}
    if not tables:
        return RepairReport(n_events, errors, not_filled)
    joined = {key: {c: np.concatenate([p[c] for p in parts]) for c in parts[0]} for key, parts in tables.items()}
    undamaged = joined[None, UNDAMAGED]
    effects = {
        case: _effects({name: joined[case, name] for name in (NO_REPAIR, *by_repair)}, undamaged)
        for case, by_repair in sums.items()
    }
    return RepairReport(n_events, errors, not_filled, evaluate(undamaged, UNDAMAGED), effects)
