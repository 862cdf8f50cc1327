"""Pictures of derivatives: by face, by sensor, about the hot spot. The numbers: `xecml.evaluation.saliency`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure

from xecml.evaluation.hot_spots import REACH
from xecml.evaluation.saliency import Saliency
from xecml.events import number_of
from xecml.figures.style import COLOURS, DIVERGING, MAP, MARKS, STYLE, named, save_figure, save_pages
from xecml.figures.unfolded_detector import draw_sensors
from xecml.geometry import FACES
from xecml.resolution import Floats

_DECADES = 1e-3
"""Colours span three decades: what matters less than a thousandth of the largest is as good as nothing."""
_SIGNED_DECADES = 2e-2
"""Of signed maps: within this share of the largest size, colours go with the number itself."""
_LIGHT = 0.5
"""Height in the map of colours from which on numbers are black."""
_KINDS = {"counts": "target widths per d ln n", "times": "target widths per ns"}


def save_saliency(path: str | Path, found: Saliency, *, title: str = "") -> int:
    """Write a PDF, atomically: sums by face, maps about the hot spot, then a map over the sensors for each output.

    Returns:
        The number of pages.

    Raises:
        InputError: the path cannot be written.
    """
    return save_pages(saliency_figures(found, title=title), path)


def saliency_figures(found: Saliency, *, title: str = "") -> Iterator[Figure]:
    """Draw the pages of `save_saliency` one after the other."""
    with mpl.rc_context(STYLE):
        yield _face_page(found, title)
    yield draw_hot_spot_maps(found, title=title)
    for k, name in enumerate(found.outputs):
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(17.0, 8.2))
            figure.suptitle(
                f"what moves {name}: mean absolute derivative over {number_of(found.events)}. {named(title)}"
            )
            for axes, (kind, unit) in zip(figure.subplots(1, 2), _KINDS.items(), strict=True):
                values = getattr(found, kind)[k]
                largest = max(float(values.max()), 1e-12)
                scale = LogNorm(largest * _DECADES, largest, clip=True)
                draw_sensors(axes, values, found.measured, scale, MAP, f"{kind}: {unit}, a sensor")
        yield figure


def draw_hot_spot_maps(found: Saliency, *, title: str = "") -> Figure:
    """Draw mean derivatives of each answer about the hot spot, with their signs: counts above, times below."""
    with mpl.rc_context(STYLE):
        number = len(found.outputs)
        figure = Figure(figsize=(max(1.9 * number, 6.5), 6.0))
        figure.suptitle(
            f"What moves answers about the hot spot; {number_of(found.events)}. {named(title)}\n"
            "Orange raises the answer, purple lowers it."
        )
        for row, (axes_row, (kind, unit)) in enumerate(
            zip(figure.subplots(2, number, squeeze=False, sharex=True, sharey=True), _KINDS.items(), strict=True)
        ):
            for k, axes in enumerate(axes_row):
                _draw_map(axes, found.maps[row, k])
                if row == 0:
                    axes.set_title(found.outputs[k])
                else:
                    axes.set_xlabel("SiPMs along u")
            axes_row[0].set_ylabel(f"{kind}:\n{unit}\nSiPMs along v")
    return figure


def _draw_map(axes: Axes, values: Floats) -> None:
    """A signed map about the hot spot in colours of its own range: orange raises the answer, purple lowers it."""
    largest = max(float(np.nanmax(np.abs(values), initial=0.0)), 1e-12)
    scale = SymLogNorm(_SIGNED_DECADES * largest, vmin=-largest, vmax=largest)
    ends = (-REACH - 0.5, REACH + 0.5)
    # v falls along rows
    mesh = axes.imshow(values[::-1], DIVERGING, scale, extent=(*ends, *ends), aspect="equal")
    bar = axes.figure.colorbar(mesh, ax=axes, location="bottom", shrink=0.85, pad=0.02, ticks=[-largest, 0, largest])
    bar.ax.set_xticklabels([f"{-largest:.1g}", "0", f"{largest:.1g}"], fontsize=7)
    bar.ax.minorticks_off()
    axes.set(xticks=(-8, 0, 8), yticks=(-8, 0, 8))
    axes.grid(visible=False)


def _face_page(found: Saliency, title: str) -> Figure:
    figure = Figure(figsize=(11.7, 5.0))
    figure.suptitle(
        f"Derivatives of answers, summed over the sensors of a face; {number_of(found.events)}. {named(title)}"
    )
    for axes, (kind, unit) in zip(figure.subplots(1, 2), _KINDS.items(), strict=True):
        for face, colour, mark, sums in zip(FACES, COLOURS, MARKS, found.by_face(kind).T, strict=False):
            axes.plot(np.where(sums > 0, sums, np.nan), ls="", marker=mark, color=colour, label=face)
        axes.set(yscale="log", ylabel=f"{kind}: {unit}", xlim=(-0.5, len(found.outputs) - 0.5))
        axes.set_xticks(range(len(found.outputs)), found.outputs, rotation=30)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(FACES))
    return figure


def save_face_weights(path: str | Path, found: Saliency, *, title: str = "") -> None:
    """Write the shares of the faces in each task's derivatives as bars, atomically.

    Raises:
        InputError: the path cannot be written.
    """
    save_figure(draw_face_weights(found, title=title), path)


def draw_face_weights(found: Saliency, *, title: str = "") -> Figure:
    """Draw the shares of the faces in each task's derivatives with respect to counts and to times."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.7, 1.8 + 0.45 * len(set(found.tasks))))
        figure.suptitle(f"Share of each face in what moves an answer; {number_of(found.events)}. {named(title)}")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, kind in ((left, "counts"), (right, "times")):
            _draw_shares(axes, found.face_shares(kind))
            axes.set(xlabel=f"share of the {kind}' derivatives [%]", xlim=(0, 100))
        left.invert_yaxis()
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(FACES))
    return figure


def _draw_shares(axes: Axes, shares: dict[str, Floats]) -> None:
    table = 100 * np.nan_to_num(np.stack(list(shares.values())))
    ends = np.cumsum(table, 1)
    # three steps of lightness, each plain and hatched: parts of one bar are told apart in grey too
    for i, (face, height) in enumerate(zip(FACES, np.repeat([0.0, 0.5, 1.0], 2), strict=True)):
        colour, ink = mpl.colormaps[MAP](height), "w" if height < _LIGHT else "k"
        look = {"color": colour, "hatch": "////" if i % 2 else None, "edgecolor": ink, "linewidth": 0.0}
        bars = axes.barh(list(shares), table[:, i], left=ends[:, i] - table[:, i], label=face, **look)
        texts = [f"{value:.0f}" if value >= 4 else "" for value in table[:, i]]
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
        axes.bar_label(bars, texts, label_type="center", color=ink, fontsize=8, bbox=box)
    axes.grid(axis="y", visible=False)
