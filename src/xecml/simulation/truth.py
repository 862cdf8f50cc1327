"""The columns of truth that a block fills for each event. Compiled. cm, ns, MeV."""

from __future__ import annotations

import math

import numpy as np

from xecml.compiled import compiled
from xecml.events import INVALID
from xecml.simulation.cascade.cross_sections import Floats

ENERGY, OFFSET, FIRST, VERTEX, DIRECTION, DEPOSITED, CENTROID, AXIS, N_GAMMA, TRIED, PHE_FACE = (
    0, 1, 2, 5, 8, 11, 12, 15, 18, 19, 20,
)  # fmt: skip
TRUTH_COLUMNS = 26


@compiled
def no_shower_truth(truth: Floats) -> None:
    """Truth of an event without a photon: no energy, and 1e10 for what there is not."""
    for k in range(TRUTH_COLUMNS):
        truth[k] = 0.0 if k in (ENERGY, DEPOSITED) or k >= N_GAMMA else INVALID


@compiled
def shower_truth(deposits: Floats, n: int, first: Floats, direction: Floats, truth: Floats) -> None:
    """Fill first interaction, deposited energy, its centre of gravity and its principal axis (along the photon)."""
    total = 0.0
    centre = np.zeros(3)
    for k in range(n):
        total += deposits[k, 4]
        for a in range(3):
            centre[a] += deposits[k, 4] * deposits[k, a]
    moments = np.zeros((3, 3))
    for a in range(3):
        centre[a] /= total
    for k in range(n):
        for a in range(3):
            for b in range(3):
                moments[a, b] += deposits[k, 4] * (deposits[k, a] - centre[a]) * (deposits[k, b] - centre[b])
    axis, turned = np.empty(3), np.empty(3)
    for a in range(3):
        axis[a] = direction[a]
    # the largest eigenvector by repeated multiplication; a single deposit keeps the photon's direction
    for _ in range(40):
        for a in range(3):
            turned[a] = moments[a, 0] * axis[0] + moments[a, 1] * axis[1] + moments[a, 2] * axis[2]
        norm = math.sqrt(turned[0] ** 2 + turned[1] ** 2 + turned[2] ** 2)
        if norm < 1e-12:
            break
        for a in range(3):
            axis[a] = turned[a] / norm
    sign = 1.0 if axis[0] * direction[0] + axis[1] * direction[1] + axis[2] * direction[2] >= 0.0 else -1.0
    truth[DEPOSITED] = total
    for a in range(3):
        truth[CENTROID + a], truth[AXIS + a], truth[FIRST + a] = centre[a], sign * axis[a], first[a]
