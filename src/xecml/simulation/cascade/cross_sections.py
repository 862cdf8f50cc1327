"""Interaction coefficients of photons, electrons and positrons in liquid xenon, per cm.

Sources: photons: XCOM of NIST (table beside this file), with Klein and Nishina 1929 between its points of Compton;
collision loss: Berger and Seltzer (ICRU 37) with Sternheimer's density effect; delta rays: Moller 1932, Bhabha 1936;
bremsstrahlung: screened Bethe-Heitler spectrum (Tsai 1974; Butcher and Messel 1960) normalised to the radiative
stopping powers of ICRU 37; annihilation in flight: Heitler 1954. Elastic scattering is in `elastic`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# constants of nature: MeV, cm
ELECTRON_MASS = 0.51099895
AVOGADRO = 6.02214076e23
ELECTRON_RADIUS = 2.8179403e-13
FINE_STRUCTURE = 1 / 137.035999

# liquid xenon
Z_XENON = 54.0
ATOMIC_MASS = 131.293
DENSITY = 2.953  # g/cm3
MEAN_EXCITATION = 482e-6  # MeV (ICRU 37)
ATOM_DENSITY = DENSITY * AVOGADRO / ATOMIC_MASS  # per cm3
ELECTRON_DENSITY = ATOM_DENSITY * Z_XENON
_PER_BARN = 1e-24 * ATOM_DENSITY
K_EDGE = 0.0345614  # MeV

# production and tracking cuts, MeV
DELTA_CUT = 0.10
BREMS_CUT = 0.05
ELECTRON_CUT = 0.10
PHOTON_CUT = 0.02

# energy grid of all tables
N_ENERGIES = 400
LOG_E_MIN = math.log(1e-2)
LOG_E_MAX = math.log(300.0)
LOG_E_STEP = (LOG_E_MAX - LOG_E_MIN) / (N_ENERGIES - 1)
ENERGIES: Floats = np.exp(np.linspace(LOG_E_MIN, LOG_E_MAX, N_ENERGIES))
N_BREMS_QUANTILES = 60

_AZ2 = (FINE_STRUCTURE * Z_XENON) ** 2
COULOMB_CORRECTION = _AZ2 * (1 / (1 + _AZ2) + 0.20206 - 0.0369 * _AZ2 + 0.0083 * _AZ2**2 - 0.002 * _AZ2**3)
"""Davies, Bethe and Maximon's f(Z)."""
LOG_CUBE_ROOT_Z = math.log(Z_XENON) / 3
SCREENING = 136.0 / Z_XENON ** (1 / 3)
"""The screening variable of pair production and bremsstrahlung is this times m k / (E E')."""


# ------------------------------------------------------------------------------------------------- photons


class _PhotonTable(NamedTuple):
    """XCOM's points: energies (MeV) and cross-sections (barn an atom)."""

    energy: Floats
    incoherent: Floats
    photoelectric: Floats
    pair: Floats
    """in the fields of nucleus and electrons"""


@cache
def _photon_table() -> _PhotonTable:
    text = files("xecml.simulation.cascade").joinpath("xenon_photons.csv").read_text(encoding="utf-8")
    energy, incoherent, absorption, nucleus, electrons = np.loadtxt(text.splitlines(), delimiter=",").T
    return _PhotonTable(energy, incoherent, absorption, nucleus + electrons)


def photoelectric(E: Floats) -> Floats:
    """Photoelectric coefficient, per cm: powers of the energy between the points."""
    table = _photon_table()
    log = np.interp(np.log(E), np.log(table.energy), np.log(table.photoelectric))
    return np.asarray(np.exp(log) * _PER_BARN)


@cache
def k_shell_fraction() -> float:
    """Share of absorptions above the K edge that eject a K electron, from the jump at the edge."""
    table = _photon_table()
    above = int(np.searchsorted(table.energy, K_EDGE))
    return float(1 - table.photoelectric[above - 1] / table.photoelectric[above])


def _klein_nishina(E: Floats) -> Floats:
    """Cross-section of free electrons, barn an atom."""
    a = E / ELECTRON_MASS
    log = np.log1p(2 * a)
    sigma = (1 + a) / a**2 * (2 * (1 + a) / (1 + 2 * a) - log / a) + log / (2 * a) - (1 + 3 * a) / (1 + 2 * a) ** 2
    return np.asarray(1e24 * Z_XENON * 2 * math.pi * ELECTRON_RADIUS**2 * sigma)


def compton(E: Floats) -> Floats:
    """Coefficient of Compton scattering, per cm: Klein and Nishina's, less what binding suppresses."""
    table = _photon_table()
    bound = np.interp(np.log(E), np.log(table.energy), table.incoherent / _klein_nishina(table.energy))
    return np.asarray(_klein_nishina(E) * bound * _PER_BARN)


def pair(E: Floats) -> Floats:
    """Pair production coefficient, per cm, nucleus and electrons; its rise above the threshold is cubic."""
    table = _photon_table()
    known = table.pair > 0
    slow = table.pair[known] / (1 - 2 * ELECTRON_MASS / table.energy[known]) ** 3
    rise = np.maximum(1 - 2 * ELECTRON_MASS / E, 0) ** 3
    return np.asarray(np.interp(np.log(E), np.log(table.energy[known]), slow) * rise * _PER_BARN)


# ------------------------------------------------------------------------------------ electrons and positrons


def _density_effect(beta_gamma: Floats) -> Floats:
    """Sternheimer's delta with the general recipe for the parameters (ICRU 37)."""
    plasmon = 28.816e-6 * math.sqrt(DENSITY * Z_XENON / ATOMIC_MASS)
    c = 2 * math.log(MEAN_EXCITATION / plasmon) + 1
    x0, x1 = 0.326 * c - 1.5, 3.0
    a = (c - 4.606 * x0) / (x1 - x0) ** 3
    x = np.log10(beta_gamma)
    high = 2 * math.log(10) * x - c
    return np.where(x < x0, 0.0, high + a * np.where(x < x1, x1 - x, 0.0) ** 3)


def _loss_shape(tau: Floats, cut: float, positron: bool) -> Floats:
    """Berger and Seltzer's F for losses below `cut` (MeV)."""
    gamma, b2 = tau + 1, 1 - 1 / (tau + 1) ** 2
    if not positron:
        d = np.minimum(cut / ELECTRON_MASS, tau / 2)
        close = (0.5 * d**2 + (2 * tau + 1) * np.log(1 - d / tau)) / gamma**2
        return np.asarray(-1 - b2 + np.log((tau - d) * d) + tau / (tau - d) + close)
    d, y = np.minimum(cut / ELECTRON_MASS, tau), 1 / (gamma + 1)
    cubic = (d - d**3 / 3) * y**2 + (d**2 / 2 - tau * d**3 / 3 + d**4 / 4) * y**3
    return np.asarray(np.log(tau * d) - b2 / tau * (tau + 2 * d - 1.5 * d**2 * y - cubic))


def collision_loss(T: Floats, cut: float = math.inf, *, positron: bool = False) -> Floats:
    """Collision energy loss in MeV/cm at kinetic energy T, of losses below `cut` only."""
    tau = T / ELECTRON_MASS
    b2 = 1 - 1 / (tau + 1) ** 2
    factor = 2 * math.pi * ELECTRON_RADIUS**2 * ELECTRON_MASS * ELECTRON_DENSITY / b2
    log = np.log(2 * (tau + 2) / (MEAN_EXCITATION / ELECTRON_MASS) ** 2)
    return np.asarray(factor * (log + _loss_shape(tau, cut, positron) - _density_effect(np.sqrt(tau * (tau + 2)))))


def moller_shape(T: float, w: Floats) -> Floats:
    """Moller's spectrum of energy transfers w, times the factor of `delta_rays` undone."""
    g, x = T / ELECTRON_MASS + 1, w / T
    odd = (2 * g - 1) / g**2 * x / (1 - x)
    return np.asarray((1 + (x / (1 - x)) ** 2 + ((g - 1) / g) ** 2 * x * x - odd) / w**2)


def bhabha_shape(T: float, w: Floats) -> Floats:
    """Bhabha's, the same."""
    g, x = T / ELECTRON_MASS + 1, w / T
    b2, y = 1 - 1 / g**2, 1 / (g + 1)
    b4 = (1 - 2 * y) ** 3
    series = (2 - y * y) * x - (1 - 2 * y) * (3 + y * y) * x**2 + ((1 - 2 * y) ** 2 + b4) * x**3 - b4 * x**4
    return np.asarray((1 - b2 * series) / w**2)


def delta_rays(shape: Callable[[float, Floats], Floats], largest_share: float) -> Floats:
    """Coefficient per cm for transfers from DELTA_CUT to `largest_share` of T."""
    result = np.zeros(N_ENERGIES)
    for i, T in enumerate(ENERGIES):
        if largest_share * T > DELTA_CUT:
            w = np.geomspace(DELTA_CUT, largest_share * T, 200)
            b2 = 1 - 1 / (T / ELECTRON_MASS + 1) ** 2
            factor = 2 * math.pi * ELECTRON_RADIUS**2 * ELECTRON_MASS * ELECTRON_DENSITY / b2
            result[i] = factor * np.trapezoid(shape(T, w), w)
    return result


def radiation_length() -> float:
    """Radiation length in cm (Tsai 1974)."""
    nucleus = math.log(184.15) - LOG_CUBE_ROOT_Z - COULOMB_CORRECTION
    electrons = math.log(1194.0) - 2 * LOG_CUBE_ROOT_Z
    size = 4 * FINE_STRUCTURE * ELECTRON_RADIUS**2 * ATOM_DENSITY
    return 1 / (size * (Z_XENON**2 * nucleus + Z_XENON * electrons))


def annihilation(T: Floats) -> Floats:
    """Coefficient per cm of two-photon annihilation of positrons in flight."""
    g = T / ELECTRON_MASS + 1
    root = np.sqrt(g * g - 1)
    sigma = ((g * g + 4 * g + 1) / (g * g - 1) * np.log(g + root) - (g + 3) / root) / (g + 1)
    return np.asarray(ELECTRON_DENSITY * math.pi * ELECTRON_RADIUS**2 * sigma)


# --------------------------------------------------------------------------------------------- bremsstrahlung


def _screening_functions(d: Floats) -> tuple[Floats, Floats]:
    """Butcher and Messel's Phi_1 and Phi_2 of the screening variable."""
    far = 21.12 - 4.184 * np.log(d + 0.952)
    return np.where(d <= 1, 20.867 - 3.242 * d + 0.625 * d * d, far), np.where(
        d <= 1, 20.209 - 1.930 * d - 0.086 * d * d, far
    )


def _bethe_heitler(T: float, k: Floats) -> Floats:
    """K dsigma/dk in cm2 an atom, before normalisation."""
    E = T + ELECTRON_MASS
    y = k / E
    phi1, phi2 = _screening_functions(SCREENING * ELECTRON_MASS * y / (E - k))
    coulomb = 4 * LOG_CUBE_ROOT_Z + 4 * COULOMB_CORRECTION
    log = math.log(184.15) - LOG_CUBE_ROOT_Z
    electrons = (math.log(1194.0) - 2 * LOG_CUBE_ROOT_Z) / (log - COULOMB_CORRECTION)
    shape = (1 + (1 - y) ** 2) * np.maximum(phi1 - coulomb, 0) - 2 / 3 * (1 - y) * np.maximum(phi2 - coulomb, 0)
    return np.asarray(FINE_STRUCTURE * ELECTRON_RADIUS**2 * Z_XENON * (Z_XENON + electrons) * shape)


# radiative stopping power of xenon (ICRU 37) over the integral of the unnormalised spectrum; MeV
_RADIATIVE_T = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 26.4, 52.8, 100.0, 300.0)
_RADIATIVE_RATIO = (
    8.0,
    1 / 0.334,
    1 / 0.559,
    1 / 0.789,
    1 / 0.894,
    1 / 0.966,
    1 / 0.997,
    1 / 1.006,
    1 / 1.008,
    1 / 1.008,
)


def _radiative_ratio(T: float) -> float:
    return float(np.interp(math.log(T), np.log(_RADIATIVE_T), _RADIATIVE_RATIO))


def radiative_loss(T: float) -> float:
    """Radiative energy loss in MeV/cm."""
    k = np.geomspace(1e-4 * T, T * 0.99999, 400)
    return float(ATOM_DENSITY * _radiative_ratio(T) * np.trapezoid(_bethe_heitler(T, k), k))


def bremsstrahlung_tables() -> tuple[Floats, Floats, Floats]:
    """Coefficient above BREMS_CUT (N,), quantiles of log k (N, Q), energy loss to softer photons (N,)."""
    coefficient, soft = np.zeros(N_ENERGIES), np.zeros(N_ENERGIES)
    log_k = np.full((N_ENERGIES, N_BREMS_QUANTILES), math.log(BREMS_CUT))
    for i, T in enumerate(ENERGIES):
        scale = ATOM_DENSITY * _radiative_ratio(T)
        k = np.geomspace(1e-6 * BREMS_CUT, min(BREMS_CUT, T * 0.99999), 100)
        soft[i] = scale * np.trapezoid(_bethe_heitler(T, k), k)
        if T > 1.02 * BREMS_CUT:
            grid = np.linspace(math.log(BREMS_CUT), math.log(T * 0.99999), 300)
            rate = _bethe_heitler(T, np.exp(grid))
            cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(grid))])
            coefficient[i] = scale * cumulative[-1]
            log_k[i] = np.interp(np.linspace(0, cumulative[-1], N_BREMS_QUANTILES), cumulative, grid)
    return coefficient, log_k, soft
