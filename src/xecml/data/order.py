"""The order of events in an epoch: a pure function of (seed, epoch), cut into equal parts for several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_POOL_FILES = 16
"""Ranges are permuted within pools of so many files, because every open file costs time and memory."""

Span = tuple[int, int, int]
"""File, first and last + 1 event in it."""


@dataclass(frozen=True)
class Order:
    """Ranges of events in the order of an epoch.

    Attributes:
        file: index of the file of each range, (R,).
        start: first event of each range in its file, (R,).
        ends: number of events up to the end of each range, (R,).
    """

    file: NDArray[np.int64]
    start: NDArray[np.int64]
    ends: NDArray[np.int64]

    def spans(self, begin: int, end: int) -> list[Span]:
        """Pieces of ranges that make up the events `begin` to `end` of the epoch."""
        first, last = np.searchsorted(self.ends, [begin, end - 1], "right")
        found = []
        for i in range(int(first), int(last) + 1):
            base = int(self.ends[i - 1]) if i else 0
            start = int(self.start[i])
            a, b = max(begin, base) - base, min(end, int(self.ends[i])) - base
            found.append((int(self.file[i]), start + a, start + b))
        return found


@dataclass(frozen=True)
class Ranges:
    """All ranges of a sample, file by file.

    Attributes:
        file: index of the file of each range, (R,).
        start: first event of each range, (R,).
        length: events of each range, (R,).
    """

    file: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]

    @classmethod
    def of(cls, files: Sequence[Sequence[tuple[int, int]]]) -> Ranges:
        """Collect the ranges (start, stop) of each file."""
        flat = [(i, a, b - a) for i, ranges in enumerate(files) for a, b in ranges]
        columns = np.array(flat, np.int64).reshape(-1, 3).T
        return cls(*(np.ascontiguousarray(c) for c in columns))

    @property
    def n_events(self) -> int:
        """Number of all events."""
        return int(self.length.sum())

    def in_order(self) -> Order:
        """As the files have them."""
        return Order(self.file, self.start, np.cumsum(self.length))

    def shuffled(self, seed: int, epoch: int) -> Order:
        """Permuted by seed and epoch: files first, then the ranges within each pool of 16 files."""
        rng = np.random.default_rng((seed, epoch))
        n_files = int(self.file.max()) + 1
        pool = rng.permutation(n_files) // _POOL_FILES
        order = np.lexsort((rng.random(len(self.file)), pool[self.file]))
        return Order(self.file[order], self.start[order], np.cumsum(self.length[order]))


def batch_edges(n_events: int, batch_size: int, rank: int, world: int, shuffle: bool) -> NDArray[np.int64]:
    """Positions in the epoch at which the batches of one of `world` processes begin and end.

    Every process has the same number of batches. Shuffled, all batches are full and what is left over is not used in
    this epoch. In the files' order all events are used: one process has full batches and a last one with the rest,
    several have batches that differ by one event at most.
    """
    if shuffle:
        batches = n_events // (batch_size * world)
        return (rank * batches + np.arange(batches + 1)) * batch_size
    if world == 1:
        return np.append(np.arange(0, n_events, batch_size), n_events)
    # no batch is empty, even if that makes one of them an event larger
    batches = min(-(-n_events // (batch_size * world)), n_events // world)
    return (np.arange(rank * batches, (rank + 1) * batches + 1) * n_events) // (batches * world)
