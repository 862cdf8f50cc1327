"""Parts of event files, read in chunks one after the other for those who compute with them elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.conditions import Correction
from xecml.data import source
from xecml.data.selected_events import Chosen, read_selected
from xecml.data.shards import Shard
from xecml.errors import InputError, nearest
from xecml.events import TASKS, Chunk
from xecml.rootio.opening import listing

EXTRA_TRUTH = ("xyzTruth", "xyzVTX")
_CORRECTED = ("npho", "time", "nphe")
"""What relative counts and times are made anew of, where conditions change it."""
RECONSTRUCTED = {name: task.reconstructed for name, task in TASKS.items() if task.reconstructed}
"""Branches of reconstructed quantities by task."""
CARRIED = ("run", "event", *sorted({task.truth for task in TASKS.values()}), *EXTRA_TRUTH, *RECONSTRUCTED.values())
"""Branches that go into predictions where a file has them."""


_FORGET_EVENTS = 2048
"""After so many the memory of what was read of a mapped file is given back; they take some 60 MB."""


class Part(NamedTuple):
    """Entries of a file, one after the other.

    Attributes:
        path: of the file.
        start: first entry.
        stop: entry after the last.
        before: events of the files before it, by which events without a number are numbered.
    """

    path: str
    start: int
    stop: int
    before: int


class Read(NamedTuple):
    """A chunk of a part.

    Attributes:
        owner: whose part it is, such as the number of an output.
        path: of the file.
        numbers: of the events, counted through all files (N,).
        chunk: branches by canonical name, corrected where conditions were given.
        kept: branches that are passed through as they are in the file.
    """

    owner: int
    path: str
    numbers: NDArray[np.int64]
    chunk: Chunk
    kept: Chunk


@dataclass(frozen=True)
class Wanted:
    """What is read of every file.

    Attributes:
        branches: counts and times of the model.
        names: canonical branch name -> name in the files, where they have it.
        tree: name of the tree.
        chunk_events: events of a chunk, at most; fewer where baskets end.
        keep: branches to pass through.
    """

    branches: tuple[str, str]
    names: Mapping[str, str]
    tree: str = rootio.DEFAULT_TREE
    chunk_events: int = 256
    keep: tuple[str, ...] = ()

    def optional(self, *, corrected: bool) -> tuple[str, ...]:
        """Branches to read where a file has them."""
        return (*CARRIED, *_CORRECTED) if corrected else CARRIED


def read_parts(
    parts: Sequence[tuple[int, Part]], wanted: Wanted, corrections: Mapping[int, Correction] | None = None
) -> Iterator[Read]:
    """Read parts of files in chunks, in their order; of a part without events one chunk of none.

    Args:
        parts: each with its owner.
        wanted: what is read.
        corrections: by owner; they are made before anything else, by the runs of the events.

    Raises:
        InputError: tree or branches are missing, of wrong shape, or damaged; a run has no conditions.
    """
    optional = wanted.optional(corrected=corrections is not None)
    for owner, part in parts:
        here = source.names_here(part.path, wanted.tree, wanted.names)
        with source.open_events(part.path, wanted.tree, here) as reader:
            branches = [*wanted.branches, *(b for b in optional if reader.has(b) and b not in wanted.branches)]
            inner = [edge for edge in reader.boundaries(branches) if part.start < edge < part.stop]
            ranges = rootio.ranges([part.start, *inner, part.stop], wanted.chunk_events)
            read = 0
            for start, stop in ranges or [(part.start, part.stop)]:
                read += stop - start
                if read >= _FORGET_EVENTS and isinstance(reader, rootio.TreeReader):
                    reader.forget_pages()
                    read = 0
                chunk = reader.arrays(branches, start, stop)
                kept = {name: as_stored(reader, name, start, stop) for name in wanted.keep}
                if corrections is not None:
                    chunk |= corrections[owner](part.path, chunk)
                yield Read(owner, part.path, part.before + np.arange(start, stop), chunk, kept)


def read_chosen(
    paths: Sequence[str],
    wanted: Wanted,
    chosen: Mapping[str, Chosen] | None = None,
    correction: Correction | None = None,
) -> Iterator[Read]:
    """Read files in chunks, in their order; of files in `chosen` only those events.

    Raises:
        InputError: see `read_parts`.
    """
    before = 0
    options: dict[str, Any] = {"tree": wanted.tree, "chunk_events": wanted.chunk_events}
    options["optional"] = wanted.optional(corrected=correction is not None)
    for path in paths:
        options["names"] = source.names_here(path, wanted.tree, wanted.names)
        for entries, chunk in read_selected(path, wanted.branches, (chosen or {}).get(path), **options):
            if correction is not None:
                chunk |= correction(path, chunk)
            yield Read(0, path, before + entries, chunk, {})
        before += source.count_events(path, wanted.tree)


def as_stored(reader: source.Events, branch: str, start: int, stop: int) -> NDArray[Any]:
    """Events `start` to `stop` of a branch in the type and shape that the file has.

    Raises:
        InputError: there is no such branch, or it does not hold numbers of a fixed shape.
    """
    if not reader.has(branch):
        raise InputError(
            f"{reader.path} has no branch '{branch}' to keep{nearest(branch, reader.in_file)}; "
            f"it has {listing(reader.in_file)}."
        )
    if isinstance(reader, Shard):
        return reader.arrays([branch], start, stop)[branch]
    assert isinstance(reader, rootio.TreeReader)
    return reader.unchanged(branch, start, stop)
