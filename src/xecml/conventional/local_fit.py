"""The local solid-angle fit: a point of light to the SiPMs in a square window of the inner face. Compiled. cm.

chi2 = sum (N - S Omega(u, v, w) / 4 pi)^2 / V over the sensors of the window, minimised by Levenberg and Marquardt's
method in (ln S, u, v, ln w) with the gradient in closed form. There is direct light alone in it: no attenuation, no
reflection, no scattered light, for which the fitted depth stands in part. Sensors that were not read take no part.

Omega is that of a square of the sensor's active area: of its four corners arctan(x y / (d q)), q^2 = x^2 + y^2 + d^2,
which are phases of complex numbers, so that one arctangent of their product serves; beyond 5 cm its expansion in the
size of the sensor, good to 1e-3. All compiled functions that call one another are in this file: the compiler's cache
does not look at others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.compiled import compiled, inner
from xecml.conventional.solidangles import HALF_SIPM
from xecml.events import PDE_SIPM
from xecml.geometry import INNER_RADIUS, N_SIPM, SIPM_AREA, positions

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Marks = NDArray[np.bool_]

ROWS, COLUMNS = 93, 44
ROW_PITCH, COLUMN_PITCH = 1.53045, 1.50977
"""Of SiPMs along v and u, cm."""
REACH = 5.0
"""The fit stays within this of the brightest spot, cm."""
U, V, W, LOG_LIGHT, CHI2, SENSORS, SIGMA_U, SIGMA_V, SIGMA_W = range(9)
"""Columns of a fit: position (cm), logarithm of the photons emitted, chi2, sensors, standard deviations (cm)."""
FIT_COLUMNS = 9

_FAR = 25.0
_MOMENT = SIPM_AREA / 24.0
_PER_4PI = 0.25 / math.pi
_MOST_STEPS = 40
_NUMBERS = 5


class Lattice(NamedTuple):
    """Where the SiPMs are: u of the columns, v of the rows with cosine and sine of v / R."""

    u: Floats
    v: Floats
    cosine: Floats
    sine: Floats


def lattice() -> Lattice:
    """The inner face."""
    xyz = positions()[:N_SIPM].reshape(ROWS, COLUMNS, 3)
    angle = np.arctan2(xyz[:, 0, 1], -xyz[:, 0, 0])
    return Lattice(xyz[0, :, 2].copy(), INNER_RADIUS * angle, np.cos(angle), np.sin(angle))


# ------------------------------------------------------------------------------------------------------ solid angles


@inner
def _square(b: float, z: float, d: float) -> tuple[float, float, float, float]:
    """Omega / 4 pi of a SiPM from height d above its plane, (b, z) off its centre; derivatives by b, z, d."""
    bb, zz, dd = b * b, z * z, d * d
    far = bb + zz + dd
    if far > _FAR:
        inverse = 1.0 / far
        cc, moment = dd * inverse, _MOMENT * inverse
        scale = SIPM_AREA * _PER_4PI * inverse * math.sqrt(inverse)
        even, slope = 1.0 + moment * (9.0 - 15.0 * cc), moment * (105.0 * cc - 45.0) - 3.0
        sideways = scale * d * inverse * slope
        return scale * d * even, sideways * b, sideways * z, scale * (even - 30.0 * moment * cc + cc * slope)
    x1, x2, y1, y2 = b - HALF_SIPM, b + HALF_SIPM, z - HALF_SIPM, z + HALF_SIPM
    xx1, xx2, yy1, yy2 = x1 * x1, x2 * x2, y1 * y1, y2 * y2
    q11, q12 = math.sqrt(xx1 + yy1 + dd), math.sqrt(xx1 + yy2 + dd)
    q21, q22 = math.sqrt(xx2 + yy1 + dd), math.sqrt(xx2 + yy2 + dd)
    # corners of equal sign, and the conjugates of the others
    real, imaginary = dd * q11 * q22 - x1 * y1 * x2 * y2, d * (q11 * x2 * y2 + q22 * x1 * y1)
    other, minus = dd * q12 * q21 - x1 * y2 * x2 * y1, d * (q12 * x2 * y1 + q21 * x1 * y2)
    omega = math.atan2(imaginary * other - real * minus, real * other + imaginary * minus)
    if omega < 0.0:
        omega += 2.0 * math.pi
    r11, r12, r21, r22 = 1.0 / q11, 1.0 / q12, 1.0 / q21, 1.0 / q22
    a1, a2, c1, c2 = 1.0 / (xx1 + dd), 1.0 / (xx2 + dd), 1.0 / (yy1 + dd), 1.0 / (yy2 + dd)
    to_b = d * (a1 * (y1 * r11 - y2 * r12) + a2 * (y2 * r22 - y1 * r21))
    to_z = d * (c1 * (x1 * r11 - x2 * r21) + c2 * (x2 * r22 - x1 * r12))
    to_d = (
        x1 * y2 * a1 * c2 * (q12 + dd * r12) + x2 * y1 * a2 * c1 * (q21 + dd * r21)
        - x1 * y1 * a1 * c1 * (q11 + dd * r11) - x2 * y2 * a2 * c2 * (q22 + dd * r22)
    )  # fmt: skip
    return omega * _PER_4PI, to_b * _PER_4PI, to_z * _PER_4PI, to_d * _PER_4PI


@inner
def share(
    u: float, cos_v: float, sin_v: float, w: float, us: float, cos_s: float, sin_s: float
) -> tuple[float, float, float, float]:
    """Omega / 4 pi of the SiPM at us and the angle with cosine and sine cos_s, sin_s; derivatives by u, v, w."""
    cosine, sine, r = cos_v * cos_s + sin_v * sin_s, sin_v * cos_s - cos_v * sin_s, INNER_RADIUS + w
    d = r * cosine - INNER_RADIUS
    if d <= 1e-3:
        return 0.0, 0.0, 0.0, 0.0
    value, to_b, to_z, to_d = _square(r * sine, u - us, d)
    return value, to_z, r * (to_b * cosine - to_d * sine) / INNER_RADIUS, to_b * sine + to_d * cosine


@compiled
def shares(uvw: Floats, us: float, vs: float, found: Floats) -> None:
    """`share` of the SiPM at (us, vs) from points (N, 3), with its derivatives, into (N, 4)."""
    cos_s, sin_s = math.cos(vs / INNER_RADIUS), math.sin(vs / INNER_RADIUS)
    for e in range(len(uvw)):
        cos_v, sin_v = math.cos(uvw[e, 1] / INNER_RADIUS), math.sin(uvw[e, 1] / INNER_RADIUS)
        found[e, 0], found[e, 1], found[e, 2], found[e, 3] = share(uvw[e, 0], cos_v, sin_v, uvw[e, 2], us, cos_s, sin_s)


# ----------------------------------------------------------------------------------------------------------- the fit


@inner
def _chi2(p: Floats, sensors: Floats, n: int, hessian: Floats, slope: Floats) -> float:
    """chi2 of (ln S, u, v, ln w), J' V^-1 J and J' V^-1 r of n sensors (u, cosine, sine, count, 1 / V)."""
    light, w = math.exp(p[0]), math.exp(p[3])
    cos_v, sin_v = math.cos(p[2] / INNER_RADIUS), math.sin(p[2] / INNER_RADIUS)
    total = s0 = s1 = s2 = s3 = 0.0
    h00 = h10 = h11 = h20 = h21 = h22 = h30 = h31 = h32 = h33 = 0.0
    for i in range(n):
        j0, j1, j2, j3 = share(p[1], cos_v, sin_v, w, sensors[i, 0], sensors[i, 1], sensors[i, 2])
        j0, j1, j2, j3 = light * j0, light * j1, light * j2, light * w * j3
        miss, weight = sensors[i, 3] - j0, sensors[i, 4]
        pull = miss * weight
        total += miss * pull
        s0, s1, s2, s3 = s0 + j0 * pull, s1 + j1 * pull, s2 + j2 * pull, s3 + j3 * pull
        k0, k1, k2 = j0 * weight, j1 * weight, j2 * weight
        h00, h10, h11 = h00 + k0 * j0, h10 + k0 * j1, h11 + k1 * j1
        h20, h21, h22 = h20 + k0 * j2, h21 + k1 * j2, h22 + k2 * j2
        h30, h31, h32, h33 = h30 + k0 * j3, h31 + k1 * j3, h32 + k2 * j3, h33 + j3 * j3 * weight
    slope[0], slope[1], slope[2], slope[3] = s0, s1, s2, s3
    hessian[0, 0], hessian[1, 0], hessian[1, 1] = h00, h10, h11
    hessian[2, 0], hessian[2, 1], hessian[2, 2] = h20, h21, h22
    hessian[3, 0], hessian[3, 1], hessian[3, 2], hessian[3, 3] = h30, h31, h32, h33
    return total


@inner
def solve(hessian: Floats, slope: Floats, damping: float, lower: Floats, x: Floats, n: int) -> None:
    """Solve (H + damping diag H) x = slope of n unknowns by Cholesky's decomposition of the lower half of H."""
    for a in range(n):
        for b in range(a + 1):
            value = hessian[a, b]
            if a == b:
                value = value * (1.0 + damping) + 1e-12
            for k in range(b):
                value -= lower[a, k] * lower[b, k]
            lower[a, b] = math.sqrt(max(value, 1e-300)) if a == b else value / lower[b, b]
    for a in range(n):
        x[a] = slope[a]
        for k in range(a):
            x[a] -= lower[a, k] * x[k]
        x[a] /= lower[a, a]
    for a in range(n - 1, -1, -1):
        for k in range(a + 1, n):
            x[a] -= lower[k, a] * x[k]
        x[a] /= lower[a, a]


@inner
def _limited(p: Floats, step: Floats, u: float, v: float, lowest: float, highest: float, trial: Floats) -> None:
    """Take a step within limits: on its size, on the distance from the brightest spot (u, v), on ln w."""
    trial[0] = p[0] + min(max(step[0], -1.0), 1.0)
    trial[1] = min(max(p[1] + min(max(step[1], -1.5), 1.5), u - REACH), u + REACH)
    trial[2] = min(max(p[2] + min(max(step[2], -1.5), 1.5), v - REACH), v + REACH)
    trial[3] = min(max(p[3] + min(max(step[3], -0.7), 0.7), lowest), highest)


@inner
def minimise(
    p: Floats, sensors: Floats, n: int, u: float, v: float, lowest: float, highest: float, least_gain: float,
    final: Floats,
) -> float:  # fmt: skip
    """Move p to the nearest minimum of chi2, u and v near a spot, ln w in bounds; J' V^-1 J there in `final`."""
    hessian, lower = np.empty((4, 4)), np.empty((4, 4))
    slope, new_slope, step, trial = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    chi2, damping = _chi2(p, sensors, n, final, slope), 0.01
    for _ in range(_MOST_STEPS):
        solve(final, slope, damping, lower, step, 4)
        _limited(p, step, u, v, lowest, highest, trial)
        new = _chi2(trial, sensors, n, hessian, new_slope)
        if new >= chi2:
            damping *= 6.0
            if damping > 1e6:
                break
            continue
        gain, chi2 = chi2 - new, new
        p[:], final[:], slope[:] = trial, hessian, new_slope
        damping = max(0.2 * damping, 1e-7)
        if gain < least_gain * chi2 + 1e-3:
            break
    return chi2


# --------------------------------------------------------------------------------------------- spot and window


@inner
def _around(npho: Floats32, live: Marks, row: int, column: int) -> float:
    """Mean count of the live sensors of the 3 x 3 block about a SiPM; 0 without any."""
    total, number = 0.0, 0
    for i in range(max(row - 1, 0), min(row + 2, ROWS)):
        for j in range(max(column - 1, 0), min(column + 2, COLUMNS)):
            s = i * COLUMNS + j
            if live[s]:
                total += npho[s]
                number += 1
    return total / number if number > 0 else 0.0


@inner
def brightest(npho: Floats32, live: Marks) -> int:
    """The SiPM of largest count, half its own and half that of its surroundings; -1 without light."""
    best, found = 0.0, -1
    for s in range(N_SIPM):
        if live[s] and npho[s] < 0.3 * best:
            continue
        around = _around(npho, live, s // COLUMNS, s % COLUMNS)
        value = 0.5 * (npho[s] + around) if live[s] else around
        if value > best:
            best, found = value, s
    return found


@inner
def spot(npho: Floats32, live: Marks, peak: int, grid: Lattice) -> tuple[float, float]:
    """Mean (u, v) of the 5 x 5 block about the peak, weighted with the square of the count."""
    row, column = peak // COLUMNS, peak % COLUMNS
    weight, u, v = 1e-300, 0.0, 0.0
    for i in range(max(row - 2, 0), min(row + 3, ROWS)):
        for j in range(max(column - 2, 0), min(column + 3, COLUMNS)):
            s = i * COLUMNS + j
            q = npho[s] if live[s] else _around(npho, live, i, j)
            weight += q * q
            u += q * q * grid.u[j]
            v += q * q * grid.v[i]
    return u / weight, v / weight


@inner
def select(
    npho: Floats32, live: Marks, u: float, v: float, half: float, model_error: float, grid: Lattice, sensors: Floats
) -> int:
    """Gather the live SiPMs up to `half` sensors from (u, v): u, cosine, sine, count, 1 / variance.

    The variance is that of the count, and the square of a share of it for what a shower differs from a point.
    """
    n = 0
    for i in range(ROWS):
        if abs(grid.v[i] - v) > half * ROW_PITCH:
            continue
        for j in range(COLUMNS):
            s = i * COLUMNS + j
            if abs(grid.u[j] - u) <= half * COLUMN_PITCH and live[s]:
                count = npho[s]
                sensors[n, 0], sensors[n, 1], sensors[n, 2] = grid.u[j], grid.cosine[i], grid.sine[i]
                sensors[n, 3] = count
                sensors[n, 4] = 1.0 / (max(count, 1.0 / PDE_SIPM) / PDE_SIPM + (model_error * count) ** 2)
                n += 1
    return n


@inner
def log_light(sensors: Floats, n: int, u: float, v: float, w: float) -> float:
    """Logarithm of the light of a point that gives n sensors what they have together; -1e9 if they have nothing."""
    light, seen = 0.0, 1e-12
    cos_v, sin_v = math.cos(v / INNER_RADIUS), math.sin(v / INNER_RADIUS)
    for i in range(n):
        light += sensors[i, 3]
        seen += share(u, cos_v, sin_v, w, sensors[i, 0], sensors[i, 1], sensors[i, 2])[0]
    return math.log(light / seen) if light > 0.0 else -1e9


# ------------------------------------------------------------------------------------------- the point of light


@inner
def _best_start(
    sensors: Floats, n: int, u: float, v: float, depths: Floats, lowest: float, highest: float, least_gain: float,
    p: Floats, final: Floats,
) -> float:  # fmt: skip
    """Minimise from (u, v) at several depths and keep the best; infinity if there is too little to fit."""
    best, trial, hessian = math.inf, np.empty(4), np.empty((4, 4))
    if n < 4:
        return best
    for depth in depths:
        trial[0], trial[1], trial[2], trial[3] = log_light(sensors, n, u, v, depth), u, v, math.log(depth)
        if trial[0] < -1e8:
            break
        chi2 = minimise(trial, sensors, n, u, v, lowest, highest, least_gain, hessian)
        if chi2 < best:
            best = chi2
            p[:], final[:] = trial, hessian
    return best


@inner
def _point(
    npho: Floats32, live: Marks, grid: Lattice, windows: Floats, depths: Floats, bounds: Floats, sensors: Floats,
    p: Floats,
) -> bool:  # fmt: skip
    """Fit in the narrow window, from there in the wide one, and choose by the depth that the latter finds."""
    narrow, wide, enough, shallow, model_error = windows[0], windows[1], windows[2], windows[3], windows[4]
    peak = brightest(npho, live)
    if peak < 0:
        return False
    u, v = spot(npho, live, peak, grid)
    n = select(npho, live, u, v, narrow, model_error, grid, sensors)
    first = n >= enough
    if not first:
        n = select(npho, live, u, v, wide, model_error, grid, sensors)
    final = np.empty((4, 4))
    if _best_start(sensors, n, u, v, depths, bounds[0], bounds[1], 1e-3, p, final) == math.inf:
        return False
    if first:
        n = select(npho, live, u, v, wide, model_error, grid, sensors)
        other = p.copy()
        minimise(other, sensors, n, u, v, bounds[0], bounds[1], 1e-3, final)
        if other[3] >= math.log(shallow):
            p[:] = other
    return True


@compiled
def fit_points(
    npho: Floats32, live: Marks, grid: Lattice, windows: Floats, depths: Floats, bounds: Floats, uvw: Floats,
    photons: Floats,
) -> None:  # fmt: skip
    """Fit a point in two windows to events (N, 4760); `photons` stays 0 where there is nothing to fit.

    Args:
        npho: counts.
        live: sensors that take part.
        grid: the inner face.
        windows: sensors to each side of the narrow window and of the wide one, sensors that the narrow one must have,
            depth (cm) below which it is taken, share of a count by which a shower differs from a point.
        depths: cm, to start from.
        bounds: of ln w.
        uvw: (N, 3) filled, cm.
        photons: (N,) filled.
    """
    sensors, p = np.empty((N_SIPM, _NUMBERS)), np.empty(4)
    for e in range(npho.shape[0]):
        if _point(npho[e], live[e], grid, windows, depths, bounds, sensors, p):
            uvw[e, 0], uvw[e, 1], uvw[e, 2], photons[e] = p[1], p[2], math.exp(p[3]), math.exp(p[0])


# ------------------------------------------------------------------------------------------- the ladder of windows


@inner
def _write(p: Floats, chi2: float, n: int, hessian: Floats, row: Floats) -> None:
    """Write the columns of a fit."""
    w = math.exp(p[3])
    row[U], row[V], row[W], row[LOG_LIGHT], row[CHI2], row[SENSORS] = p[1], p[2], w, p[0], chi2, n
    lower, unit, column = np.empty((4, 4)), np.zeros(4), np.empty(4)
    for a in range(1, 4):
        unit[:] = 0.0
        unit[a] = 1.0
        solve(hessian, unit, 0.0, lower, column, 4)
        row[SIGMA_U + a - 1] = math.sqrt(max(column[a], 0.0))
    row[SIGMA_W] *= w


@inner
def _ladder(npho: Floats32, live: Marks, grid: Lattice, halves: Floats, sensors: Floats, fits: Floats) -> bool:
    """Fit windows from the smallest on; one with too few live sensors has what a neighbour finds."""
    peak = brightest(npho, live)
    if peak < 0:
        return False
    u, v = spot(npho, live, peak, grid)
    lowest, highest = math.log(0.1), math.log(40.0)
    depths, deep, shallow = np.array([1.0, 3.0, 8.0]), np.array([3.0]), np.array([0.7])
    p, trial, final, hessian = np.empty(4), np.empty(4), np.empty((4, 4)), np.empty((4, 4))
    found = False
    for r in range(len(halves)):
        n = select(npho, live, u, v, halves[r], 0.0, grid, sensors)
        # a quarter of the window, as in a corner of the face, and more than there are unknowns
        if n < max(6.0, halves[r] * halves[r]) and r + 1 < len(halves):
            if found:
                fits[r] = fits[r - 1]
            continue
        if n < 6:
            return False
        if not found:
            best = _best_start(sensors, n, u, v, depths, lowest, highest, 1e-5, p, final)
            us, vs = grid.u[peak % COLUMNS], grid.v[peak // COLUMNS]
            chi2 = _best_start(sensors, n, us, vs, shallow, lowest, highest, 1e-5, trial, hessian)
        else:
            best = minimise(p, sensors, n, u, v, lowest, highest, 1e-5, final)
            chi2 = math.inf
            if r <= 2:
                chi2 = _best_start(sensors, n, u, v, deep, lowest, highest, 1e-5, trial, hessian)
        if chi2 < best:
            best = chi2
            p[:], final[:] = trial, hessian
        if best == math.inf:
            return False
        _write(p, best, n, final, fits[r])
        for smaller in range(r - 1, -1, -1):
            if not found:
                fits[smaller] = fits[r]
        found = True
    return found


@compiled
def fit_ladder(npho: Floats32, live: Marks, grid: Lattice, halves: Floats, fits: Floats) -> None:
    """Fit a point in windows to events (N, 4760), by the counts' Poisson errors alone.

    Args:
        npho: counts.
        live: sensors that take part.
        grid: the inner face.
        halves: half sizes of the windows in sensors, ascending.
        fits: (N, windows, 9) filled; NaN where there is nothing to fit.
    """
    sensors = np.empty((N_SIPM, _NUMBERS))
    for e in range(npho.shape[0]):
        if not _ladder(npho[e], live[e], grid, halves, sensors, fits[e]):
            fits[e] = math.nan
