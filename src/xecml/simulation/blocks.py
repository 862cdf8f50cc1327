"""A block of events, from random numbers to what the sensors report. Compiled. cm, ns, MeV.

A block has its own random generator and shares nothing that it writes, so that blocks can run in threads, in
any order, with the same result.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xecml.simulation.cascade import CALORIMETER, new_buffers, photon_coefficient, shower
from xecml.simulation.clusters import Clusters, cluster, new_clusters
from xecml.simulation.compiled import compiled, inner
from xecml.simulation.crosssections import CascadeTables, Floats
from xecml.simulation.direct import DIRECT, SCATTERED, TIME, direct_light
from xecml.simulation.indirect import indirect_light
from xecml.simulation.lightmap import LightMap
from xecml.simulation.optics import N_SENSORS, PHOTONS_PER_MEV, Floats32, NearField, Optics
from xecml.simulation.photons import Raster, trace_point
from xecml.simulation.response import Response, respond
from xecml.simulation.vertices import SIGNAL, draw_photon, is_fiducial
from xecml.simulation.volume import inside_calorimeter

# columns of the truth table
ENERGY, OFFSET, FIRST, VERTEX, DIRECTION, DEPOSITED, CENTROID, N_GAMMA, PHE_FACE = (
    0,
    1,
    2,
    5,
    8,
    11,
    12,
    15,
    16,
)
TRUTH_COLUMNS = 22
MAX_GAMMA = 4


class Physics(NamedTuple):
    """Tables and maps, shared by all blocks and only read."""

    tables: CascadeTables
    optics: Optics
    near: NearField
    sensors: Floats32
    light_map: LightMap
    raster: Raster
    response: Response
    faces: Floats
    """(4760,) face codes"""


class Source(NamedTuple):
    """What is to be simulated."""

    model: int
    """SIGNAL or DECOUPLED"""
    energy_low: float
    energy_high: float
    min_deposit: float
    time_offset: float
    pileup: float
    pileup_energy_low: float
    pileup_energy_high: float
    pileup_time_low: float
    pileup_time_high: float
    montecarlo: bool


class Work(NamedTuple):
    """Work space of one thread."""

    deposits: Floats
    stack: Floats
    first: Floats
    clusters: Clusters
    direct: Floats32
    """(3, 4760)"""
    indirect: Floats32
    """(2, 4760)"""
    counted: Floats
    """(2, 4760) photons of the Monte Carlo, direct and indirect"""
    times: Floats
    """(3, 4760) of the Monte Carlo"""
    photons: Floats32
    """(4760,)"""
    arrival: Floats32
    """(4760,)"""
    photoelectrons: Floats
    """(4760,)"""


def new_work() -> Work:
    """Allocate work space (about 10 MB)."""
    return Work(
        *new_buffers(),
        new_clusters(),
        np.zeros((3, N_SENSORS), np.float32),
        np.zeros((2, N_SENSORS), np.float32),
        np.zeros((2, N_SENSORS)),
        np.zeros((3, N_SENSORS)),
        np.zeros(N_SENSORS, np.float32),
        np.zeros(N_SENSORS, np.float32),
        np.zeros(N_SENSORS),
    )


@inner
def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


@inner
def _shift(work: Work, n: int, delay: float) -> None:
    """Delay n deposits (ns)."""
    for k in range(n):
        work.deposits[k, 3] += delay


@inner
def _energy(rng: np.random.Generator, source: Source, interest: bool) -> float:
    """Draw an energy: uniform for the photon of interest, falling as 1/E for pile-up."""
    if interest:
        return _uniform(rng, source.energy_low, source.energy_high)
    return float(source.pileup_energy_low * (source.pileup_energy_high / source.pileup_energy_low) ** rng.random())


@inner
def _photon(
    rng: np.random.Generator,
    physics: Physics,
    source: Source,
    work: Work,
    interest: bool,
    vertex: Floats,
    direction: Floats,
) -> tuple[int, float]:
    """Draw photons until one is kept; its deposits' times are relative to its first interaction.

    Pile-up comes from the target whatever the vertex model, and need not be fiducial.

    Returns:
        Number of deposits and energy (MeV).
    """
    entry = np.empty(3)
    while True:
        E = _energy(rng, source, interest)
        draw_photon(rng, source.model if interest else SIGNAL, vertex, entry, direction)
        # the first interaction decides most rejections, so it comes before the shower
        s = rng.standard_exponential() / photon_coefficient(physics.tables, E)
        x, y, z = entry[0] + s * direction[0], entry[1] + s * direction[1], entry[2] + s * direction[2]
        if not (inside_calorimeter(entry[0], entry[1], entry[2]) and inside_calorimeter(x, y, z)):
            continue
        if interest and not is_fiducial(x, y, z):
            continue
        n, _ = shower(
            rng,
            physics.tables,
            E,
            entry[0],
            entry[1],
            entry[2],
            direction[0],
            direction[1],
            direction[2],
            CALORIMETER,
            0.0,
            work.deposits,
            work.stack,
            work.first,
            s,
        )
        deposited = 0.0
        for k in range(n):
            work.deposits[k, 3] -= work.first[3]
            deposited += work.deposits[k, 4]
        if deposited > (source.min_deposit if interest else 0.0):
            return n, E


@inner
def _add_light(rng: np.random.Generator, physics: Physics, source: Source, work: Work, n: int) -> None:
    """Add the light of n deposits to the event's sums."""
    if source.montecarlo:
        for k in range(n):
            x, y, z, t, E = work.deposits[k]
            photons = rng.poisson(E * PHOTONS_PER_MEV)
            direct, indirect = work.counted[0], work.counted[1]
            trace_point(rng, physics.optics, physics.raster, x, y, z, t, photons, direct, indirect, work.times)
        return
    n_coarse = cluster(work.deposits, n, work.clusters)
    direct_light(work.clusters, n_coarse, physics.sensors, physics.optics, physics.near, work.direct)
    indirect_light(work.clusters, n_coarse, physics.light_map, physics.optics, work.indirect)


@inner
def _number_of_photons(rng: np.random.Generator, source: Source) -> int:
    n = 1
    while n < MAX_GAMMA and rng.random() < source.pileup:
        n += 1
    return n


@inner
def _mean_light(source: Source, work: Work) -> None:
    """Light and mean arrival time on every sensor, from the event's sums."""
    for s in range(N_SENSORS):
        if source.montecarlo:
            light = work.counted[0, s] + work.counted[1, s]
            time = work.times[0, s] + work.times[1, s]
        else:
            # the map is a difference and can fall below zero where there is hardly any light
            light = work.direct[DIRECT, s] + max(work.direct[SCATTERED, s] + work.indirect[0, s], 0.0)
            time = work.direct[TIME, s] + work.indirect[1, s]
        work.photons[s] = light
        work.arrival[s] = time / light if light > 0.0 else 0.0


@inner
def _shower_truth(work: Work, n: int, truth: Floats) -> None:
    """Deposited energy and its centre of gravity."""
    total = 0.0
    centre = np.zeros(3)
    for k in range(n):
        E = work.deposits[k, 4]
        total += E
        for a in range(3):
            centre[a] += E * work.deposits[k, a]
    truth[DEPOSITED] = total
    for a in range(3):
        truth[CENTROID + a] = centre[a] / total
        truth[FIRST + a] = work.first[a]


@compiled
def simulate_block(
    rng: np.random.Generator,
    physics: Physics,
    source: Source,
    work: Work,
    npho: Floats32,
    time: Floats32,
    expected: Floats32,
    truth: Floats,
) -> None:
    """Simulate as many events as `npho` has rows.

    Args:
        rng: the block's generator.
        physics: tables and maps.
        source: what to simulate.
        work: work space of this thread.
        npho: (n, 4760) filled: photons.
        time: (n, 4760) filled: seconds.
        expected: (n, 4760) or (0, 4760), filled: mean photons before the response.
        truth: (n, TRUTH_COLUMNS) filled.
    """
    vertex, direction = np.empty(3), np.empty(3)
    for i in range(npho.shape[0]):
        work.direct[:] = 0.0
        work.indirect[:] = 0.0
        work.counted[:] = 0.0
        work.times[:] = 0.0
        photons = _number_of_photons(rng, source)
        for g in range(photons):
            # the photon of interest comes last: its vertex and direction stay
            interest = g == photons - 1
            n, E = _photon(rng, physics, source, work, interest, vertex, direction)
            if interest:
                _shower_truth(work, n, truth[i])
            else:
                _shift(work, n, _uniform(rng, source.pileup_time_low, source.pileup_time_high))
            _add_light(rng, physics, source, work, n)
        _mean_light(source, work)
        offset = _uniform(rng, -source.time_offset, source.time_offset)
        respond(
            rng,
            physics.response,
            work.photons,
            work.arrival,
            source.montecarlo,
            offset,
            npho[i],
            time[i],
            work.photoelectrons,
        )
        if expected.shape[0] > 0:
            expected[i, :] = work.photons
        truth[i, ENERGY], truth[i, OFFSET], truth[i, N_GAMMA] = E, offset, photons
        for a in range(3):
            truth[i, VERTEX + a], truth[i, DIRECTION + a] = vertex[a], direction[a]
        truth[i, PHE_FACE:] = 0.0
        for s in range(N_SENSORS):
            truth[i, PHE_FACE + int(physics.faces[s])] += work.photoelectrons[s]
