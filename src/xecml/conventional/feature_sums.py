"""Sums over the sensors of an event, about its reconstructed point and time, that learners see. Compiled. cm, ns.

Shares are of the light that live sensors of all faces saw. A sensor that takes no part is in no sum; where there is
nothing to divide by stands NaN. All compiled functions that call one another are in this file: the compiler's cache
does not look at others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xecml.compiled import compiled, inner
from xecml.conventional.local_fit import COLUMN_PITCH, COLUMNS, ROW_PITCH, ROWS
from xecml.events import INVALID_ABOVE
from xecml.geometry import FACES, INNER_RADIUS, N_SENSORS, N_SIPM, face_codes, positions

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]

POWERS = (1, 2)
MOMENTS = ("mean u", "mean v", "width u", "width v", "correlation", "skewness u", "skewness v")
BRIGHTEST = (4, 9, 25, 100)
"""Numbers of SiPMs whose light is summed, the brightest first."""
RING_EDGES = (0.0, 1.5, 3.0, 5.0, 8.0, 12.0, 18.0, 30.0)
"""Distances from the point along the inner face, cm."""
RINGS = len(RING_EDGES) - 1
RING_SUMS = ("share", "cos", "sin", "cos 2", "sin 2", "time")
GRADIENTS = 5
"""Rings, the innermost, whose times have a gradient."""
PATCH = 7
"""SiPMs to each side of the square about the point."""
FACE_SUMS = 8
PMT_FACES = FACES[1:]
TIMES = ("spread of times", "mean time", "sensors with a time", "earliest time")

RING_BRIGHT, BRIGHT = 30.0, 50.0
"""Photoelectrons above which a sensor's time counts, in the rings and elsewhere."""
_VELOCITY = 8.0
_SINGLE, _EVERY = 6.25, 0.04
_PENALTY = 5.0
"""Weight (1/ns2) added to those of the sensors, so that a few of them say little."""

N_MOMENTS = len(POWERS) * len(MOMENTS)
N_PEAK = 3 + len(BRIGHTEST)
N_RINGS = RINGS * len(RING_SUMS) + 2 * GRADIENTS
N_FACES = len(PMT_FACES) * FACE_SUMS
N_SUMS = N_MOMENTS + N_PEAK + N_RINGS + PATCH * PATCH + N_FACES + len(TIMES)
_PEAK = N_MOMENTS
_RINGS = _PEAK + N_PEAK
_PATCH = _RINGS + N_RINGS
_FACES = _PATCH + PATCH * PATCH
_TIMES = _FACES + N_FACES
_EDGES = np.array(RING_EDGES)
_N_BRIGHTEST = np.array(BRIGHTEST)


def face_axes() -> tuple[Floats, Ints]:
    """Two coordinates (4760, 2) of every sensor along its face, and which ones (6, 2): 0 for u, 1 for v, 2 for r."""
    xyz = positions()
    every = np.stack([xyz[:, 2], INNER_RADIUS * np.arctan2(xyz[:, 1], -xyz[:, 0]), np.hypot(xyz[:, 0], xyz[:, 1])], 1)
    of_face = {"inner": (0, 1), "us": (1, 2), "ds": (1, 2), "outer": (0, 1), "top": (0, 2), "bottom": (0, 2)}
    kinds = np.array([of_face[face] for face in FACES])
    return np.take_along_axis(every, kinds[face_codes()], 1), kinds


@inner
def _distance(point: Floats, xyz: Floats, s: int) -> float:
    dx, dy, dz = point[0] - xyz[s, 0], point[1] - xyz[s, 1], point[2] - xyz[s, 2]
    return math.sqrt(dx * dx + dy * dy + dz * dz)


@inner
def _moments(npho: Floats32, live: Marks, axes: Floats, uvw: Floats, row: Floats) -> None:
    """Means off the point, widths, correlation and skewnesses of the inner face's light, of its powers 1 and 2."""
    for power in range(2):
        s = su = sv = suu = svv = suv = suuu = svvv = 0.0
        for i in range(N_SIPM):
            if not (live[i] and npho[i] > 0.0):
                continue
            q = float(npho[i])
            if power == 1:
                q *= q
            # about the point, so that nothing cancels
            u, v = axes[i, 0] - uvw[0], axes[i, 1] - uvw[1]
            s, su, sv = s + q, su + q * u, sv + q * v
            suu, svv, suv = suu + q * u * u, svv + q * v * v, suv + q * u * v
            suuu, svvv = suuu + q * u * u * u, svvv + q * v * v * v
        mu, mv = su / s, sv / s
        uu, vv, uv = suu / s - mu * mu, svv / s - mv * mv, suv / s - mu * mv
        k = power * 7
        row[k], row[k + 1], row[k + 2], row[k + 3] = mu, mv, math.sqrt(max(uu, 0.0)), math.sqrt(max(vv, 0.0))
        row[k + 4] = uv / math.sqrt(uu * vv)
        row[k + 5] = (suuu / s - 3.0 * mu * uu - mu * mu * mu) / (uu * math.sqrt(uu))
        row[k + 6] = (svvv / s - 3.0 * mv * vv - mv * mv * mv) / (vv * math.sqrt(vv))


@inner
def _peak(npho: Floats32, live: Marks, axes: Floats, uvw: Floats, total: float, light: Floats, row: Floats) -> None:
    """The brightest SiPM: its share and where it is off the point; shares of the brightest ones together."""
    best = -1
    for i in range(N_SIPM):
        light[i] = max(float(npho[i]), 0.0) if live[i] else 0.0
        if light[i] > 0.0 and (best < 0 or light[i] > light[best]):
            best = i
    if best < 0:
        return
    row[_PEAK], row[_PEAK + 1], row[_PEAK + 2] = light[best] / total, axes[best, 0] - uvw[0], axes[best, 1] - uvw[1]
    most = _N_BRIGHTEST[-1]
    top = np.sort(np.partition(light, N_SIPM - most)[N_SIPM - most :])
    running, k = 0.0, 0
    for i in range(most):
        running += top[most - 1 - i]
        if i + 1 == _N_BRIGHTEST[k]:
            row[_PEAK + 3 + k] = running / total
            k += 1


@inner
def _rings(
    npho: Floats32, time: Floats32, live: Marks, axes: Floats, uvw: Floats, point: Floats, t0: float, xyz: Floats,
    efficiency: Floats, total: float, sums: Floats, row: Floats,
) -> None:  # fmt: skip
    """Rings about the point: shares, harmonics of the azimuth, times less travel, and gradients of these."""
    sums[:] = 0.0
    reach = _EDGES[-1]
    for i in range(N_SIPM):
        if not (live[i] and npho[i] > 0.0):
            continue
        du, dv = axes[i, 0] - uvw[0], axes[i, 1] - uvw[1]
        r = math.sqrt(du * du + dv * dv)
        if r >= reach:
            continue
        k = 0
        while r >= _EDGES[k + 1]:
            k += 1
        cosine, sine = (du / r, dv / r) if r > 0.0 else (1.0, 0.0)
        q = float(npho[i])
        sums[k, 0] += q
        sums[k, 1] += q * cosine
        sums[k, 2] += q * sine
        sums[k, 3] += q * (cosine * cosine - sine * sine)
        sums[k, 4] += q * 2.0 * cosine * sine
        n = q * efficiency[i]
        if n > RING_BRIGHT and abs(time[i]) < INVALID_ABOVE:
            weight = n / (_SINGLE + _EVERY * n)
            late = 1e9 * time[i] - t0 - _distance(point, xyz, i) / _VELOCITY
            sums[k, 5] += weight
            sums[k, 6] += weight * late
            sums[k, 7] += weight * late * cosine
            sums[k, 8] += weight * late * sine
    for k in range(RINGS):
        at = _RINGS + 6 * k
        row[at] = sums[k, 0] / total
        for h in range(1, 5):
            row[at + h] = sums[k, h] / max(sums[k, 0], 1.0)
        row[at + 5] = sums[k, 6] / (sums[k, 5] + _PENALTY)
        if k < GRADIENTS:
            row[_RINGS + 6 * RINGS + 2 * k] = sums[k, 7] / (sums[k, 5] + _PENALTY)
            row[_RINGS + 6 * RINGS + 2 * k + 1] = sums[k, 8] / (sums[k, 5] + _PENALTY)


@inner
def _patch(npho: Floats32, live: Marks, axes: Floats, uvw: Floats, total: float, row: Floats) -> None:
    """Shares of the SiPMs of a square about the point; those beside the face or not live stay NaN."""
    middle_row = round((axes[0, 1] - uvw[1]) / ROW_PITCH) - PATCH // 2
    middle_column = round((uvw[0] - axes[0, 0]) / COLUMN_PITCH) - PATCH // 2
    for a in range(PATCH):
        for b in range(PATCH):
            i, j = middle_row + a, middle_column + b
            if 0 <= i < ROWS and 0 <= j < COLUMNS and live[i * COLUMNS + j]:
                row[_PATCH + PATCH * a + b] = max(float(npho[i * COLUMNS + j]), 0.0) / total


@inner
def _faces(
    npho: Floats32, time: Floats32, live: Marks, axes: Floats, kinds: Ints, codes: Ints, uvw: Floats, point: Floats,
    t0: float, xyz: Floats, efficiency: Floats, sums: Floats, row: Floats,
) -> None:  # fmt: skip
    """Faces of PMTs: along two axes the mean off the point, the width, the mean of the square; largest share; time."""
    sums[:] = 0.0
    for s in range(N_SIPM, N_SENSORS):
        if not (live[s] and npho[s] > 0.0):
            continue
        f, q, a, b = codes[s], float(npho[s]), axes[s, 0], axes[s, 1]
        sums[f, 0] += q
        sums[f, 1] += q * a
        sums[f, 2] += q * a * a
        sums[f, 3] += q * b
        sums[f, 4] += q * b * b
        sums[f, 5] += q * q
        sums[f, 6] += q * q * a
        sums[f, 7] += q * q * b
        sums[f, 8] = max(sums[f, 8], q)
        n = q * efficiency[s]
        if n > BRIGHT and abs(time[s]) < INVALID_ABOVE:
            weight = n / (_SINGLE + _EVERY * n)
            sums[f, 9] += weight
            sums[f, 10] += weight * (1e9 * time[s] - t0 - _distance(point, xyz, s) / _VELOCITY)
    for f in range(1, kinds.shape[0]):
        at, light = _FACES + FACE_SUMS * (f - 1), sums[f, 0]
        row[at + 7] = sums[f, 10] / (sums[f, 9] + _PENALTY)
        if light <= 0.0:
            continue
        for k in range(2):
            there = uvw[kinds[f, k]] + (INNER_RADIUS if kinds[f, k] == 2 else 0.0)
            mean, square = sums[f, 1 + 2 * k] / light, sums[f, 2 + 2 * k] / light
            row[at + 3 * k] = mean - there
            row[at + 3 * k + 1] = math.sqrt(max(square - mean * mean, 0.0))
            row[at + 3 * k + 2] = sums[f, 6 + k] / sums[f, 5] - there
        row[at + 6] = sums[f, 8] / light


@inner
def _times(npho: Floats32, time: Floats32, live: Marks, t0: float, efficiency: Floats, row: Floats) -> None:
    """Spread and mean of the times of bright sensors, their number, and the earliest."""
    weights = first = second = number = 0.0
    earliest = math.inf
    for s in range(N_SENSORS):
        n = npho[s] * efficiency[s]
        if live[s] and n > BRIGHT and abs(time[s]) < INVALID_ABOVE:
            weight, t = n / (_SINGLE + _EVERY * n), 1e9 * time[s] - t0
            weights, first, second = weights + weight, first + weight * t, second + weight * t * t
            number += 1.0
            earliest = min(earliest, t)
    row[_TIMES + 2] = number
    if number > 0.0:
        mean = first / weights
        row[_TIMES], row[_TIMES + 1] = math.sqrt(max(second / weights - mean * mean, 0.0)), mean
        row[_TIMES + 3] = earliest


@compiled
def fill_sums(
    npho: Floats32, time: Floats32, live: Marks, uvw: Floats, points: Floats, moments: Floats, axes: Floats,
    kinds: Ints, codes: Ints, xyz: Floats, efficiency: Floats, found: Floats,
) -> None:  # fmt: skip
    """Sums of events (N, 4760) into (N, 203); NaN of events without light or without a point.

    Args:
        npho: photons.
        time: seconds.
        live: sensors that take part.
        uvw: reconstructed first interactions (N, 3), cm.
        points: the same as x, y, z.
        moments: reconstructed times (N,), ns.
        axes: (4760, 2), and
        kinds: (6, 2) of `face_axes`.
        codes: faces (4760,).
        xyz: of the sensors (4760, 3), cm.
        efficiency: photoelectrons of a photon (4760,).
        found: filled.
    """
    light, rings, faces = np.empty(N_SIPM), np.empty((RINGS, 9)), np.empty((kinds.shape[0], 11))
    for e in range(npho.shape[0]):
        row = found[e]
        row[:] = math.nan
        total = 0.0
        for s in range(N_SENSORS):
            if live[e, s] and npho[e, s] > 0.0:
                total += npho[e, s]
        if not (total > 0.0 and math.isfinite(uvw[e, 0])):
            continue
        n, t, good, where, point, t0 = npho[e], time[e], live[e], uvw[e], points[e], moments[e]
        _moments(n, good, axes, where, row)
        _peak(n, good, axes, where, total, light, row)
        _rings(n, t, good, axes, where, point, t0, xyz, efficiency, total, rings, row)
        _patch(n, good, axes, where, total, row)
        _faces(n, t, good, axes, kinds, codes, where, point, t0, xyz, efficiency, faces, row)
        _times(n, t, good, t0, efficiency, row)
