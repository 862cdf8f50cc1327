"""Lines and ends of energy spectra: scale and resolution, for all events and by patch of the inner face.

A line is that of a calibration run (17.6 MeV of lithium, 54.9 and 82.9 MeV of pi0 decays whose photons leave back to
back), an edge the upper end of a background spectrum (52.83 MeV, half of the muon's mass). Energies are in MeV here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.evaluation.inner_face import Patches, patches
from xecml.evaluation.periods import Period
from xecml.evaluation.stability import for_json
from xecml.evaluation.tables import Reference, Table, find_column
from xecml.inference.edge_fit import Edge, fit_edge
from xecml.inference.line_fit import Line, fit_line
from xecml.resolution import Floats

REACH = {"line": 0.2, "edge": 0.25}
"""Answers this far from a line or an edge, as a share of its energy, belong to it."""
LEAST_EVENTS = {"line": 100, "edge": 200}
"""With fewer answers near it nothing is fitted."""
_OF_A_PATCH = {"line": 300, "edge": 1500}
"""Answers near it that a patch should have, on average."""
ALL = "all"
RECONSTRUCTION = "reconstruction"
"""Name of the energies that the files themselves have."""
_BOUNDS_MEV = (1.0, 1000.0)


@dataclass(frozen=True)
class Feature:
    """What is looked for in a spectrum: a line or an edge, and its energy in MeV."""

    kind: Literal["line", "edge"]
    energy: float

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.kind} {'of' if self.kind == 'line' else 'at'} {self.energy:g} MeV"

    @property
    def reach(self) -> float:
        """Largest distance of a prediction from the energy, MeV."""
        return REACH[self.kind] * self.energy

    def near(self, energies: Floats) -> NDArray[np.bool_]:
        """Which energies (N,) in MeV are so near that they belong to it."""
        return np.asarray(np.abs(energies - self.energy) <= self.reach)


@dataclass(frozen=True)
class Scale:
    """What a fit says: energies in MeV, arrays of any shape, or numbers; NaN where nothing could be fitted.

    `scale` is the fitted energy over the true one, `resolution` the width of the response's core over the fitted one.
    """

    n: Floats
    energy: Floats
    energy_error: Floats
    sigma: Floats
    sigma_error: Floats
    chi2: Floats
    feature: Feature

    @property
    def scale(self) -> Floats:
        """Fitted over true energy."""
        return self.energy / self.feature.energy

    @property
    def scale_error(self) -> Floats:
        """Of the scale."""
        return self.energy_error / self.feature.energy

    @property
    def resolution(self) -> Floats:
        """Width of the core over the fitted energy."""
        return self.sigma / self.energy

    @property
    def resolution_error(self) -> Floats:
        """Of the resolution."""
        return self.sigma_error / self.energy

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        names = ("n", "energy", "energy_error", "sigma", "sigma_error", "chi2", "scale", "scale_error", "resolution",
                 "resolution_error")  # fmt: skip
        return {name: for_json(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Spectrum:
    """A feature in the energies of one predictor and one sample.

    Attributes:
        feature: that was looked for.
        predictor: name of the model, or `RECONSTRUCTION`.
        sample: `ALL`, or the name of a period.
        energies: answers near it, MeV.
        fit: of all of them; none where nothing could be fitted.
        whole: what it says.
        grid: patches of the inner face, of all events of the sample; none for a period.
        by_patch: what the fits of patches say, arrays (nv, nu).
    """

    feature: Feature
    predictor: str
    sample: str
    energies: Floats
    fit: Line | Edge | None
    whole: Scale
    grid: Patches | None = None
    by_patch: Scale | None = None

    def as_dict(self) -> dict[str, Any]:
        """Numbers by name, ready for JSON."""
        found: dict[str, Any] = {"kind": self.feature.kind, "true_energy": self.feature.energy, "unit": "MeV"}
        found |= {"predictor": self.predictor, "sample": self.sample, **self.whole.as_dict()}
        if self.grid is not None and self.by_patch is not None:
            edges = {"u_cm": for_json(self.grid.u), "v_cm": for_json(self.grid.v)}
            found["by_patch"] = {**edges, **self.by_patch.as_dict()}
        return found


def features(lines: Sequence[float], edges: Sequence[float]) -> tuple[Feature, ...]:
    """Lines and edges at these energies in MeV, in ascending order.

    Raises:
        InputError: an energy that cannot be, or two so close that answers of one belong to the other.
    """
    for energy in (*lines, *edges):
        if not (math.isfinite(energy) and _BOUNDS_MEV[0] <= energy <= _BOUNDS_MEV[1]):
            raise InputError(
                f"A line or an edge cannot be at {energy:g} MeV; give its energy in MeV, between {_BOUNDS_MEV[0]:g} "
                f"and {_BOUNDS_MEV[1]:g}."
            )
    found = [*(Feature("line", e) for e in lines), *(Feature("edge", e) for e in edges)]
    found.sort(key=lambda one: one.energy)
    for one, two in pairwise(found):
        if two.energy - two.reach < one.energy:
            raise InputError(
                f"The {one.label} and the {two.label} cannot be told apart in one spectrum; evaluate the files of "
                "each one separately."
            )
    return tuple(found)


def measure(
    tables: Mapping[str, Table], wanted: Sequence[Feature], periods: Sequence[Period], reference: Reference
) -> list[Spectrum]:
    """Fit features in the spectra of all predictors: all events, by patch, and each period.

    Args:
        tables: prediction tables by name of the model; those of the first also hold the reconstruction.
        wanted: lines and edges.
        periods: ranges of runs that are looked at by themselves.
        reference: which columns tell where events are.
    """
    spectra = []
    for feature in wanted:
        for name, (energies, table) in energies_of(tables).items():
            spectra.append(_spectrum(feature, name, energies, table, reference))
            for period in periods:
                kept = energies[period.mask(table) & feature.near(energies)]
                fit = _fit(kept, feature)
                spectra.append(Spectrum(feature, name, period.name, kept, fit, _scales([(kept, fit)], feature, ())))
    return spectra


def energies_of(tables: Mapping[str, Table]) -> dict[str, tuple[Floats, Table]]:
    """Energies (N,) in MeV of every model that answers them and of the files' reconstruction, and the table of each."""
    found = {}
    for name, table in tables.items():
        if (energies := find_column(table, "pred_energy")) is not None:
            found[name] = (1e3 * energies, table)
    first = next(iter(tables.values()))
    reconstructed = find_column(first, "reco_energy")
    if reconstructed is not None and np.isfinite(reconstructed).any():
        found[RECONSTRUCTION] = (1e3 * reconstructed, first)
    return found


def _spectrum(feature: Feature, name: str, energies: Floats, table: Table, reference: Reference) -> Spectrum:
    near = feature.near(energies)
    kept, own = energies[near], {column: values[near] for column, values in table.items()}
    fit = _fit(kept, feature)
    whole = _scales([(kept, fit)], feature, ())
    grid = patches(own, reference, _OF_A_PATCH[feature.kind])
    inside = [kept[grid.of == i] for i in range(grid.number)]
    by_patch = _scales([(x, _fit(x, feature)) for x in inside], feature, grid.shape)
    return Spectrum(feature, name, ALL, kept, fit, whole, grid, by_patch)


def _fit(energies: Floats, feature: Feature) -> Line | Edge | None:
    if len(energies) < LEAST_EVENTS[feature.kind]:
        return None
    return fit_line(energies) if feature.kind == "line" else fit_edge(energies, feature.energy)


def _scales(fits: Sequence[tuple[Floats, Line | Edge | None]], feature: Feature, shape: tuple[int, ...]) -> Scale:
    """What fits say, in arrays of a shape."""
    rows = np.array([[fit.events if fit else len(x), *_numbers(fit)] for x, fit in fits])
    n, energy, energy_error, sigma, sigma_error, chi2 = (column.reshape(shape) for column in rows.T)
    return Scale(n, energy, energy_error, sigma, sigma_error, chi2, feature)


def _numbers(fit: Line | Edge | None) -> tuple[float, float, float, float, float]:
    """Energy, its error, width, its error, chi2 per degree of freedom."""
    if fit is None:
        return (math.nan,) * 5
    energy = fit.peak if isinstance(fit, Line) else fit.position
    return energy, fit.error, fit.sigma, fit.sigma_error, fit.chi2
