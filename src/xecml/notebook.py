"""Display of results in notebooks: HTML tables in the notebook's colours."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_LEFT, _RIGHT = ' style="text-align:left"', ' style="text-align:right"'


def table_html(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> str:
    """A table; the first column to the left, numbers to the right.

    Args:
        headers: of the columns.
        rows: of texts, as many as headers.
        title: above it.
    """
    head = "".join(f"<th{_side(i)}>{html.escape(text)}</th>" for i, text in enumerate(headers))
    lines = "".join(
        "<tr>" + "".join(f"<td{_side(i)}>{html.escape(text)}</td>" for i, text in enumerate(row)) + "</tr>\n"
        for row in rows
    )
    above = f"<caption{_LEFT}>{html.escape(title)}</caption>" if title else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table>"


def lines_html(lines: Iterable[str]) -> str:
    """Lines of text below one another."""
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)


def _side(column: int) -> str:
    return _RIGHT if column else _LEFT
