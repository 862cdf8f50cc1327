"""How much of an event was measured: its sensors with a count and with a time, and faces that lack some of them.

A sensor without a count was dark or dead, and many files write both alike. But light falls off from where it is
brightest: between two bright sensors of a row or column of a face no sensor is dark. The share of such sensors that
have a count falls with dead ones, in dim and in bright events alike, however the file writes dark ones. It says nothing
of a face that is dead as a whole or at one end; there the share of all its sensors with a count falls, by more than
in the rest of the event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.events import INVALID_ABOVE, PDE_SIPM, QE_PMT
from xecml.geometry import FACES, N_SENSORS, N_SIPM, bottom_rows, face_codes, top_rows

_BRIGHT = 10.0
"""Photoelectrons of a bright sensor; one that expects as many is dark once in 22,000 events."""
_RELATIVE, _FAINT, _SHARE = 1.001, 12.0, 1 / 300
"""Relative counts never exceed 1 and have no scale: bright is there 12 times the faintest SiPM, and 1/300."""
_ENOUGH = 20
"""Fewer sensors say nothing about a face."""
_LOWEST = 0.01
"""Quantile of a sample that an event is compared with."""
_SHORT, _LESS, _FEW = 0.9, 0.1, 0.2
"""An event is short of sensors below 0.9 of it; of all sensors, if also 0.1 below it, or below a fifth of it."""


class Coverage(NamedTuple):
    """What was measured in B events, by face in the order of `xecml.geometry.FACES`."""

    n_valid: NDArray[np.int32]
    """(B, 6): sensors with a valid count."""
    n_timed: NDArray[np.int32]
    """(B, 6): sensors with a valid time."""
    between: NDArray[np.int32]
    """(B, 6): sensors at or between bright ones of a row or column."""
    seen: NDArray[np.int32]
    """(B, 6): of these, those with a valid count."""

    def counted(self) -> NDArray[np.bool_]:
        """Events (B,) with any valid count."""
        return np.asarray(self.n_valid.any(1))

    def shares(self) -> NDArray[np.float64]:
        """Shares (4, B, 6) of sensors that have a valid count, and of these with a valid time.

        Counts: of those between bright ones; of all; the latter over that of the whole event. NaN stands for shares of
        fewer than 20 sensors.
        """
        pairs = ((self.seen, self.between), (self.n_timed, self.n_valid))
        between, timed = (np.where(of >= _ENOUGH, some / np.maximum(of, 1), np.nan) for some, of in pairs)
        share = self.n_valid / _SIZES
        whole = self.n_valid.sum(1, keepdims=True) / N_SENSORS
        return np.stack([between, share, share / np.where(whole > 0, whole, 1), timed])


def coverage(npho: ArrayLike, time: ArrayLike) -> Coverage:
    """Count the sensors of raw counts and times (B, 4760)."""
    n, t = np.asarray(npho, np.float32), np.asarray(time, np.float32)
    # few events at a time: their masks stay in the cache
    edges = range(0, max(len(n), 1), _AT_A_TIME)
    parts = [_count(n[i : i + _AT_A_TIME], t[i : i + _AT_A_TIME]) for i in edges]
    return Coverage(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def usual(parts: Sequence[Coverage]) -> NDArray[np.float32]:
    """What 99 % of a sample's events exceed: `Coverage.shares` (4, 6), of events with a count; 0 where none says."""
    every = np.concatenate([part.shares()[:, part.counted()] for part in parts], 1)
    lowest = np.zeros((len(every), len(FACES)), np.float32)
    for kind, face in np.ndindex(*lowest.shape):
        known = every[kind, :, face][np.isfinite(every[kind, :, face])]
        lowest[kind, face] = np.quantile(known, _LOWEST) if len(known) else 0.0
    # as many digits as exported files have
    return lowest.round(4)


def short_faces(found: Coverage, lowest: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark faces (B, 6) on which an event has fewer sensors than the sample of `usual` had.

    Of the sensors between bright ones a tenth fewer; or of all sensors 0.1 of them fewer (or four fifths), and a tenth
    fewer in proportion to the whole event, so that an event that is dim is not meant. Events without any count are not
    marked: they have no answer.
    """
    between, share, ratio, _ = found.shares()
    holes = between < _SHORT * lowest[0]  # false for NaN
    gone = (share < np.maximum(lowest[1] - _LESS, _FEW * lowest[1])) & (ratio < _SHORT * lowest[2])
    return np.asarray((holes | gone) & found.counted()[:, None])


def short_times(found: Coverage, lowest: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark faces (B, 6) on which a tenth fewer sensors with a count have a time than in the sample of `usual`."""
    return np.asarray(found.shares()[3] < _SHORT * lowest[3])  # false for NaN


# ------------------------------------------------------------------------------------------- rows of sensors as bits

_SIZES = np.bincount(face_codes(), minlength=len(FACES))
_AT_A_TIME = 128
_WIDE = 64
"""Bits of a row."""
_CENTRE = (4742, 1, N_SENSORS - 4742)
"""Sensors of the outer face that are in no rectangle."""


def _rectangles() -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Rectangles of sensors in the order of ids, by face: first id, rows, columns.

    The rows of top and bottom, of different lengths, are rectangles of one row. The outer face is its coarse map.
    """
    top, bottom = (tuple((int(row[0]), 1, len(row)) for row in rows) for rows in (top_rows(), bottom_rows()))
    return ((0, 93, 44),), ((4308, 24, 6),), ((4452, 24, 6),), ((4092, 24, 9), _CENTRE), top, bottom


_RECTANGLES = _rectangles()
_ROWS = [sum(rows for _, rows, _ in face) for face in _RECTANGLES]
_FIRST_ROWS = np.cumsum([0, *_ROWS[:-1]])


def _count(npho: NDArray[np.float32], time: NDArray[np.float32]) -> Coverage:
    valid = (npho > 0) & (npho < INVALID_ABOVE)
    timed = valid & (time < INVALID_ABOVE) & (time > -INVALID_ABOVE)
    counted, light = _words(valid), _words(valid & _bright(npho, valid))
    inside = _along_rows(light)
    row = 0
    for rectangle in (rectangle for face in _RECTANGLES for rectangle in face):
        part = slice(row, row := row + rectangle[1])
        if rectangle == _CENTRE:
            inside[:, part] = 0
        elif rectangle[1] > 1:
            inside[:, part] |= _along_columns(light[:, part])
    numbers = (
        np.add.reduceat(np.bitwise_count(words), _FIRST_ROWS, axis=1, dtype=np.int32)
        for words in (counted, _words(timed), inside, inside & counted)
    )
    return Coverage(*numbers)


def _words(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Masks (B, 4760) as bits, a row of sensors a word, its first sensor the lowest bit: (B, rows)."""
    padded = np.zeros((len(mask), sum(_ROWS), _WIDE), bool)
    row = 0
    for first, rows, columns in (rectangle for face in _RECTANGLES for rectangle in face):
        part = mask[:, first : first + rows * columns].reshape(len(mask), rows, columns)
        padded[:, row : row + rows, :columns] = part
        row += rows
    # the lowest byte first, as x86 and Arm have numbers
    return np.packbits(padded.reshape(len(mask), padded.shape[1] * _WIDE), axis=1, bitorder="little").view(np.uint64)


def _bright(npho: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Sensors (B, 4760) with ten photoelectrons or more, or what comes near to it in relative counts."""
    bright = np.empty(npho.shape, bool)
    for part, efficiency in ((slice(0, N_SIPM), PDE_SIPM), (slice(N_SIPM, None), QE_PMT)):
        bright[:, part] = npho[:, part] >= _BRIGHT / efficiency
    relative = np.flatnonzero(~((npho > _RELATIVE) & valid).any(1))
    if len(relative):
        n, ok = npho[relative], valid[relative]
        largest = np.where(ok, n, 0).max(1, keepdims=True)
        faintest = np.where(ok, n, np.inf)[:, :N_SIPM].min(1, keepdims=True)
        bright[relative] = n >= np.maximum(_SHARE * largest, np.minimum(_FAINT * faintest, largest))
    return bright


def _along_rows(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Set the bits between the lowest and the highest that is set."""
    up, down = words.copy(), words.copy()
    for step in (1, 2, 4, 8, 16, 32):
        up |= up << np.uint64(step)
        down |= down >> np.uint64(step)
    return up & down


def _along_columns(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Set the bits of each column between the first and the last row (axis 1) that has it."""
    before: NDArray[np.uint64] = np.bitwise_or.accumulate(words, axis=1)
    after: NDArray[np.uint64] = np.bitwise_or.accumulate(words[:, ::-1], axis=1)[:, ::-1]
    return before & after
