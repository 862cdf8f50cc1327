"""From light on the windows to what the sensors report: counts and times. Compiled. ns.

A sensor turns photons into photoelectrons with its efficiency. In SiPMs every photoelectron may trigger more
(crosstalk, afterpulses), each of these again: a branching process, whose charge divided by its mean is the
count with the excess noise factor 1 / (1 - branching). The time is the mean arrival time with the spread of
the first photoelectrons.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.events import INVALID
from xecml.simulation.compiled import compiled
from xecml.simulation.crosssections import Floats
from xecml.simulation.optics import N_SIPM, Floats32

_NORMAL_ABOVE = 60
"""Photoelectrons above which the branching process is taken as normal."""


class Response(NamedTuple):
    """What the compiled code needs to know of the sensors."""

    efficiency: Floats32
    """(4760,)"""
    gain: Floats32
    """(4760,) gain over its calibrated value"""
    dead: NDArray[np.bool_]
    """(4760,)"""
    excess_noise_factor: float
    """of SiPMs"""
    noise: float
    """electronic noise, rms, photoelectrons"""
    threshold: float
    """charges below, in photoelectrons, are reported as zero, without a time"""
    time_single: float
    """time spread with one photoelectron, ns"""
    time_constant: float
    """time spread with many photoelectrons, ns"""


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
def respond(
    rng: np.random.Generator,
    response: Response,
    photons: Floats32,
    arrival: Floats32,
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
        photons: (4760,) expected photons on the windows, or counted ones.
        arrival: (4760,) mean arrival time, ns.
        counted: whether `photons` are a sample already.
        offset: added to all times, ns.
        npho: (4760,) filled: photons; 1e10 of dead sensors.
        time: (4760,) filled: seconds; 1e10 where nothing was measured.
        photoelectrons: (4760,) filled.
    """
    for s in range(photons.shape[0]):
        efficiency = float(response.efficiency[s])
        if response.dead[s]:
            npho[s], time[s], photoelectrons[s] = INVALID, INVALID, 0.0
            continue
        if counted:
            n = rng.binomial(int(photons[s]), efficiency)
        else:
            n = rng.poisson(efficiency * max(float(photons[s]), 0.0))
        photoelectrons[s] = n
        charge = float(n)
        if s < N_SIPM:
            charge = multiplied_charge(rng, n, response.excess_noise_factor)
        charge *= response.gain[s]
        if response.noise > 0.0:
            charge += response.noise * rng.standard_normal()
        if charge < response.threshold:
            charge, n = 0.0, 0
        npho[s] = charge / efficiency
        if n == 0:
            time[s] = INVALID
            continue
        spread = math.sqrt(response.time_single**2 / n + response.time_constant**2)
        time[s] = (arrival[s] + offset + spread * rng.standard_normal()) * 1e-9
