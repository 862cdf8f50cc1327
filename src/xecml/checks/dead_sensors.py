"""Which sensors of a file are dead: from a list, from flags in the file, or found in its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xecml.checks.sensor_occupancy import MIN_EVENTS_SENSOR, SensorSums
from xecml.conditions import Conditions, runs_of
from xecml.data import source
from xecml.errors import InputError
from xecml.events import INVALID, Chunk, valid_counts, valid_times
from xecml.geometry import N_SENSORS
from xecml.simulation.settings import read_dead_list

Marks = NDArray[np.bool_]
Origin = Literal["list", "branch", "automatic", "conditions"]

DEAD = "dead"
"""Branch (4760,) of bool: what a file flags as dead."""


@dataclass(frozen=True)
class DeadSensors:
    """Dead sensors of files.

    Attributes:
        origin: where they are known from.
        by_file: mask (4760,) by path. Events that are flagged have their own in `dead`; beside files with flags, none
            are dead in a file without.
        by_run: conditions, by which each event has the mask of its run; flags of the file are dead besides.
    """

    origin: Origin
    by_file: Mapping[str, Marks] = field(default_factory=dict)
    by_run: Conditions | None = None

    def of_events(self, path: str, chunk: Chunk, events: int) -> Marks:
        """Mask (events, 4760) of a chunk of a file.

        Raises:
            InputError: the file's flags have another shape, or it has no run numbers where these decide.
        """
        flagged = self.origin in ("branch", "conditions") and DEAD in chunk
        dead: NDArray[Any] = chunk[DEAD] if flagged else self.by_file.get(path, np.zeros(N_SENSORS, bool))
        if dead.shape[-1:] != (N_SENSORS,):
            raise InputError(
                f"{path}: '{DEAD}' has shape {dead.shape[1:]} an event; it must be {N_SENSORS} flags; write the "
                "branch anew."
            )
        known = np.broadcast_to(dead.astype(bool), (events, N_SENSORS))
        if self.by_run is None:
            return known
        masks, of = self.by_run.masks(runs_of(chunk, path), path)
        return known | masks[of]


def dead_sensors(
    paths: Sequence[str],
    *,
    dead_list: str | Path | None,
    flagged: bool,
    pair: tuple[str, str] = ("npho", "time"),
    tree: str = "tree",
    names: Mapping[str, str] | None = None,
    chunk_events: int = 500,
    conditions: Conditions | None = None,
) -> DeadSensors | None:
    """Dead sensors of conditions or of a list; without one those that the files flag; else those found in the data.

    By sight dead are sensors never lit, or hot or always lit unlike their neighbours, file by file, for runs differ;
    files of fewer than 100 events are looked at with all the others together. None if all are too few together.

    Args:
        paths: files and shards.
        dead_list: text file, one id a line, # for comments.
        flagged: whether files have a branch `dead`.
        pair: branches of counts and times.
        tree: name of the tree.
        names: canonical branch name -> name in the files.
        chunk_events: events in memory at a time.
        conditions: whose ranges of runs say which sensors are dead, event by event, beside those that files flag.

    Raises:
        InputError: list or files are unusable, or there are both list and conditions.
    """
    if conditions is not None:
        if dead_list is not None:
            raise InputError("Both --dead-list and --conditions say which sensors are dead; give one of them.")
        return DeadSensors("conditions", by_run=conditions)
    if dead_list is not None:
        listed = np.zeros(N_SENSORS, bool)
        listed[list(read_dead_list(dead_list))] = True
        return DeadSensors("list", dict.fromkeys(paths, listed))
    if flagged:
        return DeadSensors("branch")

    def chunks() -> Iterator[tuple[str, Chunk]]:
        for path in paths:
            here = source.names_here(path, tree, names)
            for chunk in source.read([path], pair, tree=tree, names=here, chunk_events=chunk_events):
                yield path, chunk

    found = found_by_sight(chunks(), paths, pair)
    return None if found is None else DeadSensors("automatic", found)


def found_by_sight(
    chunks: Iterable[tuple[str, Chunk]], paths: Sequence[str], pair: tuple[str, str] = ("npho", "time")
) -> dict[str, Marks] | None:
    """Masks (4760,) of sensors never lit, or hot or always lit unlike their neighbours, by file.

    Files of fewer than 100 events are looked at with all the others together. None if all are too few together.

    Args:
        chunks: events with the file that they are of.
        paths: all files, those without events too.
        pair: branches of counts and times.
    """
    together, by_file = SensorSums(*pair), {path: SensorSums(*pair) for path in paths}
    for path, chunk in chunks:
        npho, time = (chunk[branch] for branch in pair)
        measured = {pair[0]: valid_counts(npho), pair[1]: valid_times(npho, time)}
        for sums in (together, by_file[path]):
            sums.add(chunk, measured)
    if together.n_events < MIN_EVENTS_SENSOR:
        return None
    whole = _found(together)
    return {p: _found(sums) if sums.n_events >= MIN_EVENTS_SENSOR else whole for p, sums in by_file.items()}


def without_dead(path: str, chunk: Chunk, dead: DeadSensors | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts and times of a chunk of a file; those of dead sensors not measured."""
    npho, time = chunk["npho"], chunk["time"]
    if dead is None:
        return npho, time
    gone = dead.of_events(path, chunk, len(npho))
    return np.where(gone, np.float32(INVALID), npho), np.where(gone, np.float32(INVALID), time)


def _found(sums: SensorSums) -> Marks:
    """Mask (4760,) of sensors that are dead or hot."""
    found, dead = sums.statistics(), np.zeros(N_SENSORS, bool)
    dead[found.dead()] = True
    dead[found.hot()] = True
    return dead
