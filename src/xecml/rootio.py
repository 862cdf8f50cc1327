"""ROOT files in and out. Nothing else in the package knows uproot.

Reads TTrees and RNTuples by path, glob, directory, list or URL, in chunks of bounded memory; writes TTrees
atomically. Branches come out in the types and shapes of `xecml.events`, whatever the file's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from xecml.errors import InputError, nearest
from xecml.events import BRANCHES, Chunk, relative_quantities
from xecml.files import atomic_path, expand

DEFAULT_TREE = "tree"
CHUNK_EVENTS = 2000

_COMPRESSION = {
    "lz4": uproot.LZ4(1),
    "zlib": uproot.ZLIB(1),
    "zstd": uproot.ZSTD(1),
    "none": None,
}


class TreeReader:
    """An open tree: its branches, its number of events, and its arrays by entry range.

    Args:
        path: file name or URL, for messages.
        tree: uproot's TTree or RNTuple.
        names: canonical name -> name in the file, for branches under other names.
    """

    def __init__(self, path: str, tree: Any, names: Mapping[str, str]) -> None:
        self.path = path
        self.tree_name = str(tree.name)
        self._tree = tree
        self._names = dict(names)
        # an RNTuple lists the parts of a field too: x and x._0
        self.in_file = frozenset(k for k in tree.keys() if "." not in k)
        self.n_events = int(tree.num_entries)

    def has(self, branch: str) -> bool:
        """Whether the file holds the branch, under its canonical or its mapped name."""
        return self._names.get(branch, branch) in self.in_file

    def known(self) -> list[str]:
        """Branches of the event vocabulary that the file holds."""
        return [b for b in BRANCHES if self.has(b)]

    def arrays(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        """Read branches of the events `start` to `stop`, in the vocabulary's types and shapes.

        `relative_npho` and `relative_time` are derived where the file lacks them.

        Raises:
            InputError: a branch is missing or has another shape, or the file is damaged.
        """
        stored = [b for b in branches if self.has(b)]
        missing = [b for b in branches if b not in stored]
        derived = [b for b in missing if b.startswith("relative_") and self.has("npho") and self.has("time")]
        if len(derived) < len(missing):
            name = self._names.get(missing[0], missing[0])
            raise InputError(
                f"{self.path} has no branch '{name}' in '{self.tree_name}'{nearest(name, self.in_file)}; "
                f"it has {_listing(self.in_file)}."
            )
        needed = set(stored) | ({"npho", "time"} | ({"nphe"} & self.in_file) if derived else set())
        chunk = self._read(sorted(needed), start, stop)
        if derived:
            relative = relative_quantities(chunk["npho"], chunk["time"], chunk.get("nphe"))
            chunk |= dict(zip(("relative_npho", "relative_time"), relative, strict=True))
        return {b: chunk[b] for b in branches}

    def _read(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        in_file = {b: self._names.get(b, b) for b in branches}
        with _readable(self.path):
            read = self._tree.arrays(list(in_file.values()), entry_start=start, entry_stop=stop)
            raw = {b: read[name] for b, name in in_file.items()}
        return {b: self._as_vocabulary(b, values) for b, values in raw.items()}

    def _as_vocabulary(self, branch: str, values: Any) -> NDArray[Any]:
        try:
            array: NDArray[Any] = ak.to_numpy(values, allow_missing=False)
        except ValueError as error:
            raise InputError(
                f"{self.path}: '{branch}' has entries of different lengths; {_shape_hint(branch)}"
            ) from error
        if branch not in BRANCHES:
            return array
        wanted = BRANCHES[branch]
        if wanted.shape == () and array.shape[1:] == (1,):
            array = array[:, 0]
        if array.shape[1:] != wanted.shape or array.dtype.kind not in "fiub":
            raise InputError(
                f"{self.path}: '{branch}' has shape {array.shape[1:]} and type {array.dtype}; {_shape_hint(branch)}"
            )
        return np.ascontiguousarray(array, wanted.dtype)


def _shape_hint(branch: str) -> str:
    if branch not in BRANCHES:
        return "name a branch of fixed length."
    wanted = BRANCHES[branch]
    return f"it must be {np.dtype(wanted.dtype).name} of shape {wanted.shape} an event."


def _listing(names: Iterable[str], most: int = 12) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "") or "none"


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn whatever uproot raises on a file that is not what it should be into one sentence."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"No such file: {path}; check the path.") from error
    except Exception as error:  # uproot raises dozens of types on damaged files
        first = (str(error).strip().splitlines() or [""])[0]
        detail = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise InputError(f"{path} cannot be read as a ROOT file; it is damaged or incomplete ({detail}).") from error


@contextmanager
def _open(path: str) -> Iterator[Any]:
    with _readable(path):
        file = uproot.open(path)
    with file:
        size = Path(path).stat().st_size if Path(path).is_file() else None
        # fEND of the header is where the file ended when it was closed
        if size is not None and size < file.file.fEND:
            raise InputError(
                f"{path} is truncated: {size} of {file.file.fEND} bytes are there; "
                "it is damaged or incomplete, copy it again."
            )
        yield file


def _trees(path: str, file: Any) -> list[str]:
    with _readable(path):
        classes = file.classnames(cycle=False)
    return [key for key, kind in classes.items() if kind == "TTree" or kind.endswith("RNTuple")]


def list_trees(path: str | Path) -> list[str]:
    """Names of the TTrees and RNTuples in a file."""
    with _open(str(path)) as file:
        return _trees(str(path), file)


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
        InputError: no such file, not a ROOT file, truncated, or no such tree.
    """
    name = str(path)
    with _open(name) as file:
        trees = _trees(name, file)
        if tree.split(";")[0] not in trees:
            raise InputError(f"{name} has no tree '{tree}'{nearest(tree, trees)}; it has {_listing(trees)}.")
        with _readable(name):
            opened = file[tree]
        yield TreeReader(name, opened, names or {})


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
                raise InputError(f"{path} has no known branch in '{tree}'; it has {_listing(reader.in_file)}.")
            wanted += [b for b in optional if reader.has(b) and b not in wanted]
            for start in range(0, reader.n_events, chunk_events):
                yield reader.arrays(wanted, start, min(start + chunk_events, reader.n_events))


def count_events(files: str | Path | Iterable[str | Path], tree: str = DEFAULT_TREE) -> int:
    """Return the number of events in files, from their headers alone."""
    total = 0
    for path in expand(files):
        with open_tree(path, tree) as reader:
            total += reader.n_events
    return total


class TreeWriter:
    """Write a TTree in chunks; the file appears under its name only when all of it is written.

    Use as a context manager and call `extend` with dictionaries of arrays of equal length.
    """

    def __init__(self, path: str | Path, tree: str = DEFAULT_TREE, compression: str = "lz4") -> None:
        if compression not in _COMPRESSION:
            raise InputError(f"Unknown compression '{compression}'; choose one of {', '.join(_COMPRESSION)}.")
        self.path, self.tree_name = Path(path), tree
        self.n_events = 0
        self._compression = _COMPRESSION[compression]
        self._tree: Any = None
        self._columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def __enter__(self) -> TreeWriter:
        self._atomic = atomic_path(self.path)
        self._file = uproot.recreate(str(self._atomic.__enter__()), compression=self._compression)
        return self

    def extend(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Append events. The first call fixes names, types and shapes of the branches.

        Raises:
            ValueError: later arrays differ in names, types or shapes, or in length among themselves.
        """
        columns = {name: (values.dtype, values.shape[1:]) for name, values in arrays.items()}
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) != 1:
            raise ValueError(f"branches of different lengths: { {k: len(v) for k, v in arrays.items()} }")
        if self._tree is None:
            self._columns = columns
            self._tree = self._file.mktree(self.tree_name, {n: np.dtype(c) for n, c in columns.items()})
        if columns != self._columns:
            raise ValueError(f"branches changed from {self._columns} to {columns}")
        if lengths != {0}:
            self._tree.extend(dict(arrays))
        self.n_events += lengths.pop()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        finally:
            self._atomic.__exit__(kind, value, trace)


def write(
    path: str | Path,
    arrays: Mapping[str, NDArray[Any]],
    *,
    tree: str = DEFAULT_TREE,
    compression: str = "lz4",
) -> None:
    """Write arrays with equal first dimension as one TTree, atomically."""
    with TreeWriter(path, tree, compression) as writer:
        writer.extend(arrays)
