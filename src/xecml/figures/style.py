"""The one look of all pictures, and how they are written."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, FigureBase
from matplotlib.font_manager import findfont, get_font
from matplotlib.legend import Legend
from matplotlib.offsetbox import OffsetBox
from matplotlib.table import Table
from matplotlib.text import Text

from xecml.errors import InputError, printable
from xecml.files import atomic_path
from xecml.garbage_collection import no_collection
from xecml.outputs import mark

STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "legend.frameon": True,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.75,
    "legend.borderpad": 0.2,
    "figure.titlesize": 13.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.0,
    "hatch.linewidth": 0.4,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "image.origin": "lower",
    "image.aspect": "auto",
    "image.interpolation": "nearest",
    "savefig.dpi": 150,
    "pdf.compression": 6,
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which the colour-blind can tell apart; the model first, then baselines."""
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 2)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""What tells apart in grey print what the palette tells apart in colour: the palette's lightness differs too little."""
MAP = "cividis"
DIVERGING = "PuOr_r"
"""Of differences: purple below, orange above; unlike those of red and blue, its ends differ in grey too."""
PAGE_WIDTH = 11.7
"""Of the pages of a PDF, inches."""


def ink(colour: Any) -> tuple[float, ...]:
    """A colour of the palette, dark enough to be read as text on white."""
    return tuple(0.62 * share for share in to_rgb(colour))


_METADATA = {".pdf": "Creator", ".png": "Software"}


def metadata(suffix: str = ".pdf") -> dict[str, Any]:
    """Metadata of a picture: what made it, without a date, so that equal numbers give equal files."""
    return {_METADATA[suffix]: mark()} | ({"CreationDate": None} if suffix == ".pdf" else {})


def named(name: str, most: int = 60) -> str:
    """A name that the user gave, of a file or a run, as text of a picture: on one line, its dollars no mathematics.

    Args:
        name: as it is.
        most: characters; of a longer name the middle is left out.
    """
    text = shortened(name, most).replace("$", r"\$")
    # legends leave out what begins with an underscore
    return f" {text}" if text.startswith("_") else text


def shortened(name: str, most: int) -> str:
    """A name on one line; of one that is longer than `most` characters the middle is left out."""
    return printable(name if len(name) <= most else f"{name[: most // 2]} ... {name[-most // 2 :]}")


def page(title: str, what: str, height: float) -> Figure:
    """An empty page of a report.

    Args:
        title: of the sample, as the user gave it; may be empty.
        what: is on the page.
        height: inches.
    """
    figure = Figure(figsize=(PAGE_WIDTH, height))
    figure.suptitle(f"{what}: {named(title, 110)}" if title else what)
    return figure


def all_entries(parts: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels for a legend of several axes, each label once: the first axes need not have all of them."""
    found = {label: handle for axes in parts for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def drawable(figure: Figure) -> Figure:
    """The figure with characters that its fonts lack written as escapes, such as `\\u65e5`."""
    for text in _texts(figure):
        held = _characters(findfont(text.get_fontproperties()))
        if any(c not in held for c in text.get_text()):
            text.set_text("".join(c if c in held else ascii(c)[1:-1] for c in text.get_text()))
    return figure


def _texts(artist: Artist) -> Iterator[Text]:
    """All texts below an artist but the marks along axes, numbers and names of our own that every font can show."""
    if isinstance(artist, Text):
        yield artist
    elif isinstance(artist, Table):
        for cell in artist.get_celld().values():
            cell.get_text().set_parse_math(False)
            yield cell.get_text()
    elif isinstance(artist, Axis):
        yield artist.label
    elif isinstance(artist, FigureBase | Axes | Legend | OffsetBox):
        for child in artist.get_children():
            yield from _texts(child)


def as_svg(figure: Figure) -> str:
    """A figure as the address of an SVG picture that a page can hold; equal figures give equal text."""
    out = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": "xecml", "svg.fonttype": "path"}), no_collection():
        laid_out(drawable(figure)).savefig(out, format="svg", metadata={"Date": None, "Creator": mark()})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue().encode()).decode()


def laid_out(figure: Figure) -> Figure:
    """The figure with its axes at their places: found once here, where writing would find them twice and draw twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        with mpl.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)  # by the settings: none
    return figure


@cache
def _characters(font: str) -> frozenset[str]:
    """What a font file has signs for; lines are broken without."""
    return frozenset(map(chr, get_font(font).get_charmap())) | {"\n"}


def save_pages(pages: Iterable[Figure], path: str | Path) -> int:
    """Write figures as the pages of a PDF, atomically, and return how many there are; equal figures give equal bytes.

    Raises:
        InputError: another suffix than .pdf, or the folder cannot be written.
    """
    if Path(path).suffix.lower() != ".pdf":
        raise InputError(f"Cannot write pages as {path}; choose a name that ends in .pdf.")
    number = 0
    with atomic_path(path) as temporary, PdfPages(temporary, metadata=metadata()) as pdf:
        for figure in pages:
            with mpl.rc_context(STYLE), no_collection():
                pdf.savefig(laid_out(drawable(figure)))
            number += 1
    return number


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as `.pdf` or `.png`, atomically; equal figures give equal bytes.

    Raises:
        InputError: another suffix, or the folder cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _METADATA:
        raise InputError(f"Cannot write a picture as {path}; choose a name that ends in .pdf or .png.")
    with atomic_path(path) as temporary, mpl.rc_context(STYLE), no_collection():
        laid_out(drawable(figure)).savefig(temporary, metadata=metadata(suffix))
