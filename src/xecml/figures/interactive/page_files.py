"""One file of a page's parts: template, style, scripts, and what they show."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from xecml import geometry
from xecml.events import PDE_SIPM, QE_PMT
from xecml.figures.interactive.packing import sensors
from xecml.figures.style import DIVERGING
from xecml.figures.unfolded_detector import COUNTS_MAP, FACE_TITLES, PICTURE, TIMES_MAP

_HERE = Path(__file__).parent
_INSERTION = re.compile(r"<!-- insert (?P<name>[\w.]+) -->")
# of colours that differ about a middle, one ends in white and one in black, for light and for dark pages
_COLOUR_MAPS = {"counts": COUNTS_MAP, "times": TIMES_MAP, "differences": DIVERGING, "differences_dark": "berlin"}


def detector() -> dict[str, Any]:
    """What is the same for all events: sensors, faces, outline of the xenon, colours."""
    return {
        "sensors": sensors(),
        "faces": geometry.FACES,
        "n_sipm": geometry.N_SIPM,
        "inner_columns": geometry.inner_map().shape[1],
        "pmt_radius": geometry.PMT_RADIUS,
        "efficiency": {"sipm": PDE_SIPM, "pmt": QE_PMT},
        "picture": PICTURE,
        "face_titles": FACE_TITLES,
        "outline": _outline(),
        "colours": {name: _colours(of) for name, of in _COLOUR_MAPS.items()},
    }


def _outline(steps: int = 25) -> list[list[list[float]]]:
    """Edges of the active xenon as lines of points x, y, z in cm."""
    half = np.radians(geometry.HALF_OPENING_DEG)
    lines = []
    for r in (geometry.INNER_RADIUS, geometry.OUTER_RADIUS):
        for sign in (-1, 1):
            angle = np.linspace(-half, half, steps)
            z = np.full(steps, sign * float(geometry.half_length(r)))
            lines.append(np.stack([-r * np.cos(angle), r * np.sin(angle), z], axis=1))
    corners = [(line[0], line[-1]) for line in lines]
    ends = [np.stack(pair) for side in (0, 1) for pair in _edges([corner[side] for corner in corners])]
    return [np.round(line, 2).tolist() for line in (*lines, *ends)]


def _edges(corners: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The four edges of an end plane, from its corners: inner -z, inner +z, outer -z, outer +z."""
    return [(corners[a], corners[b]) for a, b in ((0, 1), (2, 3), (0, 2), (1, 3))]


def _colours(name: str) -> list[str]:
    """256 colours of a map, as a browser writes them."""
    return [to_hex(colour) for colour in mpl.colormaps[name](np.arange(256) / 255)]


def filled_in(template: str, words: Mapping[str, str], content: Mapping[str, Any], pictures: str = "") -> str:
    """A page of one file: its template with words, style, scripts and content put in.

    Args:
        template: name of the file in this folder.
        words: texts by the name that stands in the template as `{{name}}`.
        content: what the scripts read, as JSON.
        pictures: elements that stand where the template says `pictures`.
    """
    # a name could hold anything, a closing tag among it
    data = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = (_HERE / template).read_text(encoding="utf-8")
    for name, word in words.items():
        page = page.replace("{{" + name + "}}", html.escape(word, quote=False))
    put_in = {"content": data, "pictures": pictures}
    return _INSERTION.sub(lambda found: put_in.get(found["name"]) or _file(found["name"]), page)


def _file(name: str) -> str:
    text = (_HERE / name).read_text(encoding="utf-8")
    kind = "style" if name.endswith(".css") else "script"
    return f"<{kind}>\n{text}</{kind}>"
