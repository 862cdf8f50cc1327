"""Solid angles of the sensors, and the light of a point that they see. Compiled. cm, sr.

A SiPM is one square of its active area, a PMT's cathode a disc.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.compiled import compiled
from xecml.geometry import N_SENSORS, N_SIPM, PMT_RADIUS, SIPM_AREA, normals, positions
from xecml.simulation.light.direct import rectangle_solid_angle

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HALF_SIPM = 0.5 * math.sqrt(SIPM_AREA)
"""Half side of the square of a SiPM's active area, 11.8 mm."""
RAYLEIGH_LENGTH, ABSORPTION_LENGTH = 30.0, 300.0

_PMT_AREA = math.pi * PMT_RADIUS**2
# half of a cathode's rim: cosines and weights of the trapezoidal rule
_RIM = tuple((math.cos(math.pi * k / 8), 2 * math.pi / 8 * (0.5 if k in (0, 8) else 1.0)) for k in range(9))


@compiled
def disc_solid_angle(offset: float, height: float, radius: float) -> float:
    """Solid angle (sr) of a disc from `height` above its plane, `offset` from its axis, cm.

    It is the integral of (1 - cos theta) d phi along the rim, with theta and phi about the perpendicular to the plane:
    a smooth periodic function of the angle on the disc, for which the trapezoidal rule converges exponentially.
    """
    if height <= 0.0:
        return 0.0
    total = 0.0
    fixed = height * height + offset * offset + radius * radius
    for cosine, weight in _RIM:
        along = offset * radius * cosine
        d = math.sqrt(fixed + 2.0 * along)
        total += weight * (radius * radius + along) / (d * (d + height))
    return total


@compiled
def sensor_solid_angle(x: float, y: float, z: float, s: int, xyz: Floats, normal: Floats) -> float:
    """Solid angle (sr) of sensor `s` from a point, cm; 0 from behind it."""
    dx, dy, dz = x - xyz[s, 0], y - xyz[s, 1], z - xyz[s, 2]
    nx, ny = normal[s, 0], normal[s, 1]
    h = dx * nx + dy * ny + dz * normal[s, 2]
    if h <= 0.0:
        return 0.0
    d2 = dx * dx + dy * dy + dz * dz
    sipm = s < N_SIPM
    if sipm and d2 < 16.0:
        # a SiPM's normal has no part along z
        return rectangle_solid_angle(ny * dx - nx * dy, dz, h, HALF_SIPM)
    if not sipm and d2 < 144.0:
        return disc_solid_angle(math.sqrt(max(d2 - h * h, 0.0)), h, PMT_RADIUS)
    # h / d^3 is harmonic: its mean over the sensor is its value at the centre and the second moment's correction
    area, moment = (SIPM_AREA, SIPM_AREA / 24.0) if sipm else (_PMT_AREA, PMT_RADIUS * PMT_RADIUS / 8.0)
    return float(area * h / (d2 * math.sqrt(d2)) * (1.0 + moment * (9.0 - 15.0 * h * h / d2) / d2))


@compiled
def _fill_solid_angles(points: Floats, xyz: Floats, normal: Floats, omega: Floats) -> None:
    for e in range(points.shape[0]):
        for s in range(xyz.shape[0]):
            omega[e, s] = sensor_solid_angle(points[e, 0], points[e, 1], points[e, 2], s, xyz, normal)


@compiled
def _fill_light(points: Floats, xyz: Floats, normal: Floats, light: Floats) -> None:
    attenuation = 1.0 / RAYLEIGH_LENGTH + 1.0 / ABSORPTION_LENGTH
    for e in range(points.shape[0]):
        x, y, z = points[e, 0], points[e, 1], points[e, 2]
        for s in range(xyz.shape[0]):
            d = math.sqrt((x - xyz[s, 0]) ** 2 + (y - xyz[s, 1]) ** 2 + (z - xyz[s, 2]) ** 2)
            scattered = (SIPM_AREA if s < N_SIPM else _PMT_AREA) / (RAYLEIGH_LENGTH * d)
            direct = sensor_solid_angle(x, y, z, s, xyz, normal)
            light[e, s] = (direct + scattered) / (4.0 * math.pi) * math.exp(-attenuation * d)


@compiled
def _pick_solid_angles(points: Floats, event: Ints, sensor: Ints, xyz: Floats, normal: Floats, omega: Floats) -> None:
    for i in range(len(event)):
        p = points[event[i]]
        omega[i] = sensor_solid_angle(p[0], p[1], p[2], sensor[i], xyz, normal)


@compiled
def _fill_distances(points: Floats, xyz: Floats, distance: Floats) -> None:
    for e in range(points.shape[0]):
        for s in range(xyz.shape[0]):
            dx, dy, dz = points[e, 0] - xyz[s, 0], points[e, 1] - xyz[s, 1], points[e, 2] - xyz[s, 2]
            distance[e, s] = math.sqrt(dx * dx + dy * dy + dz * dz)


def solid_angles(points: ArrayLike) -> Floats:
    """Solid angles (N, 4760) in sr of all sensors from points (N, 3), x, y, z in cm.

    A SiPM is a square of its active area, a PMT a disc: exact nearby, good to 0.2 % beyond 4 and 12 cm.
    """
    where = np.ascontiguousarray(points, np.float64)
    omega = np.empty((len(where), N_SENSORS))
    _fill_solid_angles(where, positions(), normals(), omega)
    return omega


def light_shares(points: ArrayLike) -> Floats:
    """Shares (N, 4760) of the light of points (N, 3), x, y, z in cm, that sensors see directly and scattered once.

    Direct light is the solid angle over 4 pi, attenuated. Light scattered once on its way falls with 1 / distance; its
    share is about A / (4 pi L d) for a sensor of area A and the Rayleigh length L, whatever the angle.
    """
    where = np.ascontiguousarray(points, np.float64)
    light = np.empty((len(where), N_SENSORS))
    _fill_light(where, positions(), normals(), light)
    return light


def solid_angles_of(points: ArrayLike, event: Ints, sensor: Ints) -> Floats:
    """Solid angles of single sensors from the points (N, 3) of single events, flat: as `solid_angles`."""
    omega = np.empty(len(event))
    _pick_solid_angles(np.ascontiguousarray(points, np.float64), event, sensor, positions(), normals(), omega)
    return omega


def distances(points: ArrayLike) -> Floats:
    """Distances (N, 4760) in cm of points (N, 3) to all sensors."""
    where = np.ascontiguousarray(points, np.float64)
    distance = np.empty((len(where), N_SENSORS))
    _fill_distances(where, positions(), distance)
    return distance
