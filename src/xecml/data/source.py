"""One interface for ROOT files and shards."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from xecml import files, rootio
from xecml.data.manifests import MANIFEST, shards_of
from xecml.data.shards import Shard
from xecml.events import Chunk


class Events(Protocol):
    """An open file of events."""

    path: str
    tree_name: str
    in_file: frozenset[str]
    n_events: int

    def has(self, branch: str) -> bool:
        """Whether the branch is there."""

    def is_jagged(self, branch: str) -> bool:
        """Whether entries of a branch have lengths of their own, as far as the file says so."""

    def known(self) -> list[str]:
        """Branches of the event vocabulary that are there."""

    def arrays(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        """Branches of the events `start` to `stop`."""

    def boundaries(self, branches: Sequence[str]) -> list[int]:
        """Entries at which reading is best begun."""


def is_shard(path: str | Path) -> bool:
    """Whether a path is a shard or a folder of shards, finished or not."""
    if files.is_url(path) or not files.is_folder(path):
        return False
    return (Path(path) / MANIFEST).is_file() or any(Path(path).glob("*shard_*"))


def expand(inputs: str | Path | Iterable[str | Path]) -> list[str]:
    """Expand ROOT files, globs, directories, URLs and folders of shards to paths of files and single shards.

    Raises:
        InputError: a name matches nothing, or shards are incomplete.
    """
    names = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    found: list[str] = []
    for name in map(str, names):
        matches = [name]
        if not files.is_url(name) and files.mode_of(name) is None and glob.has_magic(name):
            matches = sorted(glob.glob(name))  # noqa: PTH207 - absolute patterns too
        if any(is_shard(match) for match in matches):
            for match in matches:
                found += shards_of(match) if is_shard(match) else files.expand(match)
        else:
            found += files.expand(name)
    return found or files.expand([])


@contextmanager
def open_events(
    path: str | Path, tree: str = rootio.DEFAULT_TREE, names: Mapping[str, str] | None = None
) -> Iterator[Events]:
    """Open one ROOT file or one shard.

    Args:
        path: of `expand`.
        tree: name of the tree in a ROOT file.
        names: canonical branch name -> name in the file.

    Raises:
        InputError: it cannot be read.
    """
    if is_shard(path):
        yield Shard(path, names)
    else:
        with rootio.open_tree(path, tree, names) as reader:
            yield reader


def names_here(path: str | Path, tree: str, names: Mapping[str, str] | None) -> dict[str, str]:
    """Those of a model's names of branches that a file has; others stand under their usual names, or not at all."""
    if not names:
        return {}
    with open_events(path, tree) as reader:
        return {branch: name for branch, name in names.items() if name in reader.in_file}


def read(
    inputs: str | Path | Iterable[str | Path],
    branches: Sequence[str] | None = None,
    *,
    tree: str = rootio.DEFAULT_TREE,
    chunk_events: int = rootio.CHUNK_EVENTS,
    names: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
) -> Iterator[Chunk]:
    """Read files and shards in chunks of at most `chunk_events` events: `rootio.read` for both.

    Raises:
        InputError: files, tree or branches are missing, of wrong shape, or damaged.
    """
    for path in expand(inputs):
        if not is_shard(path):
            yield from rootio.read(path, branches, tree=tree, chunk_events=chunk_events, names=names, optional=optional)
            continue
        shard = Shard(path, names)
        wanted = list(branches) if branches is not None else shard.known()
        wanted += [b for b in optional if shard.has(b) and b not in wanted]
        for start, stop in rootio.ranges(shard.boundaries(wanted), chunk_events):
            yield shard.arrays(wanted, start, stop)


def count_events(inputs: str | Path | Iterable[str | Path], tree: str = rootio.DEFAULT_TREE) -> int:
    """Number of events in files and shards, from their headers alone."""
    total = 0
    for path in expand(inputs):
        with open_events(path, tree) as reader:
            total += reader.n_events
    return total
