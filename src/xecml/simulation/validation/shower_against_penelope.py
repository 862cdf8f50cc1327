"""Comparison of the cascade with published numbers for liquid xenon (2.953 g/cm3).

The references are of PENELOPE-2018 (Salvat 2019): photons at normal incidence on a slab 38.5 cm deep, cuts of 100 keV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from xecml.compiled import compiled
from xecml.simulation.cascade import cross_sections as xs
from xecml.simulation.cascade.coefficient_tables import CascadeTables, cascade_tables
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.cascade.transport import SLAB, new_buffers, shower

DEPTH = 38.5  # cm
ENERGIES = (17.6, 52.8, 130.0)  # MeV
DEPTH_EDGES: Floats = np.linspace(0, DEPTH, 12)
RADIUS_EDGES: Floats = np.array([0, 0.25, 0.5, 1, 2, 4, 10, 1e6])

ATTENUATION = {10.0: 0.0397, 20.0: 0.0481, 52.8: 0.0619, 100.0: 0.0704}  # cm2/g
COLLISION = {1.0: 1.117, 10.0: 1.331, 52.8: 1.510}  # MeV cm2/g
RADIATIVE = {10.0: 0.882, 52.8: 5.46, 100.0: 10.80}
DEPOSITED = {17.6: (0.9735, 0.003), 52.8: (0.9712, 0.003), 130.0: (0.9657, 0.004)}
DEPTH_SHARES = (16.8, 24.9, 18.5, 13.0, 9.3, 6.2, 4.2, 2.8, 1.9, 1.4, 0.9)  # % in 3.5 cm
RADIUS_SHARES = {0.25: 20.7, 0.5: 33.5, 1.0: 51.1, 2.0: 69.1, 4.0: 82.1, 10.0: 93.9}  # %


@dataclass(frozen=True)
class Check:
    """One number against its reference."""

    name: str
    ours: float
    reference: float
    tolerance: float
    """absolute"""
    error: float = 0.0
    """statistical, one sigma"""

    @property
    def passed(self) -> bool:
        """Within tolerance and two statistical errors."""
        return abs(self.ours - self.reference) <= self.tolerance + 2 * self.error


@dataclass(frozen=True)
class SlabShowers:
    """Showers in the slab."""

    energy: float
    """MeV"""
    deposited: Floats
    """(n,) MeV"""
    escaped: Floats
    """(n,) MeV"""
    depth: Floats
    """(n,) energy-weighted, cm"""
    first: Floats
    """(n,) depth of the first interaction, cm; -1 without one"""
    depth_profile: Floats
    """(11,) MeV in bins of `DEPTH_EDGES`"""
    radius_profile: Floats
    """(7,) MeV in bins of `RADIUS_EDGES`"""

    @property
    def interacting(self) -> Floats:
        """Deposited share of the energy of photons that interacted."""
        return np.asarray(self.deposited[self.first >= 0] / self.energy)


@compiled
def _run_slab(
    rng: np.random.Generator,
    tables: CascadeTables,
    E: float,
    deposits: Floats,
    stack: Floats,
    first: Floats,
    radius_edges: Floats,
    out: Floats,
    depth_profile: Floats,
    radius_profile: Floats,
) -> None:
    """Showers in a slab: out (n, 4) deposited, escaped, energy-weighted depth, first interaction."""
    for i in range(out.shape[0]):
        n, escaped = shower(rng, tables, E, (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), SLAB, DEPTH, deposits, stack, first)
        out[i, :] = 0.0
        out[i, 1] = escaped
        out[i, 3] = first[2] if first[3] >= 0.0 else -1.0
        for k in range(n):
            x, y, z, _t, e = deposits[k]
            out[i, 0] += e
            out[i, 2] += e * z
            depth_profile[min(int(z * depth_profile.shape[0] / DEPTH), depth_profile.shape[0] - 1)] += e
            radius_profile[np.searchsorted(radius_edges, math.sqrt(x * x + y * y)) - 1] += e


def slab(E: float, events: int, seed: int = 1) -> SlabShowers:
    """Simulate showers of photons of energy E (MeV) in the slab."""
    out = np.zeros((events, 4))
    depth, radius = np.zeros(len(DEPTH_EDGES) - 1), np.zeros(len(RADIUS_EDGES) - 1)
    rng = np.random.Generator(np.random.PCG64(seed))
    _run_slab(rng, cascade_tables(), E, *new_buffers(), RADIUS_EDGES, out, depth, radius)
    return SlabShowers(E, out[:, 0], out[:, 1], out[:, 2] / np.maximum(out[:, 0], 1e-12), out[:, 3], depth, radius)


def mass_attenuation(E: float) -> float:
    """Photon attenuation coefficient, cm2/g."""
    energy = np.array([E])
    return float((xs.photoelectric(energy) + xs.compton(energy) + xs.pair(energy))[0] / xs.DENSITY)


def coefficient_checks() -> list[Check]:
    """Radiation length, attenuation and stopping powers: no statistics."""
    checks = [Check("radiation length [cm]", xs.radiation_length(), 2.872, 0.005 * 2.872)]
    for E, value in ATTENUATION.items():
        checks.append(Check(f"mu/rho at {E:g} MeV [cm2/g]", mass_attenuation(E), value, 0.03 * value))
    for E, value in COLLISION.items():
        ours = float(xs.collision_loss(np.array([E]))[0] / xs.DENSITY)
        checks.append(Check(f"collision stopping power at {E:g} MeV [MeV cm2/g]", ours, value, 0.025 * value))
    for E, value in RADIATIVE.items():
        ours = xs.radiative_loss(E) / xs.DENSITY
        checks.append(Check(f"radiative stopping power at {E:g} MeV [MeV cm2/g]", ours, value, 0.03 * value))
    return checks


def deposit_check(showers: SlabShowers) -> Check:
    """Mean deposited share of photons that interacted."""
    share = showers.interacting
    reference, tolerance = DEPOSITED[showers.energy]
    error = float(share.std() / math.sqrt(len(share)))
    return Check(f"deposited share at {showers.energy:g} MeV", float(share.mean()), reference, tolerance, error)


def shower_checks(showers: SlabShowers) -> list[Check]:
    """All that is known of showers of 52.8 MeV."""
    share, n = showers.interacting, len(showers.first)
    found = showers.first[showers.first >= 0]
    # the mean of an exponential that the slab cuts, from its length; then the length from the mean
    lengths = np.linspace(4, 8, 4001)
    length = float(np.interp(found.mean(), lengths - DEPTH / np.expm1(DEPTH / lengths), lengths))
    missed = float(np.mean(showers.first < 0))
    checks = [
        deposit_check(showers),
        Check("first-interaction length [cm]", length, 5.47, 0.03 * 5.47, length / math.sqrt(n)),
        Check("not interacting in 38.5 cm [%]", 100 * missed, 0.088, 0.0, 150 * math.sqrt(0.00088 / n)),
    ]
    for level, value in ((0.99, 0.560), (0.95, 0.835), (0.90, 0.925)):
        ours = float((share > level).mean())
        checks.append(
            Check(f"share of events above {level:g} E", ours, value, 0.02, math.sqrt(value / n * (1 - value)))
        )
    weight = showers.deposited / showers.deposited.sum()
    mean = float(showers.depth @ weight)
    spread = float(math.sqrt((showers.depth - mean) ** 2 @ weight))
    checks.append(Check("mean depth of the energy [cm]", mean, 10.58, 0.25, spread / math.sqrt(n)))
    checks.append(Check("rms depth between events [cm]", spread, 5.32, 0.25, spread / math.sqrt(2 * n)))
    profile = 100 * showers.depth_profile / showers.depth_profile.sum()
    for k, value in enumerate(DEPTH_SHARES[:7]):
        name = f"energy at depth {DEPTH_EDGES[k]:g} to {DEPTH_EDGES[k + 1]:g} cm [%]"
        # profiles of single showers spread about as much as their mean
        checks.append(Check(name, float(profile[k]), value, 0.05 * value, value / math.sqrt(n)))
    inside = 100 * np.cumsum(showers.radius_profile) / showers.radius_profile.sum()
    for k, (radius, value) in enumerate(RADIUS_SHARES.items()):
        tolerance = 1.5 if radius == 0.25 else 2.5
        checks.append(
            Check(f"energy within r < {radius:g} cm [%]", float(inside[k]), value, tolerance, 25 / math.sqrt(n))
        )
    whole = float((showers.deposited + showers.escaped).mean() / showers.energy)
    return [*checks, Check("deposited + escaped over incident energy", whole, 1.0, 3e-4)]
