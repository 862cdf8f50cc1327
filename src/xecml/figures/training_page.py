"""A comparison of files with a model's training sample as one page: what differs, by how much, and at which depths."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xecml.events import number_of
from xecml.figures.style import COLOURS, STYLE, named, save_figure
from xecml.inference.training_comparison import OUTLIER_EDGES, Comparison, Difference
from xecml.outputs import claim, making

_COLOURS = {"like": COLOURS[0], "differs": COLOURS[1], "other photons": COLOURS[4], "too few": "0.6"}
_MARKS = {"like": "o", "differs": "s", "other photons": "^", "too few": "x"}
_PANELS = 6
_WIDE = 150
_FAR = 8.0
"""Widths beyond which the axis is logarithmic."""
_NAMES = 56
"""Characters of a number's name along the axis."""


def draw_comparison(comparison: Comparison, title: str) -> Figure:
    """Draw all numbers on the left; `outlier`, and the numbers that differ most by depth, on the right."""
    with mpl.rc_context(STYLE):
        rows = comparison.differences()
        figure = Figure(figsize=(17.0, 11.0))
        parts: Any = figure.subfigures(1, 2, width_ratios=(1.3, 1.0))
        left, right = parts
        _draw_numbers(left.subplots(), rows)
        upper, lower = right.subfigures(2, 1, height_ratios=(1.0, 2.6))
        _draw_outliers(upper.subplots(), comparison)
        panels = lower.subplots(_PANELS // 2, 2).ravel()
        known = [row for row in rows if row.events]
        largest = sorted(known, key=lambda row: -abs(row.away) / row.limit)[:_PANELS]
        for panel, row in zip(panels, largest, strict=False):
            _draw_depths(panel, row, comparison)
        for panel in panels[len(largest) :]:
            panel.set_axis_off()
        verdict = comparison.line() or "Nothing differs that would be the detector's."
        lines = [named(title, 200), *textwrap.wrap(verdict, _WIDE)]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
    return figure


@making("check")
def save_comparison(
    comparison: Comparison,
    path: str | Path,
    *,
    title: str,
    inputs: Sequence[str | Path] = (),
    force: bool = False,
) -> None:
    """Write the page as `.pdf` or `.png`, atomically; with `force` over a file that this function did not make.

    Raises:
        InputError: another suffix, or the folder cannot be written.
    """
    claim([path], inputs=inputs, force=force)
    save_figure(draw_comparison(comparison, title), path)


def _draw_numbers(axes: Axes, rows: Sequence[Difference]) -> None:
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        if not row.events:
            continue
        axes.barh(place, 2 * row.limit, left=-row.limit, height=0.8, color="0.9", zorder=1)
        axes.errorbar(row.away, place, xerr=row.error, fmt=_MARKS[row.verdict], color=_COLOURS[row.verdict], zorder=3)
    axes.axvline(0, color="0.5", lw=0.8, zorder=2)
    reach = max([3.0, *(1.3 * abs(row.away) for row in rows if row.events)])
    if reach > _FAR:
        axes.set_xscale("symlog", linthresh=2.0)
    axes.set(xlim=(-reach, reach), ylim=(-1, len(rows)), xlabel="file less training, in widths of training events")
    axes.set_yticks(places, [_short(row.number.title) for row in rows])
    axes.tick_params(axis="y", labelsize=6.5)
    for verdict, colour in _COLOURS.items():
        if any(row.verdict == verdict for row in rows) and verdict != "too few":
            axes.plot([], [], _MARKS[verdict], color=colour, label=verdict)
    axes.barh([np.nan], [np.nan], color="0.9", label="like training")
    axes.legend(loc="lower right")


def _short(title: str) -> str:
    """The name of a number without what is said in brackets."""
    return textwrap.shorten(title.split(" (")[0], _NAMES, placeholder=" ...")


def _draw_outliers(axes: Axes, comparison: Comparison) -> None:
    edges = OUTLIER_EDGES
    contents = comparison.outliers.astype(float)
    inside = contents[1:-1].copy()
    inside[0], inside[-1] = inside[0] + contents[0], inside[-1] + contents[-1]
    axes.stairs(inside / max(contents.sum(), 1), edges, color=COLOURS[0], fill=True, alpha=0.8)
    axes.axvline(1, color=COLOURS[1], lw=1.0)
    share = 100 * comparison.beyond / max(comparison.events, 1)
    axes.set(xscale="log", xlabel="outlier", ylabel="share of events", xlim=(edges[0], edges[-1]))
    axes.set_title(f"{number_of(comparison.events)}, {share:.3g} % of them above 1; training 1 %", loc="left")


def _draw_depths(axes: Axes, row: Difference, comparison: Comparison) -> None:
    edges = np.exp(comparison.training.depth_edges)
    axes.axhspan(-row.limit, row.limit, color="0.9", zorder=0)
    axes.stairs(row.depths, edges, baseline=None, color=_COLOURS[row.verdict], lw=2)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set(xscale="log", xlabel="depth of the hot spot [cm]", ylabel="widths")
    axes.set_title("\n".join(textwrap.wrap(row.number.title, 48)), loc="left", fontsize=8)
