"""The fits of one and of two points of light: gradients, photostatistics, dead sensors, starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xecml import geometry
from xecml.conventional import local_fit, solidangles, two_points
from xecml.conventional.window_ladder import WIDEST, WINDOWS, fit_windows, lights, points, standard_deviations
from xecml.events import INVALID, PDE_SIPM
from xecml.simulation.light.direct import rectangle_solid_angle
from xecml.simulation.light.lightmap import LightMap, light_map
from xecml.simulation.validation import cramer_rao

Floats = NDArray[np.float64]
INNER = np.arange(geometry.N_SENSORS) < geometry.N_SIPM
LIGHT = 2.4e6
"""Photons of 52.8 MeV."""


def share_of(uvw: Floats, us: float, vs: float) -> Floats:
    found = np.empty((len(uvw), 4))
    local_fit.shares(np.ascontiguousarray(uvw), us, vs, found)
    return found


def drawn(uvw: Floats, photons: float, events: int, seed: int = 0) -> NDArray[np.float32]:
    """Counts of a point of light by solid angles alone, with photostatistics."""
    omega = solidangles.solid_angles(geometry.xyz_from_uvw(uvw[None]))[0]
    mean = np.where(INNER, PDE_SIPM * photons * omega / (4 * np.pi), 0.0)
    return (np.random.default_rng(seed).poisson(mean, (events, geometry.N_SENSORS)) / PDE_SIPM).astype(np.float32)


# ------------------------------------------------------------------------------------------------ solid angles


def some_points() -> Floats:
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(-9, 9, 500), rng.uniform(-9, 9, 500), rng.uniform(0.3, 12, 500)], 1)


def test_the_share_is_that_of_the_solid_angle() -> None:
    uvw, us, vs = some_points(), 0.3, 1.2
    a, r = (uvw[:, 1] - vs) / geometry.INNER_RADIUS, geometry.INNER_RADIUS + uvw[:, 2]
    b, d, z = r * np.sin(a), r * np.cos(a) - geometry.INNER_RADIUS, uvw[:, 0] - us
    half = solidangles.HALF_SIPM
    exact = np.array([rectangle_solid_angle(*p, half) for p in zip(b, z, d, strict=True)]) / (4 * np.pi)
    near, above = b**2 + z**2 + d**2 < 25, d > 1e-3
    found = share_of(uvw, us, vs)[:, 0]
    np.testing.assert_allclose(found[near & above], exact[near & above], rtol=1e-9)
    np.testing.assert_allclose(found[~near & above], exact[~near & above], rtol=1e-3)
    assert (found[~above] == 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_gradient_of_the_share_is_its_slope(axis: int) -> None:
    step = np.zeros(3)
    step[axis] = 1e-5
    uvw = some_points()
    slope = (share_of(uvw + step, 0.3, 1.2)[:, 0] - share_of(uvw - step, 0.3, 1.2)[:, 0]) / 2e-5
    np.testing.assert_allclose(share_of(uvw, 0.3, 1.2)[:, 1 + axis], slope, rtol=1e-5, atol=1e-8)


# -------------------------------------------------------------------------------------------- point sources


@pytest.mark.parametrize(("window", "w"), [(0, 1.0), (2, 2.0), (4, 5.0), (5, 10.0)])
def test_points_are_found_where_they_are_with_pulls_of_one(window: int, w: float) -> None:
    """In light as the fit has it, with a spread as the fit says.

    Sensors that count few photons by chance have small variances, which makes depth and light 3 % too small at most.
    """
    uvw = np.array([4.6, 2.1, w])
    npho = drawn(uvw, LIGHT, 500, seed=window)
    fits = fit_windows(npho, np.ones(npho.shape, bool))
    off = points(fits, window) - uvw
    pulls = off / standard_deviations(fits, window)
    # 500 events give widths to 3 % and means to 4.5 % of a width
    np.testing.assert_allclose(pulls.std(0), 1.0, atol=0.12)
    assert (np.abs(pulls[:, :2].mean(0)) < 0.2).all()
    assert abs(off[:, 2].mean()) < 0.03 * w
    assert abs(np.log(lights(fits, window) / LIGHT).mean()) < 0.03


@pytest.fixture(scope="module")
def light() -> LightMap:
    return light_map()


def mean_counts(uvw: Floats, found: LightMap) -> tuple[Floats, Floats]:
    """Photoelectrons on the inner face of 52.8 MeV at a point, of direct and of indirect light."""
    parts = cramer_rao.counts(uvw, 52.8, found)
    return np.where(INNER, np.maximum(parts[0], 0), 0), np.where(INNER, np.maximum(parts[1], 0), 0)


@pytest.mark.parametrize(("w", "window"), [(1.0, 3), (2.0, 4), (5.0, 5), (10.0, 5)])
def test_points_in_the_simulations_light_reach_the_cramer_rao_limit(light: LightMap, w: float, window: int) -> None:
    """Within 30 %, with reflected and scattered light that the fit knows nothing of.

    The limit is that of a fit to direct light in which indirect light is a known background. The fit is biased by that
    background, and the bias changes with the place: so the limit is that of an estimate with its slope.
    """
    ratios, limits = [], []
    for phase in (0.25, 0.75):
        uvw = np.array([4.0 + 1.5098 * phase, 1.2 + 1.5305 * phase, w])
        mean = np.add(*mean_counts(uvw, light))
        gradient, of_indirect = cramer_rao.derivatives(uvw, 52.8, light)
        npho = (np.random.default_rng(4).poisson(mean, (400, geometry.N_SENSORS)) / PDE_SIPM).astype(np.float32)
        spread = points(fit_windows(npho, np.ones(npho.shape, bool)), window).std(0)
        moved = [np.add(*mean_counts(uvw + step, light)) for step in 0.1 * np.concatenate([np.eye(3), -np.eye(3)])]
        there = points(fit_windows(np.stack(moved) / PDE_SIPM, np.ones((6, geometry.N_SENSORS), bool)), window)
        slope = np.diag(there[:3] - there[3:]) / 0.2
        for found, by in ((ratios, gradient), (limits, gradient + of_indirect)):
            limit = cramer_rao.limits(mean, by, INNER)
            found.append(spread / slope / [limit.sigma_u, limit.sigma_v, limit.sigma_w])
    # the spread is known to 2.5 %
    assert (np.mean(ratios, 0) < 1.3).all()
    # no fit is better than what all light tells
    assert (np.mean(limits, 0) > 0.93).all()


def test_dead_sensors_take_no_part() -> None:
    uvw = np.array([4.6, 2.1, 3.0])
    npho = drawn(uvw, LIGHT, 50)
    dead = np.random.default_rng(1).random(npho.shape) < 0.1
    spoilt = np.where(dead, np.float32(INVALID), npho)
    fits, other = fit_windows(spoilt, ~dead), fit_windows(np.where(dead, 5e4, npho), ~dead)
    np.testing.assert_array_equal(fits, other)
    assert np.abs(points(fits, 2) - uvw).max() < 0.1


def test_a_window_without_sensors_has_what_a_larger_one_finds() -> None:
    """One sensor in nine is alive: too few in all windows but the largest."""
    uvw = np.array([0.0, 0.0, 4.0])
    npho, live = drawn(uvw, LIGHT, 20), np.zeros((20, geometry.N_SENSORS), bool)
    live[:, geometry.inner_map()[1::3, 1::3].ravel()] = True
    fits = fit_windows(npho, live)
    for window in range(WIDEST):
        np.testing.assert_array_equal(fits[:, window], fits[:, WIDEST])
    assert np.abs(points(fits, WIDEST) - uvw).max() < 0.3


def test_without_light_there_is_no_fit() -> None:
    none = np.zeros((3, geometry.N_SENSORS), np.float32)
    assert np.isnan(fit_windows(none, np.ones(none.shape, bool))).all()
    assert np.isnan(fit_windows(none + 7, np.zeros(none.shape, bool))).all()
    pairs = two_points.fit_two_points(none, np.ones(none.shape, bool), np.full((3, len(WINDOWS), 9), np.nan))
    assert np.isnan(pairs).all()


def test_threads_do_not_change_a_bit() -> None:
    npho = drawn(np.array([4.6, 2.1, 3.0]), LIGHT, 200)
    live = np.ones(npho.shape, bool)
    np.testing.assert_array_equal(fit_windows(npho, live, threads=1), fit_windows(npho, live, threads=3))


# -------------------------------------------------------------------------------------------- two points


def test_two_points_are_found_and_the_shallower_one_comes_first() -> None:
    first, second = np.array([3.0, 1.0, 2.0]), np.array([5.5, -2.0, 7.0])
    npho = drawn(first, 0.6 * LIGHT, 40, seed=1) + drawn(second, 0.4 * LIGHT, 40, seed=2) + np.float32(200.0)
    live = np.broadcast_to(INNER, npho.shape)
    pairs = two_points.fit_two_points(npho, live, fit_windows(npho, live))
    columns: Any = two_points
    np.testing.assert_allclose(np.median(pairs[:, columns.U_1 : columns.W_1 + 1], 0), first, atol=0.1)
    np.testing.assert_allclose(np.median(pairs[:, columns.U_2 : columns.W_2 + 1], 0), second, atol=0.5)
    np.testing.assert_allclose(np.median(pairs[:, columns.BACKGROUND]), 200.0, rtol=0.1)
    assert (pairs[:, columns.W_1] <= pairs[:, columns.W_2]).all()
