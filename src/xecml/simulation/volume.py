"""The active xenon as a closed volume: inside or not, the next wall along a ray, its normal. Compiled.

Detector coordinates (the calorimeter at x < 0), cm. Walls carry the face codes of `xecml.geometry`.
"""

from __future__ import annotations

import math

from xecml.compiled import compiled, inner
from xecml.geometry import END_SLOPE, HALF_LENGTH_INNER, HALF_OPENING_DEG, INNER_RADIUS, OUTER_RADIUS

INNER, UPSTREAM, DOWNSTREAM, OUTER, TOP, BOTTOM = range(6)

COS_OPENING = math.cos(math.radians(HALF_OPENING_DEG))
SIN_OPENING = math.sin(math.radians(HALF_OPENING_DEG))
APEX = HALF_LENGTH_INNER - END_SLOPE * INNER_RADIUS
"""The end faces are cones |z| = APEX + END_SLOPE r."""
_END_NORM = math.hypot(1.0, END_SLOPE)
_TINY = 1e-9
FAR = 1e30


@compiled
def inside_calorimeter(x: float, y: float, z: float) -> bool:
    """Whether a point lies in the active xenon."""
    r2 = x * x + y * y
    if r2 < INNER_RADIUS * INNER_RADIUS or r2 > OUTER_RADIUS * OUTER_RADIUS:
        return False
    if x >= 0.0 or abs(y) * COS_OPENING + x * SIN_OPENING > 0.0:
        return False
    return abs(z) <= APEX + END_SLOPE * math.sqrt(r2)


@inner
def in_front(x: float, y: float, z: float, thickness: float) -> bool:
    """Whether a point lies less than `thickness` (cm) before the inner face."""
    if x >= 0.0 or abs(z) > HALF_LENGTH_INNER or abs(y) * COS_OPENING + x * SIN_OPENING > 0.0:
        return False
    return 0.0 < INNER_RADIUS - math.sqrt(x * x + y * y) <= thickness


@inner
def _cylinder_distance(b: float, a: float, c: float, outward: bool) -> float:
    """Distance to a cylinder from inside or outside: root of a t^2 + 2 b t + c = 0."""
    root = b * b - a * c
    if a < 1e-14 or root <= 0.0:
        return FAR
    if outward:
        return (-b + math.sqrt(root)) / a
    if b >= 0.0:
        return FAR
    t = (-b - math.sqrt(root)) / a
    return t if t > _TINY else FAR


@inner
def _cone_distance(z: float, uz: float, a: float, b: float, c: float) -> float:
    """Distance to the cone z = APEX + END_SLOPE r along a ray; a, b, c as for a cylinder, c = r^2."""
    s2 = END_SLOPE * END_SLOPE
    h = z - APEX
    qa = uz * uz - s2 * a
    qb = h * uz - s2 * b
    qc = h * h - s2 * c
    if abs(qa) < 1e-12:
        if abs(qb) < 1e-12:
            return FAR
        t = -0.5 * qc / qb
        return t if t > _TINY and h + t * uz >= 0.0 else FAR
    root = qb * qb - qa * qc
    if root < 0.0:
        return FAR
    root = math.sqrt(root)
    best = FAR
    for sign in (-1.0, 1.0):
        t = (-qb + sign * root) / qa
        # the other nappe of the cone, where h < 0, is no wall
        if t > _TINY and h + t * uz >= 0.0 and t < best:
            best = t
    return best


@compiled
def next_wall(x: float, y: float, z: float, ux: float, uy: float, uz: float) -> tuple[float, int]:
    """Distance along a ray from inside the xenon to the wall it meets first, and that wall's face code."""
    a = ux * ux + uy * uy
    b = x * ux + y * uy
    r2 = x * x + y * y
    distance = _cylinder_distance(b, a, r2 - OUTER_RADIUS * OUTER_RADIUS, True)
    face = OUTER
    t = _cylinder_distance(b, a, r2 - INNER_RADIUS * INNER_RADIUS, False)
    if t < distance:
        distance, face = t, INNER
    t = _cone_distance(z, uz, a, b, r2)
    if t < distance:
        distance, face = t, DOWNSTREAM
    t = _cone_distance(-z, -uz, a, b, r2)
    if t < distance:
        distance, face = t, UPSTREAM
    # side planes: n.p = 0 with n pointing into the xenon
    for side in (1.0, -1.0):
        rate = -SIN_OPENING * ux - side * COS_OPENING * uy
        if rate < -1e-12:
            t = (-SIN_OPENING * x - side * COS_OPENING * y) / -rate
            if 0.0 <= t < distance:
                distance, face = t, TOP if side > 0.0 else BOTTOM
    return distance, face


@compiled
def wall_normal(face: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Unit normal of a wall at a point on it, pointing into the xenon."""
    if face == TOP:
        return -SIN_OPENING, -COS_OPENING, 0.0
    if face == BOTTOM:
        return -SIN_OPENING, COS_OPENING, 0.0
    r = math.sqrt(x * x + y * y)
    if face == INNER:
        return x / r, y / r, 0.0
    if face == OUTER:
        return -x / r, -y / r, 0.0
    slope = END_SLOPE / _END_NORM
    nz = (1.0 if face == UPSTREAM else -1.0) / _END_NORM
    return slope * x / r, slope * y / r, nz
