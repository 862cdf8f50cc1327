"""Formulas as MathML, which browsers draw themselves: pages load nothing from elsewhere and work without a network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def _written(text: str, *, block: bool) -> str:
    try:
        return str(tex2mathml(text, as_block=block))
    except Exception as error:
        raise ExtensionError(f"This formula cannot be read: {text!r} ({error}).") from error


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_written(node.astext(), block=False))
    raise nodes.SkipNode


def _display(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(_written(node.astext(), block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name `mathml` and choose it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.connect("config-inited", lambda app, config: setattr(config, "html_math_renderer", "mathml"))
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
