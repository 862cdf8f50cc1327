"""Where photons come from: the two vertex models. Compiled. cm, MeV.

`signal`: decays on the slanted stopping target, isotropic. `decoupled`: entry point uniform over the fiducial
part of the inner face and direction uniform in theta and phi, independent of it, so that position says
nothing about direction. In both, the first interaction must be fiducial; that is decided by the caller.
"""

from __future__ import annotations

import math

import numpy as np

from xecml.geometry import FIDUCIAL_U, FIDUCIAL_V, INNER_RADIUS
from xecml.simulation.compiled import compiled, inner
from xecml.simulation.crosssections import Floats

SIGNAL, DECOUPLED = 0, 1
MODELS = {"signal": SIGNAL, "decoupled": DECOUPLED}

TARGET_SIGMA_Z = 4.1
TARGET_SIGMA_Y = 1.1
TARGET_SLOPE = -0.268
"""The target: x = TARGET_SLOPE z, with Gaussian widths (cm) of the stopping distribution."""

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
def _signal_photon(rng: np.random.Generator, vertex: Floats, entry: Floats, direction: Floats) -> None:
    vertex[2] = TARGET_SIGMA_Z * rng.standard_normal()
    vertex[0] = TARGET_SLOPE * vertex[2]
    vertex[1] = TARGET_SIGMA_Y * rng.standard_normal()
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
def draw_photon(rng: np.random.Generator, model: int, vertex: Floats, entry: Floats, direction: Floats) -> None:
    """Draw a photon that enters the xenon through its inner face.

    Args:
        rng: numpy Generator.
        model: SIGNAL or DECOUPLED.
        vertex: (3,) filled.
        entry: (3,) filled: just behind the inner face.
        direction: (3,) filled, unit vector.
    """
    if model == SIGNAL:
        _signal_photon(rng, vertex, entry, direction)
    else:
        _decoupled_photon(rng, vertex, entry, direction)


@compiled
def is_fiducial(x: float, y: float, z: float) -> bool:
    """Whether a first interaction in the xenon counts."""
    return abs(z) < FIDUCIAL_U and abs(INNER_RADIUS * math.atan2(y, -x)) < FIDUCIAL_V
