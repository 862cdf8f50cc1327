"""Direct light, and light scattered once close by, from clusters to all sensors. Compiled. cm, ns.

Every coarse cluster lights all sensors farther than NEAR with plain arithmetic over arrays, which the
compiler turns into vector instructions; sensors nearer are lit by its fine clusters, one by one, with exact
solid angles. The solid angle of a flat sensor is that of a point, (h / d^3) per area, plus its second moment:
since h / d^3 is harmonic, the mean over the sensor is 1 + spread (9 - 15 c^2) / d^2 times its value at the
centre.

The inner cylinder's shadow has a soft edge on a photomultiplier: the lit part of its cathode. Close to the critical
angle the transmission of a window changes over the face of a sensor, and so it is averaged there; shallow light,
whose critical circle on the inner face is small and bright, has its fine clusters used as far as that circle.
"""

from __future__ import annotations

import math

import numpy as np

from xecml.compiled import compiled, inner, vectorised
from xecml.geometry import INNER_RADIUS, PMT_RADIUS
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.light.clusters import Clusters
from xecml.simulation.light.optics import (
    AREA,
    CHIP_HALF,
    CHIP_OFFSET,
    N_SENSORS,
    N_SIPM,
    NEAR_FIELD_RANGE,
    NX,
    NY,
    NZ,
    PHOTONS_PER_MEV,
    SPREAD,
    Floats32,
    NearField,
    Optics,
    X,
    Y,
    Z,
    near_field_path,
    near_field_share,
    window_transmission,
)

DIRECT, SCATTERED, TIME, SQUARE = range(4)
"""Rows of what `direct_light` fills."""
# offsets of these rows and of those of the sensor table in flat arrays; unsigned, see _far_light
_Y, _Z, _NX, _NY, _NZ, _AREA, _SPREAD = (np.uint64(k * N_SENSORS) for k in range(1, 8))

NEAR = 7.0
"""Nearer than this, fine clusters are used."""
_FARTHEST_NEAR = 16.0
"""For shallow light, as far as this."""
_EXACT_SIPM = 2.5
_EXACT_PMT = 10.0
_GRAZING = 0.3
_ROWS, _COLUMNS = 93, 44
_PMT_HALF = 0.5 * math.sqrt(math.pi) * PMT_RADIUS
"""Half side of the square of a photomultiplier's area."""


@inner
def _corner(a: float, b: float, h: float) -> float:
    return math.atan2(a * b, h * math.sqrt(a * a + b * b + h * h))


@compiled
def rectangle_solid_angle(u: float, v: float, h: float, half: float) -> float:
    """Solid angle (sr) of a square of half side `half` from height h > 0 above its plane, (u, v) off its centre, cm."""
    return (
        _corner(u + half, v + half, h)
        - _corner(u - half, v + half, h)
        - _corner(u + half, v - half, h)
        + _corner(u - half, v - half, h)
    )


@inner
def _averaged_transmission(
    u: float, v: float, h: float, half: float, curvature: float, n: float, n_window: float
) -> float:
    """Transmission averaged over a sensor, weighted with the light on 4 x 4 parts of it.

    The face is curved along u (`curvature`, 1/cm): at the critical angle half a degree matters.
    """
    total = weight = 0.0
    for i in range(4):
        step = half * (0.5 * i - 0.75)
        a = u - step
        height = h + curvature * step * (u - 0.5 * step)
        for j in range(4):
            b = v + half * (0.5 * j - 0.75)
            d2 = a * a + b * b + h * h
            w = 1.0 / (d2 * math.sqrt(d2))
            weight += w
            total += w * window_transmission(height / math.sqrt(d2), n, n_window)
    return total / weight


@compiled
def point_light(
    x: float,
    y: float,
    z: float,
    s: int,
    sensors: Floats32,
    optics: Optics,
    near: NearField,
    attenuation: float,
) -> tuple[float, float, float, float]:
    """Light of one point on one sensor, with the exact solid angle where it is close.

    Returns:
        Shares of the point's photons that enter the sensor's window directly and after one scattering close
        by, the distance (cm), and the cosine of the angle to the sensor's normal.
    """
    dx, dy, dz = x - sensors[X, s], y - sensors[Y, s], z - sensors[Z, s]
    nx, ny, nz = sensors[NX, s], sensors[NY, s], sensors[NZ, s]
    h = dx * nx + dy * ny + dz * nz
    d2 = dx * dx + dy * dy + dz * dz
    d = math.sqrt(d2)
    c = h / d
    scattered = near_field_share(near, optics, attenuation, sensors[AREA, s], d, c)
    sipm = s < N_SIPM
    lit = 1.0 if sipm else _lit_part(sensors[X, s], sensors[Y, s], nx, ny, dx, dy)
    if h <= 0.0 or lit <= 0.0:
        return 0.0, scattered, d, c
    half = 2.0 * CHIP_HALF if sipm else _PMT_HALF
    # axes in the sensor's plane: the first along phi for all faces with a radial normal, z for the planes
    norm = math.sqrt(nx * nx + ny * ny)
    ax, ay = -ny / norm, nx / norm
    u = dx * ax + dy * ay
    v = nx * (ay * dz) - ny * (ax * dz) + nz * (ax * dy - ay * dx)
    if d < (_EXACT_SIPM if sipm else _EXACT_PMT):
        if sipm:
            angle = 0.0
            for i in range(4):
                a = u + CHIP_OFFSET * (2.0 * (i % 2) - 1.0)
                b = v + CHIP_OFFSET * (2.0 * (i // 2) - 1.0)
                angle += rectangle_solid_angle(a, b, h, CHIP_HALF)
        else:
            angle = rectangle_solid_angle(u, v, h, half)
    else:
        angle = sensors[AREA, s] * c / d2 * (1.0 + sensors[SPREAD, s] * (9.0 - 15.0 * c * c) / d2)
    if c < _GRAZING:
        curvature = 1.0 / INNER_RADIUS if sipm else 0.0
        transmission = _averaged_transmission(u, v, h, half, curvature, optics.n_xenon, optics.n_window)
    else:
        transmission = window_transmission(c, optics.n_xenon, optics.n_window)
    return lit * angle / (4.0 * math.pi) * transmission * math.exp(-d / attenuation), scattered, d, c


@inner
def _lit_part(px: float, py: float, nx: float, ny: float, dx: float, dy: float) -> float:
    """Part of a photomultiplier at p with normal n that the inner cylinder leaves to a source at p + d (transverse).

    The edge of the shadow moves over the cathode with the miss of the ray past the cylinder, enlarged from there to
    the sensor; the cathode's extent across the ray is its radius times the sine of the angle between its normal and
    that direction.
    """
    along = px * dx + py * dy
    span = dx * dx + dy * dy
    if along >= 0.0 or -along >= span:
        return 1.0
    across = (nx * dy - ny * dx) ** 2 / span
    miss = math.sqrt(max(px * px + py * py - along * along / span, 0.0)) - INNER_RADIUS
    extent = PMT_RADIUS * math.sqrt(max(1.0 - across, 0.01)) * (1.0 + along / span)
    return min(max(0.5 + 0.5 * miss / (extent + 1e-6), 0.0), 1.0)


@vectorised
def _far_light(
    source: Floats,
    low: np.uint64,
    high: np.uint64,
    reach: float,
    shadowed: bool,
    table: Floats32,
    optics: Optics,
    near: NearField,
    attenuation: float,
    light: Floats32,
) -> None:
    """Light of one coarse cluster on the sensors low..high farther than `reach`.

    The loop has no branches, all its input and output lie in two flat arrays and its indices are unsigned:
    the compiler makes vector instructions of it only then. `shadowed` asks for the shadow of the inner
    cylinder.
    """
    one = np.float32(1.0)
    zero = np.float32(0.0)
    x, y, z, t = np.float32(source[0]), np.float32(source[1]), np.float32(source[2]), np.float32(source[3])
    photons = np.float32(source[4] * PHOTONS_PER_MEV / (4.0 * math.pi))
    critical = np.float32(1.0 - (optics.n_window / optics.n_xenon) ** 2)
    n2, m2 = np.float32(optics.n_xenon**2), np.float32(optics.n_window**2)
    sixteenth = np.float32(1.0 / (16.0 * attenuation))
    slowness = np.float32(1.0 / optics.group_velocity)
    range2 = np.float32(1.0 / NEAR_FIELD_RANGE**2)
    k, e = near.shape, near.excess
    k00, k01, k02, k10, k11, k12 = k[0, 0], k[0, 1], k[0, 2], k[1, 0], k[1, 1], k[1, 2]
    k20, k21, k22, k30, k31, k32 = k[2, 0], k[2, 1], k[2, 2], k[3, 0], k[3, 1], k[3, 2]
    e00, e01, e10, e11, e20, e21 = e[0, 0], e[0, 1], e[1, 0], e[1, 1], e[2, 0], e[2, 1]
    per_scattering = np.float32(1.0 / optics.rayleigh_length)
    near2 = np.float32(reach * reach)
    radius, pmt = np.float32(INNER_RADIUS), np.float32(PMT_RADIUS)
    hundredth = np.float32(0.01)
    nine, fifteen, half = np.float32(9.0), np.float32(15.0), np.float32(0.5)
    sixth, last = np.float32(1.0 / 6.0), np.float32(1.0 / 24.0)
    tiny = np.float32(1e-12)
    for s in range(low, high):
        dx, dy, dz = x - table[s], y - table[_Y + s], z - table[_Z + s]
        d2 = dx * dx + dy * dy + dz * dz
        inverse = one / math.sqrt(d2)
        d = d2 * inverse
        c = (dx * table[_NX + s] + dy * table[_NY + s] + dz * table[_NZ + s]) * inverse
        inverse2 = inverse * inverse
        # exp(-d / attenuation) as the inverse 16th power of a short series
        q = d * sixteenth
        rise = one + q * (one + q * (half + q * (sixth + q * last)))
        rise *= rise
        rise *= rise
        rise *= rise
        rise *= rise
        base = photons * table[_AREA + s] * inverse / rise
        base = base if d2 >= near2 else zero
        # Fresnel, with the cosines on both sides of the window
        cp = max(c, zero)
        inner = math.sqrt(max(cp * cp - critical, zero))
        rs = (cp - inner) / (cp + inner + tiny)
        rp = (n2 * inner - m2 * cp) / (n2 * inner + m2 * cp + tiny)
        passed = one - half * (rs * rs + rp * rp)
        f = base * inverse * cp * passed * (one + table[_SPREAD + s] * inverse2 * (nine - fifteen * c * c))
        if shadowed:
            # as in _lit_part
            along = table[s] * dx + table[_Y + s] * dy
            span = dx * dx + dy * dy + tiny
            across = table[_NX + s] * dy - table[_NY + s] * dx
            miss = table[s] * table[s] + table[_Y + s] * table[_Y + s] - along * along / span
            miss = math.sqrt(max(miss, zero)) - radius
            extent = pmt * math.sqrt(max(one - across * across / span, hundredth)) * (one + along / span)
            lit = min(max(half + half * miss / (extent + tiny), zero), one)
            f *= one if (along >= zero) | (-along >= span) else lit
        fade = max(one - d2 * range2, zero)
        root = math.sqrt(d)
        shape = k00 + root * (k01 + root * k02)
        shape += c * (k10 + root * (k11 + root * k12) + c * (k20 + root * (k21 + root * k22)))
        shape += c * c * c * (k30 + root * (k31 + root * k32))
        once = max(base * per_scattering * shape * fade * fade, zero)
        excess = e00 + root * e01 + c * (e10 + root * e11 + c * (e20 + root * e21))
        arrival = t + d * slowness
        later = arrival + d * max(excess, zero) * slowness
        light[s] += f
        light[_Y + s] += once  # row SCATTERED
        light[_Z + s] += f * arrival + once * later
        light[_NX + s] += f * arrival * arrival + once * later * later


@inner
def _near_light(
    s: int,
    start: int,
    stop: int,
    fine: Floats,
    sensors: Floats32,
    optics: Optics,
    near: NearField,
    attenuation: float,
    light: Floats32,
) -> None:
    """Light of the fine clusters start..stop on one sensor."""
    f = k = ft = ftt = 0.0
    for p in range(start, stop):
        photons = fine[p, 4] * PHOTONS_PER_MEV
        direct, once, d, c = point_light(fine[p, 0], fine[p, 1], fine[p, 2], s, sensors, optics, near, attenuation)
        f += photons * direct
        k += photons * once
        arrival = fine[p, 3] + d / optics.group_velocity
        later = fine[p, 3] + near_field_path(near, d, c) / optics.group_velocity
        ft += photons * (direct * arrival + once * later)
        ftt += photons * (direct * arrival * arrival + once * later * later)
    light[DIRECT, s] += f
    light[SCATTERED, s] += k
    light[TIME, s] += ft
    light[SQUARE, s] += ftt


@compiled
def direct_light(
    work: Clusters,
    n_coarse: int,
    sensors: Floats32,
    optics: Optics,
    near: NearField,
    light: Floats32,
) -> None:
    """Add the light of all clusters to the sensors.

    Args:
        work: clusters of one event.
        n_coarse: number of coarse clusters.
        sensors: the sensor table.
        optics: optical constants.
        near: the fit of the light scattered once close by.
        light: (4, 4760), rows DIRECT, SCATTERED (photons on the windows), TIME (ns times photons of both) and
            SQUARE (ns2).
    """
    attenuation = 1.0 / (1.0 / optics.absorption_length + 1.0 / optics.rayleigh_length)
    row_step = (math.atan2(sensors[Y, 0], -sensors[X, 0]) - math.atan2(sensors[Y, 4048], -sensors[X, 4048])) / (
        _ROWS - 1
    )
    top = math.atan2(sensors[Y, 0], -sensors[X, 0])
    z_first = sensors[Z, 0]
    z_step = (sensors[Z, _COLUMNS - 1] - z_first) / (_COLUMNS - 1)
    flat, flat_light = sensors.ravel(), light.ravel()
    for k in range(n_coarse):
        source = work.coarse[k]
        x, y, z = source[0], source[1], source[2]
        r = math.sqrt(x * x + y * y)
        row = (top - math.atan2(y, -x)) / row_step
        # rows below the horizon of the inner cylinder, beyond the near field, get nothing
        reach = max(math.acos(min(INNER_RADIUS / r, 1.0)), NEAR_FIELD_RANGE / INNER_RADIUS) / row_step + 1.0
        low, high = max(int(row - reach), 0), min(int(row + reach) + 1, _ROWS)
        begin, end = np.uint64(low * _COLUMNS), np.uint64(high * _COLUMNS)
        close = _near_reach(r - INNER_RADIUS, optics)
        _far_light(source, begin, end, close, False, flat, optics, near, attenuation, flat_light)
        begin, end = np.uint64(N_SIPM), np.uint64(N_SENSORS)
        _far_light(source, begin, end, NEAR, True, flat, optics, near, attenuation, flat_light)
        start, stop = work.first_fine[k], work.first_fine[k + 1]
        if r - INNER_RADIUS < NEAR:
            width = close / (INNER_RADIUS * row_step) + 1.0
            for i in range(max(int(row - width), 0), min(int(row + width) + 2, _ROWS)):
                for j in range(
                    max(int((z - close - z_first) / z_step), 0),
                    min(int((z + close - z_first) / z_step) + 2, _COLUMNS),
                ):
                    s = i * _COLUMNS + j
                    if _is_near(source, s, close, sensors):
                        _near_light(s, start, stop, work.fine, sensors, optics, near, attenuation, light)
        for s in range(N_SIPM, N_SENSORS):
            if _is_near(source, s, NEAR, sensors):
                _near_light(s, start, stop, work.fine, sensors, optics, near, attenuation, light)


@inner
def _near_reach(depth: float, optics: Optics) -> float:
    """Distance within which fine clusters light the SiPMs: as far as the critical circle of shallow light."""
    cosine = math.sqrt(max(1.0 - (optics.n_window / optics.n_xenon) ** 2, 1e-4))
    circle = 1.1 * depth / cosine + 2.0
    return max(circle, NEAR) if circle < _FARTHEST_NEAR else NEAR


@inner
def _is_near(source: Floats, s: int, reach: float, sensors: Floats32) -> bool:
    """The test of `_far_light` in the same precision, so that a sensor is lit once, to rounding."""
    dx = np.float32(source[0]) - sensors[X, s]
    dy = np.float32(source[1]) - sensors[Y, s]
    dz = np.float32(source[2]) - sensors[Z, s]
    return bool(dx * dx + dy * dy + dz * dz < np.float32(reach * reach))
