"""Pictures of the report that are no resolution pages: energy line, slices, selections, comparisons, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xecml.evaluation.energy_line import EnergyLine
from xecml.evaluation.metrics import with_error
from xecml.evaluation.paired import Pair
from xecml.evaluation.profiles import CONDITIONS, Slices
from xecml.evaluation.selection_efficiency import Selection
from xecml.evaluation.tables import QUANTITIES
from xecml.figures.style import COLOURS, LINES, MARKS, STYLE, all_entries, named

WIDTH = 11.7
_MOST_CURVES = 6
_REBUILT = ("mae_npho", "rmse_npho", "mae_time", "rmse_time")


def draw_energy_line(lines: Mapping[str, EnergyLine]) -> Figure:
    """The line of E / E_true of each model with its exponential-Gauss fit, linear and logarithmic."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6))
        left, right = figure.subplots(1, 2)
        for (name, found), colour, dashes in zip(lines.items(), COLOURS, LINES, strict=False):
            line = found.line
            middle = (line.edges[1:] + line.edges[:-1]) / 2
            share = line.counts.sum()
            label = (
                f"{named(name)}: core {with_error(line.sigma, line.sigma_error)} %,\n"
                f"upper edge {with_error(found.upper, found.upper_error)} %"
            )
            for axes in (left, right):
                axes.stairs(line.counts / share, line.edges, color=colour, alpha=0.5, lw=0.9)
                axes.plot(middle, line.expected(line.edges) / share, color=colour, ls=dashes, label=label)
        for axes in (left, right):
            axes.set(xlabel="predicted / true energy [%]", ylabel="share of events in the window")
        highest = max((f.line.counts / f.line.counts.sum()).max() for f in lines.values())
        left.set_ylim(0, (1.25 + 0.14 * len(lines)) * highest)
        left.legend(loc="upper left")
        right.set_yscale("log")
        figure.suptitle("Line of the energy, exponential-Gauss fit")
    return figure


def draw_slices(slices: Mapping[str, Slices]) -> Figure:
    """The 68 % opening angle in bins of quantities of the event, one panel for each quantity."""
    rows = -(-len(slices) // 3)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 3.0 * rows))
        for i, (name, found) in enumerate(slices.items(), 1):
            condition = CONDITIONS[name]
            unit = f" [{condition.unit}]" if condition.unit else ""
            axes = figure.add_subplot(rows, 3, i, xlabel=f"{condition.label}{unit}")
            axes.set_ylabel("68 % opening angle [deg]")
            bars = np.abs(np.stack([found.centre - found.edges[:-1], found.edges[1:] - found.centre]))
            axes.errorbar(found.centre, found.q68, found.q68_error, bars, fmt="o", color=COLOURS[0], elinewidth=1)
            if np.isfinite(found.q68).any():
                axes.set_ylim(0, 1.25 * np.nanmax(found.q68 + np.nan_to_num(found.q68_error)))
            axes.locator_params(nbins=5)
        figure.suptitle("Opening angle in slices of what events are like")
    return figure


def draw_selections(curves: Sequence[Selection]) -> Figure:
    """s68 over that of all events against the share of events that a cut keeps: by sigma, and by outlier value."""
    kinds = list(dict.fromkeys(curve.by for curve in curves))
    words = {"sigma": "kept by the lowest predicted width", "outlier": "kept by the lowest outlier value"}
    order = list(QUANTITIES)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4))
        for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0], kinds, strict=True):
            for curve in (c for c in curves if c.by == kind and c.s68[-1] > 0):
                i = order.index(curve.quantity)
                style = {
                    "color": COLOURS[i % len(COLOURS)],
                    "marker": MARKS[i],
                    "ls": LINES[(i + i // len(COLOURS)) % len(LINES)],
                }
                values, errors = curve.s68 / curve.s68[-1], curve.error / curve.s68[-1]
                axes.errorbar(
                    curve.efficiency, values, errors, elinewidth=0.8, label=QUANTITIES[curve.quantity].label, **style
                )
            axes.axhline(1, color="0.6", lw=0.8)
            axes.set(xlabel=f"share of events {words[kind]}", xlim=(0.15, 1.03))
        figure.axes[0].set_ylabel("s68 / s68 of all events")
        figure.axes[0].set_ylim(bottom=0)
        figure.legend(*all_entries(figure.axes), loc="outside right upper")
        figure.suptitle("What a selection is worth: resolution against efficiency")
    return figure


def draw_differences(pairs: Sequence[Pair]) -> Figure:
    """How much larger each figure of the others is than the first's, in percent, with paired errors."""
    labels = list(dict.fromkeys((d.label, d.figure) for pair in pairs for d in pair.differences))
    labels = [label for label in labels if label[1] != "|bias|"]  # a ratio of what should be zero says nothing
    place = {label: len(labels) - 1 - i for i, label in enumerate(labels)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.42 * len(labels)))
        axes = figure.subplots()
        axes.axvline(0, color="0.4", lw=1)
        for k, (pair, colour, mark) in enumerate(zip(pairs, COLOURS[1:], MARKS, strict=False)):
            shown = [(d, *d.ratio) for d in pair.differences if (d.label, d.figure) in place]
            shown = [(d, ratio, error) for d, ratio, error in shown if math.isfinite(ratio)]
            sure = [d.more_than_chance for d, _, _ in shown]
            heights = [
                place[d.label, d.figure] + 0.16 * (len(pairs) - 1 - 2 * k) / max(len(pairs), 1) for d, *_ in shown
            ]
            for (_, ratio, error), y, filled in zip(shown, heights, sure, strict=True):
                axes.errorbar(
                    100 * ratio,
                    y,
                    xerr=100 * error,
                    fmt=mark,
                    color=colour,
                    mfc=colour if filled else "w",
                    elinewidth=1.2,
                )
            axes.plot([], [], mark, color=colour, label=named(pair.second))
        shown_ratios = [abs(d.ratio[0]) for pair in pairs for d in pair.differences if math.isfinite(d.ratio[0])]
        reach = 100 * max(shown_ratios, default=0.0)
        if reach > 100:
            axes.set_xscale("symlog", linthresh=20)
        axes.set_yticks([place[label] for label in labels], [f"{a}, {b}" for a, b in labels])
        axes.set(
            xlabel=f"larger than that of {named(pairs[0].first)} [%]; open marks: may be chance",
            ylim=(-0.7, len(labels) - 0.3),
        )
        figure.legend(loc="outside right upper")
        figure.suptitle(f"Beside {named(pairs[0].first)} on the same events")
    return figure


def draw_curves(epochs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Loss, validated numbers and learning rate by epoch of `metrics.jsonl`; none without two epochs to draw."""
    rows = [row for row in epochs if isinstance(row.get("epoch"), int)]
    if len(rows) < 2:
        return None
    x = [row["epoch"] for row in rows]
    losses = [name for name in _names(rows) if name.split("/")[-1] in ("total_loss", "loss")]
    widths = [n for n in _names(rows) if n.startswith("val/") and n.removeprefix("val/") in _REBUILT]
    widths += [n for n in _names(rows) if n.startswith("val/") and ("_s68" in n or n.endswith("resolution_deg"))]
    rates = [name for name in _names(rows) if name.split("/")[-1] in ("lr", "learning_rate")]
    parts = [
        (losses, "loss", "log"),
        (widths[:_MOST_CURVES], "validated, over the last epoch's", "log"),
        (rates, "learning rate", "log"),
    ]
    parts = [part for part in parts if part[0]]
    if not parts:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.9))
        for axes, (names, label, scale) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
            for i, name in enumerate(names):
                values = np.array([_number(row.get(name)) for row in rows])
                if names is not losses and names is not rates:
                    values = values / values[np.isfinite(values)][-1] if np.isfinite(values).any() else values
                axes.plot(x, values, marker=MARKS[i], ms=3, color=COLOURS[i % len(COLOURS)], label=name)
            axes.set(xlabel="epoch", ylabel=label)
            _scale(axes, scale)
            axes.legend(fontsize=7)
        figure.suptitle("The training, epoch by epoch")
    return figure


def _scale(axes: Axes, scale: str) -> None:
    shown = [y for line in axes.lines for y in np.asarray(line.get_ydata(), float) if math.isfinite(y)]
    if shown and min(shown) > 0:
        axes.set_yscale(scale)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, int | float)))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
