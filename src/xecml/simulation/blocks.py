"""A block of events, from random numbers to what the sensors report. Compiled. cm, ns, MeV.

A block has its own random generator and shares nothing that it writes, so that blocks can run in threads, in
any order, with the same result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xecml.compiled import compiled, inner
from xecml.geometry import INNER_RADIUS
from xecml.simulation.cascade.coefficient_tables import CascadeTables
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.cascade.material import CONVERTS, LOST, PASSES, forget_front, front_thickness, through_material
from xecml.simulation.cascade.particles import Vector
from xecml.simulation.cascade.transport import CALORIMETER, FRONTED, new_buffers, photon_coefficient, shower
from xecml.simulation.light.clusters import Clusters, cluster, new_clusters
from xecml.simulation.light.direct import DIRECT, SCATTERED, SQUARE, TIME, direct_light
from xecml.simulation.light.indirect import indirect_light
from xecml.simulation.light.lightmap import LightMap
from xecml.simulation.light.optics import N_SENSORS, PHOTONS_PER_MEV, Floats32, NearField, Optics
from xecml.simulation.light.photons import Raster, trace_point
from xecml.simulation.response import Response, respond
from xecml.simulation.truth import (
    DIRECTION,
    ENERGY,
    N_GAMMA,
    OFFSET,
    PHE_FACE,
    TRIED,
    VERTEX,
    no_shower_truth,
    shower_truth,
)
from xecml.simulation.vertices import POINTS, SIGNAL, Target, draw_photon, draw_point, is_fiducial
from xecml.simulation.volume import inside_calorimeter

MAX_GAMMA = 4
_SHOWER_EFFORT = 1000
"""Photons drawn in the time of a shower."""


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
    """SIGNAL, DECOUPLED or POINTS"""
    target: Target
    points: Floats
    """(n, 3) points of light"""
    light_yield: float
    """photons over those of PHOTONS_PER_MEV"""
    light_ratio: float
    """light of a point over that of an electron of its energy"""
    energy_low: float
    energy_high: float
    min_deposit: float
    depth_low: float
    """cm behind the inner face, of the first interaction"""
    depth_high: float
    time_offset: float
    material: float
    """radiation lengths in front of the xenon, the magnet included"""
    gammas: Floats
    """(5,) probabilities of 0 to 4 photons, summed up"""
    pileup_energy_low: float
    pileup_energy_high: float
    pileup_time_low: float
    pileup_time_high: float
    window_begin: float
    """charges are integrated from here to there, relative to the photon of interest"""
    window_end: float
    montecarlo: bool
    most_effort: int
    """photons drawn for one event before it is given up"""


class Work(NamedTuple):
    """Work space of one thread."""

    deposits: Floats
    stack: Floats
    first: Floats
    clusters: Clusters
    direct: Floats32
    """(4, 4760)"""
    indirect: Floats32
    """(3, 4760)"""
    counted: Floats
    """(2, 4760) photons of the Monte Carlo, direct and indirect"""
    times: Floats
    """(3, 4760) of the Monte Carlo"""
    photons: Floats32
    """(4, 4760) of each photon of the event"""
    arrival: Floats32
    """(4, 4760)"""
    spread: Floats32
    """(4, 4760)"""
    photoelectrons: Floats
    """(4760,)"""


def new_work() -> Work:
    """Allocate work space (about 10 MB)."""
    return Work(
        *new_buffers(),
        new_clusters(),
        np.zeros((4, N_SENSORS), np.float32),
        np.zeros((3, N_SENSORS), np.float32),
        np.zeros((2, N_SENSORS)),
        np.zeros((3, N_SENSORS)),
        np.zeros((MAX_GAMMA, N_SENSORS), np.float32),
        np.zeros((MAX_GAMMA, N_SENSORS), np.float32),
        np.zeros((MAX_GAMMA, N_SENSORS), np.float32),
        np.zeros(N_SENSORS),
    )


@inner
def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


@inner
def _energy(rng: np.random.Generator, source: Source, interest: bool) -> float:
    """Draw an energy: uniform for the photon of interest, falling as 1/E for pile-up."""
    if interest:
        return _uniform(rng, source.energy_low, source.energy_high)
    return float(source.pileup_energy_low * (source.pileup_energy_high / source.pileup_energy_low) ** rng.random())


@inner
def _point(rng: np.random.Generator, source: Source, work: Work, vertex: Floats, direction: Floats) -> float:
    """One deposit at one of the points; returns its energy (MeV)."""
    E = _energy(rng, source, True)
    draw_point(rng, source.points, vertex, work.first, direction)
    work.first[3] = 0.0
    for a in range(3):
        work.deposits[0, a] = work.first[a]
    work.deposits[0, 3], work.deposits[0, 4] = 0.0, E * source.light_ratio
    return E


@inner
def _shower(
    rng: np.random.Generator,
    physics: Physics,
    work: Work,
    E: float,
    place: Vector,
    u: Vector,
    free_path: float,
    thickness: float,
) -> tuple[int, float]:
    """Shower of one photon, with a layer of material (cm) before the xenon if it has a thickness.

    Returns:
        Number of deposits in the xenon, their times relative to the first interaction there, and their energy (MeV).
    """
    volume = FRONTED if thickness > 0.0 else CALORIMETER
    deposits, first = work.deposits, work.first
    n, _ = shower(rng, physics.tables, E, place, u, volume, thickness, deposits, work.stack, first, free_path)
    if thickness > 0.0:
        n = forget_front(deposits, n, first)
    deposited = 0.0
    for k in range(n):
        deposits[k, 3] -= first[3]
        deposited += deposits[k, 4]
    return n, deposited


@inner
def _is_wanted(source: Source, x: float, y: float, z: float) -> bool:
    """Whether a first interaction is one to keep: in the fiducial volume, at the depths asked for."""
    depth = math.sqrt(x * x + y * y) - INNER_RADIUS
    return is_fiducial(x, y, z) and source.depth_low <= depth < source.depth_high


@inner
def _photon(
    rng: np.random.Generator,
    physics: Physics,
    source: Source,
    work: Work,
    interest: bool,
    vertex: Floats,
    direction: Floats,
) -> tuple[int, float, int]:
    """Draw photons until one is kept; its deposits' times are relative to its first interaction.

    Pile-up comes from the target whatever the vertex model, and need not be fiducial.

    Returns:
        Number of deposits, energy (MeV), and photons drawn that were aimed at the fiducial part of the inner face;
        -1 deposits where so many photons were drawn that there is none to keep.
    """
    entry = np.empty(3)
    tried, effort = 0, 0
    while effort < source.most_effort:
        effort += 1
        E = _energy(rng, source, interest)
        model = source.model if interest and source.model != POINTS else SIGNAL
        draw_photon(rng, model, source.target, vertex, entry, direction)
        if not inside_calorimeter(entry[0], entry[1], entry[2]):
            continue
        tried += is_fiducial(entry[0], entry[1], entry[2])
        fate, way = PASSES, 0.0
        if source.material > 0.0:
            fate, way = through_material(rng, source.material, entry, direction)
        if fate == LOST:
            continue
        s = -way
        if fate == PASSES:
            s = rng.standard_exponential() / photon_coefficient(physics.tables, E)
        x, y, z = entry[0] + s * direction[0], entry[1] + s * direction[1], entry[2] + s * direction[2]
        # the first interaction decides most rejections, so it comes before the shower
        if fate == PASSES and not (inside_calorimeter(x, y, z) and (not interest or _is_wanted(source, x, y, z))):
            continue
        effort += _SHOWER_EFFORT
        thickness = front_thickness(source.material) if fate == CONVERTS else 0.0
        u = (direction[0], direction[1], direction[2])
        n, deposited = _shower(rng, physics, work, E, (x, y, z), u, 0.0, thickness)
        first = work.first
        if fate == CONVERTS and (n == 0 or (interest and not _is_wanted(source, first[0], first[1], first[2]))):
            continue
        if deposited > (source.min_deposit if interest else 0.0):
            return n, E, tried
    return -1, 0.0, tried


@inner
def _add_light(rng: np.random.Generator, physics: Physics, source: Source, work: Work, n: int) -> None:
    """Add the light of n deposits to the sums of one photon."""
    if source.montecarlo:
        for k in range(n):
            x, y, z, t, E = work.deposits[k]
            photons = rng.poisson(E * PHOTONS_PER_MEV * source.light_yield)
            direct, indirect = work.counted[0], work.counted[1]
            trace_point(rng, physics.optics, physics.raster, x, y, z, t, photons, direct, indirect, work.times)
        return
    n_coarse = cluster(work.deposits, n, work.clusters)
    direct_light(work.clusters, n_coarse, physics.sensors, physics.optics, physics.near, work.direct)
    indirect_light(work.clusters, n_coarse, physics.light_map, physics.optics, work.indirect)


@inner
def _share_in_window(source: Source, decay: float, delay: float) -> float:
    """Part of a pulse, `delay` after the photon of interest, that the integration window holds, over that one's."""
    whole = 1.0 - math.exp(-source.window_end / decay)
    if delay >= source.window_end:
        return 0.0
    lost = math.exp(-(source.window_begin - delay) / decay) if delay < source.window_begin else 1.0
    return (lost - math.exp(-(source.window_end - delay) / decay)) / whole


@inner
def _light_of_photon(source: Source, work: Work, g: int, delay: float, share: float) -> None:
    """Close photon g's sums: light in the window, mean and spread of its arrival times, on every sensor."""
    for s in range(N_SENSORS):
        if source.montecarlo:
            light = work.counted[0, s] + work.counted[1, s]
            time, square = work.times[0, s] + work.times[1, s], work.times[2, s]
        else:
            # the map is a difference and can fall below zero where there is hardly any light
            light = work.direct[DIRECT, s] + max(work.direct[SCATTERED, s] + work.indirect[0, s], 0.0)
            time = work.direct[TIME, s] + work.indirect[1, s]
            square = work.direct[SQUARE, s] + work.indirect[2, s]
        # counts stay whole; the Monte Carlo's are of the yield already
        wanted = light * share
        work.photons[g, s] = math.floor(wanted + 0.5) if source.montecarlo else wanted * source.light_yield
        mean = time / light if light > 0.0 else 0.0
        work.arrival[g, s] = mean + delay
        work.spread[g, s] = math.sqrt(max(square / light - mean * mean, 0.0)) if light > 0.0 else 0.0


@inner
def _number_of_photons(rng: np.random.Generator, source: Source) -> int:
    q = rng.random()
    n = 0
    while n < MAX_GAMMA and q >= source.gammas[n]:
        n += 1
    return n


@compiled
def simulate_block(
    rng: np.random.Generator,
    physics: Physics,
    source: Source,
    work: Work,
    npho: Floats32,
    time: Floats32,
    expected: Floats32,
    pileup: Floats32,
    truth: Floats,
) -> int:
    """Simulate as many events as `npho` has rows.

    Args:
        rng: the block's generator.
        physics: tables and maps.
        source: what to simulate.
        work: work space of this thread.
        npho: (n, 4760) filled: photons.
        time: (n, 4760) filled: seconds.
        expected: (n, 4760) or (0, 4760), filled: mean photons before the response.
        pileup: (n, 4760) or (0, 4760), filled: those of them that are not of the photon of interest.
        truth: (n, TRUTH_COLUMNS) filled.

    Returns:
        Events simulated: n, or fewer where no photon drawn for the next one was kept.
    """
    vertex, direction = np.empty(3), np.empty(3)
    decay = physics.response.decay
    for i in range(npho.shape[0]):
        pulses = _number_of_photons(rng, source)
        no_shower_truth(truth[i])
        E = 0.0
        for g in range(pulses):
            work.direct[:] = 0.0
            work.indirect[:] = 0.0
            work.counted[:] = 0.0
            work.times[:] = 0.0
            # the photon of interest comes last: its vertex and direction stay
            interest = g == pulses - 1
            if interest and source.model == POINTS:
                n, tried = 1, 1
                E = _point(rng, source, work, vertex, direction)
            else:
                n, E, tried = _photon(rng, physics, source, work, interest, vertex, direction)
                if n < 0:
                    return i
            delay, share = 0.0, 1.0
            if interest:
                truth[i, TRIED] = tried
                shower_truth(work.deposits, n, work.first, direction, truth[i])
            else:
                delay = _uniform(rng, source.pileup_time_low, source.pileup_time_high)
                share = _share_in_window(source, decay, delay)
            _add_light(rng, physics, source, work, n)
            _light_of_photon(source, work, g, delay, share)
        offset = _uniform(rng, -source.time_offset, source.time_offset)
        respond(
            rng,
            physics.response,
            pulses,
            work.photons,
            work.arrival,
            work.spread,
            source.montecarlo,
            offset,
            npho[i],
            time[i],
            work.photoelectrons,
        )
        if expected.shape[0] > 0:
            expected[i, :] = 0.0
            for g in range(pulses):
                expected[i, :] += work.photons[g]
        if pileup.shape[0] > 0:
            pileup[i, :] = 0.0
            for g in range(pulses - 1):
                pileup[i, :] += work.photons[g]
        truth[i, N_GAMMA] = pulses
        if pulses > 0:
            truth[i, ENERGY], truth[i, OFFSET] = E, offset
            for a in range(3):
                truth[i, VERTEX + a], truth[i, DIRECTION + a] = vertex[a], direction[a]
        for s in range(N_SENSORS):
            truth[i, PHE_FACE + int(physics.faces[s])] += work.photoelectrons[s]
    return int(npho.shape[0])
