"""The first interaction from the points of light in windows: corrections for the lattice and for the shower. cm.

The window is chosen by the depth of the light. A point of light lies behind the first interaction, the more the larger
the window: so the differences of fits in larger windows to the chosen one say where back along the shower it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xecml.conventional.robust_fit import Coefficients, evaluate, fit, products
from xecml.conventional.window_ladder import DEPTH_WINDOW, WIDEST, WINDOWS, points
from xecml.geometry import INNER_RADIUS
from xecml.resolution import s68

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEPTH_EDGES = (0.0, 1.0, 2.0, 4.0, 7.0, 12.0)
"""Bins of the depth of the light, cm; the last has no end."""
_PITCH_U, _PITCH_V = 1.5098, 1.5305
_NEAR_LIMIT, _FAR_LIMIT, _MOST = 4.0, 6.0, 6.0
_LARGEST = np.array([33.0, 71.0, 41.3])
_FEWEST = 30
"""Events of a bin of depth that can tell which window is best."""


@dataclass(frozen=True)
class Light:
    """Points of light of N events as the corrections see them; cm.

    Attributes:
        point: (N, 3) fit of the chosen window.
        near: (N, 3) fit two windows larger, less it.
        far: (N, 3) fit of the largest window, less it.
    """

    point: Floats
    near: Floats
    far: Floats

    @property
    def depth(self) -> Floats:
        """ln(1 + w) - 1.5 (N,), the depth as corrections take it."""
        return centred_depth(self.point[:, 2])


def centred_depth(w: Floats) -> Floats:
    """ln(1 + w) - 1.5 of depths in cm."""
    return np.log1p(np.maximum(w, 0.0)) - 1.5


def light(fits: Floats, windows: tuple[int, ...]) -> Light:
    """The points of light of fits (N, 6, 9) by the windows of the bins of depth."""
    chosen = np.asarray(windows)[depth_bins(fits)]
    event = np.arange(len(fits))
    point = fits[event, chosen, :3]
    near = fits[event, np.minimum(chosen + 2, WIDEST), :3] - point
    return Light(
        point,
        np.clip(near, -_NEAR_LIMIT, _NEAR_LIMIT),
        np.clip(points(fits, WIDEST) - point, -_FAR_LIMIT, _FAR_LIMIT),
    )


def depth_bins(fits: Floats) -> Ints:
    """Bins (N,) of the depth of the light in the window that chooses."""
    return np.digitize(points(fits, DEPTH_WINDOW)[:, 2], DEPTH_EDGES[1:])


def columns(seen: Light) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """Columns (N,) that u, v and w are corrected by."""
    u, v, w = seen.point.T
    s = seen.depth
    depth = {"s": s, "s2": s**2}

    def waves(phase: Floats) -> dict[str, Floats]:
        wave = np.sin(2 * np.pi * phase)
        return {"wave": np.exp(-w) * wave, "near wave": np.exp(-3 * w) * wave}

    sideways = np.hypot(seen.far[:, 0], seen.far[:, 1])
    of_u = {"near": seen.near[:, 0], "far": seen.far[:, 0], "u": 10 * u / INNER_RADIUS}
    of_v = {"near": seen.near[:, 1], "far": seen.far[:, 1]}
    of_w = {"near": seen.near[:, 2], "far": seen.far[:, 2], "sideways": sideways}
    return (
        products(depth, of_u) | waves(u / _PITCH_U + 0.5),
        products(depth, of_v) | {"v": v / INNER_RADIUS} | waves(v / _PITCH_V),
        depth | {"s3": s**3} | products(depth, of_w) | {"u2": (u / 24) ** 2, "v2": (v / 68) ** 2, "v4": (v / 68) ** 4},
    )


def corrected(seen: Light, coefficients: tuple[Coefficients, Coefficients, Coefficients]) -> Floats:
    """First interactions (N, 3), u, v, w in cm."""
    change = np.stack([evaluate(c, x) for c, x in zip(coefficients, columns(seen), strict=True)], 1)
    uvw = seen.point + np.clip(change, -_MOST, _MOST)
    return np.clip(uvw, [-_LARGEST[0], -_LARGEST[1], 0.0], _LARGEST)


# ------------------------------------------------------------------------------------------------------ calibration


def best_windows(fits: Floats, truth: Floats) -> tuple[int, ...]:
    """For each bin of depth the window of the smallest spread about the truth (N, 3), summed over u, v, w.

    The largest window serves corrections alone. A bin of too few events has the window of the bin before.
    """
    bins, chosen = depth_bins(fits), list[int]()
    for k in range(len(DEPTH_EDGES)):
        of_bin = bins == k
        if of_bin.sum() < _FEWEST:
            chosen.append(chosen[-1] if chosen else 0)
            continue
        spreads = [
            sum(s68(points(fits, r)[of_bin, axis] - truth[of_bin, axis]) for axis in range(3))
            for r in range(len(WINDOWS) - 1)
        ]
        chosen.append(int(np.argmin(spreads)))
    return tuple(chosen)


def calibrate(seen: Light, truth: Floats) -> tuple[Coefficients, Coefficients, Coefficients]:
    """Coefficients of the corrections of u, v, w from true first interactions (N, 3), cm."""
    u, v, w = (fit(x, truth[:, axis] - seen.point[:, axis]) for axis, x in enumerate(columns(seen)))
    return u, v, w
