"""Pictures of repairs: errors against the share of dead sensors, by light and by face, and events before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.evaluation.metrics import ALL
from xecml.evaluation.repair_errors import Case, RepairReport, light_labels
from xecml.evaluation.tables import QUANTITIES
from xecml.events import number_of, valid_counts
from xecml.figures.style import COLOURS, DIVERGING, MARKS, STYLE, named, save_figure, save_pages
from xecml.figures.unfolded_detector import draw_sensors
from xecml.geometry import FACES, N_SENSORS

_RESOLUTIONS = ("energy_relative", "u", "v", "w", "timing")


def save_repairs(report: RepairReport, path: str | Path) -> None:
    """Write all pages of a comparison as `.pdf`, atomically; equal numbers give equal bytes.

    Raises:
        InputError: another suffix, or the folder cannot be written.
    """
    save_pages([draw_errors(report), *([draw_effects(report)] if report.effects else [])], path)


def draw_errors(report: RepairReport) -> Figure:
    """Draw a row a pattern: RMSE against the share of dead sensors, by light and by face at the largest share."""
    patterns = list(dict.fromkeys(pattern for pattern, _ in report.errors))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14.0, 4.2 * len(patterns)))
        axes = figure.subplots(len(patterns), 3, squeeze=False)
        for row, pattern in zip(axes, patterns, strict=True):
            cases = [case for case in report.errors if case[0] == pattern]
            _against_fraction(row[0], report, cases)
            for place, names in ((row[1], light_labels()), (row[2], list(FACES))):
                _by_place(place, report, cases[-1], names)
            row[1].set_xlabel(f"{_reference(report)} count [photons]")
        figure.suptitle(
            f"Filled counts of dead sensors against the {_reference(report)} count, {number_of(report.n_events)}"
        )
    return figure


def _reference(report: RepairReport) -> str:
    first = next(iter(next(iter(report.errors.values())).values()))
    return "expected" if "expected" in first else "drawn"


def _against_fraction(axes: Axes, report: RepairReport, cases: list[Case]) -> None:
    for i, name in enumerate(report.errors[cases[0]]):
        # a repair that fills nothing has no errors
        found = {c[1]: figures for c in cases if (figures := report.errors[c][name].get(_reference(report)))}
        of_all = [figures[ALL] for figures in found.values()]
        axes.errorbar(
            [100 * fraction for fraction in found],
            [e.rmse for e in of_all],
            [e.rmse_error for e in of_all],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKS[i % len(MARKS)],
            label=named(name),
        )
    axes.set(xlabel="dead sensors [%]", ylabel="RMSE [photons]", title=cases[0][0], ylim=(0, None))
    axes.legend()


def _by_place(axes: Axes, report: RepairReport, case: Case, places: list[str]) -> None:
    """Draw RMSE with its error and |bias| (thin, dashed) at each place."""
    for i, (name, figures) in enumerate(report.errors[case].items()):
        found = figures.get(_reference(report), {})
        x = [j for j, place in enumerate(places) if place in found]
        values = [found[places[j]] for j in x]
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)]}
        axes.errorbar(x, [e.rmse for e in values], [e.rmse_error for e in values], label=named(name), **look)
        axes.plot(x, [abs(e.bias) for e in values], ls="--", lw=0.8, ms=2, **look)
    axes.set_yscale("log")
    axes.set_xticks(range(len(places)), places)
    axes.set(ylabel="RMSE (dashed: |bias|) [photons]", title=f"{case[0]}, {100 * case[1]:g} % dead")


def draw_effects(report: RepairReport) -> Figure:
    """Draw resolutions (s68) against the share of dead sensors: a row a pattern, a column a quantity.

    Raises:
        InputError: the comparison was made without a model.
    """
    if report.undamaged is None:
        raise InputError("The comparison of repairs has no resolutions; give it a model.")
    shown = [q for q in _RESOLUTIONS if q in report.undamaged.figures]
    patterns = list(dict.fromkeys(pattern for pattern, _ in report.effects))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(shown), 3.6 * len(patterns)))
        axes = figure.subplots(len(patterns), len(shown), squeeze=False)
        for row, pattern in zip(axes, patterns, strict=True):
            for place, quantity in zip(row, shown, strict=True):
                _effect(place, report, [case for case in report.effects if case[0] == pattern], quantity)
        axes[0, 0].legend()
        figure.suptitle(f"Resolutions after repair, {number_of(report.n_events)}")
    return figure


def _effect(axes: Axes, report: RepairReport, cases: list[Case], quantity: str) -> None:
    assert report.undamaged is not None
    whole = report.undamaged.figures[quantity][ALL]
    axes.axhspan(whole.s68 - whole.s68_error, whole.s68 + whole.s68_error, color="0.85", lw=0, label="undamaged")
    for i, name in enumerate(report.effects[cases[0]]):
        widths = [report.effects[case][name].evaluation.figures[quantity][ALL] for case in cases]
        axes.errorbar(
            [100 * fraction for _, fraction in cases],
            [r.s68 for r in widths],
            [r.s68_error for r in widths],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKS[i % len(MARKS)],
            label=named(name),
        )
    what = QUANTITIES[quantity]
    axes.set(xlabel="dead sensors [%]", ylabel=f"s68 [{what.unit}]", title=f"{what.label}, {cases[0][0]}")


# --------------------------------------------------------------------------------------------- one event


def draw_repaired_event(
    npho: ArrayLike, dead: ArrayLike, filled: Mapping[str, NDArray[Any]], *, title: str = ""
) -> Figure:
    """Draw an event: true values, values after the damage, and for each repair its result and its error in sigma.

    Args:
        npho: what was there, expected or drawn photons (4760,).
        dead: mask (4760,).
        filled: name of the repair -> photons (4760,).
        title: first line.

    Raises:
        InputError: arrays of another shape.
    """
    truth, where = np.asarray(npho, np.float64), np.asarray(dead, bool)
    for name, values in {"npho": truth, "dead": where, **filled}.items():
        if np.shape(values) != (N_SENSORS,):
            raise InputError(f"'{name}' has shape {np.shape(values)}; give the {N_SENSORS} values of one event.")
    lit = valid_counts(truth)
    high = float(truth[lit].max(initial=10.0))
    scale = LogNorm(max(high * 1e-4, 0.5), high, clip=True)
    rows = 1 + len(filled)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 4.7 * rows))
        axes = figure.subplots(rows, 2, squeeze=False)
        draw_sensors(axes[0, 0], truth, lit, scale, "viridis", "what was there [photons]")
        draw_sensors(axes[0, 1], truth, lit & ~where, scale, "viridis", "what was left [photons]")
        for row, (name, values) in zip(axes[1:], filled.items(), strict=True):
            ok = valid_counts(values)
            draw_sensors(row[0], np.asarray(values, np.float64), ok, scale, "viridis", f"{named(name)} [photons]")
            pull = (values - truth) / np.sqrt(np.maximum(truth, 1.0) * 8)
            draw_sensors(
                row[1],
                pull,
                ok & where,
                SymLogNorm(3, vmin=-100, vmax=100),
                DIVERGING,
                f"{named(name)}: error [sigma of a count]",
            )
        figure.suptitle(title)
    return figure


def save_repaired_event(figure: Figure, path: str | Path) -> None:
    """Write an event's picture as `.pdf` or `.png`, atomically.

    Raises:
        InputError: another suffix, or the folder cannot be written.
    """
    save_figure(figure, path)
