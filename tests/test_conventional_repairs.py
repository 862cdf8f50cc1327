"""Solid angles, the fit of a point of light, and the three repairs of dead sensors."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from tests.conftest import point_sources
from xecml import geometry
from xecml.choices import REPAIRS
from xecml.conventional import dead_sensor_estimates, neighbours, pointsource, solidangles
from xecml.conventional.dead_sensor_estimates import ConventionalRepair, live_sensors
from xecml.errors import InputError
from xecml.events import INVALID, PDE_SIPM, QE_PMT, photoelectrons

FACE = geometry.face_codes()


@cache
def point_light(events: int = 40) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Positions (uvw) of points, their photons, and noise-free counts by solid angles alone."""
    rng = np.random.default_rng(5)
    uvw = np.stack([rng.uniform(-20, 20, events), rng.uniform(-50, 50, events), rng.uniform(1, 15, events)], 1)
    photons = rng.uniform(0.7e6, 2.5e6, events)
    omega = solidangles.solid_angles(geometry.xyz_from_uvw(uvw))
    return uvw, photons, (photons[:, None] * omega / (4 * np.pi)).astype(np.float32)


def scattered(shape: tuple[int, ...], share: float = 0.05, seed: int = 3) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < share


# ------------------------------------------------------------------------------------------------- solid angles


@pytest.mark.parametrize("height", [0.5, 2.0, 10.0])
def test_disc_solid_angle_on_its_axis(height: float) -> None:
    exact = 2 * math.pi * (1 - height / math.hypot(height, 2.25))
    assert solidangles.disc_solid_angle(0.0, height, 2.25) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("offset", "height"), [(1.0, 2.0), (3.0, 2.0), (6.0, 3.0), (10.0, 1.0)])
def test_disc_solid_angle_off_its_axis(offset: float, height: float) -> None:
    radius, angle = (np.arange(400) + 0.5) / 400 * 2.25, 2 * np.pi * (np.arange(400) + 0.5) / 400
    r, a = np.meshgrid(radius, angle)
    d2 = height**2 + offset**2 + r**2 + 2 * offset * r * np.cos(a)
    area = r * (2.25 / 400) * (2 * np.pi / 400)
    assert solidangles.disc_solid_angle(offset, height, 2.25) == pytest.approx(
        float((area * height / d2**1.5).sum()), rel=2e-4
    )


def test_solid_angles_of_all_sensors_are_those_of_their_areas() -> None:
    """Against the sum over 24 x 24 pieces of each sensor, near and far, on all faces."""
    point = geometry.xyz_from_uvw([3.0, 40.0, 6.0])
    xyz, normal = geometry.positions(), geometry.normals()
    omega = solidangles.solid_angles(point[None])[0]
    along = np.cross(normal, [0.3, 0.4, 0.5])
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # a SiPM's sides lie along z and phi
    along[FACE == 0] = [0, 0, 1]
    across = np.cross(normal, along)
    step = (np.arange(24) + 0.5) / 24
    a, b = (x.ravel() for x in np.meshgrid((step - 0.5) * math.sqrt(1.392), (step - 0.5) * math.sqrt(1.392)))
    r, angle = (x.ravel() for x in np.meshgrid(2.25 * np.sqrt(step), 2 * np.pi * step))
    for s in (1, 800, 1500, 2050, 4091, 4100, 4310, 4500, 4600, 4668, 4700, 4750, int(omega.argmax())):
        u, v = (a, b) if s < geometry.N_SIPM else (r * np.cos(angle), r * np.sin(angle))
        size = 1.392 if s < geometry.N_SIPM else math.pi * 2.25**2
        away = point - (xyz[s] + u[:, None] * along[s] + v[:, None] * across[s])
        height, d = away @ normal[s], np.linalg.norm(away, axis=1)
        exact = size * np.mean(np.maximum(height, 0) / d**3)
        assert omega[s] == pytest.approx(exact, rel=3e-3, abs=1e-9), s


# --------------------------------------------------------------------------------------------- sums and fit


@pytest.mark.parametrize("radius", [neighbours.RADIUS, dead_sensor_estimates.NEAR_RADIUS])
def test_neighbour_sums_are_sums_over_the_faces_neighbours(radius: float) -> None:
    rng = np.random.default_rng(0)
    values, live, dead = rng.uniform(0, 1e4, (3, 4760)), scattered((3, 4760), 0.9), scattered((3, 4760), 0.1, 4)
    values[~live] = np.nan  # not to be looked at
    xyz = geometry.positions()
    distance = cdist(xyz, xyz)
    near = (distance <= radius) & (FACE[:, None] == FACE)
    wanted = (np.where(live, values, 0) @ near)[dead]
    assert neighbours.neighbour_sums(values, live, dead, radius) == pytest.approx(wanted, rel=1e-9, abs=1e-6)


@pytest.mark.slow
def test_fit_finds_a_point_of_light_with_dead_sensors_on_top_of_it() -> None:
    uvw, photons, npho = point_light()
    live = np.ones(npho.shape, bool)
    sensors = geometry.uvw_from_xyz(geometry.positions())
    # the nearest nine SiPMs to every point are dead
    distance = np.linalg.norm(uvw[:, None, :2] - sensors[None, :4092, :2], axis=2)
    np.put_along_axis(live, np.argsort(distance, axis=1)[:, :9], values=False, axis=1)
    found = pointsource.fit_point_source(np.where(live, npho, 1e10), live)
    assert found.found.all()
    assert np.abs(found.uvw - uvw).max() < 0.05
    assert found.photons == pytest.approx(photons, rel=0.01)


@pytest.mark.slow
def test_fit_says_where_there_is_nothing() -> None:
    npho = np.zeros((2, 4760), np.float32)
    assert not pointsource.fit_point_source(npho, np.ones(npho.shape, bool)).found.any()
    assert not pointsource.fit_point_source(npho + 100, np.zeros(npho.shape, bool)).found.any()


# -------------------------------------------------------------------------------------------------- estimates


def test_neighbour_mean_is_the_mean_of_live_neighbours() -> None:
    npho = np.full((1, 4760), 70.0)
    dead = scattered((1, 4760))
    npho[dead] = [1e10, np.nan, -5.0, 1e6][0]
    npho[0, ~dead[0] & (FACE == 0)] = 30.0
    found = np.zeros(npho.shape)
    live = live_sensors(npho, dead)
    found[dead] = dead_sensor_estimates.neighbour_mean(npho, dead, live)
    assert found[dead & (FACE == 0)] == pytest.approx(30)
    assert found[dead & (FACE != 0)] == pytest.approx(70)


def test_live_sensors_are_those_measured_zeros_among_them() -> None:
    npho = np.array([[5.0, 0.0, 1e10, np.nan, -1.0, 7.0]])
    assert live_sensors(npho, np.array([0, 0, 0, 0, 0, 1])).tolist() == [[True, True, False, False, True, False]]


def test_solid_angle_is_exact_for_light_of_solid_angles() -> None:
    _, _, npho = point_light()
    dead = scattered(npho.shape)
    errors = {}
    for method in REPAIRS:
        filled, _ = ConventionalRepair(method).fill(npho, np.full(npho.shape, 1e-8, np.float32), dead)
        bright = dead & (npho > 300)
        errors[method] = np.sqrt(np.mean((filled[bright] / npho[bright] - 1) ** 2))
    assert errors["solid_angle"] < 0.01
    assert errors["neighbour_mean"] > 0.3


def test_the_mean_serves_where_neighbours_have_little_light() -> None:
    _, _, bright = point_light(2)
    npho = np.zeros((2, 4760))
    npho[:, :4092] = bright[:, :4092]
    # one photon on all of the outer face but one sensor: sums of neighbours are far below 50
    npho[:, FACE == 3] = 1.0
    dead = np.zeros(npho.shape, bool)
    dead[:, 4200] = True
    live = live_sensors(npho, dead)
    found = dead_sensor_estimates.solid_angle(npho, dead, live, pointsource.fit_point_source(npho, live))
    assert found == pytest.approx(1.0)


@cache
def scattered_light(events: int = 60) -> tuple[NDArray[Any], NDArray[Any]]:
    """Expected and drawn photons of points whose light is attenuated, with a part that is scattered once."""
    uvw, photons, _ = point_light(events)
    expected = photons[:, None] * solidangles.light_shares(geometry.xyz_from_uvw(uvw))
    efficiency = photoelectrons(np.ones(geometry.N_SENSORS))
    drawn = np.random.default_rng(8).poisson(expected * efficiency) / efficiency
    return expected, drawn.astype(np.float32)


def test_better_ways_are_better() -> None:
    expected, npho = scattered_light()
    dead = scattered(npho.shape)
    rmse = {}
    for method in REPAIRS:
        filled, _ = ConventionalRepair(method).fill(npho, np.full(npho.shape, 1e-8, np.float32), dead)
        rmse[method] = np.sqrt(np.mean((filled - expected)[dead & (expected > 100)] ** 2))
    assert rmse["solid_angle"] < 0.5 * rmse["neighbour_mean"]
    assert rmse["point_source"] < 0.7 * rmse["solid_angle"]


def test_a_dead_face_is_filled_by_the_point_alone() -> None:
    expected, npho = scattered_light()
    dead = FACE == 1
    time = np.full(npho.shape, 1e-8, np.float32)
    for method in REPAIRS:
        filled, times = ConventionalRepair(method).fill(npho, time, dead)
        if method == "point_source":
            lit = expected[:, dead] > 100
            assert np.median(filled[:, dead][lit] / expected[:, dead][lit]) == pytest.approx(1, abs=0.15)
        else:
            assert (filled[:, dead] == np.float32(INVALID)).all()
            assert (times[:, dead] == np.float32(INVALID)).all()


# ------------------------------------------------------------------------------------------------ times, repair


def test_times_are_travel_and_the_neighbours_delay() -> None:
    uvw, _, npho = point_light()
    distance = np.linalg.norm(geometry.xyz_from_uvw(uvw)[:, None] - geometry.positions(), axis=2)
    time = (5e-9 + distance / 8 * 1e-9).astype(np.float32)
    dead = scattered(npho.shape)
    _, times = ConventionalRepair("solid_angle").fill(npho, time, dead)
    _, later = ConventionalRepair("solid_angle").fill(npho, time + np.float32(3e-9), dead)
    bright = dead & (npho > 500)
    assert np.abs(times - time)[bright].max() < 30e-12
    assert (later - times)[bright] == pytest.approx(3e-9, abs=1e-14)


def test_times_of_less_than_a_photoelectron_are_not_measured() -> None:
    _, _, npho = point_light()
    dead = scattered(npho.shape)
    filled, times = ConventionalRepair("point_source").fill(npho, np.full(npho.shape, 1e-8, np.float32), dead)
    dim = dead & (photoelectrons(filled) < 1)
    assert dim.any()
    assert (times[dim] == np.float32(INVALID)).all()
    assert (times[dead & ~dim] < 1).all()
    assert np.array_equal(np.unique(photoelectrons(np.ones(4760))), [PDE_SIPM, QE_PMT])


@pytest.mark.parametrize("method", REPAIRS)
def test_live_sensors_pass_bit_for_bit_and_events_do_not_mix(method: Any) -> None:
    chunk = point_sources(30, seed=9)
    npho, time = chunk["npho"].copy(), chunk["time"].copy()
    npho[0, 7], npho[1, 8], time[2, 9], npho[3, 10] = np.nan, 0.0, np.inf, -3.0
    dead = scattered(npho.shape)
    dead[0, 7] = dead[1, 8] = dead[2, 9] = dead[3, 10] = False
    filled, times = ConventionalRepair(method).fill(npho, time, dead)
    for before, after in ((npho, filled), (time, times)):
        assert after.dtype == np.float32
        assert np.array_equal(before[~dead].view(np.uint32), after[~dead].view(np.uint32))
    # what stands at a dead sensor is not looked at, and neither are other events
    npho[dead], time[dead] = np.nan, -4.0
    alone, clock = ConventionalRepair(method).fill(npho[4:9], time[4:9], dead[4:9])
    assert np.array_equal(alone, filled[4:9])
    assert np.array_equal(clock, times[4:9])


def test_one_mask_serves_all_events() -> None:
    chunk = point_sources(5)
    dead = scattered((4760,))
    one = ConventionalRepair("point_source").fill(chunk["npho"], chunk["time"], dead)
    all_ = ConventionalRepair("point_source").fill(chunk["npho"], chunk["time"], np.tile(dead, (5, 1)))
    assert np.array_equal(one[0], all_[0])
    assert np.array_equal(one[1], all_[1])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="choose one of neighbour_mean, solid_angle, point_source"):
        ConventionalRepair("median")  # type: ignore[arg-type]
