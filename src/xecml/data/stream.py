"""Batches straight from ROOT files: shuffled, seeded, bounded in memory, restartable at any batch.

The events of all files form one sequence of entry ranges. An epoch permutes the ranges by (seed, epoch), cuts the
permuted sequence into buffers of a fixed number of events, and shuffles within each buffer. So the order depends on
nothing else, and batch b of epoch e can be produced without the batches before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xecml import rootio
from xecml.errors import InputError
from xecml.events import TASKS, Chunk
from xecml.files import expand
from xecml.models.normalise import validity

_RANGE_EVENTS = 512
_EVENT_BYTES = 2 * 4 * 4760


@dataclass
class Batch:
    """B events as tensors: raw counts and times, their masks, truth in physical units, numbers of the events."""

    npho: Tensor
    time: Tensor
    valid: Tensor
    timed: Tensor
    truth: dict[str, Tensor]
    run: Tensor
    event: Tensor

    def __len__(self) -> int:
        return len(self.run)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts, times and masks, in the order that models take them."""
        return self.npho, self.time, self.valid, self.timed


class EventStream:
    """A source of batches.

    Args:
        files: ROOT files, globs or folders.
        tasks: tasks whose truth is read.
        batch_size: events a batch; the last batch of an unshuffled epoch is what remains.
        buffer_events: events held and shuffled among themselves.
        npho_branch: branch of the counts.
        time_branch: branch of the times.
        tree: name of the tree.
        seed: of the order of events.
        shuffle: order by (seed, epoch) and drop the incomplete last batch; else the files' order, all events.
        background: read the next buffer while this one is used.

    Raises:
        InputError: files cannot be read, hold fewer events than a batch, or have bad truth.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        *,
        tasks: Sequence[str],
        batch_size: int,
        buffer_events: int,
        npho_branch: str = "npho",
        time_branch: str = "time",
        tree: str = rootio.DEFAULT_TREE,
        seed: int = 0,
        shuffle: bool = True,
        background: bool = True,
    ) -> None:
        self.batch_size, self.seed, self.shuffle, self.background = batch_size, seed, shuffle, background
        self._tasks, self._tree = tuple(tasks), tree
        self._branches = (npho_branch, time_branch)
        self._names: Mapping[str, str] = {}
        self.files = expand(files)
        self._ranges = self._scan()
        self.n_events = int(sum(stop - start for _, start, stop in self._ranges))
        if shuffle and self.n_events < batch_size:
            raise InputError(
                f"{self.files[0]}{' and the others hold' if len(self.files) > 1 else ' holds'} {self.n_events} events, "
                f"fewer than one batch of {batch_size}; use more events or a smaller batch."
            )
        self.n_batches = self.n_events // batch_size if shuffle else -(-self.n_events // batch_size)
        self._buffer_batches = max(1, buffer_events // batch_size)

    def _scan(self) -> list[tuple[int, int, int]]:
        """Ranges (file, start, stop) of all events."""
        ranges = []
        for index, path in enumerate(self.files):
            with rootio.open_tree(path, self._tree, self._names) as reader:
                reader.arrays(self._columns(reader), 0, 0)  # missing branches are found before any work
                edges = range(0, reader.n_events, _RANGE_EVENTS)
                ranges += [(index, a, min(a + _RANGE_EVENTS, reader.n_events)) for a in edges]
        if not ranges:
            raise InputError(f"{self.files[0]} holds no events; name files with events.")
        return ranges

    def _columns(self, reader: rootio.TreeReader) -> list[str]:
        truth = [TASKS[task].truth for task in self._tasks]
        return [*self._branches, *truth, *(b for b in ("run", "event") if reader.has(b))]

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, from batch `first_batch` on."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self._ranges)) if self.shuffle else np.arange(len(self._ranges))
        ranges = [self._ranges[i] for i in order]
        n_buffers = -(-self.n_batches // self._buffer_batches)
        shuffle_seeds = rng.integers(0, 2**63, size=n_buffers)
        first_buffer = first_batch // self._buffer_batches
        todo = range(first_buffer, n_buffers)
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Chunk] | None = None
            for buffer in todo:
                chunk = ahead.result() if ahead else self._load(ranges, buffer)
                following = self.background and buffer + 1 < n_buffers
                ahead = reader.submit(self._load, ranges, buffer + 1) if following else None
                rows = np.arange(len(chunk["run"]))
                if self.shuffle:
                    np.random.default_rng(shuffle_seeds[buffer]).shuffle(rows)
                skip = first_batch - buffer * self._buffer_batches if buffer == first_buffer else 0
                yield from self._batches(chunk, rows, skip)

    def _batches(self, chunk: Chunk, rows: NDArray[np.int64], skip: int) -> Iterator[Batch]:
        for start in range(skip * self.batch_size, len(rows), self.batch_size):
            pick = rows[start : start + self.batch_size]
            if self.shuffle and len(pick) < self.batch_size:
                return
            if not self.shuffle:
                pick = slice(start, start + self.batch_size)  # type: ignore[assignment]  # a view, no copy
            columns = {name: torch.from_numpy(values[pick]) for name, values in chunk.items()}
            npho, time = columns[self._branches[0]], columns[self._branches[1]]
            truth = {task: columns[TASKS[task].truth].reshape(len(npho), -1) for task in self._tasks}
            yield Batch(npho, time, *validity(npho, time), truth, columns["run"], columns["event"])

    def _load(self, ranges: Sequence[tuple[int, int, int]], buffer: int) -> Chunk:
        """Read the events of one buffer, in the order of the permuted ranges."""
        begin = buffer * self._buffer_batches * self.batch_size
        end = begin + self._buffer_batches * self.batch_size
        parts: list[Chunk] = []
        offset = 0
        with ExitStack() as stack:
            readers: dict[int, rootio.TreeReader] = {}
            for file, start, stop in ranges:
                a, b = max(begin - offset, 0) + start, min(end - offset + start, stop)
                offset += stop - start
                if a >= b:
                    continue
                if file not in readers:
                    readers[file] = stack.enter_context(rootio.open_tree(self.files[file], self._tree, self._names))
                parts.append(self._read(readers[file], a, b))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _read(self, reader: rootio.TreeReader, start: int, stop: int) -> Chunk:
        chunk = reader.arrays(self._columns(reader), start, stop)
        # files without numbers: count the entries
        chunk.setdefault("run", np.zeros(stop - start, np.int32))
        chunk.setdefault("event", np.arange(start, stop, dtype=np.int32))
        for task in self._tasks:
            truth = chunk[TASKS[task].truth]
            bad = ~np.isfinite(truth).reshape(len(truth), -1).all(1)
            if bad.any():
                i = int(np.argmax(bad))
                raise InputError(
                    f"{reader.path}: '{TASKS[task].truth}' is not finite in run {chunk['run'][i]} event "
                    f"{chunk['event'][i]} and {int(bad.sum()) - 1} more nearby; remove these events."
                )
        return chunk


def buffer_events(chunksize: int, buffer_mb: float, batch_size: int) -> int:
    """Events of a shuffling buffer: at most `chunksize` and `buffer_mb`, at least one batch."""
    return max(batch_size, min(chunksize, int(buffer_mb * 1e6 / _EVENT_BYTES)))
