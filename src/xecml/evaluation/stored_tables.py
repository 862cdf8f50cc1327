"""Prediction files as tables on disk: a column is read when it is needed, and only some columns stay in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.files import expand
from xecml.rootio import open_tree

_KEPT_BYTES = 128_000_000
"""Of columns that are kept in memory: a hundred of 300,000 events, or eight of four million."""


class StoredTable(Mapping[str, NDArray[Any]]):
    """Columns of prediction files, events along the first axis, as `read_table` would give them.

    Memory holds some columns of 4 bytes an event, and what is computed of them, whatever number the files have.

    Args:
        files: of one model, as `read_table` takes them.
        tree: name of the tree.

    Raises:
        InputError: files or tree are missing or damaged, or the files hold different columns.
    """

    def __init__(self, files: str | Path | Iterable[str | Path], tree: str = "predictions") -> None:
        self.paths, self._tree = expand(files), tree
        self._kept: dict[str, NDArray[Any]] = {}
        self.n_events, self._names = 0, frozenset[str]()
        for path in self.paths:
            with open_tree(path, tree) as reader:
                names = reader.in_file
                self._names = self._names or names
                self.n_events += reader.n_events
            if odd := sorted(names ^ self._names):
                raise InputError(
                    f"{path} differs from the first prediction file in {', '.join(odd)}; give files of one model."
                )

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._kept:
            self._make_room(4 * self.n_events)
            self._kept[name] = self._read(name)
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _read(self, name: str) -> NDArray[Any]:
        parts = []
        for path in self.paths:
            with open_tree(path, self._tree) as reader:
                parts.append(reader.arrays([name], 0, reader.n_events)[name])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _make_room(self, wanted: int) -> None:
        """Let go of the columns that were read first."""
        while self._kept and sum(kept.nbytes for kept in self._kept.values()) + wanted > _KEPT_BYTES:
            del self._kept[next(iter(self._kept))]


class Rows(Mapping[str, NDArray[Any]]):
    """Some rows of a table in an order of their own, taken of a column when it is asked for."""

    def __init__(self, table: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> None:
        self._table, self._rows = table, rows

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._table[name][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table


class Reconstructed(Mapping[str, NDArray[Any]]):
    """A table whose predictions are those of the reconstruction in it: columns `reco_` under the names `pred_`."""

    def __init__(self, table: Mapping[str, NDArray[Any]]) -> None:
        self._table = table
        self._own = {f"pred_{n.removeprefix('reco_')}": n for n in table if n.startswith("reco_")}
        hidden = ("pred_", "sigma_", "opening_angle", "outlier", "pileup_share")
        self._names = [n for n in table if not n.startswith(hidden)] + list(self._own)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._table[self._own.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
