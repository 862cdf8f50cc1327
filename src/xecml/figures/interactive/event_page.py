"""`xec display --out P.html`: one self-contained page of many events, to play with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xecml import rootio
from xecml.choices import REPAIRS
from xecml.errors import InputError, printable
from xecml.figures.interactive.packing import ROOTS
from xecml.figures.interactive.page_files import detector, filled_in
from xecml.figures.interactive.shown_events import Shown, load_helpers, shown_events
from xecml.files import atomic_path
from xecml.outputs import claim, making, mark

USUAL_EVENTS = 50
MOST_EVENTS = 500
"""More would make a page of over 15 MB."""


@making("display")
def write_event_page(
    file: str,
    out: str | Path,
    *,
    first: int = 0,
    events: int = USUAL_EVENTS,
    models: Sequence[str | Path] = (),
    tree: str = rootio.DEFAULT_TREE,
    force: bool = False,
) -> int:
    """Write the page of a file's events, and return how many it has.

    Args:
        file: a file, folder or pattern.
        out: `.html` to write.
        first: entry of the first event, from 0 through all files.
        events: how many at most.
        models: a model that predicts physical quantities, and one or the name of one that fills sensors.
        tree: name of the tree.
        force: replace a file that this command did not make.

    Raises:
        InputError: file, entry, model or output are unusable, or the file has no pair of counts and times.
    """
    if Path(out).suffix.lower() != ".html":
        raise InputError(f"Cannot write a page as {out}; choose a name that ends in .html.")
    if not 1 <= events <= MOST_EVENTS:
        raise InputError(f"A page holds 1 to {MOST_EVENTS} events, not {events}; choose fewer, or several pages.")
    claim([out], inputs=[file, *(m for m in models if str(m) not in REPAIRS)], force=force)
    about = Shown()
    records = list(shown_events(file, tree, first, events, load_helpers(models), about))
    name = printable(Path(file).name or file, 120)
    content = {
        "name": name,
        "count_unit": about.count_unit,
        "names": about.names,
        "expected": about.expected,
        "expected_times": about.expected_times,
        "count_roots": ROOTS,
        "events": records,
    } | detector()
    page = filled_in("event_page.html", {"title": f"Events of {name}", "mark": mark()}, content)
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return len(records)
