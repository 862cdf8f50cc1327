"""Material in front of the xenon: interactions of the photon there, and its shower. Compiled. cm.

The first part is the coil of the magnet. It is far before the xenon, in its field, which takes electrons away: photons
that convert there are lost. The rest, windows and sensors, is close.
"""

from __future__ import annotations

import math

import numpy as np

from xecml.compiled import inner
from xecml.simulation.cascade.cross_sections import Floats, radiation_length
from xecml.simulation.volume import inside_calorimeter

_CONVERSIONS_PER_RADIATION_LENGTH = 7.0 / 9.0
_RADIATION_LENGTH = radiation_length()
_MAGNET_SHARE = 0.197 / 0.45
"""Of the material: the coil of the magnet has 0.197 radiation lengths (MEG 2013)."""
PASSES, CONVERTS, LOST = range(3)
"""Fates of a photon in the material in front."""


@inner
def front_thickness(material: float) -> float:
    """Thickness (cm) of xenon in the place of the close part of so many radiation lengths of material."""
    return float((1.0 - _MAGNET_SHARE) * _RADIATION_LENGTH * material)


@inner
def through_material(rng: np.random.Generator, material: float, entry: Floats, direction: Floats) -> tuple[int, float]:
    """Draw what becomes of a photon in so many radiation lengths of material in front of the xenon.

    Args:
        rng: generator.
        material: radiation lengths, radially.
        entry: into the xenon (3,), cm.
        direction: unit vector (3,).

    Returns:
        PASSES, CONVERTS or LOST, and the way (cm) left to the inner face where it converts.
    """
    radius = math.sqrt(entry[0] ** 2 + entry[1] ** 2)
    cosine = max((entry[0] * direction[0] + entry[1] * direction[1]) / radius, 0.05)
    thickness = material / cosine
    way = rng.standard_exponential() / _CONVERSIONS_PER_RADIATION_LENGTH
    if way >= thickness:
        return PASSES, 0.0
    return LOST if way < _MAGNET_SHARE * thickness else CONVERTS, _RADIATION_LENGTH * (thickness - way)


@inner
def forget_front(deposits: Floats, n: int, first: Floats) -> int:
    """Keep those of n deposits (n, 5: x, y, z, t, energy) that are in the xenon; returns their number.

    `first` (4,) becomes the earliest of them, the first interaction; its time is negative if there is none.
    """
    kept = 0
    first[3] = -1.0
    for k in range(n):
        if inside_calorimeter(deposits[k, 0], deposits[k, 1], deposits[k, 2]):
            deposits[kept, :] = deposits[k, :]
            if first[3] < 0.0 or deposits[k, 3] < first[3]:
                first[:] = deposits[k, :4]
            kept += 1
    return kept
