"""Measurements of data without truth: drift, patterns on the detector, energy scale and resolution from lines.

One call, `measure`, makes numbers of prediction tables; `xecml.figures.real_data_pages` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from xecml.conditions import Conditions
from xecml.evaluation import spectra
from xecml.evaluation.inner_face import FaceMap, face_map, patches
from xecml.evaluation.metrics import Profile, profile, with_error
from xecml.evaluation.periods import Period, check_periods
from xecml.evaluation.spectra import ALL, Feature, Spectrum
from xecml.evaluation.stability import Trend, by_run, for_json, in_order, trend
from xecml.evaluation.tables import QUANTITIES, Reference, Table, column, n_events, quantities, same_events
from xecml.evaluation.tables import residuals as residuals_of
from xecml.resolution import Floats, Resolution, figures_of_merit

_OF_A_PATCH = 60
"""Events that a patch of residuals should have, on average."""
AGAINST = ("w", "timing")
"""What residuals are profiled against, beside the place on the inner face."""
_UNLIKELY = 1e-3


@dataclass(frozen=True)
class Asked:
    """What is to be looked at besides residuals.

    Attributes:
        lines: energies of lines, MeV.
        edges: energies at which spectra end, MeV.
        periods: ranges of runs, compared with one another.
        conditions: drawn beside what drifts; they are not applied to anything.

    Raises:
        InputError: an energy cannot be, or two are too close.
    """

    lines: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    periods: tuple[Period, ...] = ()
    conditions: Conditions | None = None

    def __post_init__(self) -> None:
        spectra.features(self.lines, self.edges)

    def __bool__(self) -> bool:
        return bool(self.lines or self.edges or self.periods) or self.conditions is not None

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """Lines and edges in ascending order."""
        return spectra.features(self.lines, self.edges)


@dataclass(frozen=True)
class RealData:
    """Numbers of models on data; dictionaries by quantity, then by model.

    Attributes:
        reference: what residuals are taken to.
        tables: prediction tables of the models by name, on the events that all of them hold.
        by_run: residuals by run.
        in_order: residuals in groups of equal size, in the order of data-taking.
        by_patch: residuals on the inner face.
        against: profiles of residuals against depth and time, by quantity, model and column.
        by_period: residuals of each period.
        spectra: fitted lines and edges.
        conditions: of the runs, by name (k,).
    """

    reference: Reference
    tables: dict[str, Table]
    asked: Asked
    by_run: dict[str, dict[str, Trend]]
    in_order: dict[str, dict[str, Trend]]
    by_patch: dict[str, dict[str, FaceMap]]
    against: dict[str, dict[str, dict[str, Profile]]]
    by_period: dict[str, dict[str, dict[str, Resolution]]]
    spectra: list[Spectrum]
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def quantities(self) -> list[str]:
        """Of the first model, with a reference."""
        return list(self.by_run)

    def as_dict(self) -> dict[str, Any]:
        """Everything by name with units, ready for JSON."""
        found: dict[str, Any] = {"reference": self.reference, "quantities": {}}
        for quantity in self.quantities:
            found["quantities"][quantity] = {
                "unit": QUANTITIES[quantity].unit,
                "by_run": {m: t.as_dict() for m, t in self.by_run[quantity].items()},
                "in_order": {m: t.as_dict() for m, t in self.in_order[quantity].items()},
                "by_patch": {m: t.as_dict() for m, t in self.by_patch[quantity].items()},
                "against": {
                    m: {a: _profile_as_dict(p) for a, p in of.items()} for m, of in self.against[quantity].items()
                },
                "by_period": {
                    m: {p: r.as_dict() for p, r in of.items()} for m, of in self.by_period.get(quantity, {}).items()
                },
            }
        found["spectra"] = [one.as_dict() for one in self.spectra]
        if self.conditions:
            found["conditions"] = {name: for_json(values) for name, values in self.conditions.items()}
        return found

    def tables_to_read(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables to read: title, headers, rows; stability, spectra, and periods where there are some."""
        found = [("Stability by run", *self._stability())]
        if self.spectra:
            found.append(("Lines and edges", *_spectra_rows(self.spectra)))
        if self.by_period:
            found.append(("Periods", *self._periods()))
        return found

    def _stability(self) -> tuple[list[str], list[list[str]]]:
        headers = ["quantity", "model", "unit", "groups of runs", "mean of medians", "lowest", "highest", "chi2 / dof",
                   "chance"]  # fmt: skip
        rows = []
        for quantity, of in self.by_run.items():
            for model, t in of.items():
                known = np.isfinite(t.median)
                ends = [f"{x(t.median[known]):.3g}" if known.any() else "-" for x in (np.min, np.max)]
                chi2 = f"{t.chi2:.1f} / {t.free}" if t.free else "-"
                mark = " drifts" if t.free and t.chance < _UNLIKELY else ""
                rows.append([QUANTITIES[quantity].label, model, QUANTITIES[quantity].unit, str(len(t.n)),
                             with_error(t.mean), *ends, chi2, f"{t.chance:.2g}{mark}" if t.free else "-"])  # fmt: skip
        return headers, rows

    def _periods(self) -> tuple[list[str], list[list[str]]]:
        names = [period.name for period in self.asked.periods]
        headers = ["quantity", "model", "unit", *(f"{what} {name}" for name in names for what in ("bias", "s68"))]
        rows = []
        for quantity, of in self.by_period.items():
            for model, found in of.items():
                cells = [
                    cell
                    for r in found.values()
                    for cell in (with_error(r.bias, r.bias_error), with_error(r.s68, r.s68_error))
                ]
                rows.append([QUANTITIES[quantity].label, model, QUANTITIES[quantity].unit, *cells])
        return headers, rows


def measure(tables: Mapping[str, Table], asked: Asked, reference: Reference, where: str = "the files") -> RealData:
    """Look at models on data.

    Args:
        tables: prediction tables by name of the model, the first of which is what is looked at, others beside it.
        asked: lines, edges, periods, conditions.
        reference: what residuals are taken to.
        where: the files, for messages.

    Raises:
        InputError: a period without events, runs that conditions do not cover, or tables without a common event.
    """
    common = same_events(tables)
    first = next(iter(common.values()))
    check_periods(first, asked.periods, where)
    conditions: dict[str, Any] = {}
    if asked.conditions is not None:
        asked.conditions.rows(first["run"], where)
        conditions = asked.conditions.per_run(first["run"])
    runs, order, grid = by_run(first), in_order(first), patches(first, reference, _OF_A_PATCH)
    known = {name: quantities(table, reference) for name, table in common.items()}
    wanted = {q: [name for name in common if q in known[name]] for q in quantities(first, reference)}
    by_period = {
        q: {m: _by_period(common[m], q, asked.periods, reference) for m in models} for q, models in wanted.items()
    }
    return RealData(
        reference=reference,
        tables=common,
        asked=asked,
        by_run={q: {m: trend(common[m], q, runs, reference) for m in models} for q, models in wanted.items()},
        in_order={q: {m: trend(common[m], q, order, reference) for m in models} for q, models in wanted.items()},
        by_patch={q: {m: face_map(common[m], q, grid, reference) for m in models} for q, models in wanted.items()},
        against={q: {m: _profiles(common[m], q, reference) for m in models} for q, models in wanted.items()},
        by_period=by_period if asked.periods else {},
        spectra=spectra.measure(common, asked.features, asked.periods, reference),
        conditions=conditions,
    )


def _by_period(table: Table, quantity: str, periods: Sequence[Period], reference: Reference) -> dict[str, Resolution]:
    values = residuals_of(table, quantity, reference)
    return {period.name: figures_of_merit(values[period.mask(table)]) for period in periods}


def _profiles(table: Table, quantity: str, reference: Reference) -> dict[str, Profile]:
    found = {a: profile(table, quantity, a, reference=reference) for a in AGAINST}
    return {a: p for a, p in found.items() if p is not None}


def _profile_as_dict(p: Profile) -> dict[str, Any]:
    names = ("edges", "centre", "n", "bias", "bias_error", "s68", "s68_error")
    return {name: for_json(getattr(p, name)) for name in names}


def _spectra_rows(found: Sequence[Spectrum]) -> tuple[list[str], list[list[str]]]:
    headers = ["what", "energies of", "sample", "events", "MeV", "off by %", "sigma / E %", "chi2 / dof"]
    rows = []
    for one in found:
        s = one.whole
        fitted = one.fit is not None
        off = with_error(float(s.scale) - 1, float(s.scale_error), 100) if fitted else "-"
        chi2 = f"{float(s.chi2):.2f}" if fitted and np.isfinite(s.chi2) else "-"
        energy = with_error(float(s.energy), float(s.energy_error)) if fitted else "no fit"
        width = with_error(float(s.resolution), float(s.resolution_error), 100) if fitted else "-"
        sample = "all runs" if one.sample == ALL else one.sample
        rows.append([one.feature.label, one.predictor, sample, str(int(s.n)), energy, off, width, chi2])
    return headers, rows


def predicted(table: Table, name: str) -> Floats:
    """A predicted column (N,) in float64, for pictures."""
    return column(table, f"pred_{name}")


def events_of(data: RealData) -> int:
    """Number of events that all models hold."""
    return n_events(next(iter(data.tables.values())))
