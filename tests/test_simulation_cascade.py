"""The cascade against published numbers; a few thousand showers, so that tolerances include their statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from xecml.simulation import cascade
from xecml.simulation import crosssections as xs
from xecml.simulation.compiled import compiled
from xecml.simulation.tables import CascadeTables, cascade_tables
from xecml.simulation.volume import inside_calorimeter, next_wall, wall_normal

DEPTH = 38.5
DEPTH_EDGES = np.arange(0, 38.6, 3.5)
RADIUS_EDGES = np.array([0, 0.25, 0.5, 1, 2, 4, 10, 1e6])


@compiled
def run_slab(
    rng: np.random.Generator,
    tables: CascadeTables,
    E: float,
    deposits: xs.Floats,
    stack: xs.Floats,
    first: xs.Floats,
    depth_edges: xs.Floats,
    radius_edges: xs.Floats,
    out: xs.Floats,
    depth_profile: xs.Floats,
    radius_profile: xs.Floats,
) -> None:
    """Showers in a slab: out (n, 4) deposited, escaped, energy-weighted depth, first interaction."""
    for i in range(out.shape[0]):
        n, escaped = cascade.shower(rng, tables, E, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0, 38.5, deposits, stack, first)
        out[i, :] = 0.0
        out[i, 1] = escaped
        out[i, 3] = first[2] if first[3] >= 0.0 else -1.0
        for k in range(n):
            x, y, z, _t, e = deposits[k]
            out[i, 0] += e
            out[i, 2] += e * z
            depth_profile[np.searchsorted(depth_edges, z) - 1] += e
            radius_profile[np.searchsorted(radius_edges, math.sqrt(x * x + y * y)) - 1] += e


Slab = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def slab(E: float, events: int, seed: int = 1) -> Slab:
    out = np.zeros((events, 4))
    depth, radius = np.zeros(len(DEPTH_EDGES) - 1), np.zeros(len(RADIUS_EDGES) - 1)
    rng = np.random.Generator(np.random.PCG64(seed))
    run_slab(rng, cascade_tables(), E, *cascade.new_buffers(), DEPTH_EDGES, RADIUS_EDGES, out, depth, radius)
    return out, depth, radius


@pytest.fixture(scope="module")
def signal_showers() -> Slab:
    return slab(52.8, 12000)


@pytest.mark.parametrize(("E", "expected"), [(10.0, 0.0397), (20.0, 0.0481), (52.8, 0.0619), (100.0, 0.0704)])
def test_attenuation_coefficient(E: float, expected: float) -> None:
    energy = np.array([E])
    total = xs.photoelectric(energy) + xs.compton(energy) + xs.pair(energy)
    assert total[0] / xs.DENSITY == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("T", "expected"), [(1.0, 1.117), (10.0, 1.331), (52.8, 1.510)])
def test_collision_stopping_power(T: float, expected: float) -> None:
    assert xs.collision_loss(np.array([T]))[0] / xs.DENSITY == pytest.approx(expected, rel=0.025)


@pytest.mark.parametrize(("T", "expected"), [(10.0, 0.882), (52.8, 5.46), (100.0, 10.80)])
def test_radiative_stopping_power(T: float, expected: float) -> None:
    assert xs.radiative_loss(T) / xs.DENSITY == pytest.approx(expected, rel=0.03)


def test_photoelectric_table_has_the_k_edge() -> None:
    below, above = xs.photoelectric(np.array([0.0345, 0.0346])) / xs.DENSITY
    assert below == pytest.approx(5.44, rel=0.01)
    assert above == pytest.approx(32.3, rel=0.01)
    assert xs.k_shell_fraction() == pytest.approx(1 - 1 / 5.988, abs=0.002)


def test_energy_is_conserved() -> None:
    for E in (0.3, 5.0, 130.0):
        out, *_ = slab(E, 200)
        np.testing.assert_allclose(out[:, 0] + out[:, 1], E, rtol=1e-9)


def test_first_interaction(signal_showers: Slab) -> None:
    first = signal_showers[0][:, 3]
    found = first[first >= 0]
    # the mean of an exponential of length 5.47 cm cut at the slab's depth
    expected = 5.47 - DEPTH / math.expm1(DEPTH / 5.47)
    assert found.mean() == pytest.approx(expected, rel=0.03 + 3 / math.sqrt(len(found)))
    missed = np.count_nonzero(first < 0)
    assert abs(missed - 0.00088 * len(first)) < 3 * math.sqrt(0.00088 * len(first)) + 2


@pytest.mark.parametrize(("E", "expected", "tolerance"), [(17.6, 0.9735, 0.003), (130.0, 0.9657, 0.004)])
def test_deposited_fraction(E: float, expected: float, tolerance: float) -> None:
    out, *_ = slab(E, 2500)
    hit = out[:, 3] >= 0
    error = out[hit, 0].std() / E / math.sqrt(hit.sum())
    assert abs(out[hit, 0].mean() / E - expected) < tolerance + 2 * error


def test_deposited_energy_spectrum(signal_showers: Slab) -> None:
    out = signal_showers[0]
    share = out[out[:, 3] >= 0, 0] / 52.8
    assert share.mean() == pytest.approx(0.9712, abs=0.003)
    for level, expected in ((0.99, 0.560), (0.95, 0.835), (0.90, 0.925)):
        assert (share > level).mean() == pytest.approx(expected, abs=0.02)


def test_depth_profile(signal_showers: Slab) -> None:
    out, depth, _ = signal_showers
    assert out[:, 2].sum() / out[:, 0].sum() == pytest.approx(10.58, abs=0.25)
    expected = np.array([16.8, 24.9, 18.5, 13.0, 9.3, 6.2, 4.2])
    np.testing.assert_allclose(100 * depth[:7] / depth.sum(), expected, rtol=0.065)


def test_radial_profile(signal_showers: Slab) -> None:
    radius = signal_showers[2]
    cumulative = 100 * np.cumsum(radius)[:6] / radius.sum()
    np.testing.assert_allclose(cumulative, [20.7, 33.5, 51.1, 69.1, 82.1, 93.9], atol=2.5)
    assert cumulative[0] == pytest.approx(20.7, abs=1.5)


def test_same_seed_same_shower() -> None:
    first, second, other = (slab(52.8, 20, seed)[0] for seed in (5, 5, 6))
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
