"""Reading and writing of ROOT files. No other part of the package uses uproot.

Reads TTrees and RNTuples by path, glob, directory, list or URL, in chunks of bounded memory; writes TTrees
atomically. Branches come out in the types and shapes of `xecml.events`, whatever the file's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from xecml.errors import InputError, nearest
from xecml.events import Chunk
from xecml.files import expand
from xecml.rootio.opening import bytes_after_end, listing, opened, readable, tree_names
from xecml.rootio.treereader import TreeReader
from xecml.rootio.treewriter import DEFAULT_TREE, TreeWriter, write

__all__ = [
    "DEFAULT_TREE", "TreeReader", "TreeWriter", "count_events", "identity", "list_trees", "open_tree", "ranges",
    "read", "read_text", "write",
]  # fmt: skip
CHUNK_EVENTS = 2000


def list_trees(path: str | Path) -> list[str]:
    """Names of the TTrees and RNTuples in a file."""
    with opened(str(path)) as file:
        return tree_names(str(path), file)


def identity(path: str | Path) -> str:
    """What tells a ROOT file from others and from itself after a change: the number it was given, and its length.

    Raises:
        InputError: no such file, or no ROOT file.
    """
    with opened(str(path)) as file, readable(str(path)):
        return f"{file.file.uuid.hex}-{int(file.file.fEND)}"


def read_text(path: str | Path, name: str) -> str | None:
    """The text under a name in a file beside its trees, as `TreeWriter.add_text` writes it; None if there is none.

    Raises:
        InputError: no such file, or no ROOT file.
    """
    with opened(str(path)) as file:
        if name not in file or file.classname_of(name) != "TObjString":
            return None
        with readable(str(path)):
            return str(file[name])


@contextmanager
def open_tree(
    path: str | Path, tree: str = DEFAULT_TREE, names: Mapping[str, str] | None = None
) -> Iterator[TreeReader]:
    """Open one tree of one file.

    Args:
        path: file name or URL.
        tree: name of the TTree or RNTuple; the highest cycle is taken.
        names: canonical branch name -> name in the file.

    Raises:
        InputError: no such file, not a ROOT file, truncated, not closed, or no such tree.
    """
    name = str(path)
    with opened(name) as file:
        trees = tree_names(name, file)
        if tree not in (trees if ";" not in tree else file.keys()):
            raise InputError(f"{name} has no tree '{tree}'{nearest(tree, trees)}; it has {listing(trees)}.")
        with readable(name):
            found = file[tree]
        yield TreeReader(name, found, names or {}, bytes_after_end(name, file))


def read(
    files: str | Path | Iterable[str | Path],
    branches: Sequence[str] | None = None,
    *,
    tree: str = DEFAULT_TREE,
    chunk_events: int = CHUNK_EVENTS,
    names: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
) -> Iterator[Chunk]:
    """Read files in chunks of at most `chunk_events` events, one file after the other.

    Args:
        files: path, glob, directory, URL, or a list of them.
        branches: what to read; all known branches of each file by default.
        tree: name of the tree.
        chunk_events: bound on the events of a chunk, and with it on memory.
        names: canonical branch name -> name in the file.
        optional: branches to read too where a file has them.

    Yields:
        Dictionaries of arrays, events along the first axis. Empty files yield nothing.

    Raises:
        InputError: files, tree or branches are missing, of wrong shape, or damaged.
    """
    for path in expand(files):
        with open_tree(path, tree, names) as reader:
            wanted = list(branches) if branches is not None else reader.known()
            if not wanted:
                raise InputError(f"{path} has no known branch in '{tree}'; it has {listing(reader.in_file)}.")
            wanted += [b for b in optional if reader.has(b) and b not in wanted]
            for start, stop in ranges(reader.boundaries(wanted), chunk_events):
                yield reader.arrays(wanted, start, stop)


def ranges(boundaries: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Cut entries into ranges of at most `most`, along `boundaries` where these are not further apart than that.

    Args:
        boundaries: ascending entry numbers from 0 to the number of events.
        most: events a range, at most.
    """
    found, start = [], boundaries[0]
    for here, after in zip(boundaries, [*boundaries[1:], None], strict=True):
        if here > start and (after is None or after - start > most):
            edges = [*range(start, here, most), here]
            found += list(pairwise(edges))
            start = here
    return found


def count_events(files: str | Path | Iterable[str | Path], tree: str = DEFAULT_TREE) -> int:
    """Return the number of events in files, from their headers alone."""
    total = 0
    for path in expand(files):
        with open_tree(path, tree) as reader:
            total += reader.n_events
    return total
