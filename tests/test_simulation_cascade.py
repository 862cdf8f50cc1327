"""The cascade against published numbers; a few thousand showers, so that tolerances include their statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xecml.simulation.cascade import cross_sections as xs
from xecml.simulation.cascade.elastic import CHARGE_RADIUS, elastic_tables, hard_deflection, inverse_transport_path
from xecml.simulation.validation import report
from xecml.simulation.validation.shower_against_penelope import (
    Check,
    SlabShowers,
    coefficient_checks,
    deposit_check,
    mass_attenuation,
    shower_checks,
    slab,
)
from xecml.simulation.volume import inside_calorimeter, next_wall, wall_normal


@pytest.fixture(scope="module")
def signal_showers() -> SlabShowers:
    return slab(52.8, 15000)


def failed(checks: list[Check]) -> str:
    return "; ".join(f"{c.name}: {c.ours:.4g}, not {c.reference:g}" for c in checks if not c.passed)


def test_coefficients() -> None:
    """Radiation length, attenuation, collision and radiative stopping powers."""
    checks = coefficient_checks()
    assert len(checks) == 11
    assert not failed(checks)


@pytest.mark.slow
def test_showers_at_signal_energy(signal_showers: SlabShowers) -> None:
    """Lengths, deposits, profiles: every published number."""
    checks = shower_checks(signal_showers)
    assert len(checks) == 22
    assert not failed(checks)


@pytest.mark.slow
@pytest.mark.parametrize(("E", "events"), [(17.6, 8000), (130.0, 2500)])
def test_deposited_share(E: float, events: int) -> None:
    assert not failed([deposit_check(slab(E, events))])


def test_a_wrong_number_is_noticed() -> None:
    assert Check("x", 1.05, 1.0, 0.02, 0.01).passed is False
    assert Check("x", 1.03, 1.0, 0.02, 0.01).passed is True


def test_radiation_length() -> None:
    # 8.48 g/cm2 of the Particle Data Group
    assert xs.radiation_length() * xs.DENSITY == pytest.approx(8.48, rel=0.002)


def test_elastic_scattering_of_electrons_and_positrons() -> None:
    """Positrons are deflected less; both tables add up to the transport coefficient."""
    tables = elastic_tables(xs.ENERGIES[[150, 250, 320]])
    for i, T in enumerate(xs.ENERGIES[[150, 250, 320]]):
        electron, positron = (inverse_transport_path(T, positron=p) for p in (False, True))
        assert 0.7 < positron / electron < 0.95
        # the mean of 1 - cos over hard deflections, by sampling
        rng = np.random.default_rng(3)
        limit, screening = tables.limit[0, i], tables.screening[i]
        x = np.array([hard_deflection(rng, T, False, limit, screening) for _ in range(20000)])
        assert x.min() >= limit * (1 - 1e-9)
        assert tables.soft[0, i] + tables.hard[0, i] * 2 * x.mean() == pytest.approx(electron, rel=0.03)


@pytest.mark.slow
def test_validation_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report in small: files, and a verdict for every number."""
    monkeypatch.setattr(report, "POINT_DEPTHS", (5.0,))
    monkeypatch.setattr(report, "compare_light", lambda *_: {})
    status = report.main(["--out", str(tmp_path), "--events", "3000", "--jobs", "1"])
    assert status in (0, 1)
    assert (tmp_path / "validation.pdf").stat().st_size > 10_000
    values = json.loads((tmp_path / "validation.json").read_text())
    assert len(values["cascade"]) == 35
    assert sum(not c["passed"] for c in values["cascade"]) == 0 or status == 1
    assert "radiation length" in (tmp_path / "validation.txt").read_text()


@pytest.mark.parametrize(
    ("E", "attenuation"),
    [(3.0, 0.03681), (4.0, 0.03577), (5.0, 0.03583), (6.0, 0.03634), (8.0, 0.03797), (10.0, 0.03987), (20.0, 0.04815)],
)
def test_photon_coefficients(E: float, attenuation: float) -> None:
    """Against the totals of Hubbell and Seltzer (NISTIR 5632, table 3, Z = 54), which include coherent scattering."""
    assert mass_attenuation(E) == pytest.approx(attenuation, rel=0.005)


def test_photons_between_the_points_of_the_table() -> None:
    energies = np.array([0.9, 1.03, 1.3, 2.5, 7.5, 35.0, 70.0, 120.0])
    found = xs.pair(energies) / xs.ATOM_DENSITY * 1e24
    # the threshold, then a smooth rise that never falls below the chord of a concave curve
    assert found[0] == 0
    assert 0 < found[1] < 1e-4
    assert (np.diff(found) > 0).all()
    for E, low, high in ((7.5, 4.4725, 4.9926), (35.0, 10.5433, 11.6908), (70.0, 13.2182, 14.2031)):
        value = float(xs.pair(np.array([E]))[0] / xs.ATOM_DENSITY * 1e24)
        assert 0.5 * (low + high) <= value < 0.5 * (low + high) * 1.01
    # binding takes 11 % of Compton scattering at 100 keV and nothing at 2 MeV (Klein-Nishina: 0.4927, 0.1464 barn)
    for E, free, share in ((0.1, 0.4927, 0.886), (2.0, 0.1464, 1.0)):
        bound = float(xs.compton(np.array([E]))[0] / xs.ELECTRON_DENSITY * 1e24)
        assert bound / free == pytest.approx(share, abs=0.003)


def test_charge_radius() -> None:
    """The global formula of Nerlo-Pomorska and Pomorski 1993 for the mean mass of natural xenon."""
    A, Z = xs.ATOMIC_MASS, xs.Z_XENON
    radius = np.sqrt(3 / 5) * 1.2347 * (1 - 0.1428 * (A - 2 * Z) / A + 1.4378 / A) * A ** (1 / 3)
    assert radius == pytest.approx(CHARGE_RADIUS * 197.327, rel=0.003)


def test_photoelectric_table_has_the_k_edge() -> None:
    below, above = xs.photoelectric(np.array([0.0345, 0.0346])) / xs.DENSITY
    assert below == pytest.approx(5.44, rel=0.01)
    assert above == pytest.approx(32.3, rel=0.01)
    assert xs.k_shell_fraction() == pytest.approx(1 - 1 / 5.988, abs=0.002)


def test_energy_is_conserved() -> None:
    for E in (0.3, 5.0, 130.0):
        showers = slab(E, 200)
        np.testing.assert_allclose(showers.deposited + showers.escaped, E, rtol=1e-9)


def test_same_seed_same_shower() -> None:
    first, second, other = (slab(52.8, 20, seed).deposited for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_walls_close_the_volume() -> None:
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    faces = np.zeros(6, int)
    for u in directions:
        p = np.array([-80.0, 10.0, 5.0])
        distance, face = next_wall(*p, *u)
        faces[face] += 1
        wall = p + distance * u
        normal = np.array(wall_normal(face, *wall))
        assert np.linalg.norm(normal) == pytest.approx(1)
        assert normal @ u < 0
        assert inside_calorimeter(*(wall + 1e-6 * normal))
        assert not inside_calorimeter(*(wall - 1e-6 * normal))
        # nothing of the way there is outside
        for part in np.linspace(0.01, 0.99, 5):
            assert inside_calorimeter(*(p + part * distance * u))
    assert faces.min() > 20
