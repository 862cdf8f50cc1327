"""What a figure has written, and where: boxes of all texts that are drawn, and what is wrong with their places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROOM = 2.0
"""Pixels at 100 dpi that lie between marks along an axis at least, or they read as one."""
SLACK = 1.0
"""Pixels at 100 dpi, 0.7 points, by which texts may touch: boxes have the height of a line, letters mostly less."""


@dataclass(frozen=True)
class Written:
    """A text that was drawn.

    Attributes:
        text: what it says.
        corners: of its box, turned as it is, (4, 2) in pixels.
        axes: of which it is a part, if any.
        legend: in which it stands, if any.
        axis: along which it is a mark, if any.
        inside: whether it is written in its axes' area: no title, label or mark of them.
        colour: red, green, blue and opacity.
    """

    text: str
    corners: Floats
    axes: Axes | None
    legend: Legend | None
    axis: Axis | None
    inside: bool
    colour: tuple[float, float, float, float]

    @property
    def low(self) -> Floats:
        return np.asarray(self.corners.min(0))

    @property
    def high(self) -> Floats:
        return np.asarray(self.corners.max(0))


def written(figure: Figure) -> list[Written]:
    """All texts that drawing this figure writes, in its order; those that are empty or out of view are not drawn."""
    found: list[tuple[Text, Floats]] = []
    holders = {text: legend for legend in figure.findobj(Legend) for text in [*legend.get_texts(), legend.get_title()]}
    inner = {text for axes in figure.findobj(Axes) for text in [*axes.texts, *_cells(axes)]}
    plain = Text.draw

    def draw(self: Text, renderer: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, renderer, *args, **kwargs)
        if self.get_visible() and self.get_text().strip():
            # of a text in space, the place is known only now
            found.append((self, _corners(self, renderer)))

    with patch.object(Text, "draw", draw):
        figure.draw_without_rendering()
    marks = {
        label: axis
        for axis in figure.findobj(Axis)
        for tick in (*axis.majorTicks, *axis.minorTicks)
        for label in (tick.label1, tick.label2)
    }
    return [
        Written(
            text.get_text(), corners, holders[text].axes if text in holders else text.axes, holders.get(text),
            marks.get(text), text in inner, to_rgba(text.get_color(), text.get_alpha()),
        )
        for text, corners in found
    ]  # fmt: skip


def _cells(axes: Axes) -> Iterator[Text]:
    for table in axes.tables:
        for cell in table.get_celld().values():
            yield cell.get_text()


def _corners(text: Text, renderer: Any) -> Floats:
    """Corners of the box of a text alone, without its arrow, turned about its middle as the text is."""
    turned, angle = Text.get_window_extent(text, renderer), np.radians(text.get_rotation())
    middle = np.array([(turned.x0 + turned.x1) / 2, (turned.y0 + turned.y1) / 2])
    width, height = turned.width, turned.height
    if angle % (np.pi / 2):
        text.set_rotation(0)
        straight = Text.get_window_extent(text, renderer)
        text.set_rotation(np.degrees(angle))
        width, height = straight.width, straight.height
    elif angle % np.pi:
        width, height = height, width
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(middle + half @ turn)


def _overlap(one: Floats, other: Floats, slack: float) -> bool:
    """Whether two rectangles have more than `slack` pixels in common, in every direction of their sides."""
    for corners in (one, other):
        for side in (corners[1] - corners[0], corners[3] - corners[0]):
            axis = side / max(float(np.hypot(*side)), 1e-9)
            a, b = one @ axis, other @ axis
            if min(a.max(), b.max()) - max(a.min(), b.min()) <= slack:
                return False
    return True


def overlapping(texts: list[Written], slack: float = SLACK) -> list[str]:
    """Pairs of texts that lie over one another."""
    low, high = (np.stack([getattr(t, name) for t in texts]) for name in ("low", "high"))
    common = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    pairs = np.argwhere(np.triu((common > slack).all(2), 1))
    return [
        f"'{_short(texts[i])}' over '{_short(texts[j])}'"
        for i, j in pairs
        if _overlap(texts[i].corners, texts[j].corners, slack)
    ]


def crowded(texts: list[Written]) -> list[str]:
    """Pairs of marks along an axis that have no room between them."""
    found = []
    for axis in dict.fromkeys(t.axis for t in texts if t.axis is not None):
        marks = [t for t in texts if t.axis is axis]
        found += [
            f"no room between the marks '{_short(a)}' and '{_short(b)}'"
            for i, a in enumerate(marks)
            for b in marks[i + 1 :]
            if _overlap(a.corners, b.corners, -ROOM if axis.axis_name == "x" else 0.0)
        ]
    return found


def cut_off(figure: Figure, texts: list[Written], slack: float = SLACK) -> list[str]:
    """Texts that leave the figure, and parts of it that do."""
    width, height = figure.bbox.width, figure.bbox.height
    found = [
        f"'{_short(t)}' leaves the figure"
        for t in texts
        if t.low.min() < -slack or t.high[0] > width + slack or t.high[1] > height + slack
    ]
    parts: list[Artist] = [*figure.findobj(Axes), *figure.findobj(Legend)]
    for part in parts:
        box = part.get_tightbbox() if part.get_visible() else None
        if box is not None and (min(box.x0, box.y0) < -slack or box.x1 > width + slack or box.y1 > height + slack):
            found.append(f"{type(part).__name__} '{_title(part)}' leaves the figure")
    return found


def covered(figure: Figure, texts: list[Written], slack: float = SLACK) -> list[str]:
    """Texts under a legend of others, and texts of one axes in the area of other axes."""
    found = []
    for legend in figure.findobj(Legend):
        box = legend.get_window_extent()
        found += [
            f"'{_short(t)}' under a legend" for t in texts if t.legend is not legend and _within(t, box.extents, slack)
        ]
    areas = [axes for axes in figure.findobj(Axes) if axes.get_visible() and axes.axison]
    for text in (t for t in texts if not t.inside and t.legend is None):
        for axes in areas:
            own = text.axes is not None and np.allclose(text.axes.bbox.extents, axes.bbox.extents)
            # an axis beside another has its place in it
            beside = text.axes is not None and (text.axes in axes.child_axes or axes in text.axes.child_axes)
            if not own and not beside and _within(text, axes.bbox.extents, slack):
                found.append(f"'{_short(text)}' in the area of axes '{_title(axes)}'")
    return found


def _within(text: Written, extents: Any, slack: float) -> bool:
    x0, y0, x1, y1 = extents
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return _overlap(text.corners, corners, slack)


def _title(part: Artist) -> str:
    if isinstance(part, Axes):
        return part.get_title() or part.get_title(loc="left") or part.get_ylabel() or part.get_xlabel()
    return ", ".join(text.get_text() for text in part.findobj(Text))[:60]


def _short(text: Written) -> str:
    return " / ".join(text.text.splitlines())[:50]


def wrong_places(figure: Figure, texts: list[Written] | None = None) -> list[str]:
    """All that is wrong with the places of a figure's texts, in words; `texts` if they are known."""
    texts = written(figure) if texts is None else texts
    return list(dict.fromkeys([*cut_off(figure, texts), *overlapping(texts), *crowded(texts), *covered(figure, texts)]))
