"""Diagrams of boxes and arrows for the pages, drawn by the build."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from IPython.display import Image
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

COLOURS = {"data": "#dbe9f6", "network": "#fde3c8", "answer": "#dff0d8", "light": "#efe6f7", "hidden": "#eeeeee"}
"""Colour by what a box is."""
Box = tuple[float, float, float, float, str, str]
"""Centre, width and height, text, and what it is."""


def picture(figure: Figure, words: str, dpi: int = 110) -> Image:
    """A figure as a picture of a page, with words for those who cannot see it."""
    octets = io.BytesIO()
    figure.savefig(octets, format="png", dpi=dpi)
    return Image(octets.getvalue(), alt=words)


def diagram(
    words: str,
    size: tuple[float, float],
    boxes: Mapping[str, Box],
    arrows: Sequence[tuple[str, str]],
) -> Image:
    """Draw boxes by name and arrows between them, from the side that faces the other box.

    Args:
        words: what is drawn.
        size: of the picture, in the units of the boxes.
        boxes: by name.
        arrows: names of the boxes from which and to which each leads.
    """
    figure = Figure(figsize=(9, 9 * size[1] / size[0]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal")
    axes.set_axis_off()
    for x, y, width, height, text, kind in boxes.values():
        shape = FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=COLOURS[kind], edgecolor="0.35", linewidth=0.9,
        )  # fmt: skip
        axes.add_patch(shape)
        axes.text(x, y, text, ha="center", va="center", fontsize=8.5, color="0.1", linespacing=1.25)
    for start, end in arrows:
        a, b = _ends(boxes[start], boxes[end])
        axes.annotate("", b, a, arrowprops={"arrowstyle": "-|>", "color": "0.3", "linewidth": 1.0})
    return picture(figure, words)


def _ends(start: Box, end: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves a box and where it meets the other."""
    (x, y, width, height), (to_x, to_y, to_width, to_height) = start[:4], end[:4]
    gap = abs(to_x - x) - (width + to_width) / 2
    if gap > 0:  # side by side
        way = 1 if to_x > x else -1
        return (x + way * width / 2, y), (to_x - way * to_width / 2, to_y)
    way = 1 if to_y > y else -1
    return (x, y + way * height / 2), (to_x, to_y - way * to_height / 2)
