"""Write a report: one file with everything in it, for a browser, a phone or a printer."""

from __future__ import annotations

import time
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xecml import __version__
from xecml.errors import InputError
from xecml.files import atomic_path
from xecml.outputs import mark
from xecml.reports.page.material import Material
from xecml.reports.page.sections import sections

_HERE = Path(__file__).parent


def write_page(material: Material, out: str | Path) -> Path:
    """Write the page of what was gathered, atomically.

    Args:
        material: numbers, curves, pictures' contents.
        out: `.html` to write.

    Raises:
        InputError: another ending, or the folder cannot be written.
    """
    path = html_name(out)
    text = page_text(material)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def html_name(out: str | Path) -> Path:
    """The path of a page.

    Raises:
        InputError: it does not end in .html.
    """
    if Path(out).suffix.lower() != ".html":
        raise InputError(f"Cannot write a page as {out}; choose a name that ends in .html.")
    return Path(out)


def page_text(material: Material) -> str:
    """The page as text."""
    loader = FileSystemLoader(_HERE)
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template("report.html").render(
        title=material.title,
        subtitle=material.sample,
        sections=list(sections(material)),
        warnings=material.warnings,
        missing=material.missing,
        mark=Markup(mark()),  # its quotes are what the next run knows the file by
        made=f"xecml {__version__}, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
        style=_as_it_is("report.css"),
        script=_as_it_is("report.js"),
    )


def _as_it_is(name: str) -> Markup:
    return Markup((_HERE / name).read_text(encoding="utf-8"))
