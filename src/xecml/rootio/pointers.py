"""Arrays behind pointers in the objects of a TClonesArray: `Float_t* npho; //[nphoSize]`, which uproot cannot read.

ROOT writes of each object a byte that says whether there is something, and then the numbers; how many these are stands
in another member (TStreamerInfo's WriteBasicPointer). The analyser's arrays of one number for every cluster of a sensor
are stored so.
"""

from __future__ import annotations

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


class Pointers(NamedTuple):
    """How a branch of arrays behind pointers is read.

    Attributes:
        kind: of the numbers, as they are stored.
        counter: name of the branch that holds how many they are, object by object.
    """

    kind: np.dtype[Any]
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
    return None if kind is None else Pointers(np.dtype(kind), f"{parent}{dot}{streamer.member('fCountName')}")


def unpacked(found: Any, kind: np.dtype[Any], sizes: Any, start: int, stop: int) -> Any:
    """Entries `start` to `stop` of such a branch, as awkward's lists (entry, object, number).

    Args:
        found: a TBranch of uproot.
        kind: of the numbers.
        sizes: numbers of each object of these entries, as awkward's lists (entry, object).
        start: first entry.
        stop: entry after the last.

    Raises:
        ValueError: bytes and sizes do not agree.
    """
    objects, numbers = ak.to_numpy(ak.num(sizes)), ak.to_numpy(ak.flatten(sizes)).astype(np.int64)
    content = _content(found, start, stop)
    ends = np.cumsum(1 + numbers * kind.itemsize)
    begins = np.concatenate([[0], ends])[:-1]
    if (ends[-1] if len(ends) else 0) != len(content) or (content[begins] != (numbers > 0)).any():
        raise ValueError(f"the arrays of '{found.name}' have other lengths than their objects say")
    if len(numbers) and (numbers == numbers[0]).all():  # of every object as many
        bare = content.reshape(len(numbers), -1)[:, 1:]
    else:
        is_number = np.ones(len(content), bool)
        is_number[begins] = False
        bare = content[is_number]
    values = np.frombuffer(bare.tobytes(), kind)
    inner = ak.contents.ListOffsetArray(
        _offsets(numbers), ak.contents.NumpyArray(values.astype(kind.newbyteorder("=")))
    )
    return ak.Array(ak.contents.ListOffsetArray(_offsets(objects), inner))


def _offsets(lengths: NDArray[Any]) -> Any:
    return ak.index.Index64(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _content(found: Any, start: int, stop: int) -> NDArray[np.uint8]:
    """Bytes of entries, joined from their baskets."""
    edges, parts = np.asarray(found.entry_offsets), []
    for i in range(int(np.searchsorted(edges, start, "right")) - 1, int(np.searchsorted(edges, stop, "left"))):
        basket = found.basket(i)
        offsets, data = basket.byte_offsets, np.asarray(basket.data)
        if offsets is None or len(offsets) != edges[i + 1] - edges[i] + 1:
            raise ValueError(f"basket {i} of '{found.name}' has other entries than promised")
        first, last = max(start - int(edges[i]), 0), min(stop, int(edges[i + 1])) - int(edges[i])
        parts.append(data[offsets[first] : offsets[last]])
    return np.concatenate(parts).astype(np.uint8, copy=False) if parts else np.empty(0, np.uint8)
