"""Comparison of the fast optics with photons that are traced one by one, on the same deposits.

Photons are traced in two halves. Differences count beyond statistics: the mean square of the differences to the whole,
less that of half the differences between the halves, which show the statistics of the traced photons; how far these two
means are known is the error of the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.progress import progress
from xecml.simulation.cascade.coefficient_tables import cascade_tables
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.cascade.transport import CALORIMETER, new_buffers, shower
from xecml.simulation.light.clusters import cluster, new_clusters
from xecml.simulation.light.direct import DIRECT, SCATTERED, SQUARE, TIME, direct_light
from xecml.simulation.light.indirect import indirect_light
from xecml.simulation.light.lightmap import LightMap
from xecml.simulation.light.optics import N_SENSORS, N_SIPM, PHOTONS_PER_MEV, Optics, near_field, sensor_table
from xecml.simulation.light.photons import new_counters, raster, trace_point
from xecml.simulation.validation.shower_against_penelope import Check

GOALS = {"SiPM": 0.03, "PMT": 0.05}
"""Largest differences beyond statistics of sensors with over 300 photons."""
_BRIGHT = 300


@dataclass(frozen=True)
class Light:
    """Light on the 4760 sensors."""

    photons: Floats
    mean: Floats
    """of the arrival times, ns"""
    spread: Floats
    """their standard deviation, ns"""


def _light(photons: Floats, times: Floats, squares: Floats) -> Light:
    n = np.maximum(photons, 1e-9)
    mean = times / n
    return Light(photons, mean, np.sqrt(np.maximum(squares / n - mean**2, 0)))


def fast(deposits: Floats, light_map: LightMap, optics: Optics | None = None) -> Light:
    """Light of deposits (n, 5) x, y, z, t, MeV by the fast optics."""
    constants, work = optics or Optics(), new_clusters()
    near, far = np.zeros((4, N_SENSORS), np.float32), np.zeros((3, N_SENSORS), np.float32)
    n = cluster(deposits, len(deposits), work)
    direct_light(work, n, sensor_table(), constants, near_field(constants), near)
    indirect_light(work, n, light_map, constants, far)
    photons = near[DIRECT] + np.maximum(near[SCATTERED] + far[0], 0)
    return _light(photons.astype(float), (near[TIME] + far[1]).astype(float), (near[SQUARE] + far[2]).astype(float))


def traced(deposits: Floats, multiple: float, seed: int, optics: Optics | None = None) -> tuple[Light, Light, Light]:
    """The same photon by photon, `multiple` times the photons, divided by it: the whole, and two halves."""
    constants, rng = optics or Optics(), np.random.default_rng(seed)
    halves = []
    for _ in range(2):
        direct, indirect, times = new_counters()
        for x, y, z, t, E in deposits:
            n = int(rng.poisson(0.5 * multiple * E * PHOTONS_PER_MEV))
            trace_point(rng, constants, raster(), x, y, z, t, n, direct, indirect, times)
        halves.append(np.stack([direct + indirect, times[0] + times[1], times[2]]) / (0.5 * multiple))
    return _light(*(0.5 * (halves[0] + halves[1]))), _light(*halves[0]), _light(*halves[1])


def shower_deposits(seed: int, energy: float = 52.8) -> Floats:
    """Deposits of one shower from a photon that comes radially through a random fiducial point, over 85 % contained."""
    rng = np.random.default_rng((seed, 1))
    deposits, stack, first = new_buffers()
    while True:
        entry = geometry.xyz_from_uvw([rng.uniform(-23, 23), rng.uniform(-66, 66), 1e-6])
        u = entry / np.linalg.norm(entry)
        place, direction = (entry[0], entry[1], entry[2]), (u[0], u[1], u[2])
        n, _ = shower(rng, cascade_tables(), energy, place, direction, CALORIMETER, 0.0, deposits, stack, first)
        if n and deposits[:n, 4].sum() > 0.85 * energy:
            return deposits[:n].copy()


def point_deposits(w: float, energy: float = 52.8) -> Floats:
    """A point of light at depth w (cm)."""
    return np.array([[*geometry.xyz_from_uvw([4.5, 3.1, w]), 0.0, energy]])


@dataclass
class Comparison:
    """Both on the same deposits."""

    names: list[str]
    fast: list[Light]
    traced: list[Light]
    halves: tuple[list[Light], list[Light]]


def compare(sources: dict[str, Floats], light_map: LightMap, *, multiple: float = 4.0, jobs: int = 2) -> Comparison:
    """Run both on named deposits."""
    items = list(sources.items())
    quick = [fast(deposits, light_map) for _, deposits in items]

    def one(k: int) -> tuple[Light, Light, Light]:
        return traced(items[k][1], multiple, k)

    slow: list[tuple[Light, Light, Light]] = []
    with progress(len(items), "photons one by one", "sources") as bar, ThreadPoolExecutor(jobs) as pool:
        for lights in pool.map(one, range(len(items))):
            slow.append(lights)
            bar.advance(1)
    whole, first, second = (list(lights) for lights in zip(*slow, strict=True))
    return Comparison([name for name, _ in items], quick, whole, (first, second))


def _masked(lights: Sequence[Light], masks: Sequence[NDArray[np.bool_]], field: str) -> Floats:
    return np.concatenate([getattr(light, field)[mask] for light, mask in zip(lights, masks, strict=True)])


def _beyond_statistics(
    result: Comparison, masks: Sequence[NDArray[np.bool_]], field: str, unit: Floats
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean difference, fast less traced, and its root mean square beyond statistics, in `unit`; each with its error."""
    off = (_masked(result.fast, masks, field) - _masked(result.traced, masks, field)) / unit
    first, second = (_masked(half, masks, field) for half in result.halves)
    noise = 0.5 * (first - second) / unit
    n = len(off)
    square = float((off**2 - noise**2).mean())
    square_error = float((off**2 - noise**2).std()) / math.sqrt(n)
    beyond = math.sqrt(max(square, 0.0))
    # of a root: where the square is not seen, its error is all that is known
    error = math.sqrt(max(square, 0.0) + square_error) - beyond
    return (float(off.mean()), math.sqrt(float((noise**2).mean()) / n)), (beyond, error)


def light_checks(result: Comparison, kind: str) -> list[Check]:
    """Differences of single sensors, of faces, and of times; tolerances are the goals."""
    checks = []
    sipm = np.arange(N_SENSORS) < N_SIPM
    for sensor, group in (("SiPM", sipm), ("PMT", ~sipm)):
        masks = [group & (light.photons > _BRIGHT) for light in result.fast]
        ours = _masked(result.fast, masks, "photons")
        name = f"{kind}, {sensor} above {_BRIGHT} photons: "
        (off, off_error), (beyond, error) = _beyond_statistics(result, masks, "photons", ours)
        checks.append(Check(f"{name}mean difference", off, 0.0, 0.01, off_error))
        checks.append(Check(f"{name}rms beyond statistics", beyond, 0.0, GOALS[sensor], error))
        for field in ("mean", "spread"):
            beyond, error = _beyond_statistics(result, masks, field, np.ones_like(ours))[1]
            checks.append(Check(f"{name}{field} of arrival times, rms [ns]", beyond, 0.0, 0.2, error))
    return checks + _sum_checks(result, kind)


def _sum_checks(result: Comparison, kind: str) -> list[Check]:
    checks = []
    codes = geometry.face_codes()
    for code, face in enumerate(geometry.FACES):
        on_face = [codes == code] * len(result.fast)
        ours, theirs, first, second = (
            _masked(lights, on_face, "photons") for lights in (result.fast, result.traced, *result.halves)
        )
        total = float(theirs.sum())
        error = 0.5 * math.sqrt(float(((first - second) ** 2).sum())) / total
        checks.append(Check(f"{kind}, light on {face}: ratio", float(ours.sum()) / total, 1.0, 0.01, error))
    return checks
