"""The time of the first interaction: a weighted mean over sensors of their times less the light's travel. Compiled. ns.

Each sensor with more than 50 photoelectrons gives y = t - d / v - walk(ln n): its distance d from the first interaction
over the effective velocity of the light, and a delay that depends on its number of photoelectrons n, a curve for SiPMs
and one for PMTs. Its variance is 6.25 / n + 0.04 ns2. Sensors more than 4 standard deviations off are dropped, in three
passes. What is left is corrected for depth and the number of sensors, for how far the light lies behind the first
interaction, and for the shares of the faces: scattered light comes late, and they tell how much of it there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.compiled import compiled, inner, side_by_side
from xecml.conventional.energy import face_shares
from xecml.conventional.position import Light, centred_depth
from xecml.conventional.robust_fit import Coefficients, evaluate, fit, products
from xecml.events import INVALID_ABOVE, photoelectrons
from xecml.geometry import N_SENSORS, N_SIPM, positions, xyz_from_uvw
from xecml.resolution import s68

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Marks = NDArray[np.bool_]

BRIGHT = 50.0
"""Photoelectrons above which a sensor takes part."""
KNOTS = 9
"""Of the walk's curves, linear in between, from ln 50 to ln 20000 photoelectrons."""
_FIRST_KNOT, _LAST_KNOT = math.log(BRIGHT), math.log(2e4)
_PER_KNOT = (KNOTS - 1) / (_LAST_KNOT - _FIRST_KNOT)
_SINGLE, _EVERY = 6.25, 0.04
_MOST_PULL, _PASSES = 4.0, 3
_WALK_ROUNDS, _WALK_PENALTY = 4, 200.0
_VELOCITIES = np.arange(4.0, 9.01, 0.5)


@inner
def _gather(
    npho: Floats32, time: Floats32, live: Marks, point: Floats, xyz: Floats, efficiency: Floats, velocity: float,
    walk: Floats, y: Floats, weight: Floats, place: Floats,
) -> int:  # fmt: skip
    """Times of bright sensors less travel and walk, their weights, and where their charge is between the knots."""
    n = 0
    for s in range(N_SENSORS):
        nphe = npho[s] * efficiency[s]
        if not (live[s] and nphe > BRIGHT and npho[s] < INVALID_ABOVE and abs(time[s]) < INVALID_ABOVE):
            continue
        dx, dy, dz = point[0] - xyz[s, 0], point[1] - xyz[s, 1], point[2] - xyz[s, 2]
        knot = min(max((math.log(nphe) - _FIRST_KNOT) * _PER_KNOT, 0.0), KNOTS - 1.0)
        low = min(int(knot), KNOTS - 2)
        kind = 0 if s < N_SIPM else 1
        delay = walk[kind, low] + (knot - low) * (walk[kind, low + 1] - walk[kind, low])
        y[n] = 1e9 * time[s] - math.sqrt(dx * dx + dy * dy + dz * dz) / velocity - delay
        weight[n] = nphe / (_SINGLE + _EVERY * nphe)
        place[n] = knot + kind * KNOTS
        n += 1
    return n


@inner
def _mean(y: Floats, weight: Floats, n: int) -> tuple[float, float, int]:
    """Weighted mean of n values without those far off, the sum of their weights, and their number."""
    mean, total, used = 0.0, 0.0, 0
    for turn in range(_PASSES):
        above, below, number = 0.0, 0.0, 0
        for i in range(n):
            if turn == 0 or (y[i] - mean) * (y[i] - mean) * weight[i] < _MOST_PULL * _MOST_PULL:
                above += weight[i] * (y[i] - y[0])
                below += weight[i]
                number += 1
        if number == 0:
            break
        mean, total, used = y[0] + above / below, below, number
    return mean, total, used


@compiled
def _mean_times(
    npho: Floats32, time: Floats32, live: Marks, points: Floats, xyz: Floats, efficiency: Floats, velocity: float,
    walk: Floats, means: Floats, late: Floats, weights: Floats,
) -> None:  # fmt: skip
    """Mean times (ns), sums of weights (1/ns2) and sensors used into (N, 3); the rests by knots into (2 KNOTS,)."""
    y, weight, place = np.empty(N_SENSORS), np.empty(N_SENSORS), np.empty(N_SENSORS)
    for e in range(npho.shape[0]):
        n = _gather(npho[e], time[e], live[e], points[e], xyz, efficiency, velocity, walk, y, weight, place)
        if n == 0:
            means[e, 0], means[e, 1], means[e, 2] = math.nan, 0.0, 0.0
            continue
        mean, total, used = _mean(y, weight, n)
        means[e, 0], means[e, 1], means[e, 2] = mean, total, used
        if late.shape[0] == 0:
            continue
        for i in range(n):
            rest = y[i] - mean
            if rest * rest * weight[i] < _MOST_PULL * _MOST_PULL:
                low = int(place[i])
                part = place[i] - low
                late[low] += weight[i] * (1.0 - part) * rest
                weights[low] += weight[i] * (1.0 - part)
                if part > 0.0:
                    late[low + 1] += weight[i] * part * rest
                    weights[low + 1] += weight[i] * part


def mean_times(
    npho: ArrayLike, time: ArrayLike, live: Marks, uvw: Floats, velocity: float, walk: Floats, threads: int = 1
) -> Floats:
    """Weighted means over sensors.

    Args:
        npho: photons (N, 4760).
        time: seconds (N, 4760).
        live: (N, 4760) sensors that take part.
        uvw: first interactions (N, 3), cm.
        velocity: of the light, cm/ns.
        walk: (2, 9) delays in ns at the knots, of SiPMs and of PMTs.
        threads: to work in.

    Returns:
        (N, 3): mean (ns; NaN without a sensor), sum of weights (1/ns2), sensors used over the share that is live.
    """
    n, t = np.ascontiguousarray(npho, np.float32), np.ascontiguousarray(time, np.float32)
    points, found, none = np.ascontiguousarray(xyz_from_uvw(uvw)), np.empty((len(n), 3)), np.empty(0)
    efficiency = photoelectrons(np.ones(N_SENSORS))

    def work(e: slice) -> None:
        _mean_times(n[e], t[e], live[e], points[e], positions(), efficiency, velocity, walk, found[e], none, none)

    side_by_side(work, len(n), threads)
    # with dead sensors as many as there would be without
    found[:, 2] /= np.maximum(live.mean(1), 1e-9)
    return found


def columns(uvw: Floats, sensors: Floats, seen: Light, sums: Floats) -> dict[str, Floats]:
    """Columns (N,) that the mean time is corrected by.

    Args:
        uvw: first interactions (N, 3), cm.
        sensors: that gave the time (N,).
        seen: points of light.
        sums: photons by face (N, 6).
    """
    s = centred_depth(uvw[:, 2])
    behind = {
        "near": seen.near[:, 2], "far": seen.far[:, 2], "sideways": np.hypot(seen.far[:, 0], seen.far[:, 1])
    }  # fmt: skip
    # a mirror image has the same time
    shares = {name: values for name, values in face_shares(sums).items() if name not in ("a", "b")}
    u2, v2, number = (uvw[:, 0] / 24) ** 2, (uvw[:, 1] / 68) ** 2, np.log1p(sensors)
    return {
        "s": s, "s2": s**2, "s3": s**3, "u2": u2, "v2": v2, "u2 x s": u2 * s, "v2 x s": v2 * s, "sensors": number,
        "s x sensors": s * number,
    } | products({"s": s}, behind) | shares  # fmt: skip


def times(means: Floats, x: dict[str, Floats], coefficients: Mapping[str, float]) -> Floats:
    """Times (N,) of the first interactions in seconds from mean times (N, 3) and the columns of the correction."""
    return (means[:, 0] - evaluate(coefficients, x)) * 1e-9


# ------------------------------------------------------------------------------------------------------ calibration


def _walk(npho: Floats32, time: Floats32, live: Marks, points: Floats, velocity: float) -> Floats:
    """The walk's curves (2, 9) in ns, by the mean rests at the knots."""
    efficiency, walk = photoelectrons(np.ones(N_SENSORS)), np.zeros((2, KNOTS))
    found = np.empty((len(npho), 3))
    for _ in range(_WALK_ROUNDS):
        late, weights = np.zeros(2 * KNOTS), np.zeros(2 * KNOTS)
        _mean_times(npho, time, live, points, positions(), efficiency, velocity, walk, found, late, weights)
        walk += (late / (weights + _WALK_PENALTY)).reshape(2, KNOTS)
    return walk


def calibrate(
    npho: Floats32, time: Floats32, live: Marks, uvw: Floats, seen: Light, sums: Floats, truth: Floats
) -> tuple[float, Floats]:
    """The velocity of light (cm/ns) of the smallest spread about true times, and the walk's curves (2, 9) in ns.

    Args:
        npho: photons (N, 4760).
        time: seconds (N, 4760).
        live: (N, 4760) sensors that take part.
        uvw: reconstructed first interactions (N, 3), cm.
        seen: points of light.
        sums: photons by face (N, 6).
        truth: times of the first interactions (N,), seconds.
    """
    points = np.ascontiguousarray(xyz_from_uvw(uvw))
    spreads, curves = [], []
    for velocity in _VELOCITIES:
        curves.append(_walk(npho, time, live, points, float(velocity)))
        means = mean_times(npho, time, live, uvw, float(velocity), curves[-1])
        left = means[:, 0] - 1e9 * truth
        known = np.isfinite(left)
        x = {name: values[known] for name, values in columns(uvw, means[:, 2], seen, sums).items()}
        spreads.append(s68(left[known] - evaluate(fit(x, left[known]), x)))
    best = int(np.argmin(spreads))
    return float(_VELOCITIES[best]), curves[best]


def calibrate_correction(means: Floats, x: dict[str, Floats], truth: Floats) -> Coefficients:
    """Coefficients of the correction from mean times (N, 3), its columns, and true times (N,) in seconds."""
    return fit(x, means[:, 0] - 1e9 * truth)
