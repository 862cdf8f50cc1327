"""Numbers by patch of the inner face, in colour and written with their errors."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from xecml.evaluation.metrics import with_error
from xecml.figures.quantity_axes import say_nothing
from xecml.figures.style import DIVERGING
from xecml.resolution import Floats

_MOST_WRITTEN = (12, 3)
"""Patches along v and u, up to which their numbers can be read."""


def draw_patches(axes: Axes, u: Floats, v: Floats, values: Floats, errors: Floats, *, diverging: bool = False) -> None:
    """Numbers of patches of the inner face in colour, (nv, nu), written with their errors where there is room."""
    extent = (u[0], u[-1], v[0], v[-1])
    axes.set(xlabel="u [cm]", ylabel="v [cm]")
    axes.grid(visible=False)
    known = values[np.isfinite(values)]
    if not len(known):
        axes.set(xlim=extent[:2], ylim=extent[2:])
        say_nothing(axes, "too few events")
        return
    low, high = float(known.min()), float(known.max())
    if diverging:
        high = max(float(np.quantile(np.abs(known), 0.95)), 1e-9)
        low = -high
    else:
        # what lies within the errors shall not look like a pattern
        least = max(2 * float(np.median(errors[np.isfinite(errors)] if np.isfinite(errors).any() else 0.0)), 1e-9)
        low, high = min(low, (low + high) / 2 - least), max(high, (low + high) / 2 + least)
    norm = Normalize(low, high)
    mesh = axes.imshow(np.ma.masked_invalid(values), DIVERGING if diverging else "viridis", norm, extent=extent)
    axes.figure.colorbar(mesh, ax=axes, fraction=0.08, pad=0.03)
    if values.shape[1] > _MOST_WRITTEN[1] or values.shape[0] > _MOST_WRITTEN[0]:
        return
    # relative luminance; black and white read equally well on 0.18
    light = mesh.cmap(norm(np.nan_to_num(values)))[..., :3] ** 2.2 @ (0.2126, 0.7152, 0.0722)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            where = ((u[column] + u[column + 1]) / 2, (v[row] + v[row + 1]) / 2)
            text = with_error(float(value), float(errors[row, column])).replace(
                " \N{PLUS-MINUS SIGN} ", "\n\N{PLUS-MINUS SIGN} "
            )
            axes.text(*where, text, ha="center", va="center", fontsize=6.5,
                      color="w" if light[row, column] < 0.18 else "k")  # fmt: skip
