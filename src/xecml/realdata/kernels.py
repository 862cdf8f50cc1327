"""Compiled passes over the sensors of events: what was not measured, units, relative quantities."""

from __future__ import annotations

from typing import Any

import numpy as np

from xecml.compiled import compiled, inner, vectorised
from xecml.events import INVALID, INVALID_ABOVE, RELATIVE_TIME_NPHE

_LARGEST = np.float32(INVALID_ABOVE)
_INVALID = np.float32(INVALID)
_BRIGHT = np.float32(RELATIVE_TIME_NPHE)
_ZERO = np.float32(0)


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
    npho: Any, time: Any, nphe: Any, factors: Any, limits: Any, by_run: Any, run_of: Any, bad: Any, bad_of: Any,
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
        by_run: for each range of runs factors of counts and of photoelectrons, seconds that are taken off times, and
            photoelectrons for each photon (K, 4, S).
        run_of: range of each event (N,).
        bad: masks of bad sensors (M, S).
        bad_of: mask of each event (N,).
        out_npho: counts (N, S) float32; so the following.
        out_time: times.
        relative_npho: counts over the largest.
        relative_time: times after the earliest of bright sensors.
        valid: number of sensors with a valid count (N,).
        timed: number of those with a valid time (N,).
    """
    for i in range(npho.shape[0]):
        count, when, of_valid, of_bright = out_npho[i], out_time[i], relative_npho[i], relative_time[i]
        own = by_run[run_of[i]]
        _convert(npho[i], time[i], factors, limits, own, bad[bad_of[i]], count, when)
        valid[i], timed[i] = _numbers(count, when)
        # the rows of the relative quantities hold times until these are known
        if nphe.shape[0] > 0:
            _times_by_charge(count, when, nphe[i], factors[2], own[1], of_valid, of_bright)
        else:
            _times_by_count(count, when, own[3], of_valid, of_bright)
        begin = _smallest(of_bright)
        if begin >= _LARGEST:
            begin = _smallest(of_valid)
        _relate(count, when, _largest(count), begin, relative_npho[i], relative_time[i])


# each of these is one loop without branches, which becomes vector instructions; in those whose order is free there is
# no NaN, of which the compiler takes no notice then


@inner
def _convert(npho: Any, time: Any, factors: Any, limits: Any, own: Any, bad: Any, count: Any, when: Any) -> None:
    """Counts and times in their units, 1e10 where not measured; a time is not measured where its count is not."""
    for s in range(npho.shape[0]):
        n, t = npho[s] * factors[0], time[s] * factors[1]
        rounded = np.float32(n * own[0, s])
        # rounding may reach what is no measurement
        there = (abs(n) < limits[0]) & (abs(rounded) < _LARGEST) & (not bad[s])
        count[s] = rounded if there else _INVALID
        when[s] = np.float32(t - own[2, s]) if there & (abs(t) < limits[1]) else _INVALID


@inner
def _times_by_charge(
    count: Any, when: Any, charges: Any, factor: Any, scale: Any, of_valid: Any, of_bright: Any
) -> None:
    """Times of sensors with a valid count, and of those among them with over 50 photoelectrons; 1e10 of the others."""
    for s in range(count.shape[0]):
        of_valid[s] = when[s] if (count[s] > _ZERO) & (count[s] < _LARGEST) else _INVALID
        of_bright[s] = of_valid[s] if np.float32(charges[s] * factor * scale[s]) > _BRIGHT else _INVALID


@inner
def _times_by_count(count: Any, when: Any, efficiency: Any, of_valid: Any, of_bright: Any) -> None:
    """The same with photoelectrons from counts."""
    for s in range(count.shape[0]):
        of_valid[s] = when[s] if (count[s] > _ZERO) & (count[s] < _LARGEST) else _INVALID
        of_bright[s] = of_valid[s] if np.float32(count[s] * np.float32(efficiency[s])) > _BRIGHT else _INVALID


@vectorised
def _numbers(count: Any, when: Any) -> Any:
    """Sensors with a valid count, and with a valid time."""
    valid, timed = 0, 0
    for s in range(count.shape[0]):
        ok = (count[s] > _ZERO) & (count[s] < _LARGEST)
        valid += ok
        timed += ok & (abs(when[s]) < _LARGEST)
    return valid, timed


@vectorised
def _largest(count: Any) -> Any:
    """The largest valid count, or 0."""
    largest = _ZERO
    for s in range(count.shape[0]):
        largest = max(largest, count[s] if count[s] < _LARGEST else _ZERO)
    return largest


@vectorised
def _smallest(times: Any) -> Any:
    """The smallest number."""
    smallest = _INVALID
    for s in range(times.shape[0]):
        smallest = min(smallest, times[s])
    return smallest


@inner
def _relate(count: Any, when: Any, largest: Any, begin: Any, relative_npho: Any, relative_time: Any) -> None:
    """Counts over the largest, times after the earliest; 1e10 where not measured."""
    for s in range(count.shape[0]):
        ok = (count[s] > _ZERO) & (count[s] < _LARGEST)
        relative_npho[s] = np.float32(count[s] / largest) if ok else _INVALID
        relative_time[s] = np.float32(when[s] - begin) if ok & (abs(when[s]) < _LARGEST) else _INVALID
