"""Points of light in windows of growing size around the brightest sensor, from which the position is made. cm.

In a small window the light of a photon's first interaction rules, in larger ones that of the whole shower; so the fits
to one event differ, and their differences point along the shower.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.compiled import side_by_side
from xecml.conventional.local_fit import FIT_COLUMNS, LOG_LIGHT, SIGMA_U, U, fit_ladder, lattice

Floats = NDArray[np.float64]

WINDOWS = (2.0, 3.0, 4.0, 5.5, 8.0, 12.0)
"""Half sizes of the windows in sensors."""
WIDEN = 1.05
"""Windows reach a little farther, so that sensors at their edge do not depend on rounding."""
DEPTH_WINDOW, WIDEST = WINDOWS.index(4.0), len(WINDOWS) - 1
"""The window whose depth chooses among the others, and the largest."""


def fit_windows(npho: ArrayLike, live: ArrayLike, threads: int = 1) -> Floats:
    """Fit a point of light to the inner face in each window.

    Args:
        npho: photons (N, 4760).
        live: (N, 4760) sensors whose counts may serve, those that counted nothing among them.
        threads: to fit in.

    Returns:
        Fits (N, 6, 9) with the columns of `xecml.conventional.local_fit`: u, v, w (cm), logarithm of the photons, chi2,
        sensors, and the standard deviations of u, v, w (cm) that photostatistics gives; NaN where there is no light.
    """
    counts, good = np.ascontiguousarray(npho, np.float32), np.ascontiguousarray(live, bool)
    fits = np.full((len(counts), len(WINDOWS), FIT_COLUMNS), np.nan)
    grid, halves = lattice(), WIDEN * np.array(WINDOWS)
    side_by_side(lambda e: fit_ladder(counts[e], good[e], grid, halves, fits[e]), len(counts), threads)
    return fits


def points(fits: Floats, window: int) -> Floats:
    """Positions u, v, w (N, 3) in cm of the fits in a window."""
    return fits[:, window, U : U + 3]


def lights(fits: Floats, window: int) -> Floats:
    """Photons (N,) of the fits in a window."""
    return np.asarray(np.exp(fits[:, window, LOG_LIGHT]))


def standard_deviations(fits: Floats, window: int) -> Floats:
    """Of u, v, w (N, 3) in cm, as photostatistics gives them."""
    return fits[:, window, SIGMA_U : SIGMA_U + 3]
