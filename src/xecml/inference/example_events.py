"""Events that look like showers, to trace a network with and to compare two forms of it on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.events import INVALID

Floats = NDArray[np.float32]
_ANALOGUE = 0.02
"""Spread of the factors by which `analogue` changes counts."""


def example_events(events: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Counts and times (events, 4760) that look like showers, with dead and dark sensors among them.

    Dark sensors read zero, in every other event they were not measured.

    A point of light of 2.4 million photons at random places; only meant to exercise a network.
    """
    rng = np.random.default_rng(seed)
    uvw = rng.uniform((-20.0, -50.0, 1.0), (20.0, 50.0, 15.0), (events, 3))
    away = geometry.xyz_from_uvw(uvw)[:, None] - geometry.positions()
    distance = np.linalg.norm(away, axis=2)
    cosine = np.clip(np.sum(away * geometry.normals(), axis=2) / distance, 0.02, 1)
    npho = rng.poisson(2.4e6 * cosine * 1.4 / (4 * np.pi * (distance**2 + 1)))
    time = 1e-9 * (distance / 8 + rng.normal(0, 0.3, npho.shape)) + rng.uniform(-1e-8, 1e-8, (events, 1))
    dark, dead = npho == 0, rng.uniform(size=npho.shape) < 0.02
    dead[1::2] |= dark[1::2]
    return np.where(dead, INVALID, npho).astype(np.float32), np.where(dead | dark, INVALID, time).astype(np.float32)


def example_dead(events: int, seed: int = 0) -> NDArray[np.bool_]:
    """Dead sensors (events, 4760), one in twenty."""
    dead: NDArray[np.bool_] = np.random.default_rng(seed).random((events, geometry.N_SENSORS)) < 0.05
    return dead


def without_measurement(npho: Floats, time: Floats) -> tuple[Floats, Floats]:
    """The same events, the last of two without a time, the last three of seven without anything valid."""
    if len(npho) == 2:
        time[-1] = INVALID
    elif len(npho) > 2:
        npho[-3:] = np.array([[INVALID], [0.0], [np.nan]])
    return npho, time


def analogue(npho: Floats, seed: int = 0) -> Floats:
    """Counts (events, 4760) times factors about 1, so that none lies on a limit that networks compare counts with.

    Whole numbers of photoelectrons do, and rounding then decides on which side. Zeros, and counts that were not
    measured, stay.
    """
    factors = np.random.default_rng(seed).normal(1, _ANALOGUE, npho.shape).clip(0.9, 1.1).astype(np.float32)
    return np.where(npho < 9e9, npho * factors, npho)
