"""Axes of physical quantities: symbols, units, and two quantities against one another."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator

from xecml.evaluation.tables import Table, column
from xecml.figures.style import COLOURS, MAP
from xecml.resolution import Floats

SYMBOL = {
    "theta": r"$\theta$",
    "phi": r"$\phi$",
    "energy": "$E$",
    "energy_relative": "$E$",
    "timing": "$t$",
    "u": "$u$",
    "v": "$v$",
    "w": "$w$",
}
# columns on an axis: unit, and the scale to it from the unit of files
_AXIS = {"theta": ("deg", 1.0), "phi": ("deg", 1.0), "energy": ("MeV", 1e3), "timing": ("ns", 1e9)}
_CM = ("cm", 1.0)
_MANY = 150
"""Events in a cell above which the colour bar has decades alone."""


def axis_label(name: str, what: str) -> str:
    """Label of an axis along which a column goes: what, symbol, unit."""
    return f"{what} {SYMBOL.get(name, name)} [{_AXIS.get(name, _CM)[0]}]"


def axis_scale(name: str) -> float:
    """What a column in the unit of files is multiplied by on an axis."""
    return _AXIS.get(name, _CM)[1]


def in_axis_unit(table: Table, prefix: str, name: str) -> Floats:
    """A column (N,) in the unit of its axis."""
    return column(table, prefix + name) * axis_scale(name)


def say_nothing(axes: Axes, why: str) -> None:
    """Write on empty axes why they are."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color="0.4")


def draw_map(axes: Axes, x: Floats, y: Floats, *, diagonal: bool = False) -> None:
    """Histogram in two dimensions, in logarithmic colour; an image, as cells one by one take longer than a page."""
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        return
    both = np.concatenate([x[good], y[good]])
    span = [_span(v) for v in ((both, both) if diagonal else (x[good], y[good]))]
    counts, x_edges, y_edges = np.histogram2d(x[good], y[good], bins=60, range=span)
    shown = np.ma.masked_equal(counts.T, 0)
    extent = (x_edges[0], x_edges[-1], y_edges[0], y_edges[-1])
    mesh = axes.imshow(shown, MAP, LogNorm(1, max(counts.max(), 2)), extent=extent)
    if diagonal:
        axes.plot(span[0], span[0], color=COLOURS[1], lw=0.8)
    # plain numbers: powers of ten with their factors would not fit beside a small part
    steps = LogLocator(subs=(1, 2, 5) if counts.max() < _MANY else (1,))
    bar = axes.figure.colorbar(mesh, ax=axes, fraction=0.06, pad=0.02, label="events", ticks=steps, format="%g")
    bar.ax.minorticks_off()


def _span(x: Floats) -> tuple[float, float]:
    low, high = np.quantile(x, (0.002, 0.998))
    margin = 0.04 * (high - low) or 0.05 * abs(low) or 1.0
    return float(low - margin), float(high + margin)
