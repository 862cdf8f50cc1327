"""Photons in the detector, one by one: the common steps of all photon transport, compiled. cm.

A photon flies straight between Rayleigh scatterings and walls. On a sensor it enters the window with the
Fresnel probability, else it is reflected as by a mirror; on anything else it is reflected diffusely with a
small probability, else absorbed.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.compiled import compiled, inner
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.cascade.final_states import rotate
from xecml.simulation.light.optics import CHIP_HALF, CHIP_OFFSET, N_SENSORS, N_SIPM, Optics, window_transmission
from xecml.simulation.volume import INNER, OUTER, next_wall, wall_normal

# fine enough that a cell's nearest sensor is the only one whose sensitive area can reach into it
_RASTER_SIPM, _RASTER_PMT = 0.2, 0.4  # cm
_OFF_WALL = 1e-7  # cm


class Raster(NamedTuple):
    """Which sensor is near a point of a wall: the nearest one to each cell of a fine grid over each face."""

    ids: NDArray[np.int16]
    """all faces one after the other; each face is rows along its first coordinate"""
    start: NDArray[np.int64]
    """(6,) where a face begins in `ids`"""
    columns: NDArray[np.int64]
    """(6,)"""
    low: Floats
    """(6, 2) smallest first and second coordinate of a face"""
    step: Floats
    """(6, 2)"""
    xyz: Floats
    """(4760, 3) sensor positions"""


# wall coordinates: azimuth about -x and z on the cylinders, azimuth and r on the ends, r and z on the sides
@inner
def _wall_coordinates(face: int, x: float, y: float, z: float) -> tuple[float, float]:
    if face in (INNER, OUTER):
        return math.atan2(y, -x), z
    r = math.sqrt(x * x + y * y)
    if face <= OUTER:
        return math.atan2(y, -x), r
    return r, z


def _face_grid(face: int) -> tuple[Floats, Floats]:
    """Cell centres along the two coordinates of a face."""
    azimuth = np.radians(geometry.HALF_OPENING_DEG)
    r_in, r_out, z_out = geometry.INNER_RADIUS, geometry.OUTER_RADIUS, geometry.HALF_LENGTH_OUTER
    spans = {
        0: ((-azimuth, azimuth, r_in), (-z_out, z_out, 1.0)),
        3: ((-azimuth, azimuth, r_out), (-z_out, z_out, 1.0)),
        1: ((-azimuth, azimuth, r_out), (r_in, r_out, 1.0)),
        2: ((-azimuth, azimuth, r_out), (r_in, r_out, 1.0)),
        4: ((r_in, r_out, 1.0), (-z_out, z_out, 1.0)),
        5: ((r_in, r_out, 1.0), (-z_out, z_out, 1.0)),
    }
    cell = _RASTER_SIPM if face == 0 else _RASTER_PMT
    centres = []
    for low, high, cm in spans[face]:
        n = int(np.ceil((high - low) * cm / cell))
        centres.append(low + (high - low) * (np.arange(n) + 0.5) / n)
    return centres[0], centres[1]


def _wall_points(face: int, first: Floats, second: Floats) -> Floats:
    a, b = np.meshgrid(first, second, indexing="ij")
    if face in (0, 3):
        r, azimuth, z = np.full_like(a, geometry.INNER_RADIUS if face == 0 else geometry.OUTER_RADIUS), a, b
    elif face in (1, 2):
        r, azimuth, z = b, a, geometry.half_length(b) * (-1 if face == 1 else 1)
    else:
        half = np.radians(geometry.HALF_OPENING_DEG)
        r, azimuth, z = a, np.full_like(a, half if face == 4 else -half), b
    return np.stack([-r * np.cos(azimuth), r * np.sin(azimuth), z], axis=-1).reshape(-1, 3)


@cache
def raster() -> Raster:
    """Build the raster of the ideal geometry (about 0.3 s)."""
    from scipy.spatial import KDTree

    xyz, codes = geometry.positions(), geometry.face_codes()
    ids, start, columns, low, step = [], [], [], [], []
    total = 0
    for face in range(6):
        first, second = _face_grid(face)
        members = np.flatnonzero(codes == face)
        nearest = KDTree(xyz[members]).query(_wall_points(face, first, second))[1]
        ids.append(members[nearest].astype(np.int16))
        start.append(total)
        columns.append(len(second))
        cell = (first[1] - first[0], second[1] - second[0])
        low.append((first[0] - cell[0] / 2, second[0] - cell[1] / 2))
        step.append(cell)
        total += len(nearest)
    return Raster(np.concatenate(ids), np.array(start), np.array(columns), np.array(low), np.array(step), np.array(xyz))


@compiled
def sensor_at(raster: Raster, face: int, x: float, y: float, z: float) -> int:
    """Sensor whose sensitive area holds a point of a wall, or -1."""
    a, b = _wall_coordinates(face, x, y, z)
    i = int((a - raster.low[face, 0]) / raster.step[face, 0])
    j = int((b - raster.low[face, 1]) / raster.step[face, 1])
    columns = raster.columns[face]
    end = raster.start[face + 1] if face < 5 else raster.ids.shape[0]
    cell = raster.start[face] + i * columns + j
    if i < 0 or j < 0 or j >= columns or cell >= end:
        return -1
    s = int(raster.ids[cell])
    dx, dy, dz = x - raster.xyz[s, 0], y - raster.xyz[s, 1], z - raster.xyz[s, 2]
    d2 = dx * dx + dy * dy + dz * dz
    if s >= N_SIPM:
        return s if d2 < geometry.PMT_RADIUS * geometry.PMT_RADIUS else -1
    along = abs(math.sqrt(max(d2 - dz * dz, 0.0)) - CHIP_OFFSET)
    across = abs(abs(dz) - CHIP_OFFSET)
    return s if along < CHIP_HALF and across < CHIP_HALF else -1


@compiled
def rayleigh_cosine(rng: np.random.Generator) -> float:
    """Cosine of a Rayleigh scattering, (1 + c^2)."""
    while True:
        c = 2.0 * rng.random() - 1.0
        if 2.0 * rng.random() < 1.0 + c * c:
            return c


@compiled
def isotropic(rng: np.random.Generator) -> tuple[float, float, float]:
    """Direction uniform over the sphere."""
    c = 2.0 * rng.random() - 1.0
    phi = 2.0 * math.pi * rng.random()
    s = math.sqrt(1.0 - c * c)
    return s * math.cos(phi), s * math.sin(phi), c


@compiled
def at_wall(rng: np.random.Generator, optics: Optics, raster: Raster, face: int, p: Floats, u: Floats) -> int:
    """Decide what happens to a photon at a wall; p (3) and u (3) are changed in place if it is reflected.

    Returns:
        The sensor it enters; -1 if it was reflected; -2 if the wall absorbed it.
    """
    nx, ny, nz = wall_normal(face, p[0], p[1], p[2])
    cosine = -(u[0] * nx + u[1] * ny + u[2] * nz)
    sensor = sensor_at(raster, face, p[0], p[1], p[2])
    if sensor >= 0:
        if rng.random() < window_transmission(cosine, optics.n_xenon, optics.n_window):
            return sensor
        u[0] += 2.0 * cosine * nx
        u[1] += 2.0 * cosine * ny
        u[2] += 2.0 * cosine * nz
    else:
        if rng.random() > optics.wall_reflectivity:
            return -2
        # normal plus a point of the unit sphere is Lambertian
        a, b, c = isotropic(rng)
        a, b, c = a + nx, b + ny, c + nz
        norm = max(math.sqrt(a * a + b * b + c * c), 1e-12)
        u[0], u[1], u[2] = a / norm, b / norm, c / norm
    p[0] += _OFF_WALL * nx
    p[1] += _OFF_WALL * ny
    p[2] += _OFF_WALL * nz
    return -1


@compiled
def trace_point(
    rng: np.random.Generator,
    optics: Optics,
    raster: Raster,
    x: float,
    y: float,
    z: float,
    t: float,
    n: int,
    direct: Floats,
    indirect: Floats,
    times: Floats,
) -> None:
    """Trace n photons from a point emitted at time t (ns) until each is gone.

    Args:
        rng: numpy Generator.
        optics: optical constants.
        raster: sensors on the walls.
        x: place of emission, cm.
        y: the same.
        z: the same.
        t: time of emission, ns.
        n: number of photons.
        direct: (4760,) photons that came straight; added to.
        indirect: (4760,) photons that were scattered or reflected; added to.
        times: (3, 4760) sums of arrival times of direct and of indirect photons, and of squared times of all.
    """
    p, u = np.empty(3), np.empty(3)
    for _ in range(n):
        p[0], p[1], p[2] = x, y, z
        u[0], u[1], u[2] = isotropic(rng)
        lifetime = optics.absorption_length * rng.standard_exponential()
        path, straight = 0.0, True
        while True:
            wall, face = next_wall(p[0], p[1], p[2], u[0], u[1], u[2])
            free = optics.rayleigh_length * rng.standard_exponential()
            step = min(wall, free)
            path += step
            if path > lifetime:
                break
            p[0] += step * u[0]
            p[1] += step * u[1]
            p[2] += step * u[2]
            if free < wall:
                u[0], u[1], u[2] = rotate(u[0], u[1], u[2], rayleigh_cosine(rng), 2.0 * math.pi * rng.random())
            else:
                sensor = at_wall(rng, optics, raster, face, p, u)
                if sensor >= 0:
                    arrival = t + path / optics.group_velocity
                    times[0 if straight else 1, sensor] += arrival
                    times[2, sensor] += arrival * arrival
                    if straight:
                        direct[sensor] += 1.0
                    else:
                        indirect[sensor] += 1.0
                if sensor != -1:
                    break
            straight = False


def new_counters() -> tuple[Floats, Floats, Floats]:
    """Zeroed `direct`, `indirect` and `times` of `trace_point`."""
    return np.zeros(N_SENSORS), np.zeros(N_SENSORS), np.zeros((3, N_SENSORS))
