"""A point of light fitted to the inner face's counts: where the light of an event is. Compiled. cm.

The local solid-angle fit: chi2 = sum (N - S Omega(u, v, w))^2 / V over the SiPMs of a square window about the brightest
spot, minimised by Levenberg and Marquardt's method in (ln S, u, v, ln w). V is the variance of the count plus a share
of its square, because a shower is no point: with Poisson errors alone its few brightest sensors would rule. Dead
sensors take no part. The model has direct light alone, so that the fitted depth also stands for some scattered light.
All compiled functions that call one another are in this file: the compiler's cache does not look at others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.compiled import compiled, inner
from xecml.conventional.solidangles import HALF_SIPM, distances, solid_angles_of
from xecml.events import PDE_SIPM
from xecml.geometry import INNER_RADIUS, N_SIPM, positions, xyz_from_uvw

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
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

_ROWS, _COLUMNS = 93, 44
_ROW_PITCH, _COLUMN_PITCH = 1.53045, 1.50977
_MOST_SENSORS = (2 * WIDE + 2) ** 2
_START_DEPTHS = (1.5, 4.0)
_REACH = 5.0
_LOG_DEPTHS = (math.log(SHALLOWEST), math.log(40.0))
_MOST_STEPS = 40


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


@inner
def _local_share(u: float, v: float, w: float, us: float, vs: float, gradient: Floats) -> float:
    """Share Omega / 4 pi of a SiPM at (us, vs) of the inner face from (u, v, w), and its gradient."""
    a = (v - vs) / INNER_RADIUS
    cosine, sine, r = math.cos(a), math.sin(a), INNER_RADIUS + w
    b, d, z = r * sine, r * cosine - INNER_RADIUS, u - us
    gradient[:] = 0.0
    if d <= 1e-3:
        return 0.0
    share = to_b = to_z = to_d = 0.0
    for s in (-1.0, 1.0):
        for t in (-1.0, 1.0):
            x, y, sign = b + s * HALF_SIPM, z + t * HALF_SIPM, s * t / (4.0 * math.pi)
            xx, yy = x * x + d * d, y * y + d * d
            q = math.sqrt(xx + y * y)
            share += sign * math.atan2(x * y, d * q)
            to_b += sign * y * d / (xx * q)
            to_z += sign * x * d / (yy * q)
            to_d -= sign * x * y * (q * q + d * d) / (xx * yy * q)
    gradient[0] = to_z
    gradient[1] = (to_b * r * cosine - to_d * r * sine) / INNER_RADIUS
    gradient[2] = to_b * sine + to_d * cosine
    return share


@inner
def _chi2(p: Floats, sensors: Floats, n: int, hessian: Floats, slope: Floats, gradient: Floats) -> float:
    """chi2 of (ln S, u, v, ln w), J' V^-1 J and J' V^-1 r of n sensors (u, v, count, variance)."""
    total = 0.0
    hessian[:], slope[:] = 0.0, 0.0
    scale, w = math.exp(p[0]), math.exp(p[3])
    j = np.empty(4)
    for i in range(n):
        share = _local_share(p[1], p[2], w, sensors[i, 0], sensors[i, 1], gradient)
        j[0] = scale * share
        j[1], j[2], j[3] = scale * gradient[0], scale * gradient[1], scale * gradient[2] * w
        miss, weight = sensors[i, 2] - j[0], 1.0 / sensors[i, 3]
        total += miss * miss * weight
        for a in range(4):
            slope[a] += j[a] * miss * weight
            for b in range(a + 1):
                hessian[a, b] += j[a] * j[b] * weight
    return total


@inner
def _step(hessian: Floats, slope: Floats, damping: float, lower: Floats, x: Floats) -> None:
    """Solve (H + damping diag H) x = slope by Cholesky's decomposition of the lower half of H."""
    for a in range(4):
        for b in range(a + 1):
            value = hessian[a, b]
            if a == b:
                value = value * (1.0 + damping) + 1e-12
            for k in range(b):
                value -= lower[a, k] * lower[b, k]
            lower[a, b] = math.sqrt(max(value, 1e-300)) if a == b else value / lower[b, b]
    for a in range(4):
        x[a] = slope[a]
        for k in range(a):
            x[a] -= lower[a, k] * x[k]
        x[a] /= lower[a, a]
    for a in range(3, -1, -1):
        for k in range(a + 1, 4):
            x[a] -= lower[k, a] * x[k]
        x[a] /= lower[a, a]


@inner
def _limited(p: Floats, step: Floats, u: float, v: float, trial: Floats) -> None:
    """Take a step within limits: on its size, on the distance from the brightest spot (u, v), on the depth."""
    trial[0] = p[0] + min(max(step[0], -1.0), 1.0)
    trial[1] = min(max(p[1] + min(max(step[1], -1.5), 1.5), u - _REACH), u + _REACH)
    trial[2] = min(max(p[2] + min(max(step[2], -1.5), 1.5), v - _REACH), v + _REACH)
    trial[3] = min(max(p[3] + min(max(step[3], -0.7), 0.7), _LOG_DEPTHS[0]), _LOG_DEPTHS[1])


@inner
def _minimise(p: Floats, sensors: Floats, n: int, u: float, v: float) -> float:
    """Move p to the nearest minimum of chi2."""
    hessian, new_hessian, lower = np.empty((4, 4)), np.empty((4, 4)), np.empty((4, 4))
    slope, new_slope, step, trial, gradient = np.empty(4), np.empty(4), np.empty(4), np.empty(4), np.empty(3)
    chi2, damping = _chi2(p, sensors, n, hessian, slope, gradient), 0.01
    for _ in range(_MOST_STEPS):
        _step(hessian, slope, damping, lower, step)
        _limited(p, step, u, v, trial)
        new = _chi2(trial, sensors, n, new_hessian, new_slope, gradient)
        if new >= chi2:
            damping *= 6.0
            if damping > 1e6:
                break
            continue
        gain, chi2 = chi2 - new, new
        p[:], hessian[:], slope[:] = trial, new_hessian, new_slope
        damping = max(0.2 * damping, 1e-7)
        if gain < 1e-3 * chi2 + 1e-3:
            break
    return chi2


@inner
def _around(npho: Floats32, live: Marks, row: int, column: int) -> float:
    """Mean count of the live sensors of the 3 x 3 block about a SiPM; 0 without any."""
    total, number = 0.0, 0
    for i in range(max(row - 1, 0), min(row + 2, _ROWS)):
        for j in range(max(column - 1, 0), min(column + 2, _COLUMNS)):
            s = i * _COLUMNS + j
            if live[s]:
                total += npho[s]
                number += 1
    return total / number if number > 0 else 0.0


@inner
def _peak(npho: Floats32, live: Marks) -> int:
    """The SiPM of largest count, half its own and half that of its surroundings; -1 without light."""
    best, found = 0.0, -1
    for s in range(N_SIPM):
        if live[s] and npho[s] < 0.3 * best:
            continue
        around = _around(npho, live, s // _COLUMNS, s % _COLUMNS)
        value = 0.5 * (npho[s] + around) if live[s] else around
        if value > best:
            best, found = value, s
    return found


@inner
def _spot(npho: Floats32, live: Marks, peak: int, us: Floats, vs: Floats) -> tuple[float, float]:
    """Mean (u, v) of the 5 x 5 block about the peak, weighted with the square of the count."""
    row, column = peak // _COLUMNS, peak % _COLUMNS
    weight, u, v = 1e-300, 0.0, 0.0
    for i in range(max(row - 2, 0), min(row + 3, _ROWS)):
        for j in range(max(column - 2, 0), min(column + 3, _COLUMNS)):
            s = i * _COLUMNS + j
            q = npho[s] if live[s] else _around(npho, live, i, j)
            weight += q * q
            u += q * q * us[j]
            v += q * q * vs[i]
    return u / weight, v / weight


@inner
def _select(npho: Floats32, live: Marks, u: float, v: float, size: int, us: Floats, vs: Floats, sensors: Floats) -> int:
    """Gather (u, v, count, variance) of the live SiPMs up to `size` sensors from (u, v)."""
    n = 0
    for i in range(_ROWS):
        if abs(vs[i] - v) > (size + 0.5) * _ROW_PITCH:
            continue
        for j in range(_COLUMNS):
            s = i * _COLUMNS + j
            if abs(us[j] - u) <= (size + 0.5) * _COLUMN_PITCH and live[s]:
                count = npho[s]
                sensors[n, 0], sensors[n, 1], sensors[n, 2] = us[j], vs[i], count
                sensors[n, 3] = max(count, 1.0 / PDE_SIPM) / PDE_SIPM + (MODEL_ERROR * count) ** 2
                n += 1
    return n


@inner
def _from_starts(sensors: Floats, n: int, u: float, v: float, p: Floats) -> bool:
    """Minimise from several depths and keep the best; false if there is too little to fit."""
    light, best = 0.0, math.inf
    for i in range(n):
        light += sensors[i, 2]
    if n < 4 or light <= 0.0:
        return False
    trial, gradient = np.empty(4), np.empty(3)
    for depth in _START_DEPTHS:
        share = 1e-12
        for i in range(n):
            share += _local_share(u, v, depth, sensors[i, 0], sensors[i, 1], gradient)
        trial[0], trial[1], trial[2], trial[3] = math.log(light / share), u, v, math.log(depth)
        chi2 = _minimise(trial, sensors, n, u, v)
        if chi2 < best:
            best = chi2
            p[:] = trial
    return True


@inner
def _fit_event(npho: Floats32, live: Marks, us: Floats, vs: Floats, sensors: Floats, p: Floats) -> bool:
    """Fit in the narrow window, from there in the wide one, and choose by the depth that the latter finds."""
    peak = _peak(npho, live)
    if peak < 0:
        return False
    u, v = _spot(npho, live, peak, us, vs)
    n = _select(npho, live, u, v, NARROW, us, vs, sensors)
    narrow = n >= ENOUGH
    if not narrow:
        n = _select(npho, live, u, v, WIDE, us, vs, sensors)
    if not _from_starts(sensors, n, u, v, p):
        return False
    if narrow:
        n = _select(npho, live, u, v, WIDE, us, vs, sensors)
        wide = p.copy()
        _minimise(wide, sensors, n, u, v)
        if wide[3] >= math.log(SHALLOW):
            p[:] = wide
    return True


@compiled
def _fit(npho: Floats32, live: Marks, us: Floats, vs: Floats, uvw: Floats, photons: Floats) -> None:
    """Fit events (N, 4760) one after the other; `photons` stays 0 where there is nothing to fit."""
    sensors, p = np.empty((_MOST_SENSORS, 4)), np.empty(4)
    for e in range(npho.shape[0]):
        if _fit_event(npho[e], live[e], us, vs, sensors, p):
            uvw[e, 0], uvw[e, 1], uvw[e, 2], photons[e] = p[1], p[2], math.exp(p[3]), math.exp(p[0])


def fit_point_source(npho: ArrayLike, live: ArrayLike) -> PointSource:
    """Fit a point of light to the inner face of each event.

    Args:
        npho: photons (N, 4760).
        live: (N, 4760) sensors whose counts may serve, those that counted nothing among them.
    """
    counts, good = np.ascontiguousarray(npho, np.float32), np.ascontiguousarray(live, bool)
    xyz = positions()[:N_SIPM].reshape(_ROWS, _COLUMNS, 3)
    us, vs = xyz[0, :, 2].copy(), INNER_RADIUS * np.arctan2(xyz[:, 0, 1], -xyz[:, 0, 0])
    uvw, photons = np.zeros((len(counts), 3)), np.zeros(len(counts))
    _fit(counts, good, us, vs, uvw, photons)
    return PointSource(uvw, photons, photons > 0)
