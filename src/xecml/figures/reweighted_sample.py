"""What reweighting does to a training sample, as a picture: every quantity before and after."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from xecml.data.reweighting import Reweighting
from xecml.events import TASKS
from xecml.figures.style import COLOURS, STYLE, save_figure


def draw_reweighting(reweighting: Reweighting) -> Figure:
    """Draw the distribution of each reweighted quantity of the training sample, before and after."""
    shown = reweighting.distributions
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(shown), 3.2))
        figure.suptitle("training sample before and after reweighting")
        for axes, (column, one) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            unit, scale = _unit(column)
            edges = np.linspace(one.low, one.high, len(one.before) + 1) * scale
            axes.stairs(one.before, edges, color="0.75", fill=True, label="before")
            axes.stairs(one.after, edges, color=COLOURS[0], linewidth=1.6, label="after")
            axes.set(xlabel=f"{column} [{unit}]", ylabel="events", ylim=(0, None))
        figure.axes[0].legend()
    return figure


def save_reweighting(reweighting: Reweighting, path: str | Path) -> None:
    """Write the picture as `.pdf` or `.png`, atomically.

    Raises:
        InputError: another suffix, or the folder cannot be written.
    """
    save_figure(draw_reweighting(reweighting), path)


def _unit(column: str) -> tuple[str, float]:
    task = next(task for task in TASKS.values() if column in task.columns)
    return task.plot_unit, task.plot_scale
