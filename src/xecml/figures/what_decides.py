"""Pictures of what decides answers: what they lose without counts or times, and which regions move them, by depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from xecml.evaluation.hot_spots import REGIONS
from xecml.evaluation.metrics import ALL, with_error
from xecml.evaluation.permutations import ALL as ALL_LIGHT
from xecml.evaluation.permutations import ALL_COUNTS, ALL_TIMES, GROUPS
from xecml.evaluation.saliency import KINDS
from xecml.evaluation.tables import QUANTITIES
from xecml.evaluation.what_decides import WhatDecides
from xecml.events import number_of
from xecml.figures.saliency import saliency_figures
from xecml.figures.style import COLOURS, MAP, PAGE_WIDTH, STYLE, named, save_pages
from xecml.resolution import Floats

_REPLACED = {"times": (ALL_TIMES, "s"), "counts": (ALL_COUNTS, "o"), "both": (ALL_LIGHT, "D")}
_DECADES = 3e-3
"""Shares of the largest move below which a colour says nothing."""


def save_what_decides(path: str | Path, found: WhatDecides, *, title: str = "") -> int:
    """Write a PDF, atomically: what answers lose, which regions move them, by depth; then the derivatives.

    Returns:
        The number of pages.

    Raises:
        InputError: the path cannot be written.
    """
    return save_pages(_pages(found, title), path)


def _pages(found: WhatDecides, title: str) -> Iterator[Figure]:
    yield from summary_figures(found, title=title)
    if found.gradient is not None:
        yield from saliency_figures(found.gradient, title=title)


def summary_figures(found: WhatDecides, *, title: str = "") -> Iterator[Figure]:
    """Draw what answers lose, which regions move them, and the losses by depth, as far as they are known."""
    if _known(found):
        yield draw_losses(found, title=title)
    yield draw_regions(found, title=title)
    if _known(found) and len(found.bins()) > 1:
        yield draw_depths(found, title=title)


def draw_losses(found: WhatDecides, *, title: str = "") -> Figure:
    """Draw s68 of each quantity over what it is: with times, counts, or both of another event, and knowing nothing."""
    p, shown = found.permutations, _known(found)
    heights = np.arange(len(shown))[::-1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH, 1.9 + 0.5 * len(shown)))
        figure.suptitle(
            f"What answers lose with light of another event about the same hot spot; {number_of(found.events)}. "
            f"{named(title)}"
        )
        axes = figure.subplots()
        axes.axvline(1, color="0.4", lw=1)
        for i, ((kind, (group, mark)), colour) in enumerate(zip(_REPLACED.items(), COLOURS, strict=False)):
            values = np.array([[*p.after(group, q), p.before(q)[0]] for q in shown])
            axes.errorbar(values[:, 0] / values[:, 2], heights + 0.2 * (1 - i), xerr=values[:, 1] / values[:, 2],
                          fmt=mark, color=colour, elinewidth=1, label=f"{kind} of another event")  # fmt: skip
        nothing = np.array([p.spread(q)[0] / p.before(q)[0] for q in shown])
        axes.plot(
            np.where(nothing > 0, nothing, np.nan), heights, "|", ms=14, mew=2, color="0.3", label="nothing known"
        )
        labels = [f"{QUANTITIES[q].label}: {with_error(*p.before(q))} {QUANTITIES[q].unit}" for q in shown]
        axes.set_yticks(heights, labels)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="s68 of answer minus truth, over that of the event's own light")
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_regions(found: WhatDecides, *, title: str = "") -> Figure:
    """Draw how far regions move answers: by permutations, and beside it by integrated gradients where they are known.

    In s68 of answer minus truth where it is known, so that 1 is as much as the answer is uncertain by.
    """
    p = found.permutations
    shown = [q for q in p.quantities if not QUANTITIES[q].relative]
    ways: dict[str, Floats] = {"permutations": np.stack([_moves(found, q) for q in shown], -1)}
    if found.integrated is not None:
        ways["integrated gradients"] = np.stack([found.parts(q).ravel() for q in shown if q in _outputs(found)], -1)
    known = bool(_known(found))
    widths = np.array([p.before(q)[0] if known else _moves(found, q).max() for q in shown])
    widths = np.where(widths > 0, widths, 1.0)  # of what nothing moves
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH, 6.2))
        what = "s68 of answer minus truth" if known else "the largest move"
        figure.suptitle(
            f"Which part of the light moves an answer, in {what}. {named(title)}\n"
            "Squares are of SiPMs about the hot spot, each without those inside it"
        )
        tables = {name: values / widths for name, values in ways.items() if values.shape[-1] == len(widths)}
        largest = max(max(float(np.nanmax(values)) for values in tables.values()), 1e-9)
        scale = LogNorm(_DECADES * largest, largest, clip=True)
        number = {"permutations": found.events}
        number["integrated gradients"] = len(found.integrated.answers) if found.integrated else 0
        for axes, (name, values) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
            _draw_table(axes, values, scale, shown)
            axes.set_title(f"{name}, {number_of(number[name])}")
    return figure


def draw_depths(found: WhatDecides, *, title: str = "") -> Figure:
    """Draw by how much s68 grows with times, and with counts, of another event, for each bin of depth."""
    p, shown = found.permutations, _known(found)
    bins = {name: mask for name, mask in found.bins().items() if name != ALL}
    places = np.arange(len(bins))
    with mpl.rc_context(STYLE):
        columns = -(-len(shown) // 2)
        figure = Figure(figsize=(PAGE_WIDTH, 5.6))
        figure.suptitle(f"What answers lose, by depth. {named(title)}")
        for i, q in enumerate(shown):
            axes = figure.add_subplot(2, columns, i + 1)
            own = np.array([p.before(q, mask) for mask in bins.values()])
            axes.errorbar(places - 0.2, own[:, 0], own[:, 1], fmt="_", ms=12, mew=2, color="0.3", label="its own light")
            for k, ((kind, (group, mark)), colour) in enumerate(zip(_REPLACED.items(), COLOURS, strict=False)):
                values = np.array([p.after(group, q, mask) for mask in bins.values()])
                axes.errorbar(places + 0.2 * k - 0.05, values[:, 0], values[:, 1], fmt=mark, color=colour, elinewidth=1,
                              label=f"{kind} of another event")  # fmt: skip
            axes.set(ylabel=f"{QUANTITIES[q].label}: s68 [{QUANTITIES[q].unit}]", xlim=(-0.5, len(bins) - 0.2))
            axes.set_ylim(bottom=0)
            axes.set_xticks(places, [name.removeprefix("w ").removesuffix(" cm") for name in bins])
            axes.set_xlabel("depth w [cm]")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _known(found: WhatDecides) -> list[str]:
    """Quantities whose truth is known; the energy relative to it."""
    p = found.permutations
    known = [q for q in p.quantities if p.before(q)[0] > 0]
    return [q for q in known if not (q == "energy" and "energy_relative" in known)]


def _outputs(found: WhatDecides) -> Sequence[str]:
    return () if found.integrated is None else found.integrated.parts.outputs


def _moves(found: WhatDecides, quantity: str) -> Floats:
    """Moves by regions' counts, then by their times, (20,)."""
    return np.array([found.permutations.size(g, quantity)[0] for g in GROUPS if g.name in REGIONS])


def _draw_table(axes: Axes, values: Floats, scale: LogNorm, shown: Sequence[str]) -> None:
    """Numbers (20, quantities) in colour and written: regions' counts above, their times below."""
    # a gap between counts and times
    half = len(values) // 2
    table = np.insert(values, half, np.nan, axis=0)
    mesh = axes.imshow(np.ma.masked_invalid(table), MAP, scale, origin="upper")
    dark = mesh.cmap(scale(np.nan_to_num(table, nan=1.0)))[..., :3] @ (0.299, 0.587, 0.114) < 0.5
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "w" if dark[row, column] else "k"
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=7, color=colour)
    labels = [f"{kind} of {name}" for kind in KINDS for name in REGIONS]
    axes.set_yticks([row for row in range(len(table)) if row != half], labels)
    axes.set_xticks(range(len(shown)), [QUANTITIES[q].label for q in shown])
    axes.grid(visible=False)
