"""Files from which only some events are used: a share of each file, and the events in it that meet a selection.

A file is looked at once, for which only the branches of the selection are read, in chunks of bounded memory; what is
kept of it is a bit an event. After that it is read as if it held no other events.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.data import source
from xecml.data.source import Events
from xecml.errors import InputError
from xecml.events import Chunk, number_of
from xecml.selections import Selection

WHOLE = (0.0, 1.0)
_BLOCK = 512
"""Events, of which the number of selected ones before each block is kept; a multiple of eight."""
_AT_ONCE = 1024
"""Entries of a file that one reading spans, however few of them are selected."""
_LOOKED_AT, _FEWEST, _MOST = 4_000_000, 256, 100_000
"""Numbers read at once while a file is looked at, and bounds of the events that hold them."""
_SHARE_ROUNDING = 1e-9

Entries = NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """What is taken of files.

    Attributes:
        selection: condition on events; none takes all.
        share: part of each file's events, from and to, in the order of the file; 0 to 1 is the whole.
    """

    selection: Selection | None = None
    share: tuple[float, float] = WHOLE

    def __bool__(self) -> bool:
        return self.selection is not None or self.share != WHOLE

    @classmethod
    def of(cls, text: str = "", share: tuple[float, float] = WHOLE) -> Cut:
        """A cut by the text of a selection, empty for none, and a share."""
        return cls(Selection(text) if text.strip() else None, share)

    def range(self, events: int) -> tuple[int, int]:
        """First and last + 1 entry of the share of a file; shares that meet have no event in common."""
        first, last = (math.floor(part * events + _SHARE_ROUNDING) for part in self.share)
        return first, last

    def named(self) -> str:
        """The cut in words; empty if it takes all events."""
        share = f"share {self.share[0]:g} to {self.share[1]:g} of each file" if self.share != WHOLE else ""
        text = self.selection.text if self.selection is not None else ""
        return ", ".join(filter(None, [share, text]))


@dataclass
class Left:
    """How many events a cut leaves, file after file.

    Attributes:
        events: in the files.
        steps: events left by name of the step: the share, then each condition that `and` joins, in their order.
    """

    events: int = 0
    steps: dict[str, int] = field(default_factory=dict)

    def count(self, step: str, left: int) -> None:
        """Add what a step leaves of some events."""
        self.steps[step] = self.steps.get(step, 0) + left

    @property
    def last(self) -> int:
        """What is left after all steps."""
        return next(reversed(self.steps.values()), self.events)

    def add(self, other: Left) -> None:
        """Add what is left of another file."""
        self.events += other.events
        for step, left in other.steps.items():
            self.count(step, left)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and checkpoints."""
        steps = [{"step": step, "left": left} for step, left in self.steps.items()]
        return {"events": self.events, "left": self.last, "steps": steps}

    def line(self) -> str:
        """In words: `412 of 768 events (53.6 %): share 0 to 0.8 614, energyTruth > 0.045 412`."""
        percent = f" ({100 * self.last / self.events:.3g} %)" if self.events else ""
        steps = "; ".join(f"{step}: {left}" for step, left in self.steps.items())
        return f"{self.last} of {number_of(self.events)}{percent}; {steps}"


class Chosen:
    """Which events of a file are taken.

    Args:
        first: entry that the share begins with.
        last: entry after the share.
        bits: of the share's events, eight in a byte, those beyond its end 0; none where all are taken.
    """

    def __init__(self, first: int, last: int, bits: NDArray[np.uint8] | None) -> None:
        self.first, self.last = first, last
        self._bits = None if bits is None else np.pad(bits, (0, -len(bits) % (_BLOCK // 8)))
        self._before = np.zeros(1, np.int64)
        if self._bits is not None:
            numbers = np.bitwise_count(self._bits).reshape(-1, _BLOCK // 8).sum(1, dtype=np.int64)
            self._before = np.append(0, np.cumsum(numbers))

    def __len__(self) -> int:
        return self.last - self.first if self._bits is None else int(self._before[-1])

    def entries(self, start: int, stop: int) -> Entries:
        """Entries in the file of the taken events `start` to `stop`, ascending."""
        if self._bits is None or start >= stop:
            return np.arange(self.first + start, self.first + max(start, stop))
        low = int(np.searchsorted(self._before, start, "right")) - 1
        high = int(np.searchsorted(self._before, stop, "left"))
        found = np.flatnonzero(self._unpacked(low, high))
        skip = start - int(self._before[low])
        return self.first + low * _BLOCK + found[skip : skip + stop - start]

    def ranks(self, entries: Sequence[int]) -> Entries:
        """How many taken events come before each of some entries of the file."""
        places = np.clip(np.asarray(entries, np.int64), self.first, self.last) - self.first
        if self._bits is None:
            return places
        blocks, rest = np.divmod(places, _BLOCK)
        rows = np.append(self._bits, np.zeros(_BLOCK // 8, np.uint8)).reshape(-1, _BLOCK // 8)[blocks]
        inside = np.unpackbits(rows, axis=1) & (np.arange(_BLOCK) < rest[:, None])
        return np.asarray(self._before[blocks] + inside.sum(1, dtype=np.int64))

    def in_common(self, other: Chosen) -> int:
        """Events of one file that both take."""
        begin, end, both = max(self.first, other.first), min(self.last, other.last), 0
        for start in range(begin, end, _MOST):
            stop = min(start + _MOST, end)
            mine, theirs = (c.entries(*c.ranks([start, stop]).tolist()) for c in (self, other))
            both += len(np.intersect1d(mine, theirs, assume_unique=True))
        return both

    def _unpacked(self, low: int, high: int) -> NDArray[np.uint8]:
        assert self._bits is not None
        return np.unpackbits(self._bits[low * _BLOCK // 8 : high * _BLOCK // 8])


class SelectedEvents:
    """An open file of events, of which some are taken: read as if it held no others; see `source.Events`.

    Attributes:
        whole: the file itself.
        chosen: which events are taken.
    """

    def __init__(self, whole: Events, chosen: Chosen) -> None:
        self.whole, self.chosen = whole, chosen
        self.path, self.tree_name, self.in_file = whole.path, whole.tree_name, whole.in_file
        self.n_events = len(chosen)
        self.has, self.is_jagged, self.known = whole.has, whole.is_jagged, whole.known

    def entries(self, start: int, stop: int) -> Entries:
        """Entries in the file of the taken events `start` to `stop`."""
        return self.chosen.entries(start, stop)

    def boundaries(self, branches: Sequence[str]) -> list[int]:
        """Taken events at which reading is best begun."""
        ranks = self.chosen.ranks(self.whole.boundaries(branches)).tolist()
        return sorted({0, *ranks, self.n_events})

    def arrays(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        """Branches of the taken events `start` to `stop`."""
        entries = self.entries(start, stop)
        if not len(entries):
            return self.whole.arrays(branches, 0, 0)
        parts = []
        for rows in stretches(entries):
            begin = int(rows[0])
            read = self.whole.arrays(branches, begin, int(rows[-1]) + 1)
            dense = len(rows) == rows[-1] + 1 - begin
            parts.append(read if dense else {name: values[rows - begin] for name, values in read.items()})
        return parts[0] if len(parts) == 1 else {b: np.concatenate([part[b] for part in parts]) for b in parts[0]}


def stretches(entries: Entries) -> Iterator[Entries]:
    """Ascending entries in pieces, each of which spans so few entries that these can be read together."""
    ends = np.flatnonzero(np.diff(entries // _AT_ONCE)) + 1
    for start, stop in pairwise([0, *ends.tolist(), len(entries)]):
        yield entries[start:stop]


def look(reader: Events, cut: Cut) -> tuple[Chosen, Left]:
    """Which events of an open file a cut takes, and how many are left after each of its steps.

    Raises:
        InputError: the file lacks a branch of the selection, or cannot be read.
    """
    first, last = cut.range(reader.n_events)
    left = Left(reader.n_events)
    if cut.share != WHOLE:
        left.count(Cut(share=cut.share).named(), last - first)
    if cut.selection is None:
        return Chosen(first, last, None), left
    branches = cut.selection.branches(reader.path, reader.has, reader.in_file)
    one = min(1, reader.n_events)
    event = reader.arrays(branches, 0, one) if branches else {}
    if one:  # the form of the answer is looked at before any work
        cut.selection.masks(event, one)
    numbers = sum(int(np.prod(values.shape[1:])) for values in event.values())
    most = int(np.clip(_LOOKED_AT // max(numbers, 1), _FEWEST, _MOST)) // 8 * 8
    bits = np.zeros(-(-(last - first) // 8), np.uint8)
    totals = dict.fromkeys((step.text for step in cut.selection.steps), 0)
    for start in range(first, last, most):
        stop = min(start + most, last)
        masks = cut.selection.masks(reader.arrays(branches, start, stop) if branches else {}, stop - start)
        for step, mask in zip(cut.selection.steps, masks, strict=True):
            totals[step.text] += int(mask.sum())
        packed = np.packbits(masks[-1])
        bits[(start - first) // 8 :][: len(packed)] = packed
    for step_text, number in totals.items():
        left.count(step_text, number)
    return Chosen(first, last, bits), left


def look_at_files(
    paths: Sequence[str], cut: Cut, tree: str = rootio.DEFAULT_TREE, names: Mapping[str, str] | None = None
) -> tuple[dict[str, Chosen], Left]:
    """Which events of each file a cut takes, by path, and how many are left of all.

    Args:
        paths: files and shards of `source.expand`; one that is named twice counts twice.
        cut: what is taken.
        tree: name of the tree.
        names: canonical branch name -> name in the files, where they have it.

    Raises:
        InputError: a file cannot be read or lacks a branch of the selection, or no event is left.
    """
    found: dict[str, tuple[Chosen, Left]] = {}
    total = Left()
    for path in paths:
        if path not in found:
            with source.open_events(path, tree, source.names_here(path, tree, names)) as reader:
                found[path] = look(reader, cut)
        total.add(found[path][1])
    check_some_left(total, cut, paths)
    return {path: chosen for path, (chosen, _) in found.items()}, total


def check_some_left(left: Left, cut: Cut, paths: Sequence[str]) -> None:
    """Make sure that there are events.

    Raises:
        InputError: there were some, and none is left.
    """
    if left.events and not left.last:
        of = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"
        steps = ", ".join(f"'{step}' {number}" for step, number in left.steps.items())
        raise InputError(f"No event of {of} is left of {left.events} (left after {steps}); widen {cut.named()!r}.")


@contextmanager
def open_selected(path: str, tree: str, names: Mapping[str, str] | None, chosen: Chosen | None) -> Iterator[Events]:
    """Open a file of events as if it held none but the chosen ones, or as it is."""
    with source.open_events(path, tree, names) as reader:
        yield reader if chosen is None else SelectedEvents(reader, chosen)


def read_selected(
    path: str,
    branches: Sequence[str],
    chosen: Chosen | None,
    *,
    tree: str = rootio.DEFAULT_TREE,
    chunk_events: int = rootio.CHUNK_EVENTS,
    names: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
) -> Iterator[tuple[Entries, Chunk]]:
    """Read the chosen events of one file in chunks, with their entries in it; all without `chosen`.

    Raises:
        InputError: tree or branches are missing, of wrong shape, or damaged.
    """
    with open_selected(path, tree, names, chosen) as reader:
        wanted = [*branches, *(b for b in optional if reader.has(b) and b not in branches)]
        for start, stop in rootio.ranges(reader.boundaries(wanted), chunk_events):
            entries = reader.entries(start, stop) if isinstance(reader, SelectedEvents) else np.arange(start, stop)
            yield entries, reader.arrays(wanted, start, stop)


def parse_share(text: str) -> tuple[float, float]:
    """Read a share of files, `0.8` (the first eight tenths) or `0.8:1`.

    Raises:
        InputError: it is none.
    """
    try:
        ends = [float(part) for part in text.split(":")]
    except ValueError:
        ends = []
    low, high = ends if len(ends) == 2 else (0.0, *ends) if len(ends) == 1 else (1.0, 0.0)
    if not 0 <= low < high <= 1:
        raise InputError(
            f"'{text[:40]}' is no share of files; give such as 0.8 for the first 80 %, or 0.8:1 for the rest."
        )
    return low, high
