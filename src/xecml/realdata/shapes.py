"""Convert the nested lists of a branch to arrays with one number per event, photon or sensor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.events import number_of
from xecml.geometry import N_SENSORS, Floats, Ints
from xecml.realdata import kernels
from xecml.rootio.nested import Nested

_MOST_PHOTONS = 1000
"""In an event; what claims more is another branch than meant."""


def of_events(nested: Nested, what: str) -> NDArray[Any]:
    """One number an event, (N,), in the file's type but native byte order.

    Args:
        nested: a number, or a list or array of one.
        what: names file, branch and quantity in messages.

    Raises:
        InputError: there are more or fewer than one.
    """
    n = nested.entries
    if nested.values.size != n or any((lengths != 1).any() for lengths in nested.lengths):
        raise InputError(f"{what} is {nested.form()} an event; it must be one number.")
    return _native(nested.values.reshape(n))


def of_photons(nested: Nested, what: str, size: int = 0) -> Floats:
    """Numbers of every photon, (N, P) or (N, P, size), NaN beyond those that an event has; P is the largest number.

    Args:
        nested: a number, of one photon (P = 1), or a list or array of them; of vectors a list or array more.
        what: names file, branch and quantity in messages.
        size: numbers of each photon, as a vector; 0 of plain numbers.

    Raises:
        InputError: it has another shape.
    """
    found = _vectors(nested, size) if size else (nested.values, nested.lengths)
    values, lengths = found or (nested.values, nested.lengths)
    inner = values.ndim - 1 - (1 if size else 0)
    most = int(lengths[0].max(initial=0)) if lengths else values.shape[1] if inner == 1 else 1
    if found is None or len(lengths) + inner > 1 or most > _MOST_PHOTONS:
        raise InputError(
            f"{what} is {nested.form()} an event; it must be {number_of(max(size, 1), 'number')} for every photon."
        )
    tail = (size,) if size else ()
    if not lengths:
        return np.asarray(values.reshape(len(values), most, *tail), np.float64)
    padded = np.full((len(lengths[0]), most, *tail), np.nan)
    padded[np.arange(most) < lengths[0][:, None]] = values
    return padded


def _vectors(nested: Nested, size: int) -> tuple[NDArray[Any], tuple[NDArray[np.int64], ...]] | None:
    """Vectors (..., size) and the lengths of their lists; a vector may be a list itself, NaN where that is empty."""
    values, lengths = nested.values, nested.lengths
    if values.ndim > 1:
        return (values, lengths) if values.shape[-1] == size else None
    if not lengths or not np.isin(lengths[-1], (0, size)).all():
        return None
    vectors = np.full((len(lengths[-1]), size), np.nan)
    vectors[lengths[-1] > 0] = values.reshape(-1, size)
    return vectors, lengths[:-1]


def of_sensors(nested: Nested, what: str, rows: Ints, photon: Ints) -> NDArray[Any]:
    """Numbers of all sensors, (R, 4760), NaN where there are none, for events of the chunk and a photon of each.

    Sensors may have one number, or one for every photon, in lists or arrays, in either order. Where there is one, it
    serves all photons of the event. An event may have no sensors at all.

    Args:
        nested: of the chunk's events.
        what: names file, branch and quantity in messages.
        rows: events of the chunk, (R,), ascending.
        photon: photon of each, (R,), counted from 0.

    Raises:
        InputError: it has another shape; an event has another number of sensors.
    """
    sizes = [*nested.lengths, *nested.values.shape[1:]]
    if len(sizes) not in (1, 2):
        raise InputError(f"{what} is {nested.form()} an event; it must be {N_SENSORS} numbers.")
    # the first axis is most often that of the sensors, and then it is all there is to look at
    odd: list[int] = []
    for size in sizes:
        odd.append(_odd(size))
        if odd[-1] == 0:
            break
    else:
        raise InputError(
            f"{what} has {number_of(max(odd), 'sensor')} in an event; the detector has {N_SENSORS}, in the order of "
            "their ids."
        )
    if not nested.lengths:
        return _of_array(nested.values, len(odd) - 1, rows, photon)
    return _of_lists(nested, len(odd) - 1, rows, photon)


def _odd(size: Any) -> int:
    """A length along an axis that is neither the number of sensors nor 0; 0 if there is none."""
    lengths = np.atleast_1d(np.asarray(size))
    return int(lengths[lengths != N_SENSORS].max(initial=0))


def _of_array(values: NDArray[Any], sensor_axis: int, rows: Ints, photon: Ints) -> NDArray[Any]:
    if values.ndim == 2:
        values = values if values.shape[1] else np.full((len(values), N_SENSORS), np.nan, np.float32)
        return _native(values if np.array_equal(rows, np.arange(len(values))) else values[rows])
    photons = np.moveaxis(values, 1 + sensor_axis, 1)  # (N, sensors, photons)
    most = photons.shape[2]
    if 0 in photons.shape[1:]:
        return np.full((len(rows), N_SENSORS), np.nan, np.float32)
    picked = _native(photons[rows, :, np.where(photon < most, photon, 0)])
    missing = (photon >= most) & (most > 1)
    if missing.any():
        picked = picked.astype(np.result_type(picked.dtype, np.float32))
        picked[missing] = np.nan
    return picked


def _of_lists(nested: Nested, sensor_axis: int, rows: Ints, photon: Ints) -> NDArray[Any]:
    """Of every sensor a list of photons, of every photon a list of sensors, or one list of sensors."""
    outer = nested.lengths[0]
    if nested.axes == 1:
        inner, outer = outer, np.ones(len(outer), np.int64)
    elif len(nested.lengths) > 1:
        inner = nested.lengths[1]
    else:
        inner = np.full(int(outer.sum()), nested.values.shape[1])
    flat = _floats(nested.values.reshape(-1))
    out = np.empty((len(rows), N_SENSORS), flat.dtype)
    first = (np.cumsum(outer) - outer)[rows]  # list of each event's first sensor or photon
    starts = np.cumsum(inner) - inner
    if nested.axes == 2 and sensor_axis == 0:
        first[outer[rows] != N_SENSORS] = -1
        kernels.pick_photons(flat, starts, inner, first, photon, out)
        return out
    which = np.where(outer[rows] == 1, 0, photon)
    place = np.where(which < outer[rows], first + which, 0)
    begin = np.where((which < outer[rows]) & (_take(inner, place) == N_SENSORS), _take(starts, place), -1)
    kernels.copy_rows(flat, begin, out)
    return out


def _take(values: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values by index; zeros where there are none at all."""
    return values[index] if len(values) else np.zeros_like(index)


def _floats(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers in a type that has NaN, in native byte order."""
    exact = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    return np.ascontiguousarray(values, np.float32 if exact else np.float64)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """A copy in native byte order: what is read may be a view of a file that is closed before it is used."""
    return np.array(values, values.dtype.newbyteorder("="), order="C")
