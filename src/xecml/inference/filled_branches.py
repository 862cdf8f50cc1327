"""Branches of events whose dead sensors a repair fills: what follows from filled counts and times, and what passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.events import (
    INVALID,
    Chunk,
    photoelectrons,
    read_counts,
    relative_quantities,
    valid_counts,
    valid_times,
)
from xecml.inference.repair_models import Repair

Marks = NDArray[np.bool_]

INPAINTED = "inpainted"
"""Branch (4760,) of bool: what was filled."""
RELATIVE = ("relative_npho", "relative_time")


def repaired(repair: Repair, chunk: Chunk, dead: Marks, pair: tuple[str, str]) -> Chunk:
    """All branches of a chunk with dead sensors filled, and the mask `inpainted` of what was.

    Args:
        repair: what fills.
        chunk: branches by canonical name.
        dead: sensors (N, 4760).
        pair: branches of counts and times that the repair takes.
    """
    answers = repair.fill(chunk[pair[0]], chunk[pair[1]], dead)
    # whatever the repair does to live sensors, they pass
    filled: Chunk = {b: taken(chunk[b], values, dead) for b, values in zip(pair, answers, strict=True)}
    filled |= _absolute(chunk, filled, dead, pair)
    if pair == RELATIVE:
        filled["relative_npho"] = _to_the_largest(chunk["relative_npho"], filled["relative_npho"])
    if "nphe" in chunk and "npho" in filled:
        n = filled["npho"]
        filled["nphe"] = taken(chunk["nphe"], np.where(read_counts(n), photoelectrons(n), INVALID), dead)
    filled |= _relative(chunk, filled, pair)
    inpainted = dead & read_counts(filled[pair[0]])
    if INPAINTED in chunk:
        inpainted |= chunk[INPAINTED].astype(bool)
    return chunk | filled | {INPAINTED: inpainted}


def taken(before: NDArray[Any], after: NDArray[Any], where: Marks) -> NDArray[Any]:
    """`after` where asked for, else `before`, in the type of `before`."""
    return np.where(where, np.asarray(after).astype(before.dtype), before)


def _relative(chunk: Chunk, filled: Mapping[str, NDArray[Any]], pair: tuple[str, str]) -> Chunk:
    """The relative branches beside `pair`: as they were, but for values that come out otherwise than before."""
    wanted = [b for b, absolute in zip(RELATIVE, ("npho", "time"), strict=True) if b in chunk and absolute in pair]
    if not wanted or "npho" not in chunk:
        return {}
    clock = "time" if "time" in chunk else pair[1]  # counts do not depend on it
    before, after = (relative_quantities(of["npho"], of[clock], of.get("nphe")) for of in (chunk, {**chunk, **filled}))
    pairs = zip(RELATIVE, before, after, strict=True)
    return {b: taken(chunk[b], new, new != old) for b, old, new in pairs if b in wanted}


def _to_the_largest(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """Relative counts on the scale of the event's largest one, in events where it is another than before."""
    old, new = (np.where(valid_counts(n), n, 0).max(1, keepdims=True) for n in (before, after))
    changed = (new != old) & (new > 0) & valid_counts(after)
    return taken(after, after / np.where(new > 0, new, 1), changed)


def _absolute(chunk: Chunk, filled: Mapping[str, NDArray[Any]], dead: Marks, pair: tuple[str, str]) -> Chunk:
    """Photons and seconds from filled relative quantities, on the scale and the clock of the event's live sensors."""
    absolute: Chunk = {}
    if not {"npho", "time"} <= chunk.keys() or not set(RELATIVE) & set(pair):
        return absolute
    n, t, rn, rt = (chunk[b].astype(np.float64) for b in ("npho", "time", *pair))
    counted = valid_counts(n) & valid_counts(rn) & ~dead
    ok, clocked = read_counts(filled[pair[0]]), valid_times(filled[pair[0]], filled[pair[1]])
    if pair[0] == "relative_npho":
        scale = np.where(counted, n, 0).sum(1) / np.maximum(np.where(counted, rn, 0).sum(1), 1e-30)
        absolute["npho"] = taken(chunk["npho"], np.where(ok, filled[pair[0]] * scale[:, None], INVALID), dead)
    if pair[1] == "relative_time":
        timed = counted & valid_times(n, t) & valid_times(rn, rt)
        begin = np.where(timed, t - rt, 0).sum(1) / np.maximum(timed.sum(1), 1)
        absolute["time"] = taken(chunk["time"], np.where(clocked, filled[pair[1]] + begin[:, None], INVALID), dead)
    return absolute
