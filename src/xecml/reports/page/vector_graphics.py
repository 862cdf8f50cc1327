"""Pictures as parts of a page: figures as SVG whose black and white follow the page, events as images."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from xecml.figures.style import COLOURS, STYLE, drawable, laid_out
from xecml.garbage_collection import no_collection

_SVG = {"svg.fonttype": "none", "svg.hashsalt": "xecml"}
_FIRST = COLOURS[0].lower()
_GREY_OR_FIRST = re.compile(rf"#([0-9a-f]{{2}})\1\1\b|{_FIRST}\b")
# by brightness: what is written, what is beside it, lines behind it, paper
_NEUTRAL = ((0.2, "var(--ink)"), (0.7, "var(--faint)"), (0.98, "var(--grid)"), (1.1, "var(--paper)"))
_EVENT_DPI = 90
_TITLES_INCHES = 0.42
"""Height of two lines above a part of a figure."""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption, as HTML.

    Attributes:
        caption: below it.
        body: an `svg` or `img` element.
        told: what it shows, for those who cannot see it.
    """

    caption: str
    body: Markup
    told: str


def vector_picture(figure: Figure, number: int, caption: str = "", told: str = "") -> Picture:
    """A figure as SVG within the page: text stays text, black and white are those of the page.

    Args:
        figure: drawn in the style of all pictures.
        number: of the picture on its page, by which names within it differ from those of others.
        caption: by default the figure's title, which is then not drawn twice.
        told: by default the caption.
    """
    caption, empty = caption or figure.get_suptitle(), 0.0
    if figure.get_suptitle():
        figure.suptitle("")
        empty = _empty_top(figure)
    file = io.StringIO()
    with mpl.rc_context(STYLE | _SVG), no_collection():
        laid_out(drawable(figure)).savefig(
            file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True
        )
    return Picture(caption, Markup(_inline(file.getvalue(), number, told or caption, empty)), told or caption)


def _empty_top(figure: Figure) -> float:
    """Share of the height above the parts of a figure whose title is gone, of those that keep their places."""
    if figure.get_layout_engine() is not None:
        return 0.0
    highest = max((axes.get_position().y1 for axes in figure.axes), default=1.0)
    return max(1.0 - highest - _TITLES_INCHES / figure.get_figheight(), 0.0)


def event_picture(figure: Figure, caption: str, told: str) -> Picture:
    """An event as an image: thousands of sensors as SVG would be ten times as large."""
    file = io.BytesIO()
    with mpl.rc_context(STYLE), no_collection():
        laid_out(drawable(figure)).savefig(file, format="png", dpi=_EVENT_DPI, metadata={"Software": None})
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width, height = (round(inches * _EVENT_DPI) for inches in figure.get_size_inches())
    body = Markup('<img src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">').format(
        data, width, height, told
    )
    return Picture(caption, body, told)


def _of_the_page(found: re.Match[str]) -> str:
    """A grey, black or white as the page has it, and the first colour of the palette, which dark pages lighten."""
    if found[0] == _FIRST:
        return "var(--first)"
    brightness = int(found[1], 16) / 255
    return next(name for limit, name in _NEUTRAL if brightness < limit)


def _inline(text: str, number: int, told: str, empty: float = 0.0) -> str:
    """An SVG document as an element of a page: no prologue, names of its own, the page's neutral colours.

    A share `empty` of its height is cut off above.
    """
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # a style within an inline SVG would hold for the whole page
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    # images of the same content, such as two colour bars, have the same name, which nothing refers to
    body = re.sub(r'(<image\b[^>]*?) id="image\w*"', r"\1", body)
    body = re.sub(r'\bid="', f'id="p{number}-', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#p{number}-", body)
    body = _GREY_OR_FIRST.sub(_of_the_page, body)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    assert found
    width, height = (float(size) for size in found.groups())
    box = f"0 {empty * height:.1f} {width:g} {(1 - empty) * height:.1f}"
    head = Markup('<svg role="img" aria-label="{}" viewBox="{}" xmlns:xlink="http://www.w3.org/1999/xlink">').format(
        told, box
    )
    return str(head) + re.sub(r"^<svg[^>]*>", "", body, count=1)
