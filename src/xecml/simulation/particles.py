"""Small steps that the cascade repeats: volumes, tables, the stack of particles, deposits. Compiled. MeV, cm, ns."""

from __future__ import annotations

import math

from xecml.simulation.compiled import inner
from xecml.simulation.crosssections import LOG_E_MIN, LOG_E_STEP, N_ENERGIES, Floats
from xecml.simulation.volume import inside_calorimeter

SLAB, CALORIMETER = 0, 1
"""Volumes: a slab 0 < z < depth without sides (for comparison with tables), and the detector."""


@inner
def inside(volume: int, depth: float, x: float, y: float, z: float) -> bool:
    """Whether a point lies in the volume."""
    if volume == SLAB:
        return 0.0 <= z <= depth
    return inside_calorimeter(x, y, z)


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
def push(
    stack: Floats,
    n: int,
    kind: int,
    E: float,
    x: float,
    y: float,
    z: float,
    ux: float,
    uy: float,
    uz: float,
    t: float,
) -> int:
    """Put a particle on the stack; returns its height."""
    stack[n, 0] = kind
    stack[n, 1] = E
    stack[n, 2] = x
    stack[n, 3] = y
    stack[n, 4] = z
    stack[n, 5] = ux
    stack[n, 6] = uy
    stack[n, 7] = uz
    stack[n, 8] = t
    return n + 1


@inner
def deposit(deposits: Floats, n: int, x: float, y: float, z: float, t: float, E: float) -> int:
    """Add a deposit; returns their number."""
    if E <= 0.0:
        return n
    if n == deposits.shape[0]:
        # full, which no photon below 1 GeV reaches: energy is kept, its place is not
        deposits[n - 1, 4] += E
        return n
    deposits[n, 0] = x
    deposits[n, 1] = y
    deposits[n, 2] = z
    deposits[n, 3] = t
    deposits[n, 4] = E
    return n + 1
