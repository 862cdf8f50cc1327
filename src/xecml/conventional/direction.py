"""The emission angle: the axis of the light, and the line from the target, in one linear function.

Each component of the direction, along u, v and w where the light is, is a linear function of the axis of two points of
light (plain, by its length, by how the light is shared), of the differences of the points of light in windows, of the
position, and of the line from the origin. Fitted to photons from the target it comes out as that line with small
corrections, fitted to photons whose direction position does not tell it is the calibrated axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xecml.conventional.position import centred_depth
from xecml.conventional.robust_fit import Coefficients, evaluate, fit, products
from xecml.conventional.two_points import LOG_LIGHT_1, LOG_LIGHT_2, U_1, U_2
from xecml.conventional.window_ladder import WIDEST, WINDOWS, points
from xecml.geometry import INNER_RADIUS, xyz_from_uvw

Floats = NDArray[np.float64]

AXES = "uvw"
_LONGEST = 20.0
_NEAREST = WINDOWS.index(3.0)
_LARGER = {f"{WINDOWS[k]:g}": k for k in range(WINDOWS.index(5.5), len(WINDOWS))}
_WIDTH_FACTOR, _PENALTY = 3.0, 1e-3
_MOST_DIFFERENCE = 20.0


def local_axes(v: Floats) -> Floats:
    """Unit vectors (N, 3, 3) of the axes u, v, w at v in cm, x y z along the last axis."""
    cosine, sine = np.cos(v / INNER_RADIUS), np.sin(v / INNER_RADIUS)
    none, one = np.zeros_like(v), np.ones_like(v)
    rows = ((none, none, one), (sine, cosine, none), (-cosine, sine, none))
    return np.stack([np.stack(row, -1) for row in rows], 1)


def columns(uvw: Floats, fits: Floats, pairs: Floats) -> dict[str, Floats]:
    """Columns (N,) from first interactions (N, 3), fits (N, 6, 9) and pairs of points (N, 10); cm."""
    axes = local_axes(uvw[:, 1])
    between = xyz_from_uvw(pairs[:, U_2 : U_2 + 3]) - xyz_from_uvw(pairs[:, U_1 : U_1 + 3])
    length = np.linalg.norm(between, axis=1)
    axis = np.einsum("nak,nk->na", axes, between / np.maximum(length, 1e-6)[:, None])
    first = 1 / (1 + np.exp(np.clip(pairs[:, LOG_LIGHT_2] - pairs[:, LOG_LIGHT_1], -50, 50)))
    found = _named("axis", axis)
    found |= _named("axis x length", axis * (np.minimum(length, _LONGEST) / 10)[:, None])
    found |= _named("axis x first", axis * first[:, None])
    differences = {name: points(fits, k) - points(fits, _NEAREST) for name, k in _LARGER.items()}
    differences["position"] = points(fits, WIDEST) - uvw
    per_depth = 1 / (1 + uvw[:, 2:])
    for name, difference in differences.items():
        limited = np.clip(difference, -_MOST_DIFFERENCE, _MOST_DIFFERENCE)
        found |= _named(f"{name} larger", limited) | _named(f"{name} larger, deep", limited * per_depth)
    found = products({"s": centred_depth(uvw[:, 2])}, found)
    place = uvw / [24, 68, 1]
    place[:, 2] = centred_depth(uvw[:, 2])
    return found | _named("position", place) | _named("position2", place**2) | _line(uvw, axes)


def _line(uvw: Floats, axes: Floats) -> dict[str, Floats]:
    """Local components of the direction from the origin; it has none along v."""
    xyz = xyz_from_uvw(uvw)
    local = np.einsum("nak,nk->na", axes, xyz / np.linalg.norm(xyz, axis=1, keepdims=True))
    return {"line u": local[:, 0], "line w": local[:, 2]}


def _named(name: str, vectors: Floats) -> dict[str, Floats]:
    return {f"{name} {axis}": vectors[:, k] for k, axis in enumerate(AXES)}


def directions(uvw: Floats, x: dict[str, Floats], coefficients: tuple[Coefficients, ...]) -> Floats:
    """Unit vectors (N, 3), x y z."""
    local = np.stack([evaluate(c, x) for c in coefficients], 1)
    vector = np.einsum("nak,na->nk", local_axes(uvw[:, 1]), local)
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-9))


def calibrate(uvw: Floats, x: dict[str, Floats], truth: Floats) -> tuple[Coefficients, Coefficients, Coefficients]:
    """Coefficients of the components along u, v, w from true unit vectors (N, 3), x y z."""
    local = np.einsum("nak,nk->na", local_axes(uvw[:, 1]), truth)
    u, v, w = (fit(x, local[:, k], width_factor=_WIDTH_FACTOR, penalty=_PENALTY) for k in range(3))
    return u, v, w
