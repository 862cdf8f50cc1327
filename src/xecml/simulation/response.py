"""From light on the windows to what the sensors report: counts and times. Compiled. ns.

A sensor turns photons into photoelectrons with its efficiency. In SiPMs every photoelectron may trigger more
(crosstalk, afterpulses), each of these again: a branching process, whose charge divided by its mean is the
count with the excess noise factor 1 / (1 - branching).

The time is that of the first pulse. Pulses of further photons that follow within the overlap are one with it: their
times are averaged with their photoelectrons; later ones only add charge. Two models give the time of a pulse of n
photoelectrons: the mean arrival time with a spread that falls with sqrt(n), as a fit to the waveform has, or the first
photoelectron itself, which xenon's decay and the spread of the arrival times delay.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.compiled import compiled, inner
from xecml.events import INVALID
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.light.optics import N_SIPM, Floats32

_NORMAL_ABOVE = 60
"""Photoelectrons above which the branching process is taken as normal."""
MEAN, FIRST = 0, 1
TIME_MODELS = {"mean": MEAN, "first": FIRST}


class Response(NamedTuple):
    """What the compiled code needs to know of the sensors."""

    efficiency: Floats32
    """(4760,)"""
    gain: Floats32
    """(4760,) gain over its calibrated value"""
    noise: Floats32
    """(4760,) electronic noise, rms, photoelectrons"""
    dead: NDArray[np.bool_]
    """(4760,)"""
    excess_noise_factor: float
    """of SiPMs"""
    threshold: float
    """charges below, in photoelectrons, are reported as zero, without a time"""
    time_model: int
    """MEAN or FIRST"""
    time_single: float
    """time spread with one photoelectron, ns"""
    time_constant: float
    """time spread with many photoelectrons, ns"""
    time_walk: float
    """delay of a pulse of one photoelectron, falling with the square root of their number, ns"""
    decay: float
    """decay time of the scintillation, ns"""
    overlap: float
    """pulses that follow the first one within this time are not told apart from it, ns"""


@compiled
def multiplied_charge(rng: np.random.Generator, n: int, excess_noise_factor: float) -> float:
    """Charge of n photoelectrons after crosstalk and afterpulses, over its mean per photoelectron."""
    if excess_noise_factor <= 1.0:
        return float(n)
    if n > _NORMAL_ABOVE:
        return max(n + math.sqrt((excess_noise_factor - 1.0) * n) * rng.standard_normal(), 0.0)
    branching = 1.0 - 1.0 / excess_noise_factor
    total, generation = n, n
    while generation > 0:
        generation = rng.poisson(branching * generation)
        total += generation
    return total * (1.0 - branching)


@compiled
def first_photoelectron(rng: np.random.Generator, n: int, spread: float, decay: float) -> float:
    """Time (ns) of the first of n photoelectrons after the earliest possible one.

    Arrival times are exponential with their spread, emission is exponential with the decay time: the chance that one
    comes later than t is S(t) = (decay e^(-t/decay) - spread e^(-t/spread)) / (decay - spread), and the first of n has
    S(t)^n uniform. Solved by bisection.
    """
    a = max(decay, 1e-3)
    b = max(spread, 1e-3)
    if abs(a - b) < 1e-3 * a:
        b = 0.999 * a
    level = rng.random() ** (1.0 / n)
    low, high = 0.0, 1.0
    while (a * math.exp(-high / a) - b * math.exp(-high / b)) / (a - b) > level:
        high *= 2.0
    for _ in range(30):
        t = 0.5 * (low + high)
        if (a * math.exp(-t / a) - b * math.exp(-t / b)) / (a - b) > level:
            low = t
        else:
            high = t
    return 0.5 * (low + high)


@inner
def _pulse(n: NDArray[np.int64], arrival: Floats32, pulses: int, s: int, overlap: float) -> tuple[int, float, int]:
    """Photoelectrons and mean arrival time of the first pulse, and the photon that it begins with."""
    begin = -1
    for g in range(pulses):
        if n[g] > 0 and (begin < 0 or arrival[g, s] < arrival[begin, s]):
            begin = g
    total, time = 0, 0.0
    for g in range(pulses):
        if n[g] > 0 and arrival[g, s] <= arrival[begin, s] + overlap:
            total += n[g]
            time += n[g] * arrival[g, s]
    return total, time / total, begin


@compiled
def respond(
    rng: np.random.Generator,
    response: Response,
    pulses: int,
    photons: Floats32,
    arrival: Floats32,
    spread: Floats32,
    counted: bool,
    offset: float,
    npho: Floats32,
    time: Floats32,
    photoelectrons: Floats,
) -> None:
    """Fill what the sensors report of one event.

    Args:
        rng: numpy Generator.
        response: the sensors.
        pulses: number of photons in the event, 0 to 4: rows in use of the next three.
        photons: (4, 4760) expected photons on the windows, or counted ones, of each photon.
        arrival: (4, 4760) their mean arrival time, ns.
        spread: (4, 4760) the standard deviation of their arrival times, ns.
        counted: whether `photons` are a sample already.
        offset: added to all times, ns.
        npho: (4760,) filled: photons; 1e10 of dead sensors.
        time: (4760,) filled: seconds; 1e10 where nothing was measured.
        photoelectrons: (4760,) filled.
    """
    n = np.zeros(4, np.int64)
    for s in range(npho.shape[0]):
        efficiency = float(response.efficiency[s])
        photoelectrons[s] = 0.0
        if response.dead[s]:
            npho[s], time[s] = INVALID, INVALID
            continue
        total = 0
        for g in range(pulses):
            if counted:
                n[g] = rng.binomial(int(photons[g, s]), efficiency)
            else:
                n[g] = rng.poisson(efficiency * max(float(photons[g, s]), 0.0))
            total += n[g]
        photoelectrons[s] = total
        charge = float(total)
        if s < N_SIPM:
            charge = multiplied_charge(rng, total, response.excess_noise_factor)
        charge *= response.gain[s]
        if response.noise[s] > 0.0:
            charge += response.noise[s] * rng.standard_normal()
        if charge < response.threshold:
            charge, total = 0.0, 0
        npho[s] = charge / efficiency
        if total == 0:
            time[s] = INVALID
            continue
        size, moment, begin = _pulse(n, arrival, pulses, s, response.overlap)
        if response.time_model == FIRST:
            width = float(spread[begin, s])
            moment = float(arrival[begin, s]) - width + first_photoelectron(rng, size, width, response.decay)
            jitter = response.time_constant
        else:
            jitter = math.sqrt(response.time_single**2 / size + response.time_constant**2)
        moment += response.time_walk / math.sqrt(size) + offset + jitter * rng.standard_normal()
        time[s] = moment * 1e-9
