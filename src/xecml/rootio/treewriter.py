"""TTrees written in chunks, atomically, and with equal bytes for equal arrays."""

from __future__ import annotations

import datetime
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import uproot
import xxhash
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.files import atomic_path
from xecml.outputs import mark

DEFAULT_TREE = "tree"
_COMPRESSION = {
    "lz4": uproot.LZ4(1),
    "zlib": uproot.ZLIB(1),
    "zstd": uproot.ZSTD(1),
    "none": None,
}
_FIXED_DATE = datetime.datetime(2000, 1, 1)
_CLOCK = threading.RLock()
_HEAD_BYTES = 1024
_MANY_BYTES = 500_000
"""Arrays of a chunk that are larger are worth a thread of their own."""
_BLOCK_BYTES = 2**24 - 1
"""ROOT compresses pieces of at most so many bytes."""
_PLACEHOLDER = uuid.UUID("c2b1d6f0-7e3a-4c58-9d41-5a0e6f8b2793")


_Blocks = deque[tuple[NDArray[np.uint8], "Future[Any]"]]


class Begun(NamedTuple):
    """A chunk that is going to be written, and its blocks that threads have begun to compress."""

    arrays: Mapping[str, NDArray[Any]]
    stored: dict[str, NDArray[Any]]
    blocks: _Blocks


class _Beforehand(uproot.LZ4):  # type: ignore[misc]
    """LZ4 of blocks that threads have compressed before they are asked for; of others as ever. The bytes are equal."""

    def __init__(self, level: int, pool: ThreadPoolExecutor) -> None:
        super().__init__(level)
        self._pool = pool
        self.next: _Blocks = deque()
        """Blocks of the chunk that is written, in the order of their storing."""

    @property
    def code_pair(self) -> tuple[int, int]:
        """Numbers of algorithm and level in the file, which uproot knows for its own classes alone."""
        return int(uproot.const.kLZ4), int(self.level)

    def begin(self, arrays: list[NDArray[Any]]) -> _Blocks:
        """Have arrays compressed, which must be as they are going to be stored, in the order of their storing."""
        begun: _Blocks = deque()
        for array in arrays:
            content = array.reshape(-1).view(np.uint8)
            for start in range(0, len(content), _BLOCK_BYTES):
                block = content[start : start + _BLOCK_BYTES]
                begun.append((block, self._pool.submit(super().compress, block)))
        return begun

    def compress(self, data: Any) -> Any:
        """Compress a block, or wait until that is done."""
        if self.next and _equal(self.next[0][0], np.frombuffer(data, np.uint8)):
            return self.next.popleft()[1].result()
        return super().compress(data)


def _equal(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether bytes are equal; eight at a time."""
    if len(one) != len(other):
        return False
    most = len(one) // 8 * 8
    parts = ((one[:most].view(np.uint64), other[:most].view(np.uint64)), (one[most:], other[most:]))
    return all(np.array_equal(a, b) for a, b in parts)


class TreeWriter:
    """Write a TTree in chunks; the file appears under its name only when all of it is written.

    Use as a context manager and call `extend` with dictionaries of arrays of equal length. Equal arrays in equal
    chunks give equal bytes, whatever the file's name and the time of day. The tree's title says which command made it.

    Args:
        path: of the file.
        tree: name of the tree.
        compression: lz4, zlib, zstd or none.
        threads: that compress the arrays of a chunk side by side, with lz4; 0 compresses them one after the other.
        ntuple: write an RNTuple in place of a TTree.
    """

    def __init__(
        self,
        path: str | Path,
        tree: str = DEFAULT_TREE,
        compression: str = "lz4",
        *,
        threads: int = 0,
        ntuple: bool = False,
    ) -> None:
        if compression not in _COMPRESSION:
            raise InputError(f"Unknown compression '{compression}'; choose one of {', '.join(_COMPRESSION)}.")
        self.path, self.tree_name = named_root(path), tree
        self.n_events, self._ntuple = 0, ntuple
        self._compression = _COMPRESSION[compression]
        self._pool = ThreadPoolExecutor(threads, "compress") if threads and compression == "lz4" else None
        if self._pool is not None:
            self._compression = _Beforehand(self._compression.level, self._pool)
        self._tree: Any = None
        self._columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._digest = xxhash.xxh3_128(tree.encode())

    def __enter__(self) -> TreeWriter:
        self._atomic = atomic_path(self.path)
        # an open file has no name that uproot could write into its header
        self._temporary = self._atomic.__enter__()
        self._handle = self._temporary.open("w+b")
        with _fixed_dates():
            self._file = uproot.recreate(
                self._handle, compression=self._compression, uuid_function=lambda: _PLACEHOLDER
            )
        return self

    def begin(self, arrays: Mapping[str, NDArray[Any]]) -> Begun:
        """Begin to compress a chunk that `extend` is given next, or next but one, while another is written."""
        stored, blocks = dict(arrays), _Blocks()
        if isinstance(self._compression, _Beforehand):
            large = [name for name, values in arrays.items() if values.nbytes > _MANY_BYTES]
            for name in large:
                stored[name] = np.ascontiguousarray(arrays[name], arrays[name].dtype.newbyteorder(">"))
            blocks = self._compression.begin([stored[name] for name in large])
        return Begun(arrays, stored, blocks)

    def extend(self, chunk: Mapping[str, NDArray[Any]] | Begun) -> None:
        """Append events. The first call fixes names, types and shapes of the branches.

        Raises:
            ValueError: later arrays differ in names, types or shapes, or in length among themselves.
        """
        begun = chunk if isinstance(chunk, Begun) else self.begin(chunk)
        arrays = begun.arrays
        columns = {name: (values.dtype, values.shape[1:]) for name, values in arrays.items()}
        lengths = {len(values) for values in arrays.values()}
        if len(lengths) != 1:
            raise ValueError(f"branches of different lengths: { {k: len(v) for k, v in arrays.items()} }")
        with _fixed_dates():
            if self._tree is None:
                self._columns = columns
                self._digest.update(repr(columns).encode())
                types = {n: np.dtype(c) for n, c in columns.items()}
                if self._ntuple:
                    self._tree = self._file.mkrntuple(self.tree_name, types, mark())
                else:
                    self._tree = self._file.mktree(self.tree_name, types, title=mark())
            if columns != self._columns:
                raise ValueError(f"branches changed from {self._columns} to {columns}")
            if lengths != {0}:
                if isinstance(self._compression, _Beforehand):
                    self._compression.next = begun.blocks
                self._tree.extend(begun.stored)
        for values in arrays.values():
            self._digest.update(np.ascontiguousarray(values).data)
        self.n_events += lengths.pop()

    def add_table(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one more tree, of a few rows, into the same file; the main tree must have been begun."""
        with _fixed_dates():
            types = {n: np.dtype((values.dtype, values.shape[1:])) for n, values in arrays.items()}
            self._file.mktree(name, types, title=mark()).extend(dict(arrays))
        for column, values in arrays.items():
            self._digest.update(f"{name} {column}".encode())
            self._digest.update(np.ascontiguousarray(values).data)

    def add_text(self, name: str, text: str) -> None:
        """Write text, such as JSON of what was done, beside the trees."""
        with _fixed_dates():
            self._file[name] = text
        self._digest.update(f"{name} {text}".encode())

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._handle, _fixed_dates():
                self._file.close()
            if kind is None:
                self._identify()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
            self._atomic.__exit__(kind, value, trace)

    def _identify(self) -> None:
        """Give the file an identity by its content: readers tell files apart by it when they cache."""
        with self._temporary.open("r+b") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(0)
            file.write(head.replace(_PLACEHOLDER.bytes, self._digest.digest()))


@contextmanager
def _fixed_dates() -> Iterator[None]:
    """While uproot writes, its clock stands still: keys and directories hold one fixed date.

    The function is uproot's own business: where a version has it no more, files are written with their dates.
    """
    with _CLOCK:  # what another thread has put there is not the original
        original = getattr(uproot._util, "datetime_to_code", None)
        if original is None:
            yield
            return
        uproot._util.datetime_to_code = lambda date: original(_FIXED_DATE)
        try:
            yield
        finally:
            uproot._util.datetime_to_code = original


def named_root(path: str | Path) -> Path:
    """The name of a ROOT file to write.

    Raises:
        InputError: it ends otherwise than in .root.
    """
    if Path(path).suffix != ".root":
        raise InputError(f"The output {path} would be a ROOT file; give it a name that ends in .root.")
    return Path(path)


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
