"""Pictures of what an autoencoder rebuilds: truth, what it saw, its answer and its error over the faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xecml.events import valid_counts, valid_times
from xecml.figures.style import DIVERGING, STYLE, named
from xecml.figures.unfolded_detector import draw_sensors

KINDS = ("truth", "masked", "pred", "err")
BRANCHES = tuple(f"{kind}_{channel}" for kind in KINDS for channel in ("npho", "time"))
"""Branches of a file of examples; `mask` says which sensors were hidden."""
_BRIGHT = 100.0  # photons; the times of dimmer sensors are noise
_TITLES = {"truth": "truth", "masked": "what is seen", "pred": "truth, and prediction where hidden", "err": "error"}


def draw_rebuilt(columns: Mapping[str, NDArray[Any]], *, title: str = "") -> Figure:
    """Draw one event of a file of examples: a row for counts, a row for times.

    Args:
        columns: `BRANCHES` and `mask`, (4760,) each; photons and seconds.
        title: first line.
    """
    hidden = np.asarray(columns["mask"], bool)
    npho, time = (np.asarray(columns[f"truth_{c}"], np.float64) for c in ("npho", "time"))
    counted, timed = valid_counts(npho), valid_times(npho, time)
    bright = timed & (npho > _BRIGHT)
    first = float(time[bright].min()) if bright.any() else 0.0
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(22.0, 10.6))
        axes = figure.subplots(2, 4, squeeze=False)
        for row, channel in zip(axes, ("npho", "time"), strict=True):
            ok = counted if channel == "npho" else bright
            for place, kind in zip(row, KINDS, strict=True):
                values, shown = _shown(columns, channel, kind, hidden, ok)
                if channel == "time" and kind != "err":
                    values = values - first
                values = values * (1e9 if channel == "time" else 1)
                scale, colours, unit = _scale(channel, kind, npho[counted])
                draw_sensors(place, values, shown, scale, colours, f"{_TITLES[kind]} [{unit}]")
        figure.suptitle(named(title, 200) or "Counts above, times below")
    return figure


def _shown(
    columns: Mapping[str, NDArray[Any]], channel: str, kind: str, hidden: NDArray[np.bool_], ok: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values to draw, and on which sensors."""
    if kind == "pred":
        both = np.where(hidden, columns[f"pred_{channel}"], columns[f"truth_{channel}"])
        return both.astype(np.float64), ok
    values = np.asarray(columns[f"{kind}_{channel}"], np.float64)
    return values, ok & {"truth": ok, "masked": ~hidden, "err": hidden}[kind]


def _scale(channel: str, kind: str, light: NDArray[np.float64]) -> tuple[Normalize, str, str]:
    high = float(light.max(initial=10.0))
    if channel == "npho":
        if kind == "err":
            return SymLogNorm(10, vmin=-high / 3, vmax=high / 3), DIVERGING, "photons"
        return LogNorm(max(high * 1e-4, 0.5), high, clip=True), "viridis", "photons"
    if kind == "err":
        return Normalize(-2, 2), DIVERGING, "ns"
    return Normalize(0, 12, clip=True), "plasma_r", "ns after the first"
