"""A check of files as one page: occupancy and mean counts over the unfolded faces, distributions, findings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure

from xecml.checks.distributions import Distribution
from xecml.checks.event_files import CheckReport
from xecml.checks.rules import NORMALISED_RANGE
from xecml.checks.sensor_occupancy import SensorStatistics
from xecml.events import number_of
from xecml.figures import unfolded_detector
from xecml.figures.style import COLOURS, LINES, MAP, STYLE, named, save_figure
from xecml.geometry import Floats
from xecml.outputs import claim, making

_COLUMNS = 7
_LISTED = 6
_WIDE = 170


def draw_check(report: CheckReport) -> Figure:
    """Draw a report: findings above, the detector in the middle, distributions below."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(17.0, 13.0))
        shown = [list(group) for _, group in groupby(report.distributions, key=lambda d: d.name)]
        rows = -(-len(shown) // _COLUMNS)
        parts: Any = figure.subfigures(2, 1, height_ratios=(8.0, 2.3 * max(rows, 1)))
        upper, lower = parts
        if report.sensors is not None and report.sensors.n_events:
            _draw_detector(upper, report.sensors)
        for axes, group in zip(lower.subplots(max(rows, 1), _COLUMNS, squeeze=False).ravel(), shown, strict=False):
            _draw_distribution(axes, group)
        for axes in lower.axes[len(shown) :]:
            axes.set_axis_off()
        lines = [named(line, 200) for line in _headline(report)]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", family="monospace", fontsize=9)
    return figure


@making("check")
def save_check(report: CheckReport, path: str | Path, *, force: bool = False) -> None:
    """Write the page as `.pdf` or `.png`, atomically; with `force` over a file that this function did not make.

    Raises:
        InputError: another suffix, or the folder cannot be written.
    """
    claim([path], inputs=report.files, force=force)
    save_figure(draw_check(report), path)


def _headline(report: CheckReport) -> list[str]:
    verdict = "can be used" if report.usable else "should NOT be used as they are"
    names = ", ".join(Path(f).name for f in report.files[:_LISTED])
    more = f" and {len(report.files) - _LISTED} more" if len(report.files) > _LISTED else ""
    lines = [f"{number_of(report.n_events)}, tree '{report.tree}': {verdict}. Files: {names}{more}"]
    found = [f"{f.severity}: {f.message}" for f in report.findings[:_LISTED]]
    lines += [textwrap.shorten(line, _WIDE, placeholder=" ...") for line in found or [report.verdict()[1]]]
    if len(report.findings) > _LISTED:
        lines.append(f"and {len(report.findings) - _LISTED} findings more")
    return lines


def _draw_detector(figure: SubFigure, sensors: SensorStatistics) -> None:
    left, right = figure.subplots(1, 2)
    lit = sensors.occupancy > 0
    unfolded_detector.draw_sensors(
        left, sensors.occupancy, lit, Normalize(0, 1), MAP, "share of events in which the sensor has a count"
    )
    counts = np.nan_to_num(sensors.mean_count)
    scale = LogNorm(*_decades(counts[lit])) if lit.any() else LogNorm(1, 10)
    unfolded_detector.draw_sensors(right, counts, lit, scale, "viridis", f"mean valid {sensors.branch}")
    dead, hot = sensors.dead(), sensors.hot()
    for axes in (left, right):
        for ids, marker, colour in ((dead, "x", COLOURS[1]), (hot, "o", COLOURS[3])):
            places = unfolded_detector.places()[ids]
            axes.plot(*places.T, ls="", marker=marker, mfc="none", ms=6, color=colour, zorder=5)
    left.set_title(f"hatched: never lit; crosses: {len(dead)} dead; rings: {len(hot)} hot sensors", loc="left")


def _decades(counts: Floats) -> tuple[float, float]:
    low, high = float(np.quantile(counts, 0.01)), float(np.quantile(counts, 0.999))
    return low, max(high, 1.1 * low)


def _draw_distribution(axes: Axes, group: Sequence[Distribution]) -> None:
    for one, colour, dashes in zip(group, COLOURS, LINES, strict=False):
        share = one.contents / one.contents.sum()
        look: dict[str, Any] = {"ls": dashes, "label": one.part} if one.part else {"fill": True}
        axes.stairs(share, one.edges, color=colour, alpha=0.8, **look)
    axes.set(title=group[0].name, xlim=(group[0].low, group[0].high), ylim=(0, None))
    axes.tick_params(labelleft=False)
    if group[0].name.startswith("normalised"):
        axes.set(yscale="log", ylim=(1e-6, 1))
        axes.axvspan(*NORMALISED_RANGE, color="0.93", zorder=0)
    if len(group) > 1:
        axes.legend()
