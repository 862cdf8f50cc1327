"""What a command prints in a notebook, in one piece: it comes in pieces of a hundred bytes, each a box of its own."""

from __future__ import annotations

from typing import Any

import myst_nb.core.render
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs of a cell, what went to a stream joined as it came; myst-nb ends each piece with a new line."""
    found: list[Any] = []
    streams: dict[str, Any] = {}
    for output in outputs:
        first = streams.get(output.get("name", "")) if output["output_type"] == "stream" else None
        if first is not None:
            first["text"] += output["text"]
            continue
        copy = output.copy()
        if copy["output_type"] == "stream":
            streams[copy["name"]] = copy
        found.append(copy)
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Take the place of myst-nb's own function, which the setting `nb_merge_streams` calls."""
    if not hasattr(myst_nb.core.render, "coalesce_streams"):
        raise ExtensionError("This myst-nb joins streams in another way; see docs/extensions/whole_streams.py.")
    myst_nb.core.render.coalesce_streams = joined
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
