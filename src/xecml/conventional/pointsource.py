"""A point of light fitted to the inner face's counts: where the light of an event is. cm.

The local solid-angle fit in a narrow window about the brightest spot, or in a wider one for deeper light. The variance
of a count is Poisson's plus a share of its square, because a shower is no point: with Poisson errors alone its few
brightest sensors would rule. Dead sensors take no part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.conventional.local_fit import fit_points, lattice
from xecml.conventional.solidangles import distances, solid_angles_of
from xecml.geometry import xyz_from_uvw

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]

NARROW, WIDE = 2, 4
"""Sensors to each side of the brightest spot that take part in the fit: of shallow light, and of deeper."""
SHALLOW = 4.0
"""Light less deep than this is fitted in the narrow window, cm."""
ENOUGH = 14
"""Sensors that the narrow window must have: over half of it."""
MODEL_ERROR = 0.03
"""Share of a count by which a shower's light differs from a point's."""
SHALLOWEST = 1.0
"""No shower's light is as narrow as that of a point nearer than this, cm; it would dazzle single sensors."""

_START_DEPTHS = (1.5, 4.0)
_LOG_DEPTHS = (math.log(SHALLOWEST), math.log(40.0))


@dataclass(frozen=True)
class PointSource:
    """Fitted points of light of N events.

    Attributes:
        uvw: (N, 3) cm, local frame.
        photons: (N,) photons emitted, if the point were all.
        found: (N,) whether there was light to fit.
    """

    uvw: Floats
    photons: Floats
    found: Marks

    @property
    def xyz(self) -> Floats:
        """The points (N, 3) in cm."""
        return xyz_from_uvw(self.uvw)

    def distances(self) -> Floats:
        """Distances (N, 4760) in cm from the points to all sensors."""
        return distances(self.xyz)

    def direct_light(self, event: Ints, sensor: Ints) -> Floats:
        """Photons S Omega / 4 pi on sensors of events, flat."""
        return self.photons[event] * solid_angles_of(self.xyz, event, sensor) / (4 * np.pi)


def fit_point_source(npho: ArrayLike, live: ArrayLike) -> PointSource:
    """Fit a point of light to the inner face of each event.

    Args:
        npho: photons (N, 4760).
        live: (N, 4760) sensors whose counts may serve, those that counted nothing among them.
    """
    counts, good = np.ascontiguousarray(npho, np.float32), np.ascontiguousarray(live, bool)
    uvw, photons = np.zeros((len(counts), 3)), np.zeros(len(counts))
    windows = np.array([NARROW + 0.5, WIDE + 0.5, ENOUGH, SHALLOW, MODEL_ERROR])
    fit_points(counts, good, lattice(), windows, np.array(_START_DEPTHS), np.array(_LOG_DEPTHS), uvw, photons)
    return PointSource(uvw, photons, photons > 0)
