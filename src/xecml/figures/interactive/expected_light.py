"""Counts and times that a repair expects at every sensor of an event, measured or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.conventional.pointsource import PointSource, fit_point_source
from xecml.conventional.solidangles import light_shares
from xecml.events import INVALID
from xecml.geometry import N_SENSORS
from xecml.inference.repair_models import Repair

FOLDS = 20
"""Parts of the sensors that are hidden in turn: 5 % at a time, as inpainters are trained."""

Marks = NDArray[np.bool_]


def light_of_a_point(npho: NDArray[Any], live: Marks) -> tuple[NDArray[np.float32], PointSource]:
    """Photons (N, 4760) if all light came from one point, direct and scattered once, and the fitted points.

    Place and photons are those of the fit, which looks at the inner face near the hot spot: light that was reflected or
    scattered more than once is not in it. 1e10 where there was nothing to fit.

    Args:
        npho: counts (N, 4760).
        live: (N, 4760) sensors that were read and are neither dead nor filled.
    """
    source = fit_point_source(npho, live)
    light = light_shares(source.xyz) * source.photons[:, None]
    expected = np.where(source.found[:, None], light, INVALID)
    return expected.astype(np.float32), source


def by_hiding(
    repair: Repair, npho: NDArray[Any], time: NDArray[Any], dead: Marks, *, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a repair says of every sensor without seeing it: photons and seconds (N, 4760).

    A twentieth of the sensors at a time is hidden with the dead ones, so that every answer is of a sensor that the
    repair did not see.

    Args:
        repair: that fills sensors.
        npho: counts (N, 4760) in the branch of the repair.
        time: times (N, 4760), likewise.
        dead: (N, 4760) sensors that are hidden always.
        seed: of the choice of the twentieths, the same in all events.
    """
    fold = np.random.default_rng(seed).permutation(N_SENSORS) % FOLDS
    counts, times = np.empty_like(npho), np.empty_like(time)
    for k in range(FOLDS):
        asked = fold == k
        filled = repair.fill(npho, time, dead | asked)
        counts[:, asked], times[:, asked] = filled[0][:, asked], filled[1][:, asked]
    return counts, times
