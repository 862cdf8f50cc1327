"""Sums over the neighbours of a sensor: all sensors of its face within a distance. Compiled. cm.

Neighbours of one sensor are few runs of consecutive ids, since ids follow the rows of a face; the sum over a run is a
difference of two running sums. So an event costs one pass over its sensors and a look-up a run, not a neighbour.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from xecml.compiled import compiled
from xecml.geometry import FACES, N_SENSORS, face_sensors, positions

RADIUS = 20.0
"""Sensors nearer than this are neighbours, if they are on the same face."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]


class Runs(NamedTuple):
    """Neighbours as runs of ids: those of sensor s are start[k] to stop[k], k from first[s] to first[s + 1]."""

    first: Ints
    start: Ints
    stop: Ints


@cache
def neighbour_runs(radius: float = RADIUS) -> Runs:
    """Neighbours of every sensor on its own face, itself included."""
    start, stop, number = [], [], np.zeros(N_SENSORS, np.int64)
    found: dict[int, Ints] = {}
    for face in FACES:
        ids = face_sensors(face)
        near = cKDTree(positions()[ids]).query_ball_point(positions()[ids], radius, return_sorted=True)
        found |= {int(s): ids[index] for s, index in zip(ids, near, strict=True)}
    for s in range(N_SENSORS):
        ends = np.flatnonzero(np.diff(found[s]) > 1)
        start.append(found[s][np.concatenate([[0], ends + 1])])
        stop.append(found[s][np.concatenate([ends, [-1]])] + 1)
        number[s] = len(start[-1])
    return Runs(np.concatenate([[0], number.cumsum()]), np.concatenate(start), np.concatenate(stop))


@compiled
def _sums(
    values: NDArray[Any], live: Marks, offset: Ints, sensor: Ints, first: Ints, start: Ints, stop: Ints, sums: Floats
) -> None:
    running = np.zeros(values.shape[1] + 1)
    for e in range(values.shape[0]):
        if offset[e] == offset[e + 1]:
            continue
        for s in range(values.shape[1]):
            running[s + 1] = running[s] + (values[e, s] if live[e, s] else 0.0)
        for i in range(offset[e], offset[e + 1]):
            for k in range(first[sensor[i]], first[sensor[i] + 1]):
                sums[i] += running[stop[k]] - running[start[k]]


def neighbour_sums(values: NDArray[Any], live: Marks, dead: Marks, radius: float = RADIUS) -> Floats:
    """Sum values over the live neighbours of dead sensors.

    Args:
        values: (N, 4760); those of sensors that are not live are not looked at.
        live: (N, 4760) sensors that take part.
        dead: (N, 4760) sensors whose neighbours are summed.
        radius: neighbours are this near, cm.

    Returns:
        A sum for each dead sensor, in the order of `np.nonzero(dead)`; good to rounding of the event's total.
    """
    offset = np.concatenate([[0], dead.sum(1).cumsum()])
    sensor = np.nonzero(dead)[1]
    sums = np.zeros(len(sensor))
    _sums(values, live, offset, sensor, *neighbour_runs(radius), sums)
    return sums
