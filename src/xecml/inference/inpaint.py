"""Fill the dead sensors of files of any size, in a stream: everything else passes unchanged."""

from __future__ import annotations

import json
import time as clock
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import cpu_load, rootio
from xecml.checks.dead_sensors import DEAD, DeadSensors, Origin, dead_sensors
from xecml.checks.sensor_occupancy import MIN_EVENTS_SENSOR
from xecml.conditions import Correction, runs_of
from xecml.conditions_file import TREE, as_text, earlier_of, refuse_twice
from xecml.data import source
from xecml.data.runs_of_files import check_covered
from xecml.errors import InputError
from xecml.events import BRANCHES, Chunk, number_of, read_counts
from xecml.geometry import N_SENSORS
from xecml.inference.filled_branches import INPAINTED, repaired
from xecml.inference.onnx_files import OUTLIER
from xecml.inference.overlapped import in_order, workers
from xecml.inference.precision_loss import MEASURED_ON, PrecisionLoss, loss_of_repairs
from xecml.inference.repair_models import Knowing, NetworkRepair, Repair
from xecml.inference.training_comparison import UNKNOWN, Compared, Comparison, Training
from xecml.outputs import claim, making
from xecml.progress import progress
from xecml.rootio.treewriter import named_root

Marks = NDArray[np.bool_]

_LOOKED_AT = 100


@dataclass(frozen=True)
class InpaintReport:
    """What was filled.

    Attributes:
        out: the file written.
        events: events in it.
        origin: where the dead sensors were known from.
        sensors: their ids, those of any event if they differ from event to event.
        filled: sensors filled, summed over events.
        not_filled: dead sensors that the repair had nothing to go by for; they are not measured.
        unknown: the repair is a network that does not know what it was trained on.
        comparison: of the events with those that the repair was trained on, where it knows them.
        left_out: branches of the input that could not be written: lists, and those under a name that another has.
        seconds: time it took.
        corrected: conditions that were applied, here or before.
        device: where the repair was computed.
        loss: what its precision loses, where that is below 32 bits.
    """

    out: Path
    events: int
    origin: Origin
    sensors: tuple[int, ...]
    filled: int
    not_filled: int
    left_out: tuple[str, ...]
    seconds: float
    comparison: Comparison | None = None
    unknown: bool = False
    corrected: tuple[dict[str, Any], ...] = ()
    device: str = "cpu"
    loss: PrecisionLoss | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        facts = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("comparison", "unknown", "loss")
        }
        facts |= {} if self.loss is None else {"loss": self.loss.as_dict()}
        training = {} if self.comparison is None else {"training": self.comparison.as_dict()}
        return facts | {"out": str(self.out)} | training

    def line(self) -> str:
        """What a user must know of files that are unlike the training, in one line; nothing where they are like it."""
        if self.comparison is None:
            return UNKNOWN if self.unknown else ""
        if unlike := self.comparison.line():
            return f"Warning: {unlike}"
        return f"{self.comparison.outliers_in_words()}." if self.comparison.many_outliers() else ""


@dataclass(frozen=True)
class _Plan:
    """What is read of every file, by canonical names, and those of the output that are others."""

    paths: list[str]
    tree: str
    branches: list[str]
    left_out: tuple[str, ...]
    pair: tuple[str, str]
    total: int
    chunk_events: int
    names: list[dict[str, str]]

    def chunks(self) -> Iterator[tuple[str, Chunk]]:
        """Chunks with the file that they are of."""
        for path, here in zip(self.paths, self.names, strict=True):
            for chunk in source.read([path], self.branches, tree=self.tree, names=here, chunk_events=self.chunk_events):
                yield path, chunk


@making("inpaint")
def inpaint_files(
    repair: Repair,
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    dead_list: str | Path | None = None,
    tree: str = rootio.DEFAULT_TREE,
    branches: tuple[str, str] = ("npho", "time"),
    names: Mapping[str, str] | None = None,
    chunk_events: int = 500,
    repair_path: str | Path | None = None,
    correction: Correction | None = None,
    jobs: int | None = None,
    force: bool = False,
) -> InpaintReport:
    """Write all branches of files with dead sensors filled, and `inpainted` (4760) beside them; atomically.

    A network that knows its training also gives `outlier`: how far each event lies from it by its live sensors.

    Dead are the sensors of the list; without one those that the files flag in a branch `dead`, event by event; without
    either those found in the data of each file. Live sensors pass bit for bit, in the types of `xecml.events.BRANCHES`.
    An event that is dead as a whole stays as it is. `relative_npho`, `relative_time` and `nphe` follow where the input
    has them: of a live sensor they change only where a filled one becomes the event's largest or earliest (a repair
    that takes relative times leaves them on the clock of the live sensors).

    Args:
        repair: what fills.
        files: ROOT files, globs, folders or shards, with the same branches.
        out: ROOT file to write.
        dead_list: text file, one id a line, # for comments.
        tree: name of the tree, in and out.
        branches: counts and times that the repair takes; the relative ones for a network trained on these.
        names: canonical branch name -> name in the files, where they have it, and in the output as in the first file.
        chunk_events: events in memory at a time.
        repair_path: file that the repair comes from, which `out` must not be.
        correction: conditions, which say by run what is dead in place of a list; what else they are to correct for
            changes live sensors, too. What was applied stands in the output.
        jobs: chunks that are filled side by side; as many as cores are free by default. What is filled does not depend
            on it.
        force: replace an existing file that this function did not make.

    Raises:
        InputError: input or output are unusable, sensors do not exist, all are dead, or too few events tell which are.
    """
    named_root(out)
    started = clock.monotonic()
    paths = source.expand(files)
    table = None if correction is None else correction.conditions
    read = [repair_path, dead_list, None if table is None else table.path, *paths]
    claim([out], inputs=read, force=force)
    plan = _plan(paths, tree, branches, names or {}, chunk_events)
    records = earlier_of(paths)
    if correction is not None:
        refuse_twice(paths, correction.what)
        check_covered(correction.conditions, paths, tree, names)
    options: dict[str, Any] = {"pair": branches, "tree": tree, "names": names, "chunk_events": chunk_events}
    options["conditions"] = table
    dead = dead_sensors(plan.paths, dead_list=dead_list, flagged=DEAD in plan.branches, **options)
    if dead is None:
        raise InputError(
            f"{plan.paths[0]} has {number_of(plan.total)}, too few to tell which sensors are dead; "
            f"name them in a list, or give {MIN_EVENTS_SENSOR} events or more."
        )
    training: Training | None = getattr(repair, "training", None)
    comparison = None if training is None else Comparison(training)
    ever, filled, not_filled, lost = np.zeros(N_SENSORS, bool), 0, 0, 0

    def work(read: _Read) -> _Filled:
        arrays = repaired(repair, read.chunk, read.dead, branches)
        found = None
        if training is not None:
            found = _compared(repair, read.chunk, read.dead | read.whole[:, None], branches)
            arrays[OUTLIER] = np.full(len(read.dead), np.nan, np.float32) if found is None else found[0]
        return _Filled(arrays, read.dead, read.whole, found)

    reads = _reads(plan, dead, correction)
    loss = _loss(repair, plan, dead, correction)
    with (
        rootio.TreeWriter(out, tree) as writer,
        progress(plan.total, "inpaint") as bar,
        cpu_load.one_thread_each() as begin,
        closing(in_order(reads, work, workers=workers(repair, jobs), begin=begin)) as results,
    ):
        for arrays, where, whole, found in results:
            lost += int(whole.sum())
            not_filled += N_SENSORS * int(whole.sum())
            if comparison is not None and found is not None:
                comparison.add(found[1], found[0])
            writer.extend({plan.names[0].get(name, name): values for name, values in arrays.items()})
            missing = int((where & ~read_counts(arrays[branches[0]])).sum())
            filled, not_filled = filled + int(where.sum()) - missing, not_filled + missing
            ever |= where.any(0)
            bar.advance(len(where))
        if correction is not None:
            records.append(correction.record("inpaint"))
        if records:
            writer.add_text(TREE, as_text(records))
        if loss is not None:
            writer.add_text("precision", json.dumps(loss.as_dict()))
        if lost == plan.total:
            raise InputError(
                f"All {N_SENSORS} sensors are dead in all events of {plan.paths[0]}; nothing is left to fill them from."
            )
    ids, seconds = tuple(np.flatnonzero(ever).tolist()), clock.monotonic() - started
    return InpaintReport(
        Path(out),
        plan.total,
        dead.origin,
        ids,
        filled,
        not_filled,
        plan.left_out,
        seconds,
        comparison,
        isinstance(repair, Knowing) and training is None,
        tuple(records),
        getattr(repair, "device", "cpu"),
        loss,
    )


class _Read(NamedTuple):
    """A chunk to fill: its dead sensors (N, 4760), and events (N,) that are dead as a whole and stay as they are."""

    chunk: Chunk
    dead: Marks
    whole: Marks


class _Filled(NamedTuple):
    """All branches of a chunk with its dead sensors filled, what they were, and how it compares with the training."""

    arrays: Chunk
    dead: Marks
    whole: Marks
    compared: tuple[NDArray[np.float32], Compared] | None


def _reads(plan: _Plan, dead: DeadSensors, correction: Correction | None) -> Iterator[_Read]:
    """Chunks of the files, corrected, with their dead sensors."""
    for path, chunk in plan.chunks():
        if correction is not None and correction.changes_live_sensors:
            chunk |= correction(path, chunk)
        elif correction is not None:
            correction.count(runs_of(chunk, path), path)
        where = dead.of_events(path, chunk, len(chunk[plan.pair[0]]))
        whole = np.asarray(where.all(1))
        yield _Read(chunk, where & ~whole[:, None], whole)


def _loss(repair: Repair, plan: _Plan, dead: DeadSensors, correction: Correction | None) -> PrecisionLoss | None:
    """What a precision below 32 bits loses on dead sensors of the first events; none where nothing is lost."""
    if not isinstance(repair, NetworkRepair) or repair.precision == "float32":
        return None
    uncounted = None if correction is None else replace(correction, events=Counter())
    read = next(_reads(replace(plan, chunk_events=MEASURED_ON), dead, uncounted))
    npho, time = (read.chunk[branch] for branch in plan.pair)
    return loss_of_repairs(repair, npho, time, read.dead)


# ------------------------------------------------------------------------------------------------------ the input


def _plan(
    paths: list[str],
    tree: str,
    pair: tuple[str, str],
    names: Mapping[str, str],
    chunk_events: int,
) -> _Plan:
    """Look at all files before any work: branches, and that they are the same in all."""
    layouts, named = [], [source.names_here(path, tree, names) for path in paths]
    for path, here in zip(paths, named, strict=True):
        with source.open_events(path, tree, here) as reader:
            layouts.append(_branches(reader, pair, here))
    for path, (branches, _) in zip(paths, layouts, strict=True):
        odd = sorted(branches.keys() ^ layouts[0][0].keys())
        odd += [b for b, form in branches.items() if layouts[0][0].get(b, form) != form]
        if odd:
            raise InputError(f"{path} and {paths[0]} differ in {', '.join(odd)}; give files of the same branches.")
    total = source.count_events(paths, tree)
    if total == 0:
        raise InputError(f"{paths[0]} holds no events; nothing was written.")
    return _Plan(paths, tree, list(layouts[0][0]), layouts[0][1], pair, total, chunk_events, named)


def _branches(
    reader: source.Events, pair: tuple[str, str], names: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Forms (type and shape) of the branches that can be written, by canonical name, and names of the others."""
    reader.arrays(pair, 0, 0)
    canonical = {name: branch for branch, name in names.items()}
    forms, left_out = {}, []
    # what stands under a usual name beside the branch that serves in its place
    shadowed = names.keys() & reader.in_file
    left_out += sorted(shadowed)
    present = {canonical.get(name, name) for name in reader.in_file - shadowed}
    for branch in sorted({*present, *pair}):
        if branch not in {*BRANCHES, DEAD, INPAINTED} and reader.is_jagged(branch):
            left_out.append(branch)
            continue
        try:
            # where a file does not say so, lists of different lengths show as soon as some events are read
            values = reader.arrays([branch], 0, min(_LOOKED_AT, reader.n_events))[branch]
        except InputError:
            if branch in {*BRANCHES, DEAD, INPAINTED}:
                raise
            values = None
        if values is None or values.dtype.kind not in "fiub":
            left_out.append(branch)
        else:
            forms[branch] = (values.dtype, values.shape[1:])
    return forms, tuple(left_out)


def _compared(
    repair: Repair, chunk: Chunk, dead: Marks, pair: tuple[str, str]
) -> tuple[NDArray[np.float32], Compared] | None:
    """`outlier` (N,) of a chunk by its live sensors, and how it compares with the training; none if not known."""
    return repair.compare(chunk[pair[0]], chunk[pair[1]], dead) if isinstance(repair, Knowing) else None
