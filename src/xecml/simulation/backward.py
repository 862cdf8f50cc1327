"""Photons followed backwards from a sensor into the xenon, for the map of indirect light. Compiled. cm."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.geometry import END_SLOPE, HALF_OPENING_DEG, INNER_RADIUS, OUTER_RADIUS
from xecml.simulation.compiled import compiled, inner
from xecml.simulation.crosssections import Floats
from xecml.simulation.finalstates import rotate
from xecml.simulation.optics import NearField, Optics, near_field_share, window_transmission
from xecml.simulation.photons import Raster, at_wall, rayleigh_cosine
from xecml.simulation.volume import APEX, DOWNSTREAM, INNER, OUTER, UPSTREAM, next_wall, wall_normal

_DEPTH = OUTER_RADIUS - INNER_RADIUS
_HALF_OPENING = math.radians(HALF_OPENING_DEG)
_STRETCH = 0.5
"""Depth coordinates are denser near the inner face: 1.5 s / (s + 0.5) for a share s of the full depth."""
_SPACING = 3.0
"""Mean distance of the points that sample a track, cm."""
_START_OFF = 1e-6


class Grid(NamedTuple):
    """Boxes with equal steps in the coordinates of `map_coordinates`."""

    shape: NDArray[np.int64]
    volume: Floats
    """(depth, azimuth, z) cm3"""


@compiled
def radius_at(depth: float) -> float:
    """Radius (cm) at a depth coordinate from 0 to 1; the inverse of `map_coordinates`."""
    return INNER_RADIUS + _DEPTH * _STRETCH * depth / (1.0 + _STRETCH - depth)


@compiled
def map_coordinates(x: float, y: float, z: float) -> tuple[float, float, float]:
    """Coordinates of the map, each from 0 to 1: stretched depth, azimuth, z over the local half length."""
    r = math.sqrt(x * x + y * y)
    s = max(r - INNER_RADIUS, 0.0)
    depth = (1.0 + _STRETCH) * s / (s + _STRETCH * _DEPTH)
    azimuth = 0.5 * (math.atan2(y, -x) / _HALF_OPENING + 1.0)
    return depth, azimuth, 0.5 * (z / (APEX + END_SLOPE * r) + 1.0)


@inner
def _start(
    rng: np.random.Generator,
    optics: Optics,
    xyz: Floats,
    normal: Floats,
    face: int,
    half: float,
    p: Floats,
    u: Floats,
) -> None:
    """Place p on the sensor and draw a direction u that its window accepts."""
    while True:
        a, b = half * (2.0 * rng.random() - 1.0), half * (2.0 * rng.random() - 1.0)
        if face == INNER or a * a + b * b < half * half:
            break
    norm = math.sqrt(normal[0] ** 2 + normal[1] ** 2)
    ax, ay = -normal[1] / norm, normal[0] / norm
    p[0] = xyz[0] + a * ax - b * normal[2] * ay
    p[1] = xyz[1] + a * ay + b * normal[2] * ax
    p[2] = xyz[2] + b * (normal[0] * ay - normal[1] * ax)
    # onto the curved wall, along r or z
    r = math.sqrt(p[0] * p[0] + p[1] * p[1])
    if face in (INNER, OUTER):
        radius = INNER_RADIUS if face == INNER else OUTER_RADIUS
        p[0] *= radius / r
        p[1] *= radius / r
    elif face in (UPSTREAM, DOWNSTREAM):
        p[2] = (1.0 if face == DOWNSTREAM else -1.0) * (APEX + END_SLOPE * r)
    nx, ny, nz = wall_normal(face, p[0], p[1], p[2])
    while True:
        c = math.sqrt(rng.random())
        if rng.random() < window_transmission(c, optics.n_xenon, optics.n_window):
            break
    u[0], u[1], u[2] = rotate(nx, ny, nz, c, 2.0 * math.pi * rng.random())
    p[0] += _START_OFF * nx
    p[1] += _START_OFF * ny
    p[2] += _START_OFF * nz


@compiled
def track_lengths(
    rng: np.random.Generator,
    optics: Optics,
    raster: Raster,
    grid: Grid,
    xyz: Floats,
    normal: Floats,
    face: int,
    half: float,
    n: int,
    length: Floats,
    length_path: Floats,
) -> None:
    """Add the track lengths (cm), beyond the first scattering or reflection, of n photons from a sensor.

    Tracks are sampled at points with a random offset, each worth `_SPACING`; absorption is a weight.

    Args:
        rng: numpy Generator.
        optics: optical constants.
        raster: sensors on the walls.
        grid: boxes.
        xyz: (3,) centre of the sensor.
        normal: (3,) its normal.
        face: its face code.
        half: half side of a SiPM, radius of a photomultiplier.
        n: number of photons.
        length: (boxes) added to.
        length_path: (boxes) added to: length times the path from the sensor.
    """
    p, u = np.empty(3), np.empty(3)
    n0, n1, n2 = grid.shape[0], grid.shape[1], grid.shape[2]
    for _ in range(n):
        _start(rng, optics, xyz, normal, face, half, p, u)
        path, scored = 0.0, False
        while True:
            wall, where = next_wall(p[0], p[1], p[2], u[0], u[1], u[2])
            free = optics.rayleigh_length * rng.standard_exponential()
            step = min(wall, free)
            if scored:
                s = rng.random() * _SPACING
                while s < step:
                    a, b, c = map_coordinates(p[0] + s * u[0], p[1] + s * u[1], p[2] + s * u[2])
                    i, j, k = min(int(a * n0), n0 - 1), min(int(b * n1), n1 - 1), min(int(c * n2), n2 - 1)
                    if i >= 0 and j >= 0 and k >= 0:
                        w = _SPACING * math.exp(-(path + s) / optics.absorption_length)
                        length[i, j, k] += w
                        length_path[i, j, k] += w * (path + s)
                    s += _SPACING
            path += step
            p[0] += step * u[0]
            p[1] += step * u[1]
            p[2] += step * u[2]
            if free < wall:
                u[0], u[1], u[2] = rotate(u[0], u[1], u[2], rayleigh_cosine(rng), 2.0 * math.pi * rng.random())
            elif at_wall(rng, optics, raster, where, p, u) != -1:
                break
            scored = True


@compiled
def near_field_in_boxes(
    optics: Optics, near: NearField, grid: Grid, xyz: Floats, normal: Floats, area: float
) -> tuple[Floats, Floats]:
    """Mean of the near field's share, and of share times path, over each box (3 x 3 x 3 points)."""
    n0, n1, n2 = grid.shape[0], grid.shape[1], grid.shape[2]
    share, path = np.zeros((n0, n1, n2)), np.zeros((n0, n1, n2))
    attenuation = 1.0 / (1.0 / optics.absorption_length + 1.0 / optics.rayleigh_length)
    for i in range(3 * n0):
        r = radius_at((i + 0.5) / (3 * n0))
        z_half = APEX + END_SLOPE * r
        for j in range(3 * n1):
            azimuth = _HALF_OPENING * (2.0 * (j + 0.5) / (3 * n1) - 1.0)
            dx, dy = -r * math.cos(azimuth) - xyz[0], r * math.sin(azimuth) - xyz[1]
            for k in range(3 * n2):
                dz = z_half * (2.0 * (k + 0.5) / (3 * n2) - 1.0) - xyz[2]
                d = math.sqrt(dx * dx + dy * dy + dz * dz)
                c = (dx * normal[0] + dy * normal[1] + dz * normal[2]) / d
                f = near_field_share(near, optics, attenuation, area, d, c) / 27.0
                share[i // 3, j // 3, k // 3] += f
                path[i // 3, j // 3, k // 3] += f * (d + near.e1 * d / (1.0 + near.e2 * d))
    return share, path
