"""From light on the windows to what the sensors report: counts and times. Compiled. ns.

A sensor turns photons into photoelectrons with its efficiency. In SiPMs every photoelectron may trigger more
(crosstalk, afterpulses), each of these again: a branching process, whose charge divided by its mean is the
count with the excess noise factor 1 / (1 - branching).

The time is that of the first pulse. Pulses of further photons that follow within the overlap are one with it: their
times are averaged with their photoelectrons; later ones only add charge. How the time of a pulse of n photoelectrons is
defined is a matter of the analysis of waveforms, and there are four models of it:

- `mean`: the mean arrival time with a spread that falls with sqrt(n), as a fit to the waveform has;
- `first`: the first photoelectron itself, which xenon's decay and the spread of the arrival times delay;
- `edge`: a leading edge, the photoelectron with which the pulse passes a fixed height;
- `fraction`: a constant fraction, the photoelectron with which the pulse passes a share of its charge, less the delay
  of a large pulse whose light arrives with a spread of 0.8 ns, as a calibration of the time takes it out.
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
_SUMMED_SPACINGS = 16
"""Spacings before the k-th photoelectron are drawn one by one up to this k; beyond, their sum is taken as normal."""
_NEWTON_STEPS = 3
"""They give the time of a photoelectron to 1e-8 of itself."""
MEAN, FIRST, EDGE, FRACTION = 0, 1, 2, 3
TIME_MODELS = {"mean": MEAN, "first": FIRST, "edge": EDGE, "fraction": FRACTION}
_CALIBRATED_SPREAD_NS = 0.8
HOT_WINDOW_NS = 100.0
"""Pulses of hot sensors come at any time within plus or minus this of the photon of interest."""


class Response(NamedTuple):
    """What the compiled code needs to know of the sensors."""

    efficiency: Floats32
    """(4760,)"""
    assumed: Floats32
    """(4760,) efficiency by which counts are made of charges"""
    gain: Floats32
    """(4760,) gain over its calibrated value"""
    noise: Floats32
    """(4760,) electronic noise, rms, photoelectrons"""
    dead: NDArray[np.bool_]
    """(4760,)"""
    hot: Floats32
    """(4760,) mean photoelectrons that a sensor reports by itself in an event"""
    delay: Floats32
    """(4760,) ns, added to the sensor's times"""
    excess_noise_factor: float
    """of SiPMs"""
    threshold: float
    """charges below, in photoelectrons, have no time"""
    below: float
    """what is reported as the count of these: 0, or 1e10"""
    time_model: int
    """MEAN, FIRST, EDGE or FRACTION"""
    time_edge: float
    """photoelectrons at which a leading edge is passed"""
    time_fraction: float
    """share of the photoelectrons at which a constant fraction is passed"""
    time_zero: float
    """ns, the delay of a constant fraction that a calibration takes out"""
    time_stretch: float
    """times after the first interaction over true ones"""
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


@inner
def _delay_at(level: float, spread: float, decay: float) -> float:
    """Time (ns) at which -ln S, of `nth_photoelectron`, is `level`.

    Newton's steps: the hazard rises, so -ln S is convex and, after the first step, every step comes closer from above.
    """
    a = max(decay, 1e-3)
    b = max(spread, 1e-3)
    if b > a:
        a, b = b, a
    if a - b < 1e-3 * a:
        b = 0.999 * a
    t = math.sqrt(2.0 * a * b * level) + a * level
    for _ in range(_NEWTON_STEPS):
        slow, quick = math.exp(-t / a), math.exp(-t / b)
        later = (a * slow - b * quick) / (a - b)
        # the hazard: the density of the time over the chance that it is later
        t += (level + math.log(later)) * later * (a - b) / (slow - quick)
    return t


@compiled
def fraction_delay(fraction: float, decay: float) -> float:
    """Delay (ns) of a constant fraction of a large pulse, whose light arrives with a spread of 0.8 ns."""
    return _delay_at(-math.log(1.0 - fraction), _CALIBRATED_SPREAD_NS, decay)


@compiled
def nth_photoelectron(rng: np.random.Generator, k: int, n: int, spread: float, decay: float) -> float:
    """Time (ns) of the k-th of n photoelectrons after the earliest possible one.

    Arrival times are exponential with their spread, emission is exponential with the decay time: the chance that one
    comes later than t is S(t) = (decay e^(-t/decay) - spread e^(-t/spread)) / (decay - spread). -ln S of the k-th is
    the sum of k spacings, each exponential with a mean of 1 over the photoelectrons still to come (Renyi 1953).
    """
    level = 0.0
    if k <= _SUMMED_SPACINGS:
        for i in range(k):
            level += rng.standard_exponential() / (n - i)
    else:
        low = n - k + 0.5
        mean, variance = math.log((n + 0.5) / low), 1.0 / low - 1.0 / (n + 0.5)
        level = max(mean + math.sqrt(variance) * rng.standard_normal(), 0.1 * mean)
    return _delay_at(level, spread, decay)


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


@inner
def _time(rng: np.random.Generator, response: Response, n: int, arrival: float, spread: float) -> float:
    """Time (ns) of a pulse of n photoelectrons after the first interaction, without walk and delay of the sensor."""
    if response.time_model == MEAN:
        jitter = math.sqrt(response.time_single**2 / n + response.time_constant**2)
        return arrival + jitter * rng.standard_normal()
    k = 1
    if response.time_model == EDGE:
        k = int(response.time_edge + 0.5)
    elif response.time_model == FRACTION:
        k = int(response.time_fraction * n + 0.5)
    begin = arrival - spread - response.time_zero
    begin += nth_photoelectron(rng, min(max(k, 1), n), n, spread, response.decay)
    return begin + response.time_constant * rng.standard_normal()


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
        npho: (4760,) filled: photons; 1e10 of dead sensors, and below the threshold if so set.
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
        own = rng.poisson(float(response.hot[s])) if response.hot[s] > 0.0 else 0
        photoelectrons[s] = total
        charge = float(total + own)
        if s < N_SIPM:
            charge = multiplied_charge(rng, total + own, response.excess_noise_factor)
        charge *= response.gain[s]
        if response.noise[s] > 0.0:
            charge += response.noise[s] * rng.standard_normal()
        if charge < response.threshold:
            npho[s], time[s] = response.below, INVALID
            continue
        npho[s] = charge / float(response.assumed[s])
        if total + own == 0:
            time[s] = INVALID
            continue
        moment, size = math.inf, own
        if total > 0:
            size, mean, begin = _pulse(n, arrival, pulses, s, response.overlap)
            if response.time_model != MEAN:
                mean = float(arrival[begin, s])
            moment = _time(rng, response, size, mean, float(spread[begin, s]))
        if own > 0:
            # the first pulse gives the time
            moment = min(moment, HOT_WINDOW_NS * (2.0 * rng.random() - 1.0))
        moment = moment * response.time_stretch + response.time_walk / math.sqrt(size)
        time[s] = (moment + float(response.delay[s]) + offset) * 1e-9
