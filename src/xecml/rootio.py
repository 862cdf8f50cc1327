"""ROOT files in and out. Nothing else in the package knows uproot.

Reads TTrees and RNTuples by path, glob, directory, list or URL, in chunks of bounded memory; writes TTrees
atomically. Branches come out in the types and shapes of `xecml.events`, whatever the file's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from xecml.errors import InputError, nearest
from xecml.events import BRANCHES, Chunk, relative_quantities
from xecml.files import expand
from xecml.treewriter import DEFAULT_TREE, TreeWriter, write

__all__ = [
    "DEFAULT_TREE", "TreeReader", "TreeWriter", "count_events", "list_trees", "open_tree", "ranges", "read", "write",
]  # fmt: skip
CHUNK_EVENTS = 2000

_MANY_BASKETS = 8
"""Above this number a range is read by uproot as a whole, in one request, and not basket by basket."""


class TreeReader:
    """An open tree: its branches, its number of events, and its arrays by entry range; threads may share it.

    Args:
        path: file name or URL, for messages.
        tree: uproot's TTree or RNTuple.
        names: canonical name -> name in the file, for branches under other names.
    """

    def __init__(self, path: str, tree: Any, names: Mapping[str, str]) -> None:
        self.path = path
        self.tree_name = str(tree.name)
        self._tree = tree
        # an RNTuple lists the parts of a field too: x and x._0
        self.in_file = frozenset(k for k in tree.keys() if "." not in k or isinstance(tree, uproot.TTree))
        self._names = dict(names)
        self.n_events = int(tree.num_entries)
        self._plain: dict[str, Any] = {}
        self._baskets: dict[str, tuple[int, NDArray[Any]]] = {}

    def has(self, branch: str) -> bool:
        """Whether the file holds the branch, under its canonical or its mapped name."""
        return self._names.get(branch, branch) in self.in_file

    def is_jagged(self, branch: str) -> bool:
        """Whether entries of a branch have lengths of their own, as far as the file says so without being read."""
        with _readable(self.path):
            found = self._tree[self._names.get(branch, branch)]
        return isinstance(getattr(found, "interpretation", None), uproot.AsJagged)

    def known(self) -> list[str]:
        """Branches of the event vocabulary that the file holds."""
        return [b for b in BRANCHES if self.has(b)]

    def arrays(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        """Read branches of the events `start` to `stop`, in the vocabulary's types and shapes.

        `relative_npho` and `relative_time` are derived where the file lacks them.

        Raises:
            InputError: a branch is missing or has another shape, or the file is damaged.
        """
        stored, derived = self._sources(branches)
        chunk = self._read(stored, start, stop)
        if derived:
            relative = relative_quantities(chunk["npho"], chunk["time"], chunk.get("nphe"))
            chunk |= dict(zip(("relative_npho", "relative_time"), relative, strict=True))
        return {b: chunk[b] for b in branches}

    def raw(self, branch: str, start: int, stop: int) -> NDArray[Any]:
        """Events `start` to `stop` of one branch, in the vocabulary's shape but the file's byte order where it can.

        Unlike `arrays` this may be a view of decompressed data; it is valid while the file is open.
        """
        plain = self._plain_branch(branch) if self.has(branch) else None
        if plain is not None and plain.num_baskets:
            with _readable(self.path):
                values = self._stored(branch, plain, start, stop)
            if values.dtype.newbyteorder("=") == BRANCHES[branch].dtype and values.shape[1:] == BRANCHES[branch].shape:
                return values
        return self.arrays([branch], start, stop)[branch]

    def boundaries(self, branches: Sequence[str]) -> list[int]:
        """Entries from 0 to the number of events between which every branch is stored in whole baskets."""
        stored, _ = self._sources(branches)
        edges: set[int] | None = None
        for branch in stored:
            offsets = getattr(self._tree[self._names.get(branch, branch)], "entry_offsets", [])
            if len(offsets) > 1:  # a branch without baskets has its entries elsewhere
                edges = set(map(int, offsets)) if edges is None else edges.intersection(map(int, offsets))
        return sorted((edges or set()) | {0, self.n_events})

    def _sources(self, branches: Sequence[str]) -> tuple[list[str], list[str]]:
        """Branches to read for those asked for, and those of them to be derived."""
        missing = [b for b in branches if not self.has(b)]
        derived = [b for b in missing if b.startswith("relative_") and self.has("npho") and self.has("time")]
        if len(derived) < len(missing):
            name = self._names.get(missing[0], missing[0])
            raise InputError(
                f"{self.path} has no branch '{name}' in '{self.tree_name}'{nearest(name, self.in_file)}; "
                f"it has {_listing(self.in_file)}."
            )
        needed = {b for b in branches if b not in derived}
        needed |= {"npho", "time"} | ({"nphe"} if self.has("nphe") else set()) if derived else set()
        return sorted(needed), derived

    def _read(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        plain = {b: self._plain_branch(b) for b in branches}
        others = [b for b in branches if plain[b] is None]
        with _readable(self.path):
            raw = {b: self._stored(b, branch, start, stop) for b, branch in plain.items() if branch is not None}
            if others:
                in_file = {b: self._names.get(b, b) for b in others}
                read = self._tree.arrays(list(in_file.values()), entry_start=start, entry_stop=stop)
                raw |= {b: read[name] for b, name in in_file.items()}
        return {b: self._as_vocabulary(b, raw[b]) for b in branches}

    def _plain_branch(self, branch: str) -> Any:
        """The TBranch if its entries are numbers of a fixed shape, which need no awkward arrays; else None."""
        if branch not in self._plain:
            with _readable(self.path):
                found = self._tree[self._names.get(branch, branch)]
            numbers = type(getattr(found, "interpretation", None)) is uproot.AsDtype
            self._plain[branch] = found if numbers and found.interpretation.from_dtype.names is None else None
        return self._plain[branch]

    def _stored(self, branch: str, plain: Any, start: int, stop: int) -> NDArray[Any]:
        """Entries of a branch in the file's byte order, joined from its baskets where there are several."""
        offsets = plain.entry_offsets
        first, last = int(np.searchsorted(offsets, start, "right")) - 1, int(np.searchsorted(offsets, stop, "left"))
        if last - first > _MANY_BASKETS or start >= stop or "://" in self.path:
            whole: NDArray[Any] = plain.array(library="np", entry_start=start, entry_stop=stop)
            return whole
        parts = [
            self._basket(branch, plain, i, stop)[max(start - offsets[i], 0) : stop - offsets[i]]
            for i in range(first, last)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _basket(self, branch: str, plain: Any, index: int, stop: int) -> NDArray[Any]:
        """A decompressed basket; kept for the next call if it goes on beyond `stop`."""
        held, values = self._baskets.get(branch, (-1, np.empty(0)))
        if held != index:
            basket = plain.basket(index)
            dtype, shape = plain.interpretation.from_dtype, plain.interpretation.from_dtype.shape
            values = basket.data.view(dtype.base).reshape(basket.num_entries, *shape)
        if plain.entry_offsets[index + 1] > stop:
            self._baskets[branch] = (index, values)
        elif held == index:
            self._baskets.pop(branch, None)
        return values

    def _as_vocabulary(self, branch: str, values: Any) -> NDArray[Any]:
        try:
            array = values if isinstance(values, np.ndarray) else np.asarray(ak.to_numpy(values, allow_missing=False))
        except ValueError as error:
            raise InputError(
                f"{self.path}: '{branch}' has entries of different lengths; {_shape_hint(branch)}"
            ) from error
        if branch not in BRANCHES:
            return np.array(array, array.dtype.newbyteorder("="), order="C")
        wanted = BRANCHES[branch]
        if wanted.shape == () and array.shape[1:] == (1,):
            array = array[:, 0]
        if array.shape == (0, 0):  # jagged arrays of no events do not show their length
            array = np.empty((0, *wanted.shape), wanted.dtype)
        if array.shape[1:] != wanted.shape or array.dtype.kind not in "fiub":
            raise InputError(
                f"{self.path}: '{branch}' has shape {array.shape[1:]} and type {array.dtype}; {_shape_hint(branch)}"
            )
        kind = np.dtype(wanted.dtype)
        if kind.kind == "i" and array.dtype.kind in "iu" and array.size:
            bounds = np.iinfo(kind)
            if not (bounds.min <= array.min() and array.max() <= bounds.max):
                raise InputError(
                    f"{self.path}: '{branch}' reaches {array.max()}, which {kind} does not hold; "
                    "number the events anew."
                )
        # a copy in any case: baskets are views of what may be closed or read-only
        return np.array(array, wanted.dtype, order="C")


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
        if isinstance(error, ImportError):
            raise InputError(
                f"{path} needs a package that is not installed; for root:// addresses: pip install 'xecml[xrootd]'."
            ) from error
        if "://" in path and isinstance(error, OSError):
            raise InputError(f"{path} cannot be opened; check the address and the server ({first}).") from error
        raise InputError(f"{path} cannot be read as a ROOT file; it is damaged or incomplete ({detail}).") from error


@contextmanager
def _open(path: str) -> Iterator[Any]:
    local = "://" not in path
    # mapped files need no copy of their compressed bytes; caches would keep whole arrays of closed files
    options: dict[str, Any] = {"handler": uproot.MemmapSource} if local else {}
    with _readable(path):
        file = uproot.open(path, object_cache=None, array_cache=None, **options)
    with file:
        size = Path(path).stat().st_size if local else None
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
