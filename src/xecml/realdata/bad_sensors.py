"""Bad sensors of rec files: from a list, flagged in the file, or found in its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.checks.dead_sensors import found_by_sight
from xecml.checks.sensor_occupancy import MIN_EVENTS_SENSOR
from xecml.conditions import Conditions
from xecml.errors import InputError
from xecml.events import Chunk
from xecml.geometry import N_SENSORS, Ints
from xecml.simulation.settings import read_dead_list

Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class BadSensors:
    """Which sensors are bad.

    Attributes:
        listed: mask (4760,) of a list; none bad without one.
        found: masks (4760,) by path, of sensors found bad in the data.
        by_run: conditions, whose ranges of runs have dead sensors of their own.
    """

    listed: Marks = field(default_factory=lambda: np.zeros(N_SENSORS, bool))
    found: Mapping[str, Marks] = field(default_factory=dict)
    by_run: Conditions | None = None

    def of_events(self, path: str, runs: Ints, flags: NDArray[Any] | None) -> tuple[Marks, Ints]:
        """Masks (M, 4760) of bad sensors, and the mask of each event, (R,).

        Args:
            path: of the file.
            runs: of the events, (R,).
            flags: of the file (R, 4760), bad where they are not 0; none without.

        Raises:
            InputError: a run is in no range of the conditions.
        """
        known = self.listed | self.found[path] if path in self.found else self.listed
        masks, of = known[None], np.zeros(len(runs), np.int64)
        if self.by_run is not None and len(runs):
            masks, of = self.by_run.masks(runs, path)
            masks = masks | known
        if flags is None:
            return masks, of
        with np.errstate(invalid="ignore"):
            return masks[of] | ((flags != 0) & np.isfinite(flags)), np.arange(len(runs))


def listed(path: str | Path | None) -> Marks:
    """Mask (4760,) of the sensors of a list.

    Raises:
        InputError: the list is unusable, or names all sensors.
    """
    bad = np.zeros(N_SENSORS, bool)
    if path is not None:
        bad[list(read_dead_list(path))] = True
        if bad.all():
            raise InputError(
                f"{path} lists all {N_SENSORS} sensors as bad, so that no event would have any light; correct the list."
            )
    return bad


def seen(chunks: Iterable[tuple[str, Chunk]], paths: Sequence[str]) -> dict[str, Marks]:
    """Masks of sensors that are bad in the data of each file, as `xecml.checks.dead_sensors` finds them.

    Args:
        chunks: files and counts and times of their events.
        paths: all files.

    Raises:
        InputError: all files together have too few events to tell.
    """
    found = found_by_sight(chunks, paths)
    if found is None:
        raise InputError(
            f"{MIN_EVENTS_SENSOR} events that pass the cuts are needed to find bad sensors, and there are fewer; give "
            "more, or name the sensors in a list (--dead-list)."
        )
    return found
