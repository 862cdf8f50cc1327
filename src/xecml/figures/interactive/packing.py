"""Events and sensors as short text that a browser unpacks: 16-bit numbers, gzip, base64."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.events import read_counts, relative_quantities, valid_counts, valid_times
from xecml.figures.unfolded_detector import places
from xecml.resolution import Floats

NOT_READ, DARK, FIRST = 0, 1, 2
"""Codes of a count: not measured, read without light, and the first of those that stand for light."""
FILLED, DEAD, HIDDEN = 1, 2, 4
"""Bits that say what a sensor is: filled by a repair, known to be dead, hidden from a network."""
ROOTS = 60_000
"""Steps of the root of a count up to the event's largest; a single photoelectron is then good to 0.5 %."""
_LARGEST = 65535
TIME_STEP = 0.01
"""Step of times in ns; larger only in events that span more than 655 ns."""
_LENGTH = 0.01
"""Step of lengths in cm."""

Codes = NDArray[np.uint16]


def text_of(planes: Sequence[NDArray[Any]]) -> str:
    """Arrays of 8 or 16 bits as one text: low bytes before high ones, which compress better apart."""
    parts = []
    for plane in planes:
        octets = np.ascontiguousarray(plane).view(np.uint8).reshape(-1, plane.itemsize)
        parts += [octets[:, i].tobytes() for i in range(plane.itemsize)]
    # without the time of day: equal events give equal text
    return base64.b64encode(gzip.compress(b"".join(parts), 9, mtime=0)).decode("ascii")


def sensors() -> str:
    """All sensors: position x, y, z, place in the unfolded picture, normal (in 1/10000), and face code.

    Signed 16-bit numbers in 0.01 cm, one quantity after the other; the face code has 8 bits.
    """
    lengths = np.concatenate([geometry.positions(), places()], axis=1).T
    numbers = np.concatenate([np.rint(lengths / _LENGTH), np.rint(geometry.normals().T * 1e4)])
    return text_of([*numbers.astype("<i2"), geometry.face_codes().astype(np.uint8)])


def counts_in_codes(npho: NDArray[Any], step: float) -> Codes:
    """Codes of counts: `NOT_READ`, `DARK`, or 1 + root of the count in steps, at least `FIRST`."""
    n = np.asarray(npho, np.float64)
    lit = valid_counts(n)
    roots = np.rint(np.sqrt(np.where(lit, n, 0.0)) / step) + 1
    unlit = np.where(read_counts(n), DARK, NOT_READ)
    return np.where(lit, np.clip(roots, FIRST, _LARGEST), unlit).astype("<u2")


def times_in_codes(time: Floats, timed: NDArray[np.bool_], first: float, step: float) -> Codes:
    """Codes of times in ns: 0 where there is none, else 1 + steps after `first`."""
    steps = np.rint((np.where(timed, time, first) - first) / step) + 1
    return np.where(timed, np.clip(steps, 1, _LARGEST), 0).astype("<u2")


def pack_event(
    npho: NDArray[Any],
    time: NDArray[Any],
    flags: NDArray[np.uint8],
    expected: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    """One event for the page: steps, and the text of its numbers.

    Args:
        npho: counts (4760,), 1e10 where not measured.
        time: seconds (4760,).
        flags: `FILLED`, `DEAD`, `HIDDEN` of the sensors, (4760,).
        expected: `npho` and, of what knows them, `time` that something expects of the sensors, (4760,) each.
    """
    n, t = np.asarray(npho, np.float64), np.asarray(time, np.float64)
    nothing = np.full(len(n), np.inf)
    counts_expected = np.asarray(expected.get("npho", nothing), np.float64)
    times_expected = np.asarray(expected.get("time", nothing), np.float64)
    timed = valid_times(n, t)
    # expected times are on the clock of the measured ones, whose zero is the earliest bright sensor
    zero = float(np.median((t - relative_quantities(n, t)[1])[timed])) if timed.any() else 0.0
    ns, ns_expected = (t - zero) * 1e9, (times_expected - zero) * 1e9
    known = valid_times(counts_expected, times_expected)
    all_times = np.concatenate([ns[timed], ns_expected[known]])
    first, last = (float(all_times.min()), float(all_times.max())) if len(all_times) else (0.0, 0.0)
    time_step = max(TIME_STEP, (last - first) / (_LARGEST - 2))
    largest = max(float(np.max(c, where=valid_counts(c), initial=0.0)) for c in (n, counts_expected))
    count_step = float(np.sqrt(largest)) / ROOTS or 1.0 / ROOTS
    planes: list[NDArray[Any]] = [
        np.asarray(flags, np.uint8),
        counts_in_codes(n, count_step),
        times_in_codes(ns, timed, first, time_step),
    ]
    if "npho" in expected:
        planes.append(counts_in_codes(counts_expected, count_step))
    if "time" in expected:
        planes.append(times_in_codes(ns_expected, known, first, time_step))
    steps = {"count_step": count_step, "time_step": time_step, "time_first": first}
    return {key: float(f"{value:.8g}") for key, value in steps.items()} | {"data": text_of(planes)}
