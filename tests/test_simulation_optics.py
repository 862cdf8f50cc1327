"""Light: windows, solid angles, symmetry, and the fast optics against photons one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xecml import geometry
from xecml.simulation.clusters import cluster, new_clusters
from xecml.simulation.direct import DIRECT, SCATTERED, TIME, direct_light, point_light, rectangle_solid_angle
from xecml.simulation.indirect import indirect_light
from xecml.simulation.lightmap import LightMap, _light_map, cache_path, light_map
from xecml.simulation.optics import (
    N_SENSORS,
    N_SIPM,
    NEAR_FIELD_RANGE,
    PHOTONS_PER_MEV,
    Optics,
    mean_transmission,
    near_field,
    near_field_share,
    sensor_table,
    single_scatter,
    window_transmission,
)
from xecml.simulation.photons import new_counters, raster, sensor_at, trace_point

OPTICS = Optics()
SIPM = np.arange(N_SENSORS) < N_SIPM


@pytest.fixture(scope="module", autouse=True)
def simulation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache of these tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XECML_CACHE", str(folder))
        _light_map.cache_clear()
        yield folder
        _light_map.cache_clear()


@pytest.fixture(scope="module")
def quick_map() -> LightMap:
    return light_map(OPTICS, "quick")


def fast_light(light: LightMap, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Photons and mean arrival times (ns) on all sensors from points (n, 5) x, y, z, t, MeV."""
    work = new_clusters()
    n = cluster(points, len(points), work)
    near, far = np.zeros((4, N_SENSORS), np.float32), np.zeros((3, N_SENSORS), np.float32)
    direct_light(work, n, sensor_table(), OPTICS, near_field(OPTICS), near)
    indirect_light(work, n, light, OPTICS, far)
    photons = near[DIRECT] + near[SCATTERED] + far[0]
    return photons.astype(float), (near[TIME] + far[1]) / photons


def source(u: float, v: float, w: float, E: float = 50.0) -> NDArray[np.float64]:
    return np.array([[*geometry.xyz_from_uvw([u, v, w]), 0.0, E]])


def test_window_transmission() -> None:
    assert window_transmission(1.0, 1.61, 1.60) == pytest.approx(1 - (0.01 / 3.21) ** 2)
    critical = math.sqrt(1 - (1.60 / 1.61) ** 2)
    assert math.degrees(math.acos(critical)) == pytest.approx(83.6, abs=0.05)
    assert window_transmission(critical - 1e-3, 1.61, 1.60) == 0
    assert 0 < window_transmission(critical + 1e-3, 1.61, 1.60) < 0.8
    assert mean_transmission(OPTICS) == pytest.approx(0.986, abs=0.001)


def test_solid_angle_of_a_square() -> None:
    # a cube's face seen from its centre is a sixth of the sphere
    assert rectangle_solid_angle(0.0, 0.0, 1.0, 1.0) == pytest.approx(4 * math.pi / 6)
    rng = np.random.default_rng(1)
    x, y = 0.3 + rng.uniform(-0.6, 0.6, 400_000), -0.8 + rng.uniform(-0.6, 0.6, 400_000)
    sampled = 1.44 * np.mean(1.1 / (x**2 + y**2 + 1.1**2) ** 1.5)
    assert rectangle_solid_angle(0.3, -0.8, 1.1, 0.6) == pytest.approx(sampled, rel=0.005)


@pytest.mark.parametrize("sensor", [2046, 4200, 4330, 4500, 4620, 4700])
def test_exact_and_expanded_solid_angle_meet(sensor: int) -> None:
    """Just inside and just outside of the range of exact formulas the light must agree."""
    attenuation = OPTICS.attenuation_length
    axis = geometry.normals()[sensor]
    sideways = np.cross(axis, [0.3, 0.5, 0.8])
    sideways /= np.linalg.norm(sideways)
    limit = 2.5 if sensor < N_SIPM else 10.0
    shares = []
    for d in (limit - 1e-4, limit + 1e-4):
        p = geometry.positions()[sensor] + d * (0.8 * axis + 0.6 * sideways)
        table = sensor_table()
        shares.append(point_light(p[0], p[1], p[2], sensor, table, OPTICS, near_field(OPTICS), attenuation)[0])
    assert shares[0] == pytest.approx(shares[1], rel=0.01)


def test_single_scattering_from_the_front() -> None:
    """Close to a source, light scattered once is the share pi^2 d / (8 rayleigh_length) of the direct, nearly.

    Without attenuation and in the whole space it would be pi^2 d / (4 rayleigh_length) for a sensor that counts from
    all sides with equal weight; a flat sensor sees between half and all of that from the front.
    """
    clear = Optics(absorption_length=1e6, rayleigh_length=1e6)
    share, path = single_scatter(clear, 1.0, 1.0)
    assert math.pi**2 / 8 < share < math.pi**2 / 4
    assert path > 1.0
    fit = near_field(OPTICS)
    for d, c in ((1.0, 0.9), (4.0, 0.5), (10.0, 0.2)):
        exact = single_scatter(OPTICS, d, c)[0]
        attenuation, range_ = OPTICS.attenuation_length, NEAR_FIELD_RANGE
        fitted = near_field_share(fit, OPTICS, attenuation, 1.0, d, c) / (1 - (d / range_) ** 2) ** 2
        assert fitted * 4 * math.pi * d * OPTICS.rayleigh_length == pytest.approx(exact, rel=0.035)


def test_every_sensor_stands_where_the_raster_says() -> None:
    found = raster()
    codes, xyz = geometry.face_codes(), geometry.positions()
    rng = np.random.default_rng(4)
    for sensor in [0, 43, 4091, 4185, 4742, *rng.integers(0, N_SENSORS, 300)]:
        # the middle of a SiPM is a gap between its chips
        step = 0.3 if sensor < N_SIPM else 0.0
        x, y, z = xyz[sensor] + (0, 0, step)
        turn = step / geometry.INNER_RADIUS
        x, y = x - turn * y, y + turn * x
        assert sensor_at(found, int(codes[sensor]), x, y, z) == sensor
    assert sensor_at(found, 0, *(xyz[100] + (0, 0, 0.75))) == -1


def test_every_photon_is_accounted_for() -> None:
    """Without absorption and with mirrors of 100 % only windows take photons."""
    perfect = Optics(absorption_length=1e9, wall_reflectivity=1.0)
    direct, indirect, times = new_counters()
    rng = np.random.default_rng(3)
    trace_point(rng, perfect, raster(), -80.0, 5.0, 3.0, 0.0, 3000, direct, indirect, times)
    assert direct.sum() + indirect.sum() == 3000
    assert times[0].sum() > 0
    assert times[1].sum() / indirect.sum() > times[0].sum() / direct.sum()


def test_map_is_cached_and_small(quick_map: LightMap, simulation_cache: Path) -> None:
    path = cache_path(OPTICS, "quick")
    assert path.parent == simulation_cache
    assert path.stat().st_size < 2e6
    assert quick_map.share.shape[1] == quick_map.lattice.prod() + 668
    # other constants are another map
    assert cache_path(OPTICS._replace(rayleigh_length=40.0), "quick") != path


def test_light_is_symmetric_where_the_detector_is(quick_map: LightMap) -> None:
    xyz = geometry.positions()
    light = fast_light(quick_map, source(8.0, 20.0, 6.0))[0]
    for flip, mirrored in (((1, 1, -1), source(-8.0, 20.0, 6.0)), ((1, -1, 1), source(8.0, -20.0, 6.0))):
        other = fast_light(quick_map, mirrored)[0]
        order = np.lexsort(np.round(xyz * flip, 3).T + 0.0)
        np.testing.assert_array_less(np.abs(xyz[order] * flip - xyz[np.lexsort(np.round(xyz, 3).T)]).max(), 1e-3)
        np.testing.assert_allclose(other[order], light[np.lexsort(np.round(xyz, 3).T)], rtol=2e-3, atol=0.05)


def test_fast_light_against_photons(quick_map: LightMap) -> None:
    points = source(3.0, -7.0, 4.0, 10.0)
    photons, time = fast_light(quick_map, points)
    direct, indirect, times = new_counters()
    n = int(10 * PHOTONS_PER_MEV)
    x, y, z = points[0, :3]
    trace_point(np.random.default_rng(6), OPTICS, raster(), x, y, z, 0.0, n, direct, indirect, times)
    counted = direct + indirect
    assert photons[SIPM].sum() == pytest.approx(counted[SIPM].sum(), rel=0.02)
    assert photons[~SIPM].sum() == pytest.approx(counted[~SIPM].sum(), rel=0.04)
    bright = photons > 300
    pull = (counted - photons)[bright] / photons[bright]
    # the quick map is rough; the fine one is held to 3 %
    assert abs(pull.mean()) < 0.02
    assert pull.std() < math.sqrt((1 / photons[bright]).mean() + 0.1**2)
    mean_time = (times[0] + times[1])[bright] / counted[bright]
    assert np.abs(time[bright] - mean_time).mean() < 0.3


def test_light_is_linear_in_energy(quick_map: LightMap) -> None:
    one, two = (fast_light(quick_map, source(0.0, 10.0, 5.0, E))[0] for E in (10.0, 20.0))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-4, atol=1e-3)


def test_clusters_keep_energy_and_centre() -> None:
    rng = np.random.default_rng(7)
    centre = geometry.xyz_from_uvw([2.0, 5.0, 2.0])
    deposits = np.column_stack([centre + rng.normal(0, 1, (500, 3)), rng.uniform(0, 1, 500), rng.exponential(size=500)])
    work = new_clusters()
    n = cluster(deposits, 500, work)
    n_fine = work.first_fine[n]
    for found in (work.coarse[:n], work.fine[:n_fine]):
        assert found[:, 4].sum() == pytest.approx(deposits[:, 4].sum())
        for axis in range(4):
            assert found[:, axis] @ found[:, 4] == pytest.approx(deposits[:, axis] @ deposits[:, 4])
    assert n < n_fine < 500
    for k in range(n):
        members = work.fine[work.first_fine[k] : work.first_fine[k + 1]]
        assert members[:, 4].sum() == pytest.approx(work.coarse[k, 4])
