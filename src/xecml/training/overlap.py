"""Whether validation events are training events too, which would make a validation look better than it is.

Run and event numbers alone do not tell: simulated files of different seeds have the same. So the place of the first
interaction has to agree as well; where files do not have it, the counts of some events are compared.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.events import Chunk, measured

_TRUTH = ("uvwTruth", "xyzTruth")
"""What two events do not have in common by chance."""
_COMPARED = 16
"""Events whose counts are compared, where there is no such truth."""
_CANDIDATES = 4
_CHUNK_EVENTS = 1_000_000
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)

Keys = NDArray[np.uint64]


class _File(NamedTuple):
    """A number (N,) for each event of a file, which another event has by chance only without truth."""

    stream: EventStream
    number: int
    keys: Keys
    has_truth: bool


def shared_events(training: EventStream, validation: EventStream) -> Iterator[str]:
    """Lines about files that are named twice, and about validation events that are training events.

    Only numbers and truth are read, 8 bytes an event are kept.
    """
    own, others = _places(training), _places(validation)
    for path, times in Counter(own).items():
        if times > 1:
            yield f"{path} is named {times} times in data.train_path, so its events count as often."
    twins = ((i, own.index(path)) for i, path in enumerate(others) if path in own)
    same, about = sum(validation.shared_with(i, training, twin) for i, twin in twins), ""
    rest = [_read(validation, i) for i, path in enumerate(others) if path not in own]
    if rest:
        seen = [_read(training, i) for i in range(len(own))]
        same += int(_known([file for file in rest if file.has_truth], [file for file in seen if file.has_truth]).sum())
        estimate = _estimated([file for file in rest if not file.has_truth], [f for f in seen if not f.has_truth])
        same, about = same + estimate, "About " if estimate else ""
    if same:
        yield (
            f"{about}{same} of {validation.n_events} validation events are training events too, so the validation will "
            "look better than it is; name other files in data.val_path."
        )


def _places(stream: EventStream) -> list[str]:
    """Files of a stream, each by the same name whatever links lead to it."""
    return [path if "://" in path else os.path.realpath(path) for path in stream.files]


def _read(stream: EventStream, file: int) -> _File:
    """Numbers of a file's events; none of a file without run and event numbers, or that cannot be read."""
    parts, truth = [np.empty(0, np.uint64)], list[str]()
    try:
        with stream.open(file) as reader:
            truth = [branch for branch in _TRUTH if reader.has(branch)][:1]
            last = reader.n_events if reader.has("run") and reader.has("event") else 0
            for start in range(0, last, _CHUNK_EVENTS):
                parts.append(_keys(reader.arrays(["run", "event", *truth], start, min(start + _CHUNK_EVENTS, last))))
    except InputError:  # a branch that is not trained on is no matter here
        del parts[1:]
    return _File(stream, file, np.concatenate(parts), bool(truth))


def _keys(chunk: Chunk) -> Keys:
    """Run and event number in one, with the truth mixed in where there is one; events without one are left out."""
    keys = chunk["run"].astype(np.uint64) << np.uint64(32) | chunk["event"].astype(np.uint32)
    there = np.ones(len(keys), bool)
    for branch in (name for name in _TRUTH if name in chunk):
        there &= measured(chunk[branch]).all(1)
        for word in np.ascontiguousarray(chunk[branch], np.float32).view(np.uint32).T:
            keys = (keys ^ word) * _MIXER
            keys ^= keys >> _SHIFT
    return keys[there]


def _joined(files: Sequence[_File]) -> Keys:
    return np.concatenate([np.empty(0, np.uint64), *(file.keys for file in files)])


def _known(asked: Sequence[_File], seen: Sequence[_File]) -> NDArray[np.bool_]:
    """Mask of the events asked for whose numbers were seen."""
    keys, known = _joined(asked), np.sort(_joined(seen))  # by far faster than numpy.isin
    if not len(known):
        return np.zeros(len(keys), bool)
    return np.asarray(known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys)


def _estimated(asked: Sequence[_File], seen: Sequence[_File]) -> int:
    """How many events with the same numbers are the same events, by the counts of some of them."""
    candidates = np.flatnonzero(_known(asked, seen))
    if not len(candidates):
        return 0
    ends = np.cumsum([len(file.keys) for file in asked])
    chosen = candidates[np.linspace(0, len(candidates) - 1, min(_COMPARED, len(candidates))).astype(int)]
    same = 0
    for event in chosen:
        at = int(np.searchsorted(ends, event, "right"))
        file, entry = asked[at], int(event - ends[at] + len(asked[at].keys))
        same += _is_in(_counts(file, entry), seen, file.keys[entry])
    return round(same / len(chosen) * len(candidates))


def _is_in(counts: NDArray[np.float32], seen: Sequence[_File], key: np.uint64) -> bool:
    """Whether one of the first events with this number has these counts."""
    twins = ((file, int(n)) for file in seen for n in np.flatnonzero(file.keys == key)[:1])
    return any(np.array_equal(counts, _counts(*twin)) for twin in islice(twins, _CANDIDATES))


def _counts(file: _File, event: int) -> NDArray[np.float32]:
    branch = file.stream.layout.npho
    with file.stream.open(file.number) as reader:
        return np.nan_to_num(reader.arrays([branch], event, event + 1)[branch])
