"""From an open file to rows of a buffer: counts, times, masks, truth, numbers, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xecml.data import kernels
from xecml.data.selected_events import SelectedEvents, stretches
from xecml.data.shards import Shard
from xecml.data.source import Events
from xecml.errors import InputError
from xecml.events import BRANCHES, TASKS, Chunk, measured
from xecml.geometry import N_SENSORS
from xecml.rootio import TreeReader

Rows = NDArray[np.int64]


class _Buffer(Protocol):
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """Which branches become which columns of a batch."""

    npho: str
    time: str
    tasks: tuple[str, ...]

    def columns(self, reader: Events) -> list[str]:
        """Branches to read of a file."""
        return [self.npho, self.time, *self.scalars(reader)]

    def scalars(self, reader: Events) -> list[str]:
        """Branches to read of a file besides those of the sensors."""
        return [*(TASKS[task].truth for task in self.tasks), *(b for b in ("run", "event") if reader.has(b))]

    def buffer_columns(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of an event and type of every column of a buffer."""
        sensors = {"npho": "f4", "time": "f4", "valid": "?", "timed": "?"}
        columns: dict[str, tuple[tuple[int, ...], str]] = {name: ((N_SENSORS,), kind) for name, kind in sensors.items()}
        for task in self.tasks:
            truth = BRANCHES[TASKS[task].truth]
            columns[f"truth.{task}"] = ((int(np.prod(truth.shape)),), truth.dtype)
        return columns | {"run": ((), "i4"), "event": ((), "i4"), "weight": ((), "f4")}


def fill(
    layout: Layout,
    reader: Events,
    ranges: Sequence[tuple[int, int]],
    where: Rows,
    buffer: _Buffer,
    weights: Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]] | None,
) -> None:
    """Read ranges of a file's events and put them to the rows `where` of a buffer, masks and weights too.

    Raises:
        InputError: a branch cannot be read, or truth is not finite or was not measured.
    """
    entries = [np.arange(a, b) for a, b in ranges]
    if isinstance(reader, SelectedEvents):
        entries = [piece for a, b in ranges for piece in stretches(reader.entries(a, b))]
        reader = reader.whole
    if isinstance(reader, Shard):
        _fill_from_shard(layout, reader, np.concatenate(entries), where, buffer, weights)
        return
    done = 0
    for piece in entries:
        _fill_from_tree(layout, reader, piece, where[done : done + len(piece)], buffer, weights)
        done += len(piece)


def _fill_from_tree(layout: Layout, reader: Events, entries: Rows, where: Rows, buffer: _Buffer, weights: Any) -> None:
    start, stop = int(entries[0]), int(entries[-1]) + 1
    if isinstance(reader, TreeReader) and reader.has(layout.npho) and reader.has(layout.time):
        sensors = {branch: reader.raw(branch, start, stop) for branch in (layout.npho, layout.time)}
    else:
        sensors = reader.arrays([layout.npho, layout.time], start, stop)
    rows = entries - start
    kernels.place_events(sensors[layout.npho], sensors[layout.time], rows, where, *_sensor_columns(buffer))
    chunk = reader.arrays(layout.scalars(reader), start, stop)
    if len(rows) < stop - start:
        chunk = {name: values[rows] for name, values in chunk.items()}
    _fill_scalars(layout, reader.path, chunk, entries, where, buffer, weights)


def _fill_from_shard(layout: Layout, shard: Shard, rows: Rows, where: Rows, buffer: _Buffer, weights: Any) -> None:
    columns, sensors = _sensor_columns(buffer), [layout.npho, layout.time]
    if all(shard.has(branch) for branch in sensors):
        shard.place_events(layout.npho, layout.time, rows, where, columns)
    else:
        derived = shard.rows(sensors, rows)
        counts, times = (derived[branch] for branch in sensors)
        kernels.place_events(counts, times, np.arange(len(rows)), where, *columns)
    _fill_scalars(layout, shard.path, shard.rows(layout.scalars(shard), rows), rows, where, buffer, weights)


def _sensor_columns(buffer: _Buffer) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    c = buffer.columns
    return c["npho"], c["time"], c["valid"], c["timed"]


def _fill_scalars(
    layout: Layout, path: str, chunk: Chunk, entries: Rows, where: Rows, buffer: _Buffer, weights: Any
) -> None:
    # files without numbers: count the entries
    chunk.setdefault("run", np.zeros(len(entries), np.int32))
    chunk.setdefault("event", entries.astype(np.int32))
    truth = {task: chunk[TASKS[task].truth].reshape(len(entries), -1) for task in layout.tasks}
    for task, values in truth.items():
        _check_measured(path, TASKS[task].truth, values, chunk)
        buffer.columns[f"truth.{task}"][where] = values
    buffer.columns["run"][where] = chunk["run"]
    buffer.columns["event"][where] = chunk["event"]
    buffer.columns["weight"][where] = 1.0 if weights is None else weights(truth)


def _check_measured(path: str, branch: str, truth: NDArray[Any], chunk: Chunk) -> None:
    bad = ~measured(truth).all(1)
    if bad.any():
        i = int(np.argmax(bad))
        what = "not measured (1e10)" if np.isfinite(truth[i]).all() else "not finite"
        raise InputError(
            f"{path}: '{branch}' is {what} in run {chunk['run'][i]} event {chunk['event'][i]} and "
            f"{int(bad.sum()) - 1} more nearby; remove these events."
        )
