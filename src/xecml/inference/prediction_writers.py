"""Prediction files in the form that their name ends in: ROOT, parquet, CSV; each appears only when it is whole.

What is said of a file (how it was made, what conditions were applied) stands beside the tree of a ROOT file, in the
metadata of a parquet file, and, as CSV has no place for it, in `NAME.csv.json` beside that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.errors import InputError
from xecml.events import Chunk
from xecml.files import atomic_path
from xecml.outputs import mark

ENDINGS = (".root", ".parquet", ".csv")
MADE_BY = "made_by"
_ROWS, _BYTES = 16_384, 2**24
"""Rows are gathered up to so many, or so many bytes, before they are written: small pieces are read slowly."""


class Writer(Protocol):
    """A file that is being written."""

    def begin(self) -> None:
        """Open what will be the file."""

    def write(self, columns: Chunk) -> None:
        """Append rows; the first call fixes names, types and shapes of the columns."""

    def end(self, texts: Mapping[str, str]) -> None:
        """Say what there is to say of it, and close it."""


def described_in(path: Path) -> list[Path]:
    """Files that belong to an output, itself first."""
    return [path, *([path.with_name(f"{path.name}.json")] if path.suffix == ".csv" else [])]


def check_ending(path: Path, *, ntuple: bool = False) -> None:
    """Make sure that the ending of a name is a known file type, and that its library is installed.

    Raises:
        InputError: it does not, or a library is missing.
    """
    if path.suffix not in ENDINGS:
        raise InputError(
            f"The output {path} would be a ROOT file; give it a name that ends in .root, .parquet or .csv, or a folder."
        )
    if ntuple and path.suffix != ".root":
        raise InputError(f"--rntuple is for ROOT files, but {path} is none; leave it out, or end the name in .root.")
    if path.suffix == ".parquet":
        _parquet(path)


class PredictionFile:
    """Write rows of predictions; use as a context manager. The file appears at its end, and not at all on any error.

    Args:
        path: ends in one of `ENDINGS`.
        tree: name of the tree in a ROOT file.
        ntuple: write an RNTuple in place of a TTree.
    """

    def __init__(self, path: Path, tree: str, *, ntuple: bool = False) -> None:
        check_ending(path, ntuple=ntuple)
        self.path, self.rows = path, 0
        self._stack, self._texts = ExitStack(), dict[str, str]()
        self._held: list[Chunk] = []
        self._writer: Writer
        if path.suffix == ".root":
            self._writer = _Root(path, tree, self._stack, ntuple=ntuple)
        else:
            self._writer = (_Parquet if path.suffix == ".parquet" else _Csv)(path, self._stack)

    def __enter__(self) -> PredictionFile:
        self._writer.begin()
        return self

    def extend(self, columns: Chunk) -> None:
        """Append rows."""
        self._held.append(columns)
        self.rows += len(columns["run"])
        held = sum(len(part["run"]) for part in self._held)
        if held >= _ROWS or sum(v.nbytes for part in self._held for v in part.values()) >= _BYTES:
            self._flush()

    def add_text(self, name: str, text: str) -> None:
        """Say something of the file."""
        self._texts[name] = text

    def _flush(self) -> None:
        if self._held:
            whole = {name: np.concatenate([part[name] for part in self._held]) for name in self._held[0]}
            self._held.clear()
            self._writer.write(whole)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, value, trace)
            return
        with self._stack:  # what goes wrong here leaves nothing either
            self._flush()
            self._writer.end(self._texts)


def said_of(path: Path, name: str) -> str | None:
    """A text in the metadata of a prediction file; None if there is none, or if the file is no such file."""
    try:
        if path.suffix == ".root":
            return rootio.read_text(path, name)
        if path.suffix == ".parquet":
            found = _parquet(path).read_metadata(path).metadata or {}
            text = found.get(name.encode())
            return None if text is None else text.decode()
        content = json.loads(described_in(path)[1].read_text(encoding="utf-8"))
        return str(content[name]) if name in content else None
    except (OSError, ValueError, TypeError):  # damaged, another file of that name, not there
        return None


# ---------------------------------------------------------------------------------------------------- the forms


class _Root:
    def __init__(self, path: Path, tree: str, stack: ExitStack, *, ntuple: bool) -> None:
        self._made = rootio.TreeWriter(path, tree, ntuple=ntuple)
        self._stack, self._ntuple = stack, ntuple

    def begin(self) -> None:
        self._stack.enter_context(self._made)

    def write(self, columns: Chunk) -> None:
        self._made.extend(columns)

    def end(self, texts: Mapping[str, str]) -> None:
        for name, text in (({MADE_BY: mark()} if self._ntuple else {}) | dict(texts)).items():
            self._made.add_text(name, text)


class _Parquet:
    """Column chunks of some thousand rows; arrays of a fixed shape are lists of a fixed length."""

    _writer: Any
    """of the library, from the first rows on"""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._parquet, self._writer = _parquet(path), None

    def begin(self) -> None:
        self._temporary = self._stack.enter_context(atomic_path(self._path))

    def write(self, columns: Chunk) -> None:
        import pyarrow

        table = pyarrow.table({name: _listed(pyarrow, values) for name, values in columns.items()})
        if self._writer is None:
            self._writer = self._stack.enter_context(self._parquet.ParquetWriter(self._temporary, table.schema))
        self._writer.write_table(table)

    def end(self, texts: Mapping[str, str]) -> None:
        assert self._writer is not None
        self._writer.add_key_value_metadata({MADE_BY: mark(), **texts})
        self._writer.close()


def _listed(pyarrow: Any, values: NDArray[Any]) -> Any:
    array = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    for length in reversed(values.shape[1:]):
        array = pyarrow.FixedSizeListArray.from_arrays(array, length)
    return array


def _parquet(path: Path) -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path} needs pyarrow; install it with: pip install 'xecml[parquet]'.") from error
    return parquet


class _Csv:
    """A line of names, then a line an event; of arrays a column a number, `xyzVTX_0`; numbers as exact as they are."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._file: IO[bytes]
        self._names: list[str] = []

    def begin(self) -> None:
        self._about = self._stack.enter_context(atomic_path(described_in(self._path)[1]))
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._file = self._stack.enter_context(temporary.open("wb"))

    def write(self, columns: Chunk) -> None:
        flat = {
            name if values.ndim == 1 else f"{name}_{'_'.join(map(str, place))}": values[(slice(None), *place)]
            for name, values in columns.items()
            for place in np.ndindex(*values.shape[1:])
        }
        if not self._names:
            self._names = list(flat)
            self._file.write((",".join(flat) + "\n").encode())
        self._file.write(_lines(list(flat.values())))

    def end(self, texts: Mapping[str, str]) -> None:
        self._about.write_text(json.dumps({MADE_BY: mark(), **texts}, indent=1), encoding="utf-8")


def _lines(columns: list[NDArray[Any]]) -> bytes:
    """Columns (N,) as N lines; the shortest digits that give each number again."""
    parts: list[NDArray[np.uint8]] = []
    for i, values in enumerate(columns):
        # truth values as other programs read them
        numbers = values.astype(np.uint8) if values.dtype.kind == "b" else values
        text = np.ascontiguousarray(numbers.astype("S"))
        parts.append(text.view(np.uint8).reshape(len(text), -1))
        between = b"\n" if i == len(columns) - 1 else b","
        parts.append(np.full((len(text), 1), between[0], np.uint8))
    signs = np.concatenate(parts, 1)
    return bytes(signs[signs != 0].tobytes())
