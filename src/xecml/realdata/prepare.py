"""Rec files of the analyser to event files, in a stream: reading, computing and writing at the same time."""

from __future__ import annotations

import contextvars
import sys
import time as clock
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.conditions import NOMINAL_EFFICIENCY, Correction
from xecml.conditions_file import TREE, as_text
from xecml.data.freed_memory import keep_freed_memory
from xecml.errors import InputError
from xecml.events import BRANCHES, INVALID, Chunk
from xecml.files import expand
from xecml.geometry import N_SENSORS, Ints, angles_from_direction
from xecml.outputs import claim, making
from xecml.progress import Progress, progress
from xecml.realdata.bad_sensors import BadSensors, listed, seen
from xecml.realdata.branch_map import RecMap
from xecml.realdata.cut_flow import CutFlow
from xecml.realdata.kernels import sensor_columns
from xecml.realdata.rec_file import RecFile, open_rec
from xecml.realdata.selection import Rows, Selector
from xecml.rootio.treewriter import named_root

CHUNK_EVENTS = 256
_READING, _COMPRESSING = 2, 2
"""Threads that read sensors, and that compress: the longest of all work."""
SENSOR_ORDER = ("npho", "time", "nphe")


@dataclass(frozen=True)
class Report:
    """What became of rec files.

    Attributes:
        out: the file written.
        files: files read.
        left_out: files and runs that were not there or could not be read, with the reason.
        flow: events after each cut.
        bad: bad sensors, of any event.
        seconds: time it took.
        corrected: conditions that were applied.
    """

    out: Path
    files: int
    left_out: tuple[str, ...]
    flow: CutFlow
    bad: tuple[int, ...]
    seconds: float
    corrected: tuple[dict[str, Any], ...] = ()

    @property
    def read(self) -> int:
        """Events read."""
        return next(iter(self.flow.left.values()), 0)

    @property
    def events(self) -> int:
        """Entries written."""
        return self.flow.last

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        rate = self.read / self.seconds if self.seconds else 0.0
        return {
            "out": str(self.out), "files": self.files, "left_out": list(self.left_out), "read": self.read,
            "events": self.events, "cut_flow": self.flow.as_list(), "bad_sensors": list(self.bad),
            "seconds": self.seconds, "events_per_second": rate, "conditions": list(self.corrected),
        }  # fmt: skip


@dataclass
class _Read:
    """A chunk as it was read: its photons that are kept, and their sensors in the file's types."""

    path: str
    events: int
    run: Ints
    event: Ints
    rows: Rows
    sensors: dict[str, NDArray[Any]] = field(default_factory=dict)


@making("prepare")
def prepare_files(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    names: RecMap,
    *,
    left_out: Sequence[str] = (),
    skip_damaged: bool = False,
    chunk_events: int = CHUNK_EVENTS,
    map_path: str | Path | None = None,
    correction: Correction | None = None,
    force: bool = False,
) -> Report:
    """Write the selected events of rec files as an event file, atomically; memory does not grow with their number.

    Written are `run`, `event`, `npho`, `time`, `relative_npho`, `relative_time`, and what the map names of
    `energyReco`, `timeReco`, `xyzRecoFI`, `uvwRecoFI`, `xyzVTX`; from the last and `xyzRecoFI` come `emiVec` and
    `emiAng`. Where bad sensors are known, `dead` (4760) flags them. What was not measured is 1e10.

    Args:
        files: rec files, globs or folders.
        out: ROOT file to write.
        names: the map: branches, selection, bad sensors.
        left_out: what is known to be missing, for the report.
        skip_damaged: leave files out that cannot be read, with a line each, instead of ending.
        chunk_events: events in memory at a time, some chunks of them.
        map_path: file that the map is from, which `out` must not be.
        correction: of counts and times by the conditions of their runs; what was applied stands in the output.
        force: replace an existing file that this function did not make.

    Raises:
        InputError: input or output are unusable, a branch of the map is not there, or no event is left.
    """
    named_root(out)
    started = clock.monotonic()
    keep_freed_memory()
    paths = expand(files)
    table = None if correction is None else correction.conditions
    read = [map_path, names.bad_sensors.list, None if table is None else table.path, *paths]
    claim([out], inputs=read, force=force)
    marks = listed(names.bad_sensors.list)
    paths, total, skipped = _look_at(paths, names, skip_damaged=skip_damaged)
    bad = BadSensors(marks, by_run=table)
    if names.bad_sensors.find:
        with progress(total, "look for bad sensors") as bar:
            bad = replace(bad, found=seen(_sights(paths, names, chunk_events, bar), paths))
    flow = CutFlow()
    known = bool(names.bad_sensors.list or names.bad_sensors.find or names.branches.dead.given or table)
    worker = _Preparer(names, bad, flow, known, correction)
    _stream(worker, paths, Path(out), total, chunk_events)
    ids = tuple(np.flatnonzero(worker.ever_bad).tolist())
    seconds = clock.monotonic() - started
    records = () if correction is None else (correction.record("prepare"),)
    return Report(Path(out), len(paths), (*left_out, *skipped), flow, ids, seconds, records)


def _look_at(paths: Sequence[str], names: RecMap, *, skip_damaged: bool) -> tuple[list[str], int, list[str]]:
    """Look at all files before any work: those with events, the number of these, and what is left out and why."""
    good, total, skipped, said = [], 0, list[str](), set[str]()
    for path in paths:
        try:
            with open_rec(path, names) as rec:
                events = rec.n_events
                if events:
                    rec.light(0, 1)
        except InputError as error:
            if not skip_damaged:
                raise
            skipped.append(str(error))
            _say(f"left out: {error}")
            continue
        for notice in rec.notices:
            if notice not in said:
                said.add(notice)
                _say(f"{path}: {notice}")
        if events == 0:
            skipped.append(f"{path} holds no events.")
            _say(f"left out: {path} holds no events.")
            continue
        good.append(path)
        total += events
    if not total:
        raise InputError(skipped[0])
    return good, total, skipped


def _say(line: str) -> None:
    print(f"xec: {line}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------- the stream


def _stream(worker: _Preparer, paths: Sequence[str], out: Path, total: int, chunk_events: int) -> None:
    """Read in one thread, compute here, write in another; chunks stay in their order."""
    with (
        rootio.TreeWriter(out, threads=_COMPRESSING) as writer,
        progress(total, "prepare") as bar,
        ThreadPoolExecutor(1, "read") as reading,
        ThreadPoolExecutor(1, "write") as writing,
    ):
        written: Future[None] | None = None
        # who makes the file is known by context, which threads do not have of themselves
        context = contextvars.copy_context()
        for read in _read_ahead(reading, worker.read(paths, chunk_events)):
            columns = worker.columns(read)
            # what is compressed while the chunk before is written
            begun = writer.begin(columns) if len(columns["run"]) else None
            if written is not None:
                written.result()
            if begun is not None:
                written = writing.submit(context.run, writer.extend, begun)
            bar.advance(read.events)
        if written is not None:
            written.result()
        if worker.correction is not None and worker.flow.last:
            writer.add_text(TREE, as_text([worker.correction.record("prepare")]))
        if not worker.flow.last:
            flow = ", ".join(f"{cut} {left}" for cut, left in worker.flow.left.items())
            where = paths[0] if len(paths) == 1 else f"{len(paths)} files"
            raise InputError(
                f"No event of {where} passes the cuts, so nothing was written: {flow}; switch "
                f"'{worker.flow.costliest()}' off or change it."
            )


def _read_ahead(pool: ThreadPoolExecutor, chunks: Iterator[_Read]) -> Iterator[_Read]:
    """Chunks in their order, each read while the one before it is worked on."""

    def following() -> _Read | None:
        return next(chunks, None)

    ahead = pool.submit(following)
    while (read := ahead.result()) is not None:
        ahead = pool.submit(following)
        yield read


def _sights(paths: Sequence[str], names: RecMap, chunk_events: int, bar: Progress) -> Iterator[tuple[str, Chunk]]:
    """Counts and times of the events that pass, to find bad sensors in."""
    worker = _Preparer(names, BadSensors(), CutFlow(), False)
    with ThreadPoolExecutor(1, "read") as reading:
        for read in _read_ahead(reading, worker.read(paths, chunk_events)):
            bar.advance(read.events)
            columns = worker.columns(read)
            if len(columns["run"]):
                yield read.path, {"npho": columns["npho"], "time": columns["time"]}


class _Preparer:
    """From rec files to columns of event files.

    Args:
        names: the map.
        bad: which sensors are bad.
        flow: counts what the cuts leave.
        flagged: write `dead`.
        correction: by the conditions of runs; none leaves counts and times as they are.

    Attributes:
        ever_bad: sensors (4760,) that were bad in some event.
    """

    def __init__(
        self, names: RecMap, bad: BadSensors, flow: CutFlow, flagged: bool, correction: Correction | None = None
    ) -> None:
        self.flow, self.ever_bad, self.correction = flow, np.zeros(N_SENSORS, bool), correction
        self._map, self._bad, self._flagged = names, bad, flagged
        self._selector = Selector(names, flow)
        entries = [getattr(names.branches, name) for name in SENSOR_ORDER]
        self._factors = np.array([entry.factor for entry in entries])
        self._limits = np.array([entry.limit for entry in entries])
        self._nominal = np.ones((1, 4, N_SENSORS))
        self._nominal[0, 2], self._nominal[0, 3] = 0.0, NOMINAL_EFFICIENCY

    def read(self, paths: Sequence[str], chunk_events: int) -> Iterator[_Read]:
        """Chunks of all files; sensors only of those in which a photon is kept."""
        for path in paths:
            # threads end before their file is closed, also where one of them fails
            with open_rec(path, self._map) as rec, ThreadPoolExecutor(_READING, "sensors") as pool:
                for start, stop in rec.chunks(chunk_events):
                    yield self._chunk(rec, start, stop, pool)

    def _chunk(self, rec: RecFile, start: int, stop: int, pool: ThreadPoolExecutor) -> _Read:
        light = rec.light(start, stop)
        rows = self._selector.choose(light, rec.path)
        read = _Read(rec.path, stop - start, light.run[rows.event], light.event[rows.event], rows)
        if len(rows):
            names = [name for name in (*SENSOR_ORDER, "dead") if rec.has(name)]
            # decompression is most of it, and lets others run
            found = pool.map(lambda name: rec.sensors(name, start, stop, rows.event, rows.photon), names)
            read.sensors = dict(zip(names, found, strict=True))
        return read

    def columns(self, read: _Read) -> Chunk:
        """Branches of the output, (R, ...), of those events that have something measured."""
        n = len(read.rows)
        columns: Chunk = {
            "run": read.run.astype(np.int32),
            "event": read.event.astype(np.int32),
            **{b: np.empty((n, N_SENSORS), np.float32) for b in ("npho", "time", "relative_npho", "relative_time")},
            **_reconstructed(read.rows),
        }
        valid, timed = np.zeros(n, np.int64), np.zeros(n, np.int64)
        masks, mask_of = self._bad.of_events(read.path, read.run, read.sensors.get("dead"))
        if n:
            inputs = _as_floats([read.sensors[b] for b in SENSOR_ORDER if b in read.sensors])
            outputs = [columns[b] for b in ("npho", "time", "relative_npho", "relative_time")]
            settings = [self._factors, self._limits, *self._by_run(read), masks, mask_of]
            arrays: list[NDArray[Any]] = [*inputs, *settings, *outputs, valid, timed]
            sensor_columns(*arrays)
            self.ever_bad |= masks.any(0)
        if self._flagged:
            columns["dead"] = masks[mask_of]
        keep = np.ones(n, bool)
        if self._map.selection.measured:
            keep = (valid > 0) & (timed > 0)
            self.flow.count("a count and a time", int(keep.sum()))
        if self.correction is not None:
            self.correction.count(read.run[keep], read.path)
        return columns if keep.all() else {name: values[keep] for name, values in columns.items()}

    def _by_run(self, read: _Read) -> tuple[NDArray[np.float64], Ints]:
        """What the sensors of a chunk are corrected by, (K, 4, 4760), and the row of each event."""
        if self.correction is None:
            return self._nominal, np.zeros(len(read.run), np.int64)
        found = self.correction.conditions.factors(read.run, self.correction.what, read.path)
        return np.stack([found.counts, found.charges, found.offsets, found.efficiency], 1), found.of


def _as_floats(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Counts, times and photoelectrons in single or double precision; the last of no event where there are none."""
    found = [np.ascontiguousarray(a, np.float32 if a.dtype == np.float32 else np.float64) for a in arrays]
    return found if len(found) == len(SENSOR_ORDER) else [*found, np.empty((0, N_SENSORS), np.float32)]


def _reconstructed(rows: Rows) -> Chunk:
    """Reconstructed quantities in the types of event files, 1e10 where not measured; the direction from the vertex."""
    found = dict(rows.quantities)
    if "xyzVTX" in found and "xyzRecoFI" in found:
        line = found["xyzRecoFI"] - found["xyzVTX"]
        length = np.linalg.norm(line, axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            found["emiVec"] = np.where(length > 0, line / length, np.nan)
        found["emiAng"] = angles_from_direction(found["emiVec"])
    return {
        name: np.where(np.isfinite(values), values, INVALID).astype(BRANCHES[name].dtype)
        for name, values in found.items()
    }
