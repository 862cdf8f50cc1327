"""The first of the resolution pages: all numbers of a model as tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xecml.evaluation.metrics import ALL, DEPTHS, Evaluation, summary
from xecml.events import number_of
from xecml.figures.style import COLOURS, ink, named, page, shortened

_HEIGHT = 10.2
_HEADER, _LETTERS = 16, 150
"""Letters of a line of a header, and in all columns of a table that is as wide as the page at 8 points."""


def summary_page(results: Sequence[Evaluation], title: str) -> Figure:
    """Tables of all figures of merit, at all depths together and at each; warnings below them.

    Args:
        results: the model first, then those that it is compared with.
        title: of the sample, as the user gave it; may be empty.
    """
    model = results[0]
    what = f"Resolution of {named(model.name)}, {number_of(model.n_events)}, against {model.reference}"
    figure = page(title, what, _HEIGHT)
    bins = [b for b in (ALL, *DEPTHS) if model.events.get(b)]
    for axes, name in zip(figure.subplots(len(bins), 1, squeeze=False)[:, 0], bins, strict=True):
        axes.set_axis_off()
        headers, rows = summary(results, name)
        axes.set_title(model.title(name), loc="left", fontweight="bold")
        headers, *rows = [[shortened(text, 40) for text in row] for row in (headers, *rows)]
        _draw_table(axes, ["\n".join(textwrap.wrap(text, _HEADER)) for text in headers], rows)
    if model.warnings:
        figure.supxlabel("\n".join(named(w, 200) for w in model.warnings), color=ink(COLOURS[1]))
    return figure


def _draw_table(axes: Axes, headers: list[str], rows: list[list[str]]) -> None:
    """A table in letters as large as its width allows."""
    drawn = axes.table(rows, colLabels=headers, loc="upper center", cellLoc="right", edges="horizontal")
    columns = zip(headers, *rows, strict=True)
    letters = sum(2 + max(len(line) for text in column for line in text.split("\n")) for column in columns)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(min(8.0, 8.0 * _LETTERS / letters))
    drawn.auto_set_column_width(range(len(headers)))
    high = max(text.count("\n") for text in headers)
    for (row, _), cell in drawn.get_celld().items():
        cell.set(edgecolor="0.75", linewidth=0.5)
        if row == 0:
            cell.set_height(cell.get_height() * (1 + 0.75 * high))
