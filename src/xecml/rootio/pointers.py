"""Arrays behind pointers in the objects of a TClonesArray: `Float_t* npho; //[nphoSize]`, which uproot cannot read.

ROOT writes of each object a byte that says whether there is something, and then the numbers; how many these are stands
in another member (TStreamerInfo's WriteBasicPointer). The analyser's arrays of one number for every cluster of a sensor
are stored so.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

_TYPES = {
    1: ">i1", 2: ">i2", 3: ">i4", 4: ">i8", 5: ">f4", 8: ">f8", 11: ">u1", 12: ">u2", 13: ">u4", 14: ">u8", 16: ">i8",
    17: ">u8", 18: ">i1",
}  # fmt: skip
"""Kinds of numbers by TVirtualStreamerInfo's EReadWrite, as they are stored."""


_SURE_OBJECTS = 64
"""From so many objects on an entry's bytes tell by themselves that all objects have as many numbers: a byte of its own
stands before each, and that many do not lie in the right places by chance."""


class Pointers(NamedTuple):
    """How a branch of arrays behind pointers is read.

    Attributes:
        kind: of the numbers, as they are stored.
        objects: name of the branch of the list, which holds how many objects it has.
        counter: name of the branch that holds how many numbers each object has.
    """

    kind: np.dtype[Any]
    objects: str
    counter: str


def pointers(branch: Any) -> Pointers | None:
    """How a TBranch of arrays behind pointers in a list of objects is read; None for any other.

    Args:
        branch: a TBranch of uproot.
    """
    streamer = getattr(branch, "streamer", None)
    if not isinstance(branch.interpretation, uproot.AsObjects) or streamer is None:
        return None
    if not type(streamer).__name__.startswith("Model_TStreamerBasicPointer") or branch.branches:
        return None
    kind = _TYPES.get(int(streamer.member("fType")) - uproot.const.kOffsetP)
    parent, dot, _ = str(branch.name).rpartition(".")
    name = f"{parent}{dot}{streamer.member('fCountName')}"
    return None if kind is None else Pointers(np.dtype(kind), str(branch.parent.name), name)


Held = dict[str, tuple[int, NDArray[np.int64], NDArray[np.uint8]]]
"""Of branches the last basket: its index, where its entries begin and end, and its bytes."""


def unpacked(
    tree: Any, found: Any, how: Pointers, start: int, stop: int, held: Held
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Entries `start` to `stop` of such a branch: objects of each entry, numbers of each object, and all numbers.

    Args:
        tree: uproot's TTree.
        found: a TBranch of it.
        how: it is read.
        start: first entry.
        stop: entry after the last.
        held: baskets of the call before, of which the last may go on here.

    Raises:
        ValueError: bytes and numbers of objects do not agree.
    """
    objects = tree[how.objects].array(uproot.AsDtype(">i4"), start, stop, library="np").astype(np.int64)
    content, ends = _content(found, start, stop, held)
    found_alike = _alike(content, ends, objects, how.kind)
    if found_alike is not None:
        return objects, *found_alike
    numbers = ak.to_numpy(ak.flatten(tree[how.counter].array(entry_start=start, entry_stop=stop))).astype(np.int64)
    # a byte, which is 0 where there are no numbers, comes before the numbers of each object
    after = np.cumsum(1 + numbers * how.kind.itemsize)
    begins = np.concatenate([[0], after])[:-1]
    is_right = len(numbers) == objects.sum() and (after[-1] if len(after) else 0) == len(content)
    if not is_right or (content[begins] != (numbers > 0)).any():
        raise ValueError(f"the arrays of '{found.name}' have other lengths than their objects say")
    is_number = np.ones(len(content), bool)
    is_number[begins] = False
    values = content[is_number].view(how.kind)
    return objects, numbers, values.astype(how.kind.newbyteorder("="))


def as_lists(objects: NDArray[np.int64], numbers: NDArray[np.int64], values: NDArray[Any]) -> Any:
    """What `unpacked` gives, as awkward's lists (entry, object, number)."""

    def offsets(lengths: NDArray[Any]) -> Any:
        return ak.index.Index64(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    inner = ak.contents.ListOffsetArray(offsets(numbers), ak.contents.NumpyArray(values))
    return ak.Array(ak.contents.ListOffsetArray(offsets(objects), inner))


def _alike(
    content: NDArray[np.uint8], ends: NDArray[np.int64], objects: NDArray[np.int64], kind: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
    """Numbers of each object, and all of them, where those of an entry have as many, as its bytes tell; else None."""
    lengths = np.diff(ends)
    each = (lengths // np.maximum(objects, 1) - 1) // kind.itemsize
    if (objects < _SURE_OBJECTS).any() or (lengths != objects * (1 + kind.itemsize * each)).any():
        return None
    values = np.empty(int((objects * each).sum()), kind.newbyteorder("="))
    place = 0
    # a step for entries that follow one another and have as many numbers an object
    edges = np.flatnonzero(np.diff(each, prepend=-1, append=-1))
    for first, last in pairwise(edges.tolist()):
        number, many, step = int(objects[first:last].sum()), int(each[first]), 1 + kind.itemsize * int(each[first])
        flags = content[ends[first] : ends[last] : step]
        if (flags != (many > 0)).any():
            return None
        if many:
            shape, strides = (number, many), (step, kind.itemsize)
            stored = np.ndarray(shape, kind, content.data, int(ends[first]) + 1, strides)
            values[place : place + number * many].reshape(shape)[...] = stored
            place += number * many
    return np.repeat(each, objects), values


def _content(found: Any, start: int, stop: int, held: Held) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of entries, joined from their baskets, and where each entry begins and the last ends."""
    edges, parts, ends = np.asarray(found.entry_offsets), [], [np.zeros(1, np.int64)]
    for i in range(int(np.searchsorted(edges, start, "right")) - 1, int(np.searchsorted(edges, stop, "left"))):
        offsets, data = _basket(found, i, int(edges[i + 1] - edges[i]), held)
        first, last = max(start - int(edges[i]), 0), min(stop, int(edges[i + 1])) - int(edges[i])
        parts.append(data[offsets[first] : offsets[last]])
        ends.append(offsets[first + 1 : last + 1].astype(np.int64) - offsets[first] + ends[-1][-1])
    joined = np.concatenate(parts).astype(np.uint8, copy=False) if parts else np.empty(0, np.uint8)
    return joined, np.concatenate(ends)


def _basket(found: Any, index: int, entries: int, held: Held) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where the entries of a basket begin and end, and its bytes."""
    last = held.get(found.name)
    if last is None or last[0] != index:
        basket = found.basket(index)
        if basket.byte_offsets is None or len(basket.byte_offsets) != entries + 1:
            raise ValueError(f"basket {index} of '{found.name}' has other entries than promised")
        last = index, basket.byte_offsets, np.asarray(basket.data)
        held[found.name] = last
    return last[1:]
