"""Compiled copying: one pass over an event's memory brings it to its place, in native form, with its masks.

Every byte of a data set passes here once an epoch, so that each pass over memory that is spared counts. The functions
run without Python's lock: threads work side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.compiled import compiled
from xecml.events import INVALID

_LARGEST = np.float32(9e9)  # the bound of xecml.events
_INVALID = np.float32(INVALID)
_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _swapped(word: Any) -> Any:
    return ((word >> 24) & 0xFF) | ((word >> 8) & 0xFF00) | ((word << 8) & 0xFF0000) | (word << 24)


@compiled
def _copy(source: Any, swap: bool, out: Any) -> None:
    if swap:
        for s in range(source.shape[0]):
            out[s] = _swapped(source[s])
    else:
        for s in range(source.shape[0]):
            out[s] = source[s]


@compiled
def _mark(npho: Any, time: Any, valid: Any, timed: Any) -> None:
    for s in range(npho.shape[0]):
        ok = (npho[s] > _ZERO) & (npho[s] < _LARGEST)
        valid[s] = ok
        timed[s] = ok & (abs(time[s]) < _LARGEST)


@compiled
def _decode_count(codes: Any, scale: Any, dark: Any, out: Any) -> None:
    for s in range(codes.shape[0]):
        root = np.float32(codes[s]) * scale if codes[s] != dark else _ZERO
        out[s] = root * root if codes[s] != 0 else _INVALID


@compiled
def _decode_time(codes: Any, first: Any, step: Any, out: Any) -> None:
    for s in range(codes.shape[0]):
        out[s] = first + (np.float32(codes[s]) - _ONE) * step if codes[s] != 0 else _INVALID


@compiled
def place_words(source: Any, swap: bool, rows: Any, where: Any, out: Any) -> None:
    """Copy rows of 32-bit words (N, S) to rows `where` of `out` (M, S), from big-endian if `swap`."""
    for i in range(rows.shape[0]):
        _copy(source[rows[i]], swap, out[where[i]])


@compiled
def decode_counts(codes: Any, scale: Any, dark: Any, rows: Any, where: Any, out: Any) -> None:
    """Counts from codes spaced as square roots: (code * scale)^2; code 0 is not measured, code `dark` a count of 0."""
    for i in range(rows.shape[0]):
        _decode_count(codes[rows[i]], scale, dark, out[where[i]])


@compiled
def decode_times(codes: Any, first: Any, step: Any, rows: Any, where: Any, out: Any) -> None:
    """Times from codes in steps of the event's own: first + (code - 1) step; code 0 is not measured."""
    for i in range(rows.shape[0]):
        _decode_time(codes[rows[i]], first[rows[i]], step[rows[i]], out[where[i]])


@compiled
def mark_valid(where: Any, npho: Any, time: Any, valid: Any, timed: Any) -> None:
    """Set masks of the rows `where`: 0 < count < 9e9, and of times |time| < 9e9 besides; false for NaN."""
    for i in range(where.shape[0]):
        _mark(npho[where[i]], time[where[i]], valid[where[i]], timed[where[i]])


@compiled
def _place_events(
    counts: Any, swap_counts: bool, times: Any, swap_times: bool, rows: Any, where: Any,
    count_words: Any, time_words: Any, npho: Any, time: Any, valid: Any, timed: Any,
) -> None:  # fmt: skip
    for i in range(rows.shape[0]):
        row, to = rows[i], where[i]
        _copy(counts[row], swap_counts, count_words[to])
        _copy(times[row], swap_times, time_words[to])
        _mark(npho[to], time[to], valid[to], timed[to])


@compiled
def decode_events(
    counts: Any, scale: Any, dark: Any, times: Any, first: Any, step: Any, rows: Any, where: Any,
    npho: Any, time: Any, valid: Any, timed: Any,
) -> None:  # fmt: skip
    """Decode counts and times and set masks, an event after the other: its numbers stay in the cache."""
    for i in range(rows.shape[0]):
        row, to = rows[i], where[i]
        _decode_count(counts[row], scale, dark, npho[to])
        _decode_time(times[row], first[row], step[row], time[to])
        _mark(npho[to], time[to], valid[to], timed[to])


def place_events(
    counts: NDArray[Any], times: NDArray[Any], rows: NDArray[np.int64], where: NDArray[np.int64],
    npho: NDArray[np.float32], time: NDArray[np.float32], valid: NDArray[np.bool_], timed: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Copy counts and times of either byte order to rows `where` and set masks, an event after the other.

    One call for many events: every return to Python may have to wait for other threads.
    """
    _place_events(
        frozen(counts, np.uint32), _is_swapped(counts), frozen(times, np.uint32), _is_swapped(times), rows, where,
        npho.view(np.uint32), time.view(np.uint32), npho, time, valid, timed,
    )  # fmt: skip


def place(source: NDArray[Any], rows: NDArray[np.int64], where: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Copy rows of float32 of either byte order to rows `where` of `out`."""
    place_words(frozen(source, np.uint32), _is_swapped(source), rows, where, out.view(np.uint32))


def _is_swapped(array: NDArray[Any]) -> bool:
    return bool(array.dtype != array.dtype.newbyteorder("="))


def frozen(array: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """A read-only, aligned view: the compiled functions are made for this one kind of array."""
    aligned = array if array.flags.aligned and array.flags.c_contiguous else np.ascontiguousarray(array).copy()
    view = aligned.view(np.ndarray) if dtype is None else aligned.view(np.ndarray).view(dtype)
    view.flags.writeable = False
    return view
