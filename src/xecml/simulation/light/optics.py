"""Light in the detector: constants, windows, and light scattered once close to its source.

Light from a point takes three ways to a sensor, and each has its own description:

- direct light: solid angle of the sensor, attenuation, transmission of the window (`direct`);
- light scattered once close by: its share of the direct light grows with the distance, so it has a peak under
  the source as direct light has, of the form 1/d instead of 1/d^2. It is computed here for a half space in
  front of the sensor, as a function of distance and angle, and fades out beyond `NEAR_FIELD_RANGE`;
- everything else (further scatterings, walls, the true shape of the volume): smooth in the position of the
  source and stored in a map (`lightmap`). The map holds what the half space does not, so that the sum is right
  whatever the accuracy of the half space.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.compiled import compiled
from xecml.simulation.cascade.cross_sections import Floats

Floats32 = NDArray[np.float32]

PHOTONS_PER_MEV = 1e6 / 21.6
"""Scintillation photons an MeV: W = 21.6 eV a photon."""
N_SENSORS = geometry.N_SENSORS
N_SIPM = geometry.N_SIPM
NEAR_FIELD_RANGE = 24.0  # cm


class Optics(NamedTuple):
    """Optical constants of the detector at 175 nm."""

    n_xenon: float = 1.61
    """refractive index of liquid xenon"""
    n_window: float = 1.60
    """refractive index of the quartz windows"""
    absorption_length: float = 300.0
    """cm"""
    rayleigh_length: float = 30.0
    """cm"""
    group_velocity: float = 8.0
    """cm/ns"""
    wall_reflectivity: float = 0.20
    """diffuse, of everything that is not a sensor"""

    @property
    def attenuation_length(self) -> float:
        """Mean path before scattering or absorption, cm."""
        return 1 / (1 / self.absorption_length + 1 / self.rayleigh_length)

    @property
    def critical_cosine_squared(self) -> float:
        """Squared cosine of the incidence beyond which windows reflect everything."""
        return 1 - min(self.n_window / self.n_xenon, 1.0) ** 2


@compiled
def window_transmission(cosine: float, n_xenon: float, n_window: float) -> float:
    """Share of unpolarised light that passes from xenon into a window (Fresnel)."""
    sine2 = (1.0 - cosine * cosine) * (n_xenon / n_window) ** 2
    if sine2 >= 1.0 or cosine <= 0.0:
        return 0.0
    inner = math.sqrt(1.0 - sine2)
    s = (n_xenon * cosine - n_window * inner) / (n_xenon * cosine + n_window * inner)
    p = (n_xenon * inner - n_window * cosine) / (n_xenon * inner + n_window * cosine)
    return 1.0 - 0.5 * (s * s + p * p)


@cache
def mean_transmission(optics: Optics) -> float:
    """Transmission averaged over a Lambertian distribution of incidence: integral of 2 c T(c) dc."""
    x, w = np.polynomial.legendre.leggauss(200)
    c = 0.5 * (x + 1)
    t = np.array([window_transmission(v, optics.n_xenon, optics.n_window) for v in c])
    return float(np.sum(w * c * t))


# -------------------------------------------------------------------------------------------- the near field


class NearField(NamedTuple):
    """Light scattered once in a half space, as a fit.

    A sensor of area A sees, from a source at distance d and angle of cosine c to its normal, the share
    A / (4 pi rayleigh_length d) exp(-d / attenuation_length) S(c, d) (1 - (d/D)^2)^2 of the source's photons, after
    a path longer than d by d E(c, d). S and E are polynomials in c and sqrt(d); D is `NEAR_FIELD_RANGE`.
    """

    shape: Floats32
    """(4, 3) coefficients of S: powers of c, powers of sqrt(d)"""
    excess: Floats32
    """(3, 2) coefficients of E"""


def single_scatter(optics: Optics, d: float, cosine: float, order: int = 40) -> tuple[float, float]:
    """Light scattered once on its way to a sensor that faces a half space, by quadrature.

    With y the place of scattering, s its distance from the sensor and psi its angle to the source's
    direction, the substitution s = d cos(psi) + d sin(psi) tan(alpha) removes every singularity; alpha also
    gives the scattering angle, whose cosine is -sin(alpha).

    Returns:
        H in share = A / (4 pi d^2) (d / rayleigh_length) H, and the mean path of this light, cm.
    """
    x, w = _gauss_legendre(order)
    light, path = _single_scatter(optics, optics.attenuation_length, float(d), float(cosine), x, w)
    return light, path


@cache
def _gauss_legendre(order: int) -> tuple[Floats, Floats]:
    """Nodes on (-1, 1) and weights."""
    return np.polynomial.legendre.leggauss(order)


@compiled
def _single_scatter(
    optics: Optics, attenuation: float, d: float, cosine: float, x: Floats, w: Floats
) -> tuple[float, float]:
    """`single_scatter` with the nodes and weights of Gauss and Legendre given."""
    sine = math.sqrt(1.0 - cosine * cosine)
    total = paths = 0.0
    for i in range(len(x)):
        psi = 0.5 * math.pi * (x[i] + 1.0)
        accepted = 0.0
        for j in range(len(x)):
            incidence = math.cos(psi) * cosine - math.sin(psi) * math.cos(0.5 * math.pi * (x[j] + 1.0)) * sine
            if incidence > 0.0:
                passes = window_transmission(incidence, optics.n_xenon, optics.n_window)
                accepted += incidence * passes * math.pi * w[j]
        low, h = psi - 0.5 * math.pi, d * math.sin(psi)
        for k in range(len(x)):
            alpha = low + (0.5 * math.pi - low) * 0.5 * (x[k] + 1.0)
            path = d * math.cos(psi) + h * math.tan(alpha) + h / math.cos(alpha)
            phase = 3.0 / (16.0 * math.pi) * (1.0 + math.sin(alpha) ** 2)
            along = phase * math.exp(-path / attenuation) * (0.5 * math.pi - low) * 0.5 * w[k]
            share = 0.5 * math.pi * w[i] * accepted * along
            total += share
            paths += share * path
    return total, paths / total


@cache
def near_field(optics: Optics) -> NearField:
    """Fit `NearField` to the quadrature (about 10 ms); 3 % off at most."""
    distances, cosines = np.geomspace(0.4, NEAR_FIELD_RANGE, 10), np.linspace(-0.3, 1, 14)
    values = np.array([[single_scatter(optics, d, c) for c in cosines] for d in distances])
    d, c = (v.ravel() for v in np.meshgrid(distances, cosines, indexing="ij"))
    shape = values[..., 0].ravel() * np.exp(d / optics.attenuation_length)
    excess = values[..., 1].ravel() / d - 1
    return NearField(_relative_fit(c, np.sqrt(d), shape, (4, 3)), _relative_fit(c, np.sqrt(d), excess, (3, 2)))


def _relative_fit(x: Floats, y: Floats, values: Floats, size: tuple[int, int]) -> Floats32:
    """Fit a polynomial in x and y, `size` coefficients, with equal relative errors."""
    powers = np.stack([x**i * y**j for i in range(size[0]) for j in range(size[1])], axis=1)
    coefficients, *_ = np.linalg.lstsq(powers / values[:, None], np.ones(len(x)), rcond=None)
    return coefficients.reshape(size).astype(np.float32)


@compiled
def near_field_share(near: NearField, optics: Optics, attenuation: float, area: float, d: float, c: float) -> float:
    """Share of the source's photons that arrive after one scattering close by."""
    if d >= NEAR_FIELD_RANGE:
        return 0.0
    fade = 1.0 - (d / NEAR_FIELD_RANGE) ** 2
    root = math.sqrt(d)
    shape = 0.0
    for i in range(3, -1, -1):
        k = near.shape[i]
        shape = shape * c + k[0] + root * (k[1] + root * k[2])
    size = area / (4.0 * math.pi * optics.rayleigh_length * d)
    return max(size * shape * fade * fade * math.exp(-d / attenuation), 0.0)


@compiled
def near_field_path(near: NearField, d: float, c: float) -> float:
    """Mean path of this light, cm."""
    root = math.sqrt(d)
    excess = 0.0
    for i in range(2, -1, -1):
        k = near.excess[i]
        excess = excess * c + k[0] + root * k[1]
    return d * (1.0 + max(excess, 0.0))


# ----------------------------------------------------------------------------------------------- the sensors


X, Y, Z, NX, NY, NZ, AREA, SPREAD = range(8)
"""Rows of the sensor table: position, normal, area, half the mean square of a coordinate over it (cm2)."""

CHIP_HALF = 0.295
CHIP_OFFSET = 0.32
"""A SiPM is four chips of 5.90 mm with gaps of 0.5 mm: half side, and offset of chip centres, cm."""


def sensor_table(xyz: Floats | None = None) -> Floats32:
    """Return the sensors as light sees them, (8, 4760), at `xyz` (4760, 3) if given."""
    where = geometry.positions() if xyz is None else xyz
    normal = geometry.normals(where)
    sipm = np.arange(N_SENSORS) < N_SIPM
    area = np.where(sipm, 16 * CHIP_HALF**2, math.pi * geometry.PMT_RADIUS**2)
    spread = np.where(sipm, CHIP_OFFSET**2 + CHIP_HALF**2 / 3, geometry.PMT_RADIUS**2 / 4) / 2
    return np.stack([*where.T, *normal.T, area, spread]).astype(np.float32)
