"""Two points of light and a constant to the inner face: the axis of a shower. Compiled. cm.

The local solid-angle fit with a second point and a background that is the same in every sensor: 9 unknowns, fitted to
a window of 10 sensors to each side of the point of light, from several starts. The axis leads from the shallower point
to the deeper one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.compiled import compiled, inner, side_by_side
from xecml.conventional.local_fit import Lattice, lattice, log_light, select, share, solve
from xecml.conventional.window_ladder import DEPTH_WINDOW, WIDEN, WIDEST, points
from xecml.geometry import INNER_RADIUS, N_SIPM, uvw_from_xyz, xyz_from_uvw

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Marks = NDArray[np.bool_]

HALF_WINDOW = 10 * WIDEN
DEEPER = (3.0, 6.0)
"""How much farther from the origin the second point starts, cm."""
LOG_LIGHT_1, U_1, V_1, W_1, LOG_LIGHT_2, U_2, V_2, W_2, BACKGROUND, CHI2 = range(10)
"""Columns: logarithms of the photons, positions (cm), photons a sensor of the background, chi2."""
_UNKNOWNS, _COLUMNS = 9, 10
_MOST_STEPS = 25
_REACH = 15.0
_LOWEST, _HIGHEST = math.log(0.1), math.log(40.0)


@inner
def _chi2(p: Floats, sensors: Floats, n: int, hessian: Floats, slope: Floats, j: Floats) -> float:
    """chi2, J' V^-1 J and J' V^-1 r of n sensors (u, cosine, sine, count, 1 / V)."""
    hessian[:], slope[:] = 0.0, 0.0
    one, two, w1, w2 = math.exp(p[0]), math.exp(p[4]), math.exp(p[3]), math.exp(p[7])
    c1, s1 = math.cos(p[2] / INNER_RADIUS), math.sin(p[2] / INNER_RADIUS)
    c2, s2 = math.cos(p[6] / INNER_RADIUS), math.sin(p[6] / INNER_RADIUS)
    total, j[8] = 0.0, 1.0
    for i in range(n):
        us, cs, ss, weight = sensors[i, 0], sensors[i, 1], sensors[i, 2], sensors[i, 4]
        a0, a1, a2, a3 = share(p[1], c1, s1, w1, us, cs, ss)
        b0, b1, b2, b3 = share(p[5], c2, s2, w2, us, cs, ss)
        j[0], j[1], j[2], j[3] = one * a0, one * a1, one * a2, one * w1 * a3
        j[4], j[5], j[6], j[7] = two * b0, two * b1, two * b2, two * w2 * b3
        miss = sensors[i, 3] - j[0] - j[4] - p[8]
        total += miss * miss * weight
        for a in range(_UNKNOWNS):
            scaled = j[a] * weight
            slope[a] += scaled * miss
            for b in range(a + 1):
                hessian[a, b] += scaled * j[b]
    return total


@inner
def _limited(p: Floats, step: Floats, u: float, v: float, trial: Floats) -> None:
    """Take a step within limits: on its size, on the distance from (u, v), on the depths; no negative background."""
    for k in (0, 4):
        trial[k] = p[k] + min(max(step[k], -1.0), 1.0)
        trial[k + 1] = min(max(p[k + 1] + min(max(step[k + 1], -1.5), 1.5), u - _REACH), u + _REACH)
        trial[k + 2] = min(max(p[k + 2] + min(max(step[k + 2], -1.5), 1.5), v - _REACH), v + _REACH)
        trial[k + 3] = min(max(p[k + 3] + min(max(step[k + 3], -0.7), 0.7), _LOWEST), _HIGHEST)
    trial[8] = max(p[8] + step[8], 0.0)


@inner
def _minimise(p: Floats, sensors: Floats, n: int, u: float, v: float) -> float:
    """Move p to the nearest minimum of chi2."""
    size = (_UNKNOWNS, _UNKNOWNS)
    hessian, other, lower = np.zeros(size), np.zeros(size), np.zeros(size)
    slope, new_slope, step = np.zeros(_UNKNOWNS), np.zeros(_UNKNOWNS), np.zeros(_UNKNOWNS)
    trial, j = np.zeros(_UNKNOWNS), np.zeros(_UNKNOWNS)
    chi2, damping = _chi2(p, sensors, n, hessian, slope, j), 0.01
    for _ in range(_MOST_STEPS):
        solve(hessian, slope, damping, lower, step, _UNKNOWNS)
        _limited(p, step, u, v, trial)
        new = _chi2(trial, sensors, n, other, new_slope, j)
        if new >= chi2:
            damping *= 6.0
            if damping > 1e6:
                break
            continue
        gain, chi2 = chi2 - new, new
        p[:], hessian[:], slope[:] = trial, other, new_slope
        damping = max(0.2 * damping, 1e-7)
        if gain < 1e-4 * chi2 + 1e-2:
            break
    return chi2


@inner
def _start(p: Floats, sensors: Floats, n: int, first: Floats, second: Floats) -> bool:
    """Begin with the light shared equally by two points; false if there is none."""
    half = log_light(sensors, n, first[0], first[1], max(first[2], 0.1)) - math.log(2.0)
    for k in range(2):
        point = first if k == 0 else second
        p[4 * k], p[4 * k + 1], p[4 * k + 2] = half, point[0], point[1]
        p[4 * k + 3] = math.log(min(max(point[2], 0.1), 40.0))
    p[8] = 0.0
    return half > -1e8


@compiled
def _fit(
    npho: Floats32, live: Marks, grid: Lattice, half: float, starts: Floats, centre: Floats, found: Floats
) -> None:
    """Fit events (N, 4760) from starts (N, k, 2, 3) in a window about centres (N, 3); NaN where nothing can be."""
    sensors, p = np.empty((N_SIPM, 5)), np.empty(_UNKNOWNS)
    for e in range(npho.shape[0]):
        found[e] = math.nan
        if not math.isfinite(centre[e, 0]):
            continue
        u, v = centre[e, 0], centre[e, 1]
        n = select(npho[e], live[e], u, v, half, 0.0, grid, sensors)
        if n < 2 * _UNKNOWNS:
            continue
        best = math.inf
        for k in range(starts.shape[1]):
            if not _start(p, sensors, n, starts[e, k, 0], starts[e, k, 1]):
                continue
            chi2 = _minimise(p, sensors, n, u, v)
            if chi2 < best:
                best = chi2
                found[e, :_UNKNOWNS], found[e, CHI2] = p, chi2
        if best < math.inf:
            found[e, W_1], found[e, W_2] = math.exp(found[e, W_1]), math.exp(found[e, W_2])
            if found[e, W_2] < found[e, W_1]:
                for a in range(4):
                    found[e, a], found[e, a + 4] = found[e, a + 4], found[e, a]


def fit_two_points(npho: ArrayLike, live: ArrayLike, fits: Floats, threads: int = 1) -> Floats:
    """Fit two points of light to the inner face.

    Args:
        npho: photons (N, 4760).
        live: (N, 4760) sensors whose counts may serve.
        fits: (N, 6, 9) of a single point in windows.
        threads: to fit in.

    Returns:
        (N, 10): the columns named above, the shallower point first; NaN where there is nothing to fit.
    """
    counts, good = np.ascontiguousarray(npho, np.float32), np.ascontiguousarray(live, bool)
    centre = points(fits, DEPTH_WINDOW)
    xyz = xyz_from_uvw(centre)
    outwards = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    seconds = [uvw_from_xyz(xyz + length * outwards) for length in DEEPER]
    pairs = [(centre, second) for second in seconds] + [(points(fits, 0), points(fits, WIDEST))]
    starts = np.ascontiguousarray(np.stack([np.stack(pair, 1) for pair in pairs], 1))
    found, grid = np.empty((len(counts), _COLUMNS)), lattice()
    side_by_side(
        lambda e: _fit(counts[e], good[e], grid, HALF_WINDOW, starts[e], centre[e], found[e]), len(counts), threads
    )
    return found
