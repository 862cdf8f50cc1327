"""`xec display`: a picture of one event, a page of many to play with, pictures of the geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xecml.choices import REPAIRS
from xecml.cli.printing import Debug, Force, Tree
from xecml.errors import InputError

_PAGE = 50
_PICTURES = (".pdf", ".png")


def display(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="ROOT file.")] = None,
    event: Annotated[
        int | None,
        typer.Option("--event", min=0, help="Entry in the file, counted from 0; for a page, the first entry."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="To write: .pdf or .png for one event, .html for an interactive page of many."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            help=f"Also show this model's prediction, or on a page that of a repair ({', '.join(REPAIRS)}, or a file).",
        ),
    ] = None,
    events: Annotated[
        int | None, typer.Option("--events", min=1, help="Number of events on a page.", show_default=str(_PAGE))
    ] = None,
    geometry: Annotated[
        Path | None,
        typer.Option("--geometry", help="Draw the geometry of the detector to .pdf or .html; no FILE is needed."),
    ] = None,
    tree: Tree = "tree",
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Draw an event unfolded over the six faces, write a page of many events, or draw the geometry."""
    if geometry is not None:
        _draw_geometry(geometry, [file, event, out, model, events], force)
        return
    if file is None or out is None:
        raise InputError("Name a file and what to write with --out, or draw the geometry with --geometry OUT.pdf.")
    from xecml.pretrained import model_file

    models = [model_file(one) for one in model or []]
    if out.suffix.lower() == ".html":
        from xecml.events import number_of
        from xecml.figures.interactive.event_page import write_event_page

        shown = write_event_page(
            file, out, first=event or 0, events=events or _PAGE, models=models, tree=tree, force=force
        )
        size = out.stat().st_size / 1e6
        print(f"Wrote {out}: {number_of(shown)}, {size:.2f} MB; open it in a browser.")
        return
    from xecml.figures.event_display import display_event

    if out.suffix.lower() not in _PICTURES:
        raise InputError(f"Cannot write events as {out.name}; choose a name that ends in .pdf, .png or .html.")
    if event is None or events is not None or len(models) > 1:
        raise InputError("A picture is of one --event and at most one --model; end --out in .html to see many events.")
    display_event(file, event, out, model=models[0] if models else None, tree=tree, force=force)
    print(f"Wrote {out}.")


def _draw_geometry(out: Path, others: list[object], force: bool) -> None:
    if any(other is not None for other in others):
        raise InputError("--geometry draws the detector without events; leave out FILE and the other options.")
    from xecml.events import number_of
    from xecml.figures.geometry_pages import write_geometry

    pages = write_geometry(out, force=force)
    print(f"Wrote {out}: {number_of(pages, 'picture')}.")
