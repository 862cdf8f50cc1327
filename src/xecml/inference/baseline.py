"""The conventional reconstruction on files of any size, in a stream, to a prediction tree; its calibration on files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import cpu_load, rootio
from xecml.checks.dead_sensors import DEAD, DeadSensors, dead_sensors, found_by_sight
from xecml.conditions import Correction
from xecml.conditions_file import TREE, as_text, earlier_of, refuse_twice
from xecml.conventional.calibration import MOST, TRUTHS, Calibration
from xecml.conventional.constants import (
    DEFAULT,
    RECONSTRUCTED_TASKS,
    Constants,
    read_constants,
    shipped_names,
    write_constants,
)
from xecml.conventional.reconstruction import PLAIN_ENERGY, Reconstruction
from xecml.data import source
from xecml.data.coverage import coverage
from xecml.data.runs_of_files import check_covered
from xecml.data.selected_events import read_selected
from xecml.errors import InputError, nearest
from xecml.events import Chunk, number_of
from xecml.inference.event_parts import CARRIED
from xecml.inference.prediction_columns import PREDICTION_TREE, prediction_columns
from xecml.outputs import claim, making
from xecml.progress import progress
from xecml.rootio.treewriter import named_root

Marks = NDArray[np.bool_]

_PAIR = ("npho", "time")
_CHUNK = 512
_LOOKED_AT = 1000
"""Events of each file in which dead sensors are looked for."""


@dataclass(frozen=True)
class BaselineReport:
    """What a reconstruction of files did.

    Attributes:
        out: the prediction tree.
        events: events in it.
        seconds: for reading, reconstructing and writing them.
        tasks: quantities that were answered.
        constants: file or name of the constants.
        calibrated_on: events that the constants were calibrated on.
        made: the file of constants, if this made it.
        dead: sensors that were left out in all events of some file.
        not_answered: events without light on the inner face.
        without_time: others without a time.
        corrected: conditions that were applied, here or before.
    """

    out: Path
    events: int
    seconds: float
    tasks: tuple[str, ...]
    constants: str
    calibrated_on: int
    made: Path | None
    dead: int
    not_answered: int
    without_time: int
    corrected: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rate = self.events / max(self.seconds, 1e-9)
        return dict(self.__dict__) | {"out": str(self.out), "made": self.made and str(self.made), "rate": rate}

    def lines(self) -> list[str]:
        """In words."""
        said = [
            f"Wrote the conventional reconstruction of {number_of(self.events)} to {self.out} "
            f"({self.events / max(self.seconds, 1e-9):.0f} events/s) with the constants {self.constants} "
            f"({number_of(self.calibrated_on)})."
        ]
        if self.made is not None:
            said.insert(0, f"Calibrated on {number_of(self.calibrated_on)}; the constants are in {self.made}.")
        missing = {"not answered (no light on the inner face)": self.not_answered, "without a time": self.without_time}
        counted = "; ".join(f"{number} {what}" for what, number in missing.items() if number)
        if counted:
            said.append(f"Of {number_of(self.events)}: {counted}.")
        if self.dead:
            said.append(f"{number_of(self.dead, 'sensor')} left out as dead.")
        return said


def tasks_of(text: str) -> tuple[str, ...]:
    """Read which quantities are asked for, such as `uvwFI energy timing`; empty is all.

    Raises:
        InputError: a name is none of them.
    """
    names = text.replace(",", " ").split()
    for name in names:
        if name not in RECONSTRUCTED_TASKS:
            raise InputError(
                f"The conventional reconstruction has no '{name[:40]}'{nearest(name, RECONSTRUCTED_TASKS)}; "
                f"choose among {', '.join(RECONSTRUCTED_TASKS)}."
            )
    return tuple(task for task in RECONSTRUCTED_TASKS if task in names)


@making("baseline")
def baseline_files(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    constants: str | Path = "",
    calibrate: bool = False,
    tasks: Sequence[str] = (),
    dead_list: str | Path | None = None,
    tree: str = rootio.DEFAULT_TREE,
    correction: Correction | None = None,
    threads: int | None = None,
    force: bool = False,
) -> BaselineReport:
    """Reconstruct files without learning and write the prediction tree, atomically; memory does not grow with them.

    Dead are the sensors of the list; without one those that the files flag in a branch `dead`; without either those
    never lit, or hot, unlike their neighbours in the first 1000 events of each file. Sensors that were not read in an
    event take no part in it in any case.

    Args:
        files: event files with `npho` and `time`.
        out: ROOT file to write.
        constants: a file of constants, or the name of shipped ones; `signal` by default.
        calibrate: find the constants on these files, which must have truth, and write them to `OUT.constants.json`.
        tasks: quantities of `RECONSTRUCTED_TASKS`; by default all that there are constants for.
        dead_list: text file, one id a line, # for comments.
        tree: name of the tree in the event files.
        correction: of counts and times by the conditions of their runs, which also say what is dead.
        threads: to work in; by default as many as there are cores to use.
        force: replace existing files that this function did not make.

    Raises:
        InputError: input, constants or output are unusable, or there are no events.
    """
    named_root(out)
    if calibrate and constants:
        raise InputError(
            "--constants names constants and --calibrate determines new ones; leave one of the two options out."
        )
    made = Path(out).with_suffix(".constants.json") if calibrate else None
    paths = source.expand(files)
    given = None if calibrate or str(constants) in ("", *shipped_names()) else constants
    table = None if correction is None else correction.conditions.path
    claim([out, *([made] if made else [])], inputs=[given, dead_list, table, *files], force=force)
    known = None if calibrate else read_constants(constants or DEFAULT)
    total = source.count_events(paths, tree)
    if total == 0:
        raise InputError(f"{files[0]} holds no events; nothing was written.")
    records = earlier_of(paths)
    if correction is not None:
        refuse_twice(paths, correction.what)
        check_covered(correction.conditions, paths, tree)
    events = _Events(paths, tree, _dead_of(paths, tree, dead_list, correction), correction)
    workers = threads or cpu_load.threads_for_libraries() or len(os.sched_getaffinity(0))
    if known is None:
        known = _calibrated(events, workers, tasks, [Path(path).name for path in paths])
    method = Reconstruction(known, tuple(tasks) or known.tasks, workers)
    if correction is not None:
        correction.events.clear()  # those of the calibration are the same ones
    started, missing, late = time.monotonic(), 0, 0
    with rootio.TreeWriter(out, PREDICTION_TREE) as writer, progress(total, "baseline") as bar:
        for numbers, chunk, dead in events.read(CARRIED):
            columns, lost, untimed = _columns(method, chunk, dead, numbers)
            writer.extend(columns)
            missing, late = missing + lost, late + untimed
            bar.advance(len(numbers))
        if correction is not None:
            records.append(correction.record("baseline"))
        if records:
            writer.add_text(TREE, as_text(records))
        if made is not None:
            write_constants(made, known)
    return BaselineReport(
        Path(out),
        total,
        time.monotonic() - started,
        tuple(method.tasks),
        str(made or constants or DEFAULT),
        known.sample.events,
        made,
        events.number_of_dead(),
        missing,
        late,
        tuple(records),
    )


@dataclass(frozen=True)
class _Events:
    """Files of events with their dead sensors."""

    paths: list[str]
    tree: str
    dead: DeadSensors | None
    correction: Correction | None

    def read(self, optional: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], Chunk, Marks | None]]:
        """Numbers of events, chunks and dead sensors (N, 4760), from the first file to the last."""
        optional, before = tuple(optional), 0
        if self.correction is not None:
            optional = (*optional, "run", "nphe")
        if self.dead is not None and self.dead.origin == "branch":
            optional = (*optional, DEAD)
        for path in self.paths:
            for entries, chunk in read_selected(
                path, _PAIR, None, tree=self.tree, chunk_events=_CHUNK, optional=optional
            ):
                if self.correction is not None:
                    chunk |= self.correction(path, chunk)
                dead = None if self.dead is None else self.dead.of_events(path, chunk, len(entries))
                yield before + entries, chunk, dead
            before += source.count_events(path, self.tree)

    def number_of_dead(self) -> int:
        """Sensors that are left out in all events of some file."""
        masks = [] if self.dead is None else list(self.dead.by_file.values())
        return int(np.any(masks, axis=0).sum()) if masks else 0


def _dead_of(
    paths: list[str], tree: str, dead_list: str | Path | None, correction: Correction | None
) -> DeadSensors | None:
    """Dead sensors besides those that were not read; None where conditions say it or nothing tells."""
    if correction is not None:
        if dead_list is not None:
            raise InputError("Both --dead-list and --conditions say which sensors are dead; give one of them.")
        return None
    flagged = False
    for path in paths:
        with source.open_events(path, tree) as reader:
            flagged |= DEAD in reader.in_file
    if dead_list is not None or flagged:
        return dead_sensors(paths, dead_list=dead_list, flagged=flagged, tree=tree)

    def first_events() -> Iterator[tuple[str, Chunk]]:
        for path in paths:
            chunks = source.read([path], _PAIR, tree=tree, chunk_events=_LOOKED_AT // 2)
            yield from ((path, chunk) for chunk in islice(chunks, 2))

    found = found_by_sight(first_events(), paths)
    return None if found is None else DeadSensors("automatic", found)


def _calibrated(events: _Events, threads: int, tasks: Sequence[str], names: list[str]) -> Constants:
    """Constants from events with truth, the first 100,000."""
    for path in events.paths:
        with source.open_events(path, events.tree) as reader:
            if not reader.has("uvwTruth"):
                raise InputError(f"{path} has no uvwTruth, which the calibration needs; calibrate on simulated events.")

    def chunks() -> Iterator[tuple[Chunk, Marks | None]]:
        left = MOST
        for _, chunk, dead in events.read(TRUTHS):
            few = slice(left)
            yield {name: values[few] for name, values in chunk.items()}, None if dead is None else dead[few]
            left -= len(chunk["npho"])
            if left <= 0:
                return

    with_direction = not tasks or "angle" in tasks
    return Calibration(chunks, with_direction=with_direction, threads=threads).constants(names)


def _columns(
    method: Reconstruction, chunk: Chunk, dead: Marks | None, numbers: NDArray[np.int64]
) -> tuple[Chunk, int, int]:
    """Columns of the prediction tree, events that are not answered, and others without a time."""
    npho, moment = chunk["npho"], chunk["time"]
    answers, plain = method.answers(npho, moment, dead)
    columns = prediction_columns(chunk, answers, coverage(npho, moment), numbers=numbers)
    if plain is not None:
        columns[PLAIN_ENERGY] = plain.astype(np.float32)
    first = next(iter(answers.values())).reshape(len(npho), -1)
    lost = ~np.isfinite(first).all(1) if next(iter(answers)) != "timing" else np.zeros(len(npho), bool)
    untimed = np.isnan(answers["timing"]) & ~lost if "timing" in answers else np.zeros(len(npho), bool)
    return columns, int(lost.sum()), int(untimed.sum())
