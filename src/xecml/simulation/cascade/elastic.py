"""Elastic scattering of electrons and positrons in liquid xenon: rates of soft and of hard deflections.

With x = (1 - cos)/2, the cross-section per atom is pi (Z r_e m / (p beta))^2 R(x) F(q)^2 / (x + A)^2: Rutherford,
screened with Moliere's angle (Moliere 1947), Mott's spin factor to second order in Z alpha, which is larger for
electrons than for positrons (McKinley and Feshbach 1948), and the form factor of the nucleus at q = 2 p sqrt(x).
Deflections by the electrons of the atoms add those with transfers below DELTA_CUT.

Deflections beyond a limit x_c are simulated one by one, all smaller ones together as a step's multiple scattering.
The limit lies where hard ones are `HARD_PER_TRANSPORT` times as frequent as the inverse transport path, one in a few
steps: their long tail and the narrow core of all others are then both as they are in nature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xecml.compiled import compiled
from xecml.simulation.cascade.cross_sections import (
    ATOM_DENSITY,
    DELTA_CUT,
    ELECTRON_MASS,
    ELECTRON_RADIUS,
    FINE_STRUCTURE,
    Z_XENON,
    Floats,
)

HARD_PER_TRANSPORT = 2.5
CHARGE_RADIUS = 4.79 / 197.327
"""Root mean square charge radius of the xenon nucleus, 4.79 fm, in 1/MeV: Angeli and Marinova 2013, natural mixture of
isotopes; the global formula of Nerlo-Pomorska and Pomorski 1993 gives the same."""
_FORM = CHARGE_RADIUS**2 / 12
_AZ = FINE_STRUCTURE * Z_XENON
_ENVELOPE = 1.25
"""Not below R(x) F^2 of any energy."""
_POINTS = 600


class ElasticTables(NamedTuple):
    """Tables over `ENERGIES`; rows electron, positron."""

    soft: Floats
    """(2, N) inverse transport path of deflections below the limit, per cm"""
    hard: Floats
    """(2, N) deflections beyond the limit, per cm"""
    limit: Floats
    """(2, N) x_c"""
    screening: Floats
    """(N,) A"""


@compiled
def form_factor_squared(p2: float, x: float) -> float:
    """F(q)^2 of a dipole form with the nucleus's charge radius, for momentum squared p2 (MeV2)."""
    f = 1.0 + 4.0 * p2 * x * _FORM
    return 1.0 / (f * f * f * f)


@compiled
def spin_factor(beta2: float, x: float, positron: bool) -> float:
    """Mott's over Rutherford's cross-section to second order in Z alpha."""
    root = math.sqrt(x)
    second = math.pi * _AZ * math.sqrt(beta2) * root * (1.0 - root)
    return 1.0 - beta2 * x + (-second if positron else second)


@compiled
def hard_deflection(rng: np.random.Generator, E: float, positron: bool, limit: float, screening: float) -> float:
    """Draw x of a deflection beyond `limit` of a particle of kinetic energy E (MeV)."""
    p2 = E * (E + 2.0 * ELECTRON_MASS)
    beta2 = p2 / (p2 + ELECTRON_MASS * ELECTRON_MASS)
    low, high = 1.0 / (limit + screening), 1.0 / (1.0 + screening)
    while True:
        x = 1.0 / (low - rng.random() * (low - high)) - screening
        if _ENVELOPE * rng.random() < spin_factor(beta2, x, positron) * form_factor_squared(p2, x):
            return float(x)


def screening_parameter(T: float) -> float:
    """A, from Moliere's screening angle."""
    p2 = T * (T + 2 * ELECTRON_MASS)
    beta2 = p2 / (p2 + ELECTRON_MASS**2)
    thomas_fermi = FINE_STRUCTURE * ELECTRON_MASS / 0.885 * Z_XENON ** (1 / 3)
    return float(thomas_fermi**2 / p2 * (1.13 + 3.76 * _AZ**2 / beta2) / 4)


def _density(T: float, x: Floats, positron: bool) -> Floats:
    """Deflections per cm and per x."""
    p2 = T * (T + 2 * ELECTRON_MASS)
    beta2 = p2 / (p2 + ELECTRON_MASS**2)
    root = np.sqrt(x)
    second = math.pi * _AZ * math.sqrt(beta2) * root * (1 - root)
    nucleus = (1 - beta2 * x + (-second if positron else second)) / (1 + 4 * p2 * x * _FORM) ** 4
    # an electron of the atom that takes less than DELTA_CUT cannot deflect by more
    largest = ELECTRON_MASS * min(DELTA_CUT, T / 2) / (2 * p2)
    size = math.pi * (ELECTRON_RADIUS * ELECTRON_MASS) ** 2 / (p2 * beta2) * ATOM_DENSITY
    charge = Z_XENON**2 * nucleus + Z_XENON * (x < largest)
    return np.asarray(size * charge / (x + screening_parameter(T)) ** 2)


def inverse_transport_path(T: float, *, positron: bool = False) -> float:
    """Inverse transport mean free path at kinetic energy T (MeV), per cm."""
    x = np.geomspace(1e-4 * screening_parameter(T), 1, _POINTS)
    return float(np.trapezoid(2 * x * x * _density(T, x, positron), np.log(x)))


def elastic_tables(energies: Floats) -> ElasticTables:
    """Build the tables."""
    soft, hard, limit = (np.empty((2, len(energies))) for _ in range(3))
    for row, positron in enumerate((False, True)):
        for i, T in enumerate(energies):
            x = np.geomspace(1e-4 * screening_parameter(T), 1, _POINTS)
            log, density = np.log(x), _density(T, x, positron)
            beyond = _integral_from_above(log, x * density)
            below = _integral_from_above(log, 2 * x * x * density)
            wanted = min(HARD_PER_TRANSPORT * below[0], 0.5 * beyond[0])
            limit[row, i] = math.exp(np.interp(-wanted, -beyond, log))
            hard[row, i] = wanted
            soft[row, i] = below[0] - np.interp(math.log(limit[row, i]), log, below)
    return ElasticTables(soft, hard, limit, np.array([screening_parameter(T) for T in energies]))


def _integral_from_above(log: Floats, rate: Floats) -> Floats:
    """Integrals of `rate` over `log` from each point to the last."""
    parts = 0.5 * (rate[1:] + rate[:-1]) * np.diff(log)
    return np.concatenate([np.cumsum(parts[::-1])[::-1], [0.0]])
