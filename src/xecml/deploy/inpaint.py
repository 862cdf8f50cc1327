"""Fill the dead sensors of files of any size, in a stream: everything else passes unchanged."""

from __future__ import annotations

import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.data import source
from xecml.errors import InputError
from xecml.evaluation.repair import Repair
from xecml.evaluation.sensors import MIN_EVENTS_CHANNEL, SensorSums
from xecml.events import (
    BRANCHES,
    INVALID,
    Chunk,
    photoelectrons,
    read_counts,
    relative_quantities,
    valid_counts,
    valid_times,
)
from xecml.geometry import N_SENSORS
from xecml.progress import progress
from xecml.simulation.settings import read_dead_list

Marks = NDArray[np.bool_]
Origin = Literal["list", "branch", "automatic"]

DEAD, INPAINTED = "dead", "inpainted"
"""Branches (4760,) of bool: what a file flags as dead, and what was filled."""
RELATIVE = ("relative_npho", "relative_time")
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
        left_out: branches of the input that could not be written, having no fixed length.
        seconds: time it took.
    """

    out: Path
    events: int
    origin: Origin
    sensors: tuple[int, ...]
    filled: int
    not_filled: int
    left_out: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True)
class _Plan:
    """What is read of every file, and which sensors are dead in all events, if that is known before."""

    paths: list[str]
    tree: str
    branches: list[str]
    left_out: tuple[str, ...]
    pair: tuple[str, str]
    total: int
    chunk_events: int

    def chunks(self, branches: Sequence[str]) -> Any:
        return source.read(self.paths, branches, tree=self.tree, chunk_events=self.chunk_events)


def inpaint_files(
    repair: Repair,
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    dead_list: str | Path | None = None,
    tree: str = rootio.DEFAULT_TREE,
    branches: tuple[str, str] = ("npho", "time"),
    chunk_events: int = 500,
) -> InpaintReport:
    """Write all branches of files with dead sensors filled, and `inpainted` (4760) beside them; atomically.

    Dead are the sensors of the list; without one those that the files flag in a branch `dead`, event by event; without
    either those that are never lit, or hot or always lit unlike their neighbours, over all files together. Live sensors
    pass bit for bit. `relative_npho`, `relative_time` and `nphe` follow where the input has them: of a live sensor they
    change only where a filled one becomes the event's largest or earliest.

    Args:
        repair: what fills.
        files: ROOT files, globs, folders or shards, with the same branches.
        out: ROOT file to write.
        dead_list: text file, one id a line, # for comments.
        tree: name of the tree, in and out.
        branches: counts and times that the repair takes; the relative ones for a network trained on these.
        chunk_events: events in memory at a time.

    Raises:
        InputError: input or output are unusable, sensors do not exist, all are dead, or too few events tell which are.
    """
    started = clock.monotonic()
    plan = _plan(files, out, tree, branches, chunk_events)
    origin, dead = _dead_sensors(plan, dead_list)
    ever, filled, not_filled = np.zeros(N_SENSORS, bool), 0, 0
    with rootio.TreeWriter(out, tree) as writer, progress(plan.total, "inpaint") as bar:
        for chunk in plan.chunks(plan.branches):
            where = _of_events(chunk[DEAD] if dead is None else dead, len(chunk[branches[0]]), plan)
            arrays = _repaired(repair, chunk, where, branches)
            writer.extend(arrays)
            missing = int((where & ~read_counts(arrays[branches[0]])).sum())
            filled, not_filled = filled + int(where.sum()) - missing, not_filled + missing
            ever |= where.any(0)
            bar.advance(len(where))
    ids, seconds = tuple(np.flatnonzero(ever).tolist()), clock.monotonic() - started
    return InpaintReport(Path(out), plan.total, origin, ids, filled, not_filled, plan.left_out, seconds)


# ------------------------------------------------------------------------------------------------------ the input


def _plan(
    files: str | Path | Sequence[str | Path], out: str | Path, tree: str, pair: tuple[str, str], chunk_events: int
) -> _Plan:
    """Look at all files before any work: branches, and that they are the same in all."""
    paths = source.expand(files)
    if any("://" not in path and Path(path).resolve() == Path(out).resolve() for path in paths):
        raise InputError(f"{out} is one of the input files; choose another output path.")
    layouts = []
    for path in paths:
        with source.open_events(path, tree) as reader:
            layouts.append(_branches(reader, pair))
    for path, (branches, _) in zip(paths, layouts, strict=True):
        odd = sorted(branches.keys() ^ layouts[0][0].keys())
        odd += [b for b, form in branches.items() if layouts[0][0].get(b, form) != form]
        if odd:
            raise InputError(f"{path} and {paths[0]} differ in {', '.join(odd)}; give files of the same branches.")
    total = source.count_events(paths, tree)
    if total == 0:
        raise InputError(f"{paths[0]} holds no events; nothing was written.")
    return _Plan(paths, tree, list(layouts[0][0]), layouts[0][1], pair, total, chunk_events)


def _branches(reader: source.Events, pair: tuple[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Forms (type and shape) of the branches that can be written, by name, and names of the others."""
    reader.arrays(pair, 0, 0)
    forms, left_out = {}, []
    for branch in sorted({*reader.in_file, *pair}):
        try:
            # lists of different lengths look like an array as long as one event is read
            values = reader.arrays([branch], 0, min(_LOOKED_AT, reader.n_events))[branch]
        except InputError:
            if branch in BRANCHES or branch == DEAD:
                raise
            values = None
        if values is None or values.dtype.kind not in "fiub":
            left_out.append(branch)
        else:
            forms[branch] = (values.dtype, values.shape[1:])
    return forms, tuple(left_out)


def _dead_sensors(plan: _Plan, dead_list: str | Path | None) -> tuple[Origin, Marks | None]:
    """Where dead sensors are known from, and their mask (4760,), None if every event has its own."""
    if dead_list is not None:
        dead = np.zeros(N_SENSORS, bool)
        dead[list(read_dead_list(dead_list))] = True
        return "list", dead
    if DEAD in plan.branches:
        return "branch", None
    return "automatic", _detected(plan)


def _detected(plan: _Plan) -> Marks:
    """Mask (4760,) of the channels that are dead or hot over all events."""
    if plan.total < MIN_EVENTS_CHANNEL:
        raise InputError(
            f"{plan.paths[0]} has {plan.total} events, too few to tell which sensors are dead; "
            f"name them in a list, or give {MIN_EVENTS_CHANNEL} events or more."
        )
    sums = SensorSums(*plan.pair)
    for chunk in plan.chunks(plan.pair):
        npho, time = (chunk[b] for b in plan.pair)
        sums.add(chunk, {plan.pair[0]: valid_counts(npho), plan.pair[1]: valid_times(npho, time)})
    found, dead = sums.statistics(), np.zeros(N_SENSORS, bool)
    dead[found.dead()] = True
    dead[found.hot()] = True
    return dead


def _of_events(dead: NDArray[Any], events: int, plan: _Plan) -> Marks:
    """Mask (events, 4760) of dead sensors."""
    if dead.shape[-1:] != (N_SENSORS,):
        raise InputError(
            f"{plan.paths[0]}: '{DEAD}' has shape {dead.shape[1:]} an event; it must be {N_SENSORS} flags."
        )
    where = np.broadcast_to(dead.astype(bool), (events, N_SENSORS))
    if where.all(1).any():
        raise InputError(f"All {N_SENSORS} sensors are dead in {plan.paths[0]}; there is nothing to fill them from.")
    return where


# ----------------------------------------------------------------------------------------------------- the output


def _repaired(repair: Repair, chunk: Chunk, dead: Marks, pair: tuple[str, str]) -> Chunk:
    """All branches of a chunk with dead sensors filled, and the mask of what was."""
    answers = repair.fill(chunk[pair[0]], chunk[pair[1]], dead)
    # whatever the repair does to live sensors, they pass
    filled: Chunk = {b: _take(chunk[b], values, dead) for b, values in zip(pair, answers, strict=True)}
    if pair == RELATIVE:
        filled |= _absolute(chunk, filled, dead)
        filled["relative_npho"] = _to_the_largest(chunk["relative_npho"], filled["relative_npho"])
    if "nphe" in chunk and "npho" in filled:
        n = filled["npho"]
        filled["nphe"] = _take(chunk["nphe"], np.where(read_counts(n), photoelectrons(n), INVALID), dead)
    if pair != RELATIVE:
        filled |= _relative(chunk, filled)
    inpainted = dead | chunk[INPAINTED].astype(bool) if INPAINTED in chunk else np.array(dead)
    return chunk | filled | {INPAINTED: inpainted}


def _take(before: NDArray[Any], after: NDArray[Any], where: Marks) -> NDArray[Any]:
    """`after` where asked for, else `before`, in the type of `before`."""
    return np.where(where, np.asarray(after).astype(before.dtype), before)


def _relative(chunk: Chunk, filled: Mapping[str, NDArray[Any]]) -> Chunk:
    """The relative branches of the input: as they were, but for values that come out otherwise than before."""
    if not set(RELATIVE) & chunk.keys():
        return {}
    before = relative_quantities(chunk["npho"], chunk["time"], chunk.get("nphe"))
    after = relative_quantities(filled["npho"], filled["time"], filled.get("nphe"))
    pairs = zip(RELATIVE, before, after, strict=True)
    return {b: _take(chunk[b], new, new != old) for b, old, new in pairs if b in chunk}


def _to_the_largest(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """Relative counts on the scale of the event's largest one, in events where it is another than before."""
    old, new = (np.where(valid_counts(n), n, 0).max(1, keepdims=True) for n in (before, after))
    changed = (new != old) & (new > 0) & valid_counts(after)
    return _take(after, after / np.where(new > 0, new, 1), changed)


def _absolute(chunk: Chunk, filled: Mapping[str, NDArray[Any]], dead: Marks) -> Chunk:
    """Photons and seconds from filled relative quantities, on the scale and the clock of the event's live sensors."""
    if not {"npho", "time"} <= chunk.keys():
        return {}
    n, t, rn, rt = (chunk[b].astype(np.float64) for b in ("npho", "time", *RELATIVE))
    counted = valid_counts(n) & valid_counts(rn) & ~dead
    timed = counted & valid_times(n, t) & valid_times(rn, rt)
    scale = np.where(counted, n, 0).sum(1) / np.maximum(np.where(counted, rn, 0).sum(1), 1e-30)
    begin = np.where(timed, t - rt, 0).sum(1) / np.maximum(timed.sum(1), 1)
    npho, time = filled["relative_npho"], filled["relative_time"]
    ok, clocked = read_counts(npho), valid_times(npho, time)
    return {
        "npho": _take(chunk["npho"], np.where(ok, npho * scale[:, None], INVALID), dead),
        "time": _take(chunk["time"], np.where(clocked, time + begin[:, None], INVALID), dead),
    }
