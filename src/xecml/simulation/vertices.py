"""Where photons come from. Compiled. cm, MeV.

`signal`: decays on the slanted stopping target, isotropic. `decoupled`: entry point uniform over the fiducial
part of the inner face and direction uniform in theta and phi, independent of it, so that position says
nothing about direction. In both, the first interaction must be fiducial; that is decided by the caller.
`points`: points of light in the xenon, such as alpha sources on wires; there is no photon and no shower.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xecml.compiled import compiled, inner
from xecml.geometry import FIDUCIAL_U, FIDUCIAL_V, INNER_RADIUS
from xecml.simulation.cascade.cross_sections import Floats

SIGNAL, DECOUPLED, POINTS = 0, 1, 2
MODELS = {"signal": SIGNAL, "decoupled": DECOUPLED, "points": POINTS}


class Target(NamedTuple):
    """Where photons of the signal model start: x = slope z, Gaussian in y and z."""

    sigma_z: float
    sigma_y: float
    slope: float


# directions from the target that can reach the fiducial volume, with room to spare
_SIGNAL_COS_THETA = 0.55
_SIGNAL_PHI = 1.25
_DECOUPLED_THETA = (math.radians(60.0), math.radians(120.0))
_DECOUPLED_PHI = math.radians(60.0)
_INTO_XENON = 1e-6


@inner
def _set_direction(direction: Floats, cos_theta: float, phi: float) -> None:
    s = math.sqrt(1.0 - cos_theta * cos_theta)
    direction[0], direction[1], direction[2] = -s * math.cos(phi), s * math.sin(phi), cos_theta


@inner
def _signal_photon(rng: np.random.Generator, target: Target, vertex: Floats, entry: Floats, direction: Floats) -> None:
    vertex[2] = target.sigma_z * rng.standard_normal()
    vertex[0] = target.slope * vertex[2]
    vertex[1] = target.sigma_y * rng.standard_normal()
    cos_theta = _SIGNAL_COS_THETA * (2.0 * rng.random() - 1.0)
    _set_direction(direction, cos_theta, _SIGNAL_PHI * (2.0 * rng.random() - 1.0))
    a = direction[0] ** 2 + direction[1] ** 2
    b = vertex[0] * direction[0] + vertex[1] * direction[1]
    radius = INNER_RADIUS + _INTO_XENON
    distance = (-b + math.sqrt(b * b - a * (vertex[0] ** 2 + vertex[1] ** 2 - radius * radius))) / a
    for k in range(3):
        entry[k] = vertex[k] + distance * direction[k]


@inner
def _decoupled_photon(rng: np.random.Generator, vertex: Floats, entry: Floats, direction: Floats) -> None:
    radius = INNER_RADIUS + _INTO_XENON
    while True:
        azimuth = FIDUCIAL_V / INNER_RADIUS * (2.0 * rng.random() - 1.0)
        entry[0], entry[1] = -radius * math.cos(azimuth), radius * math.sin(azimuth)
        entry[2] = FIDUCIAL_U * (2.0 * rng.random() - 1.0)
        theta = _DECOUPLED_THETA[0] + (_DECOUPLED_THETA[1] - _DECOUPLED_THETA[0]) * rng.random()
        _set_direction(direction, math.cos(theta), _DECOUPLED_PHI * (2.0 * rng.random() - 1.0))
        inward = entry[0] * direction[0] + entry[1] * direction[1]
        if inward > 0.0:
            break
    # the line's point closest to the z axis stands for the vertex
    back = inward / (direction[0] ** 2 + direction[1] ** 2)
    for k in range(3):
        vertex[k] = entry[k] - back * direction[k]


@compiled
def draw_photon(
    rng: np.random.Generator, model: int, target: Target, vertex: Floats, entry: Floats, direction: Floats
) -> None:
    """Draw a photon that enters the xenon through its inner face.

    Args:
        rng: numpy Generator.
        model: SIGNAL or DECOUPLED.
        target: of the signal model.
        vertex: (3,) filled.
        entry: (3,) filled: just behind the inner face.
        direction: (3,) filled, unit vector.
    """
    if model == SIGNAL:
        _signal_photon(rng, target, vertex, entry, direction)
    else:
        _decoupled_photon(rng, vertex, entry, direction)


@compiled
def draw_point(rng: np.random.Generator, points: Floats, vertex: Floats, place: Floats, direction: Floats) -> None:
    """Draw one of the points (n, 3). The axis point at its z stands for the vertex, the radius for the direction."""
    k = int(rng.random() * points.shape[0])
    radius = math.sqrt(points[k, 0] ** 2 + points[k, 1] ** 2)
    for a in range(3):
        place[a] = points[k, a]
        vertex[a] = points[k, 2] if a == 2 else 0.0
        direction[a] = 0.0 if a == 2 else points[k, a] / radius


@compiled
def is_fiducial(x: float, y: float, z: float) -> bool:
    """Whether a first interaction in the xenon counts."""
    return abs(z) < FIDUCIAL_U and abs(INNER_RADIUS * math.atan2(y, -x)) < FIDUCIAL_V
