"""Pictures of the detector itself: sensors and their ids, the outer face's grid, neighbours, frames, all in space."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Rectangle
from matplotlib.patheffects import withStroke
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from xecml import geometry
from xecml.figures.style import COLOURS, STYLE, ink
from xecml.figures.unfolded_detector import FACE_TITLES, PICTURE, places, sensor_shapes
from xecml.resolution import Floats

DIRECTIONS = ("in the row, -z", "in the row, +z", "inner row, -z", "inner row, +z", "outer row, -z", "outer row, +z")
"""The six directions of hexagonal neighbours, in the order of `geometry.hex_neighbours`."""
_RIM = [withStroke(linewidth=3.0, foreground="w")]
_PALE = 0.35
"""Opacity of colours under text."""


def unfolded() -> Figure:
    """All faces unfolded in the colours of their faces; ids of PMTs in them."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(16.5, 11.7))
        axes = figure.subplots()
        axes.set(xlim=PICTURE[0], ylim=PICTURE[1], aspect="equal")
        axes.set_axis_off()
        for code, (face, (title, (x, y))) in enumerate(zip(geometry.FACES, _titles(), strict=True)):
            ids = geometry.face_sensors(code)
            for shapes in sensor_shapes(axes, ids):
                shapes.set(facecolor=COLOURS[code], alpha=_PALE, linewidth=0)
                axes.add_collection(shapes, autolim=False)
            axes.text(x, y, f"{title}: {_range(ids)}", ha="center", va="bottom", color="0.2", fontsize=8)
            if face != "inner":
                for sensor in ids:
                    x, y = places()[sensor].tolist()
                    _write_id(axes, x, y, sensor, 4.4)
        figure.suptitle(
            "The six faces unfolded, at true lengths: u to the right, v upwards. Ids of the PMTs; those of the SiPMs "
            "are in the next picture.",
            fontsize=10,
        )
    return figure


def _write_id(axes: Axes, x: float, y: float, sensor: int, size: float) -> None:
    """Write the id of a sensor about a point; among thousands, none takes part in finding places for the axes."""
    axes.text(x, y, str(sensor), ha="center", va="center", fontsize=size).set_in_layout(False)


def _titles() -> list[tuple[str, tuple[float, float]]]:
    """Title and its place of each face, in the order of face codes."""
    whole = {"us": "upstream", "ds": "downstream"}
    return [(whole.get(face, face), FACE_TITLES[whole.get(face, face)]) for face in geometry.FACES]


def _range(ids: geometry.Ints) -> str:
    """Ids as ranges: `4092-4307, 4742-4759`."""
    parts = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{part[0]}-{part[-1]}" for part in parts)


def inner_face() -> Figure:
    """The inner face with the id of each SiPM: id = 44 row + column."""
    rows, columns = geometry.inner_map().shape
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.3, 11.7))
        axes = figure.subplots()
        x, y = places()[geometry.inner_map()].transpose(2, 0, 1)
        for row in range(rows):
            for column in range(columns):
                _write_id(axes, x[row, column], y[row, column], geometry.inner_map()[row, column], 2.3)
        for shapes in sensor_shapes(axes, geometry.face_sensors("inner")):
            shapes.set(facecolor=COLOURS[0], alpha=0.18, linewidth=0)
            axes.add_collection(shapes, autolim=False)
        axes.set(xlim=(x.min() - 1, x.max() + 1), ylim=(y.min() - 1, y.max() + 1), aspect="equal")
        axes.set(xlabel="u = z [cm]", ylabel="v [cm]")
        axes.grid(visible=False)
        _second_axes(axes, x[0], y[:, 0])
        figure.suptitle("The inner face: id = 44 row + column. Row 0 is at the top (y > 0), column 0 upstream.")
    return figure


def _second_axes(axes: Axes, x: Floats, y: Floats) -> None:
    """Columns along the top and rows along the right."""
    columns, rows = axes.secondary_xaxis("top"), axes.secondary_yaxis("right")
    for other, places_of, name in ((columns.xaxis, x, "column"), (rows.yaxis, y, "row")):
        shown = np.arange(0, len(places_of), 4)
        other.set_ticks(places_of[shown], [str(i) for i in shown], fontsize=6)
        other.set_label_text(name)


def fine_grid() -> Figure:
    """The outer face as one grid of equal cells: each sensor's cells with its id, and the pooled cells of 3 x 3."""
    ids = geometry.outer_fine_ids()
    rows, columns = ids.shape
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(16.5, 10.0))
        axes = figure.subplots()
        centre = set(geometry.outer_centre_map().ravel().tolist())
        for sensor in np.unique(ids):
            z, phi = np.nonzero(ids == sensor)
            corner, size = (int(phi.min()), int(z.min())), (int(np.ptp(phi)) + 1, int(np.ptp(z)) + 1)
            colour = COLOURS[1] if sensor in centre else COLOURS[0]
            axes.add_patch(Rectangle(corner, *size, facecolor=colour, alpha=0.25, edgecolor="k", linewidth=0.9))
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="k", linewidth=0.9))
            _write_id(axes, corner[0] + size[0] / 2, corner[1] + size[1] / 2, sensor, 6.0)
        for lines, width, colour in ((range(1, 100), 0.25, "0.6"), (range(3, 100, 3), 0.8, COLOURS[2])):
            axes.vlines([k for k in lines if k < columns], 0, rows, colors=colour, linewidth=width, zorder=0.5)
            axes.hlines([k for k in lines if k < rows], 0, columns, colors=colour, linewidth=width, zorder=0.5)
        axes.set(xlim=(0, columns), ylim=(0, rows), aspect=1.0, xlabel="phi cell (1.74 deg)", ylabel="z cell (2.07 cm)")
        axes.grid(visible=False)
        figure.suptitle(
            "The outer face as one grid of 45 x 72 cells: a sensor's count is shared over its 15 cells, at the centre "
            "(orange) over its 6; green lines are the pooled cells.",
            fontsize=10,
        )
    return figure


def hexagons() -> Figure:
    """A hexagonal face: its nodes with ids of top and bottom, its neighbours, and the six directions of one node."""
    table, z, r = geometry.hex_neighbours(), *_hex_places()
    middle = int(np.argmin(np.hypot(z - z.mean(), r - r.mean()) + 100.0 * (table < 0).any(1)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13.0, 8.5))
        axes = figure.subplots()
        pairs = [(i, j) for i, row in enumerate(table) for j in row[1:] if j > i]
        axes.add_collection(
            LineCollection([[(z[i], r[i]), (z[j], r[j])] for i, j in pairs], colors="0.75", linewidths=0.8)
        )
        axes.plot(z, r, "o", ms=24, color="w", mec="0.4")
        top, bottom = np.concatenate(geometry.top_rows()), np.concatenate(geometry.bottom_rows())
        for node in range(len(z)):
            axes.text(z[node], r[node], f"{node}\n{top[node]}\n{bottom[node]}", ha="center", va="center", fontsize=5.5)
        for k, name in enumerate(DIRECTIONS):
            end = table[middle, k + 1]
            away = np.array([z[end] - z[middle], r[end] - r[middle]])
            start = np.array([z[middle], r[middle]])
            style = {"arrowstyle": "-|>", "color": COLOURS[k], "lw": 2.4, "shrinkA": 13, "shrinkB": 13}
            axes.annotate("", tuple(start + away), tuple(start), arrowprops=style)
            x, y = start + 0.5 * away + 0.9 * np.array([-away[1], away[0]]) / np.hypot(*away)
            axes.text(x, y, str(k + 1), color=ink(COLOURS[k]), ha="center", va="center", fontweight="bold")
            axes.plot([], [], color=COLOURS[k], lw=2.4, marker=f"${k + 1}$", ms=8, mfc="k", mec="k", mew=0.3,
                      label=f"direction {k + 1}: {name}")  # fmt: skip
        axes.set(xlabel="z [cm]", ylabel="r [cm]", aspect="equal", ylim=(r.min() - 5, r.max() + 9))
        axes.grid(visible=False)
        axes.legend(loc="upper center", ncols=3)
        figure.suptitle("Top and bottom: node, id on the top face, id on the bottom face; lines join neighbours")
    return figure


def _hex_places() -> tuple[Floats, Floats]:
    """Z and r (73,) of the nodes of a hexagonal face, cm."""
    xyz = geometry.positions()[np.concatenate(geometry.top_rows())]
    return xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1])


def in_space() -> Figure:
    """The detector from outside and from the target, each with the sensors that face the viewer."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15.0, 8.0))
        views = (("onto the inner face, from outside", (18, 155)), ("onto the outer face, from the target", (18, -25)))
        for place, (title, (height, azimuth)) in enumerate(views, 1):
            axes = figure.add_subplot(1, 2, place, projection="3d")
            assert isinstance(axes, Axes3D)
            _draw_space(axes, height, azimuth)
            axes.set_title(title)
        figure.suptitle("The detector: sensors whose faces are turned to the viewer; z is the beam")
    return figure


def _draw_space(axes: Axes3D, height: float, azimuth: float) -> None:
    xyz, normal, code = geometry.positions(), geometry.normals(), geometry.face_codes()
    # drawn with the beam level: x to the depth, z to the side, y upwards
    h, a = np.radians([height, azimuth])
    viewer = np.array([np.cos(h) * np.cos(a), np.sin(h), np.cos(h) * np.sin(a)])
    seen = np.flatnonzero(normal @ viewer > 0)
    corners = _corners(xyz[seen], normal[seen], np.where(code[seen] == 0, 0.615 * np.sqrt(2), geometry.PMT_RADIUS))
    colours = [COLOURS[c] for c in code[seen]]
    axes.add_collection3d(Poly3DCollection(corners[:, :, (0, 2, 1)], facecolors=colours, linewidths=0))
    for face, (title, _) in enumerate(_titles()):
        if len(shown := seen[code[seen] == face]):
            middle = xyz[shown].mean(0)
            place = xyz[shown[np.argmin(((xyz[shown] - middle) ** 2).sum(1))]] + 3 * normal[shown].mean(0)
            axes.text(*place[[0, 2, 1]], title, ha="center", va="center", fontsize=11, zorder=20, path_effects=_RIM)
    for name, end in (("x", (30, 0, 0)), ("y", (0, 0, 30)), ("z (beam)", (0, 60, 0))):
        axes.plot(*np.transpose([(0, 0, 0), end]), color="k", lw=1)
        axes.text(*(1.1 * np.array(end)), name)
    axes.set(xlabel="x [cm]", ylabel="z [cm]", zlabel="y [cm]", xlim=(-110, 40), ylim=(-60, 70), zlim=(-100, 100))
    axes.set_box_aspect((150, 130, 200))
    axes.view_init(elev=height, azim=azimuth)


def _corners(xyz: Floats, normal: Floats, reach: Floats) -> Floats:
    """Corners (N, 4, 3) of squares about points (N, 3) across normals, as far from them as `reach` (N,)."""
    around = np.stack([-normal[:, 1], normal[:, 0], np.zeros(len(normal))], axis=1)
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    other = np.cross(normal, around)
    turns = np.radians([45, 135, 225, 315])
    spread = np.cos(turns)[:, None] * around[:, None] + np.sin(turns)[:, None] * other[:, None]
    return np.asarray(xyz[:, None] + reach[:, None, None] * spread)


def frames() -> Figure:
    """Local frame u, v, w and the angles theta and phi, across the beam and along it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15.0, 8.0))
        left, right = figure.subplots(1, 2)
        _across_the_beam(left)
        _along_the_beam(right)
        figure.suptitle(
            "u = z,   v = R atan2(y, -x),   w = r - R,   R = 64.970 cm;   theta from +z,   phi = atan2(d_y, -d_x), "
            "so that theta = 90, phi = 0 points to the middle of the calorimeter",
            fontsize=10,
        )
    return figure


_EXAMPLE = (8.0, 28.0, 14.0)
"""u, v, w of the point of the sketches, cm."""


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, text: str = "") -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)
    if text:
        axes.annotate(text, end, (6, 4), textcoords="offset points", color=ink(colour), fontsize=11)


def _across_the_beam(axes: Axes) -> None:
    half, (_, v, w) = np.radians(geometry.HALF_OPENING_DEG), _EXAMPLE
    angle = np.linspace(-half, half, 100)
    for r in (geometry.INNER_RADIUS, geometry.OUTER_RADIUS):
        axes.plot(-r * np.cos(angle), r * np.sin(angle), color="0.3")
    for end in (-half, half):
        side = np.array([geometry.INNER_RADIUS, geometry.OUTER_RADIUS])
        axes.plot(-side * np.cos(end), side * np.sin(end), color="0.3")
    a, r0 = v / geometry.INNER_RADIUS, geometry.INNER_RADIUS
    arc = np.linspace(0, a, 40)
    axes.plot(-r0 * np.cos(arc), r0 * np.sin(arc), color=COLOURS[2], lw=3)
    axes.text(-r0 * np.cos(a / 2) + 2, r0 * np.sin(a / 2), "v", color=ink(COLOURS[2]), fontsize=12)
    foot, point = ((-r * np.cos(a), r * np.sin(a)) for r in (r0, r0 + w))
    _arrow(axes, foot, point, COLOURS[1])
    axes.text(0.5 * (foot[0] + point[0]), 0.5 * (foot[1] + point[1]) + 3, "w", color=ink(COLOURS[1]), fontsize=12)
    axes.plot(*point, "o", color="k")
    axes.annotate("first interaction", point, (-8, 8), textcoords="offset points", ha="right")
    vertex = (3.0, -6.0)
    _arrow(axes, vertex, point, COLOURS[0])
    axes.plot(*vertex, "o", color=COLOURS[0])
    axes.annotate("vertex", vertex, (6, -12), textcoords="offset points")
    phi = np.degrees(np.arctan2(point[1] - vertex[1], -(point[0] - vertex[0])))
    axes.plot([vertex[0], vertex[0] - 34], [vertex[1], vertex[1]], ":", color="0.5")
    axes.add_patch(Arc(vertex, 50, 50, theta1=180 - phi, theta2=180, color=COLOURS[3], lw=2))
    axes.text(vertex[0] - 30, vertex[1] + 4, "phi", color=ink(COLOURS[3]), fontsize=12)
    _arrow(axes, (0, 0), (22, 0), "0.2", "x")
    _arrow(axes, (0, 0), (0, 22), "0.2", "y")
    axes.set(xlabel="x [cm]", ylabel="y [cm]", aspect="equal", title="Across the beam, seen from +z")
    axes.set(xlim=(-115, 40), ylim=(-105, 105))


def _along_the_beam(axes: Axes) -> None:
    u, _, w = _EXAMPLE
    r = np.array([geometry.INNER_RADIUS, geometry.OUTER_RADIUS])
    half = geometry.half_length(r)
    axes.plot([*half, *-half[::-1], half[0]], [*r, *r[::-1], r[0]], color="0.3")
    point = (u, geometry.INNER_RADIUS + w)
    vertex = (-4.0, 0.0)
    axes.plot(
        [-geometry.FIDUCIAL_U, geometry.FIDUCIAL_U],
        [r[0], r[0]],
        color=COLOURS[4],
        lw=4,
        label="fiducial |u| < 23.9 cm",
    )
    _arrow(axes, (0, geometry.INNER_RADIUS), (u, geometry.INNER_RADIUS), COLOURS[2], "u")
    _arrow(axes, (u, geometry.INNER_RADIUS), point, COLOURS[1])
    axes.text(u + 1.5, geometry.INNER_RADIUS + w / 2, "w", color=ink(COLOURS[1]), fontsize=12)
    axes.plot(*point, "o", color="k")
    _arrow(axes, vertex, point, COLOURS[0])
    axes.plot(*vertex, "o", color=COLOURS[0])
    axes.annotate("vertex", vertex, (-8, 8), textcoords="offset points", ha="right")
    theta = np.degrees(np.arctan2(point[1] - vertex[1], point[0] - vertex[0]))
    axes.add_patch(Arc(vertex, 44, 44, theta1=0, theta2=theta, color=COLOURS[3], lw=2))
    axes.text(vertex[0] + 19, vertex[1] + 15, "theta", color=ink(COLOURS[3]), fontsize=12)
    _arrow(axes, (-60, 0), (60, 0), "0.2", "z (beam)")
    axes.axvline(0, color="0.7", ls=":")
    axes.set(xlabel="z [cm]", ylabel="r [cm]", aspect="equal", title="Along the beam, in the plane of the photon")
    axes.set(xlim=(-75, 85), ylim=(-12, 118))
    axes.legend(loc="upper right")


PICTURES: dict[str, Callable[[], Figure]] = {
    "The faces unfolded": unfolded,
    "Ids of the inner face": inner_face,
    "The outer face as one grid": fine_grid,
    "Hexagonal neighbours": hexagons,
    "In space": in_space,
    "Local frame and angles": frames,
}
"""What is drawn, by title, in order."""
