"""Batches from ROOT files or shards: shuffled, seeded, bounded in memory, restartable at any batch.

The events of all files form one sequence of ranges, which follow the clusters of a ROOT file. An epoch permutes the
ranges by (seed, epoch), cuts the permuted sequence into buffers of a fixed number of batches, and gives every event a
random place in its buffer. So the order depends on nothing else, and batch b of epoch e can be produced without the
batches before it. A file's events are decompressed straight to their places; batches are views of the buffer.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xecml import rootio
from xecml.data import source
from xecml.data.batch import Batch
from xecml.data.buffers import EVENT_BYTES, Buffer, Buffers
from xecml.data.freed_memory import keep_freed_memory
from xecml.data.order import Order, Ranges, Span, batch_edges
from xecml.data.rows import Layout, fill
from xecml.data.selected_events import Chosen, Cut, Left, check_some_left, look, open_selected, read_selected
from xecml.errors import InputError
from xecml.events import TASKS, branch_names, number_of

__all__ = ["Batch", "EventStream", "buffer_events"]

_RANGE_EVENTS = 512
_TRUTH_EVENTS = 65_536
_SHARD_RANGE_EVENTS = 16
_MOST_RANGES = 2**20
_MOST_WAITING = 4
"""Threads that fill the first buffer of an epoch, at most, since everything waits for it."""

Weigher = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]


@dataclass(frozen=True)
class _Part:
    """A file or shard: its path, the ranges it is read in, and which of its events are taken if not all."""

    path: str
    ranges: list[tuple[int, int]]
    chosen: Chosen | None


class EventStream:
    """A source of batches.

    Args:
        files: ROOT files, globs, folders, or folders of shards.
        tasks: tasks whose truth is read.
        batch_size: events a batch of this process; the last batch of an unshuffled epoch is what remains.
        buffer_events: events held and shuffled among themselves; two such buffers are in memory.
        npho_branch: branch of the counts, of the vocabulary or as the files call `npho`.
        time_branch: branch of the times, likewise.
        tree: name of the tree.
        names: canonical branch name -> name in the files.
        seed: of the order of events.
        shuffle: order by (seed, epoch) and drop what does not fill a batch; else the files' order, all events.
        background: read the next buffer while this one is used.
        workers: threads that decompress and place events.
        rank: which of `world` processes this is; each has its own events and the same number of batches.
        world: number of processes.
        weights: from truth by task, (B, size) each, to weights (B,); all 1 without it.
        pin_memory: keep buffers in memory from which a GPU copies without waiting.
        cut: what is taken of the files, which are looked at for it once; the rest is never there.

    Attributes:
        left: events in the files, and how many each step of the cut leaves.

    Raises:
        InputError: files cannot be read, hold fewer events than a batch, or have bad truth; none is left by the cut.
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
        names: Mapping[str, str] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        background: bool = True,
        workers: int = 1,
        rank: int = 0,
        world: int = 1,
        weights: Weigher | None = None,
        pin_memory: bool = False,
        cut: Cut | None = None,
    ) -> None:
        self.batch_size, self.seed, self.shuffle, self.background = batch_size, seed, shuffle, background
        self.workers, self.rank, self.world = max(1, workers), rank, world
        self.weights, self.pin_memory = weights, pin_memory
        self.cut, self.left = cut or Cut(), Left()
        keep_freed_memory()
        self._tree = tree
        pair, self._names = branch_names(npho_branch, time_branch, names or {})
        self.layout = Layout(*pair, tuple(tasks))
        self.files = source.expand(files)
        self._parts = self._scan()
        self._ranges = Ranges.of([part.ranges for part in self._parts])
        self.n_events = self._ranges.n_events
        if shuffle and self.n_events < batch_size * world:
            hold = "and the others hold" if len(self.files) > 1 else "holds"
            raise InputError(
                f"{self.files[0]} {hold} {number_of(self.n_events)}, "
                f"fewer than one batch of {batch_size}{f' for each of {world} processes' if world > 1 else ''}"
                f"{f', after {self.cut.named()}' if self.cut else ''}; use more events or a smaller batch."
            )
        if self.n_events < world:
            raise InputError(
                f"{self.files[0]} holds {number_of(self.n_events)}, fewer than {world} processes; use more events."
            )
        if missing := [task for task in getattr(weights, "tasks", ()) if task not in tasks]:
            raise InputError(
                f"reweighting.{missing[0]} needs the truth of '{missing[0]}'; switch on tasks.{missing[0]} too."
            )
        self._edges = batch_edges(self.n_events, batch_size, rank, world, shuffle)
        self.n_batches = len(self._edges) - 1
        self._buffer_batches = min(max(1, buffer_events // batch_size), self.n_batches)

    def _scan(self) -> list[_Part]:
        """Ranges of all files with events; missing branches are found here, before any work."""
        sensors = [self.layout.npho, self.layout.time]
        opened: dict[str, tuple[bool, list[int]]] = {}
        chosen: dict[str, Chosen] = {}
        left: dict[str, Left] = {}
        for path in self.files:
            if path not in opened:
                with source.open_events(path, self._tree, self._names) as reader:
                    reader.arrays(self.layout.columns(reader), 0, min(1, reader.n_events))
                    left[path] = Left(reader.n_events)
                    if self.cut:
                        chosen[path], left[path] = look(reader, self.cut)
                with open_selected(path, self._tree, self._names, chosen.get(path)) as reader:
                    opened[path] = (source.is_shard(path), reader.boundaries(sensors))
            self.left.add(left[path])
        check_some_left(self.left, self.cut, self.files)
        total = sum(opened[path][1][-1] for path in self.files)
        if not total:
            raise InputError(f"{self.files[0]} holds no events; name files with events.")
        sizes = {False: _RANGE_EVENTS, True: max(_SHARD_RANGE_EVENTS, total // _MOST_RANGES)}
        ranges = {path: rootio.ranges(edges, sizes[shard]) for path, (shard, edges) in opened.items()}
        return [_Part(path, ranges[path], chosen.get(path)) for path in self.files]

    @property
    def fingerprint(self) -> str:
        """Hash (16 hex digits) of all that the order of events depends on, but not of where the files are.

        A position (epoch, batch) has a meaning only for a stream of the same fingerprint.
        """
        digest = hashlib.sha256()
        digest.update(repr((self.seed, self.batch_size, self._buffer_batches, self.shuffle, self.world)).encode())
        if self.cut:
            digest.update(repr(self.taken()).encode())
        for column in (self._ranges.file, self._ranges.start, self._ranges.length):
            digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def truth_ends(self, tasks: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Least and greatest truth of tasks of one number in all events of all processes."""
        ends = dict.fromkeys(tasks, (math.inf, -math.inf))
        chosen = {part.path: part.chosen for part in self._parts}
        for path, some in chosen.items() if ends else ():
            branches = [TASKS[task].truth for task in tasks]
            for _, chunk in read_selected(
                path, branches, some, tree=self._tree, chunk_events=_TRUTH_EVENTS, names=self._names
            ):
                for task, (low, high) in ends.items():
                    truth = chunk[TASKS[task].truth]
                    finite = truth[np.isfinite(truth)]
                    ends[task] = (
                        min(low, float(finite.min(initial=math.inf))),
                        max(high, float(finite.max(initial=-math.inf))),
                    )
        return ends

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, from batch `first_batch` on."""
        order = self._ranges.shuffled(self.seed, epoch) if self.shuffle else self._ranges.in_order()
        buffers = Buffers(self.layout, self._largest_buffer(), self.pin_memory)
        todo = range(first_batch - first_batch % self._buffer_batches, self.n_batches, self._buffer_batches)
        with _Loader(self, order, epoch, buffers) as load:
            ahead: Future[Buffer] | None = None
            for batch in todo:
                # where nothing is ready yet, nothing else has work for the processors
                threads = max(self.workers, _processors() // self.world) if self.background else self.workers
                tensors = (ahead.result() if ahead else load(batch, threads)).lease()
                ahead, following = None, min(batch + self._buffer_batches, self.n_batches)
                # whoever asks for the second batch of a buffer has let go of the buffer before, which is filled next
                start_at = following - batch > 1
                for i in range(max(batch, first_batch), following):
                    if self.background and following < self.n_batches and ahead is None and i >= batch + start_at:
                        ahead = load.later(following)
                    first, after = int(self._edges[i]), int(self._edges[i + 1])
                    yield self._batch(tensors, first - int(self._edges[batch]), after - first, first)
                del tensors

    def _largest_buffer(self) -> int:
        starts = self._edges[:: self._buffer_batches]
        return int(np.diff(np.append(starts, self._edges[-1])).max())

    def _batch(self, tensors: Mapping[str, Tensor], start: int, events: int, place: int) -> Batch:
        part = {name: values[start : start + events] for name, values in tensors.items()}
        truth = {task: part[f"truth.{task}"] for task in self.layout.tasks}
        return Batch(
            part["npho"], part["time"], part["valid"], part["timed"], truth, part["run"], part["event"], part["weight"],
            position=place,
        )  # fmt: skip

    def extent(self, batch: int) -> tuple[int, int]:
        """First and last + 1 position in the epoch of the buffer that begins with a batch."""
        last = min(batch + self._buffer_batches, self.n_batches)
        return int(self._edges[batch]), int(self._edges[last])

    def taken(self) -> dict[str, Any]:
        """What is taken of the files and what that leaves, for the record of a run; empty where all are."""
        return {"cut": self.cut.named(), **self.left.as_dict()} if self.cut else {}

    def open(self, file: int) -> AbstractContextManager[source.Events]:
        """A file of the stream, by its number, as if it held none but the events that are taken."""
        part = self._parts[file]
        return open_selected(part.path, self._tree, self._names, part.chosen)

    def shared_with(self, file: int, other: EventStream, number: int) -> int:
        """Events of a file that another stream takes too, whose file of that number is the same."""
        mine, theirs = self._parts[file].chosen, other._parts[number].chosen
        if mine is not None and theirs is not None:
            return mine.in_common(theirs)
        return len(mine) if mine is not None else len(theirs) if theirs is not None else self._events(file)

    def _events(self, file: int) -> int:
        return sum(stop - start for start, stop in self._parts[file].ranges)


class _Loader:
    """Fills buffers of an epoch, with threads, and keeps files open in between."""

    _MOST_OPEN = 16

    def __init__(self, stream: EventStream, order: Order, epoch: int, buffers: Buffers) -> None:
        self._stream, self._order, self._epoch, self._buffers = stream, order, epoch, buffers
        self._open: dict[str, tuple[ExitStack, source.Events]] = {}

    def __enter__(self) -> _Loader:
        self._background = ThreadPoolExecutor(1, "xecml-read")
        return self

    def __exit__(self, *_: object) -> None:
        self._background.shutdown(cancel_futures=True)
        for stack, _reader in self._open.values():
            stack.close()

    def later(self, batch: int) -> Future[Buffer]:
        """The buffer that begins with a batch, filled in the background."""
        return self._background.submit(self, batch, self._stream.workers)

    def __call__(self, batch: int, threads: int) -> Buffer:
        begin, end = self._stream.extent(batch)
        buffer = self._buffers.take(end - begin)
        where = np.arange(end - begin)
        if self._stream.shuffle:
            where = np.random.default_rng((self._stream.seed, self._epoch, begin)).permutation(end - begin)
        tasks, done = [], 0
        for spans in _together(self._order.spans(begin, end)):
            events = sum(b - a for _, a, b in spans)
            reader = self._reader(spans[0][0])
            tasks.append((reader, [(a, b) for _, a, b in spans], where[done : done + events]))
            done += events
        layout, weights = self._stream.layout, self._stream.weights
        if threads == 1:
            for reader, ranges, places in tasks:
                fill(layout, reader, ranges, places, buffer, weights)
        else:
            with ThreadPoolExecutor(threads, "xecml-decode") as pool:
                for future in [pool.submit(fill, layout, *task, buffer, weights) for task in tasks]:
                    future.result()
        self._close_idle()
        return buffer

    def _reader(self, file: int) -> source.Events:
        path = self._stream.files[file]
        if path not in self._open:
            stack = ExitStack()
            self._open[path] = (stack, stack.enter_context(self._stream.open(file)))
        else:
            self._open[path] = self._open.pop(path)  # the most recently used last
        return self._open[path][1]

    def _close_idle(self) -> None:
        while len(self._open) > self._MOST_OPEN:
            stack, _reader = self._open.pop(next(iter(self._open)))
            stack.close()


def _together(spans: Sequence[Span], most: int = 512) -> Iterator[list[Span]]:
    """Spans in groups of one file and few events: what one thread does at a time."""
    group: list[Span] = []
    for span in spans:
        events = sum(b - a for _, a, b in group)
        if group and (span[0] != group[0][0] or events + span[2] - span[1] > most):
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _processors() -> int:
    """Processors that this process may use, at most so many as help."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(own, _MOST_WAITING)


def buffer_events(chunksize: int, buffer_mb: float, batch_size: int) -> int:
    """Events of a shuffling buffer: at most `chunksize` and `buffer_mb`, at least one batch."""
    return max(batch_size, min(chunksize, int(buffer_mb * 1e6 / EVENT_BYTES)))
