"""Final states of the cascade's interactions, sampled: energies and angles. Compiled. MeV."""

from __future__ import annotations

import math

import numpy as np

from xecml.compiled import compiled, inner
from xecml.simulation.cascade.cross_sections import (
    COULOMB_CORRECTION,
    DELTA_CUT,
    ELECTRON_MASS,
    LOG_CUBE_ROOT_Z,
    SCREENING,
)


@compiled
def rotate(ux: float, uy: float, uz: float, cos_theta: float, phi: float) -> tuple[float, float, float]:
    """Direction at polar angle theta and azimuth phi about the unit vector u."""
    sin_theta = math.sqrt(max(0.0, 1.0 - cos_theta * cos_theta))
    c, s = sin_theta * math.cos(phi), sin_theta * math.sin(phi)
    s2 = 1.0 - uz * uz
    if s2 < 1e-10:
        return c, s, cos_theta if uz > 0 else -cos_theta
    root = math.sqrt(s2)
    return (
        ux * cos_theta + (ux * uz * c - uy * s) / root,
        uy * cos_theta + (uy * uz * c + ux * s) / root,
        uz * cos_theta - root * c,
    )


@compiled
def compton_photon(rng: np.random.Generator, E: float) -> tuple[float, float]:
    """Energy share kept by the photon and 1 - cos of its angle (Klein-Nishina by Butcher and Messel)."""
    k = E / ELECTRON_MASS
    e0 = 1.0 / (1.0 + 2.0 * k)
    a1 = -math.log(e0)
    a2 = 0.5 * (1.0 - e0 * e0)
    while True:
        if a1 > rng.random() * (a1 + a2):
            share = math.exp(-a1 * rng.random())
        else:
            share = math.sqrt(e0 * e0 + (1.0 - e0 * e0) * rng.random())
        t = (1.0 - share) / (k * share)
        if 1.0 - share * t * (2.0 - t) / (1.0 + share * share) > rng.random():
            return share, t


@inner
def _phi1(d: float) -> float:
    return 20.867 - 3.242 * d + 0.625 * d * d if d <= 1.0 else 21.12 - 4.184 * math.log(d + 0.952)


@inner
def _phi2(d: float) -> float:
    return 20.209 - 1.930 * d - 0.086 * d * d if d <= 1.0 else 21.12 - 4.184 * math.log(d + 0.952)


@compiled
def pair_share(rng: np.random.Generator, E: float) -> float:
    """Energy share (rest mass included) of the poorer lepton: screened Bethe-Heitler by two envelopes."""
    e0 = ELECTRON_MASS / E
    if E < 2.0:
        return e0 + rng.random() * (0.5 - e0)
    coulomb = 8.0 * LOG_CUBE_ROOT_Z + (8.0 * COULOMB_CORRECTION if E > 50.0 else 0.0)
    d_max = math.exp((42.24 - coulomb) / 8.368) - 0.952
    d_min = 4.0 * SCREENING * e0
    low = max(e0, 0.5 - 0.5 * math.sqrt(max(0.0, 1.0 - d_min / d_max)))
    width = 0.5 - low
    f1 = max(3.0 * _phi1(d_min) - _phi2(d_min) - coulomb, 0.0)
    f2 = max(1.5 * _phi1(d_min) - 0.5 * _phi2(d_min) - coulomb, 0.0)
    n1, n2 = width * width * f1, 1.5 * f2
    while True:
        if n1 > rng.random() * (n1 + n2):
            share = 0.5 - width * rng.random() ** (1.0 / 3.0)
            d = SCREENING * e0 / (share * (1.0 - share))
            accept = (3.0 * _phi1(d) - _phi2(d) - coulomb) / f1
        else:
            share = low + width * rng.random()
            d = SCREENING * e0 / (share * (1.0 - share))
            accept = (1.5 * _phi1(d) - 0.5 * _phi2(d) - coulomb) / f2
        if accept > rng.random():
            return float(share)


@compiled
def radiation_cosine(rng: np.random.Generator, E: float) -> float:
    """Cosine of the angle of a radiated photon or pair lepton of total energy E (Tsai)."""
    u = (rng.standard_exponential() + rng.standard_exponential()) / 0.625
    if rng.random() >= 0.25:
        u /= 3.0
    angle = u * ELECTRON_MASS / E
    return math.cos(angle if angle <= math.pi else math.pi * rng.random())


@compiled
def photoelectron_cosine(rng: np.random.Generator, T: float) -> float:
    """Cosine of a photoelectron's angle: sin^2 in its rest frame, boosted (leading term of Sauter 1931)."""
    g = T / ELECTRON_MASS + 1.0
    b = math.sqrt(1.0 - 1.0 / (g * g))
    while True:
        c = 2.0 * rng.random() - 1.0
        c = (c + b) / (1.0 + b * c)
        if rng.random() < 1.0 - c * c:
            return c


@compiled
def delta_energy(rng: np.random.Generator, E: float, positron: bool) -> float:
    """Energy of a delta ray above DELTA_CUT (Moller or Bhabha) from a particle of kinetic energy E."""
    largest = E if positron else 0.5 * E
    g = E / ELECTRON_MASS + 1.0
    b2 = 1.0 - 1.0 / (g * g)
    y = 1.0 / (g + 1.0)
    b4 = (1.0 - 2.0 * y) ** 3
    while True:
        w = 1.0 / (1.0 / DELTA_CUT - rng.random() * (1.0 / DELTA_CUT - 1.0 / largest))
        x = w / E
        if positron:
            series = (2.0 - y * y) * x - (1.0 - 2.0 * y) * (3.0 + y * y) * x * x
            series += ((1.0 - 2.0 * y) ** 2 + b4) * x**3 - b4 * x**4
            if rng.random() < 1.0 - b2 * series:
                return w
        else:
            q = (g - 1.0) / g
            shape = 1.0 + (x / (1.0 - x)) ** 2 + q * q * x * x - (2.0 * g - 1.0) / (g * g) * x / (1.0 - x)
            if rng.random() * (2.0 + 0.25 * q * q) < shape:
                return w


@compiled
def annihilation_share(rng: np.random.Generator, g: float) -> float:
    """Share of the energy taken by one photon of annihilation in flight, Lorentz factor g (Heitler)."""
    root = math.sqrt((g - 1.0) / (g + 1.0))
    low, high = 0.5 * (1.0 - root), 0.5 * (1.0 + root)
    while True:
        e = low * (high / low) ** rng.random()
        if rng.random() < 1.0 - e + (2.0 * g * e - 1.0) / (e * (g + 1.0) ** 2):
            return float(e)
