"""Compiled passes over the sensors of events: what was not measured, units, relative quantities."""

from __future__ import annotations

from typing import Any

import numpy as np

from xecml.compiled import compiled
from xecml.events import INVALID, INVALID_ABOVE, RELATIVE_TIME_NPHE

_LARGEST = np.float32(INVALID_ABOVE)
_INVALID = np.float32(INVALID)
_BRIGHT = np.float32(RELATIVE_TIME_NPHE)
_ZERO, _FAR = np.float32(0), np.float32(np.inf)


@compiled
def copy_rows(flat: Any, begin: Any, out: Any) -> None:
    """Copy runs of numbers to the rows of `out` (R, S); NaN to rows that begin at -1."""
    for r in range(out.shape[0]):
        for s in range(out.shape[1]):
            out[r, s] = flat[begin[r] + s] if begin[r] >= 0 else np.nan


@compiled
def pick_photons(flat: Any, starts: Any, lengths: Any, first: Any, photon: Any, out: Any) -> None:
    """Of every sensor the number of one photon, to `out` (R, S); of a sensor of a single number that one.

    Args:
        flat: all numbers.
        starts: where the numbers of each sensor begin.
        lengths: how many they are.
        first: of each row its first sensor, -1 where it has none, (R,).
        photon: of each row, (R,).
        out: (R, S); NaN where there is no such photon.
    """
    for r in range(out.shape[0]):
        for s in range(out.shape[1]):
            out[r, s] = np.nan
            if first[r] >= 0:
                sensor = first[r] + s
                at = photon[r] if lengths[sensor] != 1 else 0
                if at < lengths[sensor]:
                    out[r, s] = flat[starts[sensor] + at]


@compiled
def sensor_columns(
    npho: Any, time: Any, nphe: Any, factors: Any, limits: Any, efficiency: Any, bad: Any, bad_of: Any,
    out_npho: Any, out_time: Any, relative_npho: Any, relative_time: Any, valid: Any, timed: Any,
) -> None:  # fmt: skip
    """Counts and times in photons and seconds, 1e10 where not measured, and the relative ones, in one pass an event.

    Every number is rounded once, from double precision, and the relative quantities are those of
    `xecml.events.relative_quantities`.

    Args:
        npho: counts as in the file (N, S).
        time: times as in the file (N, S).
        nphe: photoelectrons as in the file (N, S), or (0, S): they come from counts then.
        factors: of the three (3,).
        limits: of the three (3,), in units after the factor.
        efficiency: photoelectrons for each photon, by sensor (S,).
        bad: masks of bad sensors (M, S).
        bad_of: mask of each event (N,).
        out_npho: counts (N, S) float32; so the following.
        out_time: times.
        relative_npho: counts over the largest.
        relative_time: times after the earliest of bright sensors.
        valid: number of sensors with a valid count (N,).
        timed: number of those with a valid time (N,).
    """
    n_sensors = npho.shape[1]
    for i in range(npho.shape[0]):
        mask, n_valid, n_timed = bad_of[i], 0, 0
        largest, earliest, earliest_bright = _ZERO, _FAR, _FAR
        for s in range(n_sensors):
            n, t = npho[i, s] * factors[0], time[i, s] * factors[1]
            read = abs(n) < limits[0] and not bad[mask, s]
            count = np.float32(n) if read else _INVALID
            when = np.float32(t) if read and abs(t) < limits[1] else _INVALID
            if abs(count) >= _LARGEST:  # rounding may reach what is no measurement
                count, when = _INVALID, _INVALID
            out_npho[i, s], out_time[i, s] = count, when
            if count > _ZERO and count < _LARGEST:
                n_valid += 1
                largest = max(largest, count)
                if abs(when) < _LARGEST:
                    n_timed += 1
                    earliest = min(earliest, when)
                    if nphe.shape[0] > 0:
                        charge = np.float32(nphe[i, s] * factors[2])
                    else:
                        charge = np.float32(count * efficiency[s])
                    if charge > _BRIGHT:
                        earliest_bright = min(earliest_bright, when)
        begin = earliest_bright if earliest_bright < _FAR else earliest
        for s in range(n_sensors):
            count, when = out_npho[i, s], out_time[i, s]
            ok = count > _ZERO and count < _LARGEST
            relative_npho[i, s] = np.float32(count / largest) if ok else _INVALID
            relative_time[i, s] = np.float32(when - begin) if ok and abs(when) < _LARGEST else _INVALID
        valid[i], timed[i] = n_valid, n_timed
