"""Small steps that the cascade repeats: volumes, tables, the stack of particles, deposits. Compiled. MeV, cm, ns."""

from __future__ import annotations

import math

from xecml.compiled import inner
from xecml.simulation.cascade.cross_sections import LOG_E_MIN, LOG_E_STEP, N_ENERGIES, Floats
from xecml.simulation.volume import in_front, inside_calorimeter

SLAB, CALORIMETER, FRONTED = 0, 1, 2
"""Volumes: a slab 0 < z < depth without sides (for comparison with tables); the detector; the detector with a layer of
material, `depth` thick, before its inner face."""
Vector = tuple[float, float, float]
"""A place (cm) or a direction."""


@inner
def inside(volume: int, depth: float, place: Vector) -> bool:
    """Whether a place lies in the volume."""
    x, y, z = place
    if volume == SLAB:
        return 0.0 <= z <= depth
    return inside_calorimeter(x, y, z) or (volume == FRONTED and in_front(x, y, z, depth))


@inner
def cell(E: float) -> tuple[int, float]:
    """Cell and fraction of an energy on the tables' grid."""
    q = (math.log(E) - LOG_E_MIN) / LOG_E_STEP
    q = min(max(q, 0.0), N_ENERGIES - 1.0001)
    i = int(q)
    return i, q - i


@inner
def at(table: Floats, i: int, f: float) -> float:
    """Value of a table between two of its points."""
    return float(table[i] + f * (table[i + 1] - table[i]))


@inner
def push(stack: Floats, n: int, kind: int, E: float, place: Vector, u: Vector, t: float) -> int:
    """Put a particle on the stack; returns its height."""
    stack[n, 0], stack[n, 1], stack[n, 8] = kind, E, t
    for a in range(3):
        stack[n, 2 + a], stack[n, 5 + a] = place[a], u[a]
    return n + 1


@inner
def particle(stack: Floats, top: int) -> tuple[float, float, float, float, float, float, float, float]:
    """Energy, place (x, y, z), direction (x, y, z) and time of the particle on top of the stack."""
    p = stack[top - 1]
    return p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]


@inner
def deposit(deposits: Floats, n: int, place: Vector, t: float, E: float) -> int:
    """Add a deposit; returns their number."""
    if E <= 0.0:
        return n
    if n == deposits.shape[0]:
        # full, which no photon below 1 GeV reaches: energy is kept, its place is not
        deposits[n - 1, 4] += E
        return n
    deposits[n, 0], deposits[n, 1], deposits[n, 2] = place
    deposits[n, 3], deposits[n, 4] = t, E
    return n + 1
