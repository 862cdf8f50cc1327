"""Entries of legends: what each shows, for readers who see colours and for those who do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.collections import Collection, LineCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.offsetbox import DrawingArea, HPacker, TextArea
from matplotlib.patches import Patch

from tests.colour_vision import distances, lab, rgb


@dataclass(frozen=True)
class Entry:
    """An entry of a legend.

    Attributes:
        text: what it says.
        colour: of its line, marker or area.
        form: dashes, markers, areas and hatches, without colour.
    """

    text: str
    colour: Any
    form: frozenset[Any]


def legends(figure: Figure) -> Iterator[list[Entry]]:
    """The entries of each legend of a figure."""
    for legend in figure.findobj(Legend):
        boxes = [box for box in legend.findobj(HPacker) if _is_entry(box)]
        yield [_entry(*box.get_children()) for box in boxes]


def _is_entry(box: HPacker) -> bool:
    return {type(child) for child in box.get_children()} == {DrawingArea, TextArea}


def _entry(*parts: Any) -> Entry:
    area, text = sorted(parts, key=lambda part: isinstance(part, TextArea))
    colour, form = None, []
    for artist in area.get_children():
        if isinstance(artist, Line2D):
            colour = artist.get_color()
            if artist.get_linestyle() not in ("None", "") and artist.get_linewidth():
                form.append(("line", str(artist._unscaled_dash_pattern)))
            if str(artist.get_marker()) not in ("None", "", "none"):
                hollow = np.array_equal(rgb([artist.get_markerfacecolor()]), rgb(["w"]))
                form.append(("marker", str(artist.get_marker()), hollow))
        elif isinstance(artist, LineCollection):
            continue  # error bars, which all have
        elif isinstance(artist, Patch):
            colour = artist.get_facecolor() if artist.get_fill() else artist.get_edgecolor()
            form.append(("area" if artist.get_fill() else "outline", artist.get_hatch(), artist.get_linestyle()))
        elif isinstance(artist, Collection):
            colour = artist.get_facecolor()[0] if len(artist.get_facecolor()) else artist.get_edgecolor()[0]
            form.append(("area", artist.get_hatch()))
    return Entry(text.get_text(), colour, frozenset(form))


def alike(entries: list[Entry], far: float, lighter: float) -> list[str]:
    """Pairs of entries that some readers, or readers of a grey print, cannot tell apart.

    Args:
        entries: of one legend.
        far: distance of colours that are told apart, CIELAB.
        lighter: difference of lightness (L*, of 100) that is told apart in grey.
    """
    found = []
    for i, one in enumerate(entries):
        for other in entries[:i]:
            if one.form != other.form:
                continue
            pair = rgb([one.colour, other.colour])
            found += [
                f"'{other.text}' and '{one.text}' ({name})" for name, d in distances(pair).items() if d[0, 1] < far
            ]
            if abs(np.diff(lab(pair)[:, 0])[0]) < lighter:
                found.append(f"'{other.text}' and '{one.text}' (grey)")
    return found
