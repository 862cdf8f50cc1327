"""Photons followed backwards from a sensor into the xenon, for the map of indirect light. Compiled. cm.

The first decisions of a photon (place, direction, first flight, first scattering) come from a low-discrepancy sequence
and most photons are made to scatter before the first wall, with a weight: light scattered once is most of the indirect
light and comes out far smoother so.
"""

from __future__ import annotations

import math

import numpy as np

from xecml.compiled import compiled, inner
from xecml.geometry import END_SLOPE, HALF_OPENING_DEG, INNER_RADIUS, OUTER_RADIUS
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.cascade.final_states import rotate
from xecml.simulation.light.optics import (
    NEAR_FIELD_RANGE,
    NearField,
    Optics,
    near_field_path,
    near_field_share,
    window_transmission,
)
from xecml.simulation.light.photons import Raster, at_wall, rayleigh_cosine
from xecml.simulation.volume import APEX, DOWNSTREAM, INNER, OUTER, UPSTREAM, next_wall, wall_normal

_DEPTH = OUTER_RADIUS - INNER_RADIUS
_HALF_OPENING = math.radians(HALF_OPENING_DEG)
_STRETCH = 0.5
"""Depth coordinates are denser near the inner face: 1.5 s / (s + 0.5) for a share s of the full depth."""
SPACING = 5.0
"""Mean distance of the points that sample a track, cm."""
_START_OFF = 1e-6
_SCATTER_SHARE = 0.8
"""Share of the photons that scatter before the first wall."""
# Roberts's additive recurrence in eight dimensions: powers of the root of x^9 = x + 1
_ROOT = 1.0850702454914508
_STEPS = tuple(_ROOT**-k for k in range(1, 9))


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
def _place(xyz: Floats, normal: Floats, face: int, half: float, q0: float, q1: float, p: Floats) -> None:
    """Place p on the sensor: a square for a SiPM, a disc for a photomultiplier; q0 and q1 are uniform."""
    if face == INNER:
        a, b = half * (2.0 * q0 - 1.0), half * (2.0 * q1 - 1.0)
    else:
        radius = half * math.sqrt(q0)
        a, b = radius * math.cos(2.0 * math.pi * q1), radius * math.sin(2.0 * math.pi * q1)
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


@inner
def _aim(optics: Optics, face: int, q0: float, q1: float, p: Floats, u: Floats) -> float:
    """Set a direction u that the window accepts and move p off the wall; returns the photon's weight."""
    nx, ny, nz = wall_normal(face, p[0], p[1], p[2])
    critical = max(1.0 - (optics.n_window / optics.n_xenon) ** 2, 0.0)
    c = math.sqrt(critical + (1.0 - critical) * q0)
    u[0], u[1], u[2] = rotate(nx, ny, nz, c, 2.0 * math.pi * q1)
    p[0] += _START_OFF * nx
    p[1] += _START_OFF * ny
    p[2] += _START_OFF * nz
    return (1.0 - critical) * window_transmission(c, optics.n_xenon, optics.n_window)


@inner
def _move(p: Floats, u: Floats, step: float) -> None:
    for k in range(3):
        p[k] += step * u[k]


@inner
def _first_flight(
    rng: np.random.Generator, optics: Optics, raster: Raster, q: Floats, p: Floats, u: Floats
) -> tuple[float, float]:
    """Fly to the first scattering or reflection; returns the weight, 0 if the photon is lost, and the path."""
    wall, face = next_wall(p[0], p[1], p[2], u[0], u[1], u[2])
    passes = math.exp(-wall / optics.rayleigh_length)
    if q[4] < _SCATTER_SHARE:
        free = -optics.rayleigh_length * math.log(1.0 - q[4] / _SCATTER_SHARE * (1.0 - passes))
        _move(p, u, free)
        # the cosine of 3/8 (1 + c^2) by Cardano's formula
        h = 4.0 * q[5] - 2.0
        root = math.sqrt(h * h + 1.0)
        c = (h + root) ** (1.0 / 3.0) - (root - h) ** (1.0 / 3.0)
        u[0], u[1], u[2] = rotate(u[0], u[1], u[2], c, 2.0 * math.pi * q[6])
        return (1.0 - passes) / _SCATTER_SHARE, free
    _move(p, u, wall)
    if at_wall(rng, optics, raster, face, p, u) != -1:
        return 0.0, wall
    return passes / (1.0 - _SCATTER_SHARE), wall


@inner
def _score(
    rng: np.random.Generator,
    optics: Optics,
    p: Floats,
    u: Floats,
    step: float,
    path: float,
    weight: float,
    sums: Floats,
) -> None:
    """Add the points of a track, each worth `SPACING`, to the boxes they lie in."""
    n0, n1, n2 = sums.shape[1], sums.shape[2], sums.shape[3]
    s = rng.random() * SPACING
    while s < step:
        a, b, c = map_coordinates(p[0] + s * u[0], p[1] + s * u[1], p[2] + s * u[2])
        i, j, k = min(int(a * n0), n0 - 1), min(int(b * n1), n1 - 1), min(int(c * n2), n2 - 1)
        if i >= 0 and j >= 0 and k >= 0:
            w = weight * SPACING * math.exp(-(path + s) / optics.absorption_length)
            sums[0, i, j, k] += w
            sums[1, i, j, k] += w * (path + s)
            sums[2, i, j, k] += w * (path + s) ** 2
        s += SPACING


@compiled
def track_lengths(
    rng: np.random.Generator,
    optics: Optics,
    raster: Raster,
    xyz: Floats,
    normal: Floats,
    face: int,
    half: float,
    n: int,
    sums: Floats,
) -> None:
    """Add the track lengths (cm), beyond the first scattering or reflection, of n photons from a sensor.

    Tracks are sampled at points with a random offset; absorption is a weight.

    Args:
        rng: numpy Generator.
        optics: optical constants.
        raster: sensors on the walls.
        xyz: (3,) centre of the sensor.
        normal: (3,) its normal.
        face: its face code.
        half: half side of a SiPM, radius of a photomultiplier.
        n: number of photons.
        sums: (3, boxes) added to: length, length times path from the sensor, length times squared path.
    """
    p, u, q = np.empty(3), np.empty(3), rng.random(8)
    for _ in range(n):
        for k in range(8):
            q[k] = (q[k] + _STEPS[k]) % 1.0
        _place(xyz, normal, face, half, q[0], q[1], p)
        weight = _aim(optics, face, q[2], q[3], p, u)
        more, path = _first_flight(rng, optics, raster, q, p, u)
        weight *= more
        while weight > 0.0:
            wall, where = next_wall(p[0], p[1], p[2], u[0], u[1], u[2])
            free = optics.rayleigh_length * rng.standard_exponential()
            step = min(wall, free)
            _score(rng, optics, p, u, step, path, weight, sums)
            path += step
            _move(p, u, step)
            if free < wall:
                u[0], u[1], u[2] = rotate(u[0], u[1], u[2], rayleigh_cosine(rng), 2.0 * math.pi * rng.random())
            elif at_wall(rng, optics, raster, where, p, u) != -1:
                break


@compiled
def near_field_in_boxes(
    optics: Optics, near: NearField, xyz: Floats, normal: Floats, area: float, sums: Floats
) -> None:
    """Take the near field's means over each box (3 x 3 x 3 points) from `sums`, (3, boxes): shares as there."""
    n0, n1, n2 = sums.shape[1], sums.shape[2], sums.shape[3]
    attenuation = 1.0 / (1.0 / optics.absorption_length + 1.0 / optics.rayleigh_length)
    for i in range(3 * n0):
        r = radius_at((i + 0.5) / (3 * n0))
        z_half = APEX + END_SLOPE * r
        for j in range(3 * n1):
            azimuth = _HALF_OPENING * (2.0 * (j + 0.5) / (3 * n1) - 1.0)
            dx, dy = -r * math.cos(azimuth) - xyz[0], r * math.sin(azimuth) - xyz[1]
            if dx * dx + dy * dy > NEAR_FIELD_RANGE * NEAR_FIELD_RANGE:
                continue
            for k in range(3 * n2):
                dz = z_half * (2.0 * (k + 0.5) / (3 * n2) - 1.0) - xyz[2]
                d = math.sqrt(dx * dx + dy * dy + dz * dz)
                c = (dx * normal[0] + dy * normal[1] + dz * normal[2]) / d
                f = near_field_share(near, optics, attenuation, area, d, c) / 27.0
                path = near_field_path(near, d, c)
                sums[0, i // 3, j // 3, k // 3] -= f
                sums[1, i // 3, j // 3, k // 3] -= f * path
                sums[2, i // 3, j // 3, k // 3] -= f * path * path
