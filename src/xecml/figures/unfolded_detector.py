"""One event on the unfolded detector: counts and times of all 4760 sensors, truth and prediction marked.

Every sensor stands at its true place and size (cm). The inner face is unrolled in the middle, z (= u) to
the right and v upwards; upstream is left of it, downstream right, top above, bottom below, the outer face at
the far right. The end faces are drawn as the sectors that they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection, PolyCollection
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.events import measured, relative_quantities, valid_counts, valid_times
from xecml.figures.style import COLOURS, STYLE, named, save_figure
from xecml.geometry import (
    FACES,
    INNER_RADIUS,
    N_SENSORS,
    N_SIPM,
    OUTER_RADIUS,
    PMT_RADIUS,
    direction_from_angles,
    face_codes,
    positions,
    xyz_from_uvw,
)
from xecml.resolution import Floats

_SIPM_SIDE = 1.23
"""Outline of a SiPM's four chips, cm."""
_GAP = 9.0
_INNER_HALF = (33.1, 71.2)
_ENDS_X = _INNER_HALF[0] + _GAP - 32.0
_OUTER_X = 172.0
PICTURE = ((-120.0, 221.0), (-131.0, 130.0))
"""Range of the picture in x and y, cm."""
FACE_TITLES = {
    "inner": (0.0, 74.0),
    "upstream": (-78.0, 93.0),
    "downstream": (78.0, 93.0),
    "outer": (_OUTER_X, 117.5),
    "top": (0.0, 121.0),
    "bottom": (0.0, -128.5),
}
"""Where the name of a face stands, centred above that point, cm."""
# neither passes through grey, which means "not measured"
COUNTS_MAP, TIMES_MAP = "viridis", "plasma"
_FRAME = (-115.0, -118.0)
_INVALID_COLOUR = "0.86"
_ARROW = 18.0
"""Length in cm of a direction's arrow if it lay in the inner face."""

# name, unit, scale from the unit of files, and the same for the difference
_HEADER = (
    ("energy", "MeV", 1e3, "MeV", 1e3),
    ("timing", "ns", 1e9, "ps", 1e12),
    ("theta", "deg", 1.0, "deg", 1.0),
    ("phi", "deg", 1.0, "deg", 1.0),
    ("u", "cm", 1.0, "mm", 10.0),
    ("v", "cm", 1.0, "mm", 10.0),
    ("w", "cm", 1.0, "mm", 10.0),
)
# open marks, which hide no sensor, with a white rim that shows on every colour
_RIM = [withStroke(linewidth=3.5, foreground="w")]
_TRUTH = {"marker": "o", "color": "k", "mfc": "none", "mew": 1.4, "path_effects": _RIM}
_PREDICTION = {"marker": "+", "color": COLOURS[1], "mew": 1.8, "path_effects": _RIM}


def unfold(face: str, xyz: ArrayLike) -> Floats:
    """Place points (..., 3) in cm, on a face or projected onto it, in the picture: (..., 2) in cm."""
    p = np.asarray(xyz, np.float64)
    r, angle, z = np.hypot(p[..., 0], p[..., 1]), np.arctan2(p[..., 1], -p[..., 0]), p[..., 2]
    depth = _INNER_HALF[1] + _GAP + r - INNER_RADIUS
    where = {
        "inner": (z, INNER_RADIUS * angle),
        "outer": (_OUTER_X + z, OUTER_RADIUS * angle),
        "us": (-_ENDS_X - r * np.cos(angle), r * np.sin(angle)),
        "ds": (_ENDS_X + r * np.cos(angle), r * np.sin(angle)),
        "top": (z, depth),
        "bottom": (z, -depth),
    }
    return np.stack(where[face], axis=-1)


@cache
def places() -> Floats:
    """Centres (4760, 2) of all sensors in the picture."""
    places = np.empty((N_SENSORS, 2))
    for code, face in enumerate(FACES):
        of_face = face_codes() == code
        places[of_face] = unfold(face, positions()[of_face])
    places.setflags(write=False)
    return places


def values_of(columns: Mapping[str, NDArray[Any]], event: int) -> dict[str, Any]:
    """One event's row of a table's columns, for `draw_event`: `pred_` or `true_` may stay on the names."""
    return {name: values[event] for name, values in columns.items()}


def draw_event(
    npho: ArrayLike,
    time: ArrayLike,
    *,
    truth: Mapping[str, Any] | None = None,
    prediction: Mapping[str, Any] | None = None,
    title: str = "",
) -> Figure:
    """Draw counts (logarithmic colour) and times (ns after the earliest bright sensor) side by side.

    Args:
        npho: counts (4760,), photons or relative; 1e10 where not measured.
        time: times (4760,) in seconds.
        truth: any of theta, phi (degrees), energy (GeV), timing (s), u, v, w (cm); names may carry `true_`.
        prediction: the same; names may carry `pred_`.
        title: first line, such as run and event number.

    Raises:
        InputError: counts or times of another shape.
    """
    n, t = np.asarray(npho, np.float64), np.asarray(time, np.float64)
    if n.shape != (N_SENSORS,) or t.shape != (N_SENSORS,):
        raise InputError(
            f"An event has {N_SENSORS} counts and times, not shapes {n.shape} and {t.shape}; give one event."
        )
    marked = [(_bare(values or {}), look) for values, look in ((truth, _TRUTH), (prediction, _PREDICTION))]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(17.0, 8.2))
        left, right = figure.subplots(1, 2)
        draw_sensors(left, n, valid_counts(n), _count_scale(n), COUNTS_MAP, _count_unit(n))
        relative = relative_quantities(n, t)[1] * 1e9
        draw_sensors(
            right,
            relative,
            valid_times(n, t),
            _time_scale(n, t, relative),
            TIMES_MAP,
            "time after the earliest bright sensor [ns]",
        )
        for axes in (left, right):
            for values, look in marked:
                _mark(axes, values, look)
        text = "\n".join([named(title, 200), *_header(n, *(values for values, _ in marked))])
        figure.suptitle(text, x=0.01, ha="left", family="monospace", fontsize=10)
        _legend(figure, marked)
    return figure


def save_event(figure: Figure, path: str | Path) -> None:
    """Write an event's picture as `.pdf` or `.png`, atomically.

    Raises:
        InputError: another suffix, or the folder cannot be written.
    """
    save_figure(figure, path)


# ------------------------------------------------------------------------------------------------ sensors


def _count_scale(npho: Floats) -> Normalize:
    counts = npho[valid_counts(npho)]
    if not len(counts):
        return LogNorm(1, 10)
    # four decades at most: below, the colour would be spent on sensors of a single photoelectron
    high = float(counts.max())
    low = max(float(np.quantile(counts, 0.01)), high * 1e-4)
    return LogNorm(min(low, high / 2), high, clip=True)


def _count_unit(npho: Floats) -> str:
    largest = npho[valid_counts(npho)].max(initial=0.0)
    return "counts relative to the largest" if 0 < largest <= 1.001 else "photons"


def _time_scale(npho: Floats, time: Floats, relative: Floats) -> Normalize:
    times = relative[valid_times(npho, time)]
    if not len(times):
        return Normalize(0, 1)
    late = float(np.quantile(times, 0.9))
    return Normalize(0.0, max(late, 1e-3), clip=True)


def draw_sensors(
    axes: Axes, values: Floats, valid: NDArray[np.bool_], scale: Normalize, colour_map: str, label: str
) -> None:
    """Draw values (4760,) of the measured sensors in colour and the others hatched, at their places."""
    ids = np.flatnonzero(valid)
    for shapes, part in zip(sensor_shapes(axes, ids), _split(ids), strict=True):
        shapes.set(linewidth=0, array=values[part], norm=scale, cmap=colour_map)
        axes.add_collection(shapes, autolim=False)
    if not valid.all():
        # one outline of all: hatching them one by one takes seconds
        unlit = PathPatch(_outlines(np.flatnonzero(~valid)), facecolor=_INVALID_COLOUR, edgecolor="0.6", linewidth=0)
        unlit.set_hatch("//////")
        axes.add_patch(unlit)
    axes.set(xlim=PICTURE[0], ylim=PICTURE[1], aspect="equal")
    axes.set_axis_off()
    inches = axes.get_window_extent().width / axes.figure.dpi
    for face, (x, y) in FACE_TITLES.items():
        # in a small part, letters of the usual size would lie on sensors
        axes.text(x, y, face, ha="center", va="bottom", color="0.3", fontsize=min(9.0, max(6.5, 1.25 * inches)))
    _draw_frame(axes)
    late = "neither" if isinstance(scale, LogNorm) else "max"
    colours = ScalarMappable(scale, colour_map)
    bar = axes.figure.colorbar(colours, ax=axes, location="bottom", shrink=0.6, pad=0.01, aspect=50, extend=late)
    bar.set_label(label)
    if isinstance(scale, SymLogNorm):
        # decades within the linear part would lie on one another, and many in a small part
        largest = max(abs(float(scale.vmin or 0)), abs(float(scale.vmax or 0)))
        decades = [10.0**k for k in range(-3, 10) if scale.linthresh <= 10.0**k <= largest]
        decades = decades[:: -(-len(decades) // 2)] if len(decades) > 3 else decades
        bar.set_ticks([-value for value in decades[::-1]] + [0.0] + decades)
        bar.ax.minorticks_off()


def _draw_frame(axes: Axes) -> None:
    """Directions of u and v, 20 cm long."""
    for name, (x, y) in (("u", (20, 0)), ("v", (0, 20))):
        arrow = {"arrowstyle": "->", "color": "0.3", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (_FRAME[0] + x, _FRAME[1] + y), _FRAME, arrowprops=arrow)
        axes.text(_FRAME[0] + 1.25 * x, _FRAME[1] + 1.25 * y, name, ha="center", va="center", color="0.3")
    axes.text(_FRAME[0] + 10, _FRAME[1] - 2, "20 cm", ha="center", va="top", color="0.3", fontsize=8)


def _split(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return ids[ids < N_SIPM], ids[ids >= N_SIPM]


class Shapes(EllipseCollection):
    """Shapes of one size at many places; of one size, their outline is written to a file once and not once each.

    Args:
        outline: of a shape, within one unit of its centre.
        size: width and height in cm.
        places: centres (N, 2).
        axes: where they are drawn.
    """

    def __init__(self, outline: Outline, size: float, places: Floats, axes: Axes) -> None:
        super().__init__([size], [size], [0.0], units="xy", offsets=places, offset_transform=axes.transData)
        self._paths = [outline]


_SQUARE = Outline([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)], closed=True)


def sensor_shapes(axes: Axes, ids: NDArray[np.int64]) -> tuple[Shapes, Shapes]:
    """Squares of the SiPMs and circles of the PMTs among the sensors."""
    sipm, pmt = _split(ids)
    squares = Shapes(_SQUARE, _SIPM_SIDE, places()[sipm], axes)
    return squares, Shapes(Outline.unit_circle(), 2 * PMT_RADIUS, places()[pmt], axes)


def _outlines(ids: NDArray[np.int64]) -> Outline:
    """Outlines of sensors as one path, in cm."""
    parts = []
    for some, outline, size in zip(
        _split(ids), (_SQUARE, Outline.unit_circle()), (_SIPM_SIDE, 2 * PMT_RADIUS), strict=True
    ):
        corners = places()[some][:, None] + size / 2 * np.asarray(outline.vertices)
        codes = np.tile(np.asarray(outline.codes), len(some))
        parts.append(Outline(corners.reshape(-1, 2), codes))
    return Outline.make_compound_path(*parts)


# ------------------------------------------------------------------------------------ truth and prediction


def _bare(values: Mapping[str, Any]) -> dict[str, float]:
    """Finite values of the header's quantities by name without prefix."""
    found = {}
    for name, *_ in _HEADER:
        for key in (name, f"true_{name}", f"pred_{name}", f"reco_{name}"):
            if key in values and measured(value := float(values[key])):
                found[name] = value
    return found


def _mark(axes: Axes, values: Mapping[str, float], look: Mapping[str, Any]) -> None:
    """Mark the first interaction, projected onto every face, and the direction on the inner one."""
    if not {"u", "v", "w"} <= values.keys():
        return
    xyz = xyz_from_uvw([values["u"], values["v"], values["w"]])
    for face in FACES:
        x, y = unfold(face, xyz)
        inner = face == "inner"
        axes.plot(x, y, ls="", ms=13 if inner else 7, zorder=4, **look)
    if {"theta", "phi"} <= values.keys():
        start, end = (values["u"], values["v"]), arrow_end(values)
        style = {"arrowstyle": "-|>", "color": look["color"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (end[0], end[1]), start, arrowprops=style, zorder=5)


def arrow_end(values: Mapping[str, float]) -> Floats:
    """End (2,) of the arrow on the inner face that shows a direction (theta, phi) at a place (u, v), cm."""
    angle = values["v"] / INNER_RADIUS
    d = direction_from_angles([values["theta"], values["phi"]])
    along = np.array([d[2], d[0] * np.sin(angle) + d[1] * np.cos(angle)])
    return np.asarray((values["u"], values["v"]) + _ARROW * along)


def _header(npho: Floats, truth: Mapping[str, float], prediction: Mapping[str, float]) -> list[str]:
    """Lines of numbers: the light, then a table of truth, prediction and their difference."""
    valid = valid_counts(npho)
    total = f"{npho[valid].sum():.4g} {_count_unit(npho)} in total"
    lines = [f"{valid.sum()} of {N_SENSORS} sensors with light, {total}", ""]
    if not truth and not prediction:
        return lines
    titles = [f"{name} [{unit}]" for name, unit, *_ in _HEADER]
    lines.append(" " * 12 + "".join(f"{t:>14}" for t in titles))
    for label, values in (("true", truth), ("predicted", prediction)):
        if values:
            cells = [f"{values[n] * s:.3f}" if n in values else "-" for n, _, s, *_ in _HEADER]
            lines.append(f"{label:<12}" + "".join(f"{c:>14}" for c in cells))
    if truth and prediction:
        cells = [_difference(truth, prediction, name, unit, scale) for name, *_, unit, scale in _HEADER]
        lines.append(f"{'difference':<12}" + "".join(f"{c:>14}" for c in cells))
    return lines


def _difference(truth: Mapping[str, float], prediction: Mapping[str, float], name: str, unit: str, scale: float) -> str:
    if name not in truth or name not in prediction:
        return "-"
    difference = prediction[name] - truth[name]
    if name == "phi":
        difference = (difference + 180) % 360 - 180
    return f"{difference * scale:+.2f} {unit}"


def _legend(figure: Figure, marked: list[tuple[dict[str, float], dict[str, Any]]]) -> None:
    names = ("true first interaction", "predicted")
    shown = [
        Line2D([], [], ls="", ms=9, label=name, **look)
        for name, (values, look) in zip(names, marked, strict=True)
        if {"u", "v", "w"} <= values.keys()
    ]
    grey = PolyCollection([], facecolor=_INVALID_COLOUR, edgecolor="0.6", hatch="//////", label="not measured")
    figure.legend(handles=[*shown, grey], loc="upper right")
