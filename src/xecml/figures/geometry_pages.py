"""`xec display --geometry`: pictures of the detector as the pages of a PDF, or as one page for a browser."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from xecml.errors import InputError
from xecml.figures.geometry_pictures import PICTURES
from xecml.figures.interactive.page_files import detector, filled_in
from xecml.figures.style import COLOURS, STYLE, drawable, laid_out, save_pages
from xecml.files import atomic_path
from xecml.outputs import claim, making, mark


@making("display")
def write_geometry(out: str | Path, *, force: bool = False) -> int:
    """Draw the detector's geometry to `.pdf` or `.html`, atomically, and return the number of pictures.

    The page for a browser also has the detector to turn, whose sensors tell their ids.

    Args:
        out: file to write.
        force: replace a file that this command did not make.

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    suffix = Path(out).suffix.lower()
    if suffix not in (".pdf", ".html"):
        raise InputError(f"Cannot write figures of the geometry as {out}; choose a name that ends in .pdf or .html.")
    claim([out], force=force)
    if suffix == ".pdf":
        return save_pages((draw() for draw in PICTURES.values()), out)
    content = detector() | {"face_colours": COLOURS}
    page = filled_in("geometry_page.html", {"title": "The detector", "mark": mark()}, content, "".join(_sections()))
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return len(PICTURES)


def _sections() -> Iterator[str]:
    for number, (title, draw) in enumerate(PICTURES.items()):
        yield f"<section>\n<h2>{title}</h2>\n{_svg(draw(), str(number))}</section>\n"


def _svg(figure: Figure, salt: str) -> str:
    """A figure as an element of a page; `salt` keeps its names apart from those of others."""
    written = io.StringIO()
    # text stays text, which one can search
    with mpl.rc_context({**STYLE, "svg.fonttype": "none", "svg.hashsalt": salt}):
        laid_out(drawable(figure)).savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]
