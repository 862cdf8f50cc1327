"""Shards: events as raw arrays on disk, mapped into memory, for reading in any order.

A folder of shards holds `manifest.json` and folders `shard_00000`, ...; a shard holds its own `manifest.json` and a
file a column, rows of one event each, little-endian. In the form `float32` sensor branches are as they were in the
source. In the form `compact` they take 16 bits:

    count = (code / 32)^2 of photons, (code / 65535)^2 of relative counts         code 0: not measured
            code 65535 of photons: read, but nothing was there (0)
    time  = first + (code - 1) step, first and step of the event's own             code 0: not measured

A count is then wrong by at most sqrt(count) / 32 (of relative counts sqrt(count) / 65535), 1/80 or less of the
statistics of its photoelectrons, and a time by half a step, which is 1 ps, or 1/65533 of the event's range of times
where that is longer than 65 ns. Every block of 512 events has a checksum for each column, looked at when the block is
first read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from xecml.data import kernels
from xecml.data.manifests import BLOCK_EVENTS, MANIFEST, STEPS, VERSION, Column, inside, shard_of
from xecml.errors import InputError, nearest
from xecml.events import BRANCHES, Chunk, read_counts, relative_quantities, valid_counts, valid_times

_FIRST_WITH_DARK = 2
"""Version since which compact shards tell dark sensors from those not measured."""
_COUNT_SCALE = {"npho": 1 / 32, "nphe": 1 / 32, "relative_npho": 1 / 65535}
_LARGEST_CODE = 65535
_SHORTEST_STEP = 1e-12
_LONGEST_STEP = 20e-12
_LOOKED_AT: dict[tuple[str, int], dict[str, bytearray]] = {}
"""By shard and column, which blocks had their checksums looked at in this process: once is enough."""


class Shard:
    """A shard, open for reading: `arrays` and `place` in any order of events; threads may share it.

    Raises:
        InputError: the shard is damaged, of another geometry, or incomplete.
    """

    def __init__(self, path: str | Path, names: Mapping[str, str] | None = None) -> None:
        self.path = str(path)
        self.tree_name = Path(path).name
        self.manifest = shard_of(path)
        self.n_events = self.manifest.events
        self._names = dict(names or {})
        self._encodings = self.manifest.branches
        self.in_file = frozenset(self._encodings)
        self._columns = {name: self._map(column) for name, column in self.manifest.columns.items()}
        key = (str(Path(path).resolve()), (Path(path) / MANIFEST).stat().st_mtime_ns)
        blank = {name: bytearray(len(c.checksums)) for name, c in self.manifest.columns.items()}
        self._looked_at = _LOOKED_AT.setdefault(key, blank)

    def has(self, branch: str) -> bool:
        """Whether the shard holds the branch, under its canonical or its mapped name."""
        return branch in self.in_file or self._names.get(branch, branch) in self.in_file

    def is_jagged(self, branch: str) -> bool:
        """Never: rows have a fixed length."""
        return False

    def known(self) -> list[str]:
        """Branches of the event vocabulary that the shard holds."""
        return [b for b in BRANCHES if self.has(b)]

    def boundaries(self, branches: Sequence[str]) -> list[int]:
        """Entries between which blocks lie; every one of them is as good a start as another."""
        self._check_present(branches)
        return [*range(0, self.n_events, BLOCK_EVENTS), self.n_events]

    def arrays(self, branches: Sequence[str], start: int, stop: int) -> Chunk:
        """Read branches of the events `start` to `stop`, in the vocabulary's types and shapes.

        `relative_npho` and `relative_time` are derived where the shard lacks them.

        Raises:
            InputError: a branch is missing, or a block is damaged.
        """
        return self.rows(branches, np.arange(start, stop))

    def rows(self, branches: Sequence[str], rows: NDArray[np.int64]) -> Chunk:
        """Read branches of events by number, in any order."""
        self._check_present(branches)
        chunk = {}
        for branch in branches:
            if self.has(branch):
                chunk[branch] = np.empty((len(rows), *BRANCHES[branch].shape), BRANCHES[branch].dtype)
                self.place(branch, rows, np.arange(len(rows)), chunk[branch])
        if derived := [b for b in branches if b not in chunk]:
            relative = relative_quantities(*self.rows(("npho", "time"), rows).values())
            made = dict(zip(("relative_npho", "relative_time"), relative, strict=True))
            chunk |= {b: made[b] for b in derived}
        return chunk

    def place(self, branch: str, rows: NDArray[np.int64], where: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy events `rows` of a stored branch to the rows `where` of `out`."""
        name, encoding, values = self._stored(branch, rows)
        if encoding == "steps":
            codes, first, step = values
            kernels.decode_times(codes, first, step, rows, where, out)
        elif encoding == "roots":
            dark = _dark_code(name, self.manifest.version)
            kernels.decode_counts(values[0], np.float32(_COUNT_SCALE[name]), dark, rows, where, out)
        elif out.ndim == 2 and out.dtype == np.float32:
            kernels.place(values[0], rows, where, out)
        else:
            out[where] = values[0][rows]

    def place_events(
        self, npho: str, time: str, rows: NDArray[np.int64], where: NDArray[np.int64], out: Sequence[NDArray[Any]]
    ) -> None:
        """Copy stored counts and times of events `rows` to the rows `where`, and set masks.

        Args:
            npho: branch of the counts.
            time: branch of the times.
            rows: events in the shard.
            where: rows of `out`.
            out: counts, times, and the masks of both.
        """
        name, encoding, counts = self._stored(npho, rows)
        _, encoding_of_times, times = self._stored(time, rows)
        n, t, valid, timed = out
        if (encoding, encoding_of_times) == ("plain", "plain"):
            kernels.place_events(counts[0], times[0], rows, where, n, t, valid, timed)
        elif (encoding, encoding_of_times) == ("roots", "steps"):
            codes, first, step = times
            scale = np.float32(_COUNT_SCALE[name])
            dark = _dark_code(name, self.manifest.version)
            kernels.decode_events(counts[0], scale, dark, codes, first, step, rows, where, n, t, valid, timed)
        else:
            self.place(npho, rows, where, n)
            self.place(time, rows, where, t)
            kernels.mark_valid(where, n, t, valid, timed)

    def _stored(self, branch: str, rows: NDArray[np.int64]) -> tuple[str, str, list[NDArray[Any]]]:
        """Name, encoding and columns of a branch, looked at where `rows` are."""
        name = branch if branch in self.in_file else self._names[branch]
        encoding = self._encodings[name]
        columns = [name] if encoding != "steps" else [name, f"{name}.first", f"{name}.step"]
        for column in columns:
            self._check_blocks(column, rows)
        return name, encoding, [self._columns[column] for column in columns]

    def verify(self) -> None:
        """Look at every block, whether it was looked at before or not.

        Raises:
            InputError: a block is damaged.
        """
        for column in self._columns:
            self._looked_at[column][:] = bytes(len(self._looked_at[column]))
            self._check_blocks(column, np.arange(0, self.n_events, BLOCK_EVENTS))

    def _check_present(self, branches: Sequence[str]) -> None:
        for branch in branches:
            derived = branch.startswith("relative_") and self.has("npho") and self.has("time")
            if not self.has(branch) and not derived:
                held = ", ".join(sorted(self.in_file))
                raise InputError(f"{self.path} has no branch '{branch}'{nearest(branch, self.in_file)}; it has {held}.")

    def _map(self, column: Column) -> NDArray[Any]:
        path, dtype, shape = inside(self.path, column.file), np.dtype(column.dtype), tuple(column.shape)
        wanted = self.n_events * dtype.itemsize * int(np.prod(shape))
        size = path.stat().st_size if path.is_file() else -1
        if size != wanted:
            raise InputError(
                f"{self.path} is damaged: {column.file} has {max(size, 0)} of {wanted} bytes; remove this shard "
                "and run the same 'xec convert' again."
            )
        return kernels.frozen(np.memmap(path, dtype, "r", shape=(self.n_events, *shape)))

    def _check_blocks(self, column: str, rows: NDArray[np.int64]) -> None:
        """Compare checksums of the blocks that hold `rows`, once for each block."""
        looked_at = self._looked_at[column]
        fresh = np.frombuffer(looked_at, np.uint8)[rows // BLOCK_EVENTS] == 0
        if not fresh.any():
            return
        for block in np.unique(rows[fresh] // BLOCK_EVENTS):
            part = self._columns[column][block * BLOCK_EVENTS : (block + 1) * BLOCK_EVENTS]
            if checksum(part) != self.manifest.columns[column].checksums[block]:
                raise InputError(
                    f"{self.path} is damaged: the checksum of {column} fails in events {block * BLOCK_EVENTS} to "
                    f"{block * BLOCK_EVENTS + len(part) - 1}; remove this shard and run the same 'xec convert' again."
                )
            looked_at[block] = 1


def checksum(values: NDArray[Any]) -> str:
    """Checksum (16 hex digits) of an array's bytes."""
    return str(xxhash.xxh3_64(np.ascontiguousarray(values).data).hexdigest())


# ------------------------------------------------------------------------------------------------ encoding


def encode(chunk: Chunk, form: str) -> tuple[Chunk, dict[str, str]]:
    """Columns of a chunk as shards store them, and the encoding of each branch.

    Raises:
        InputError: in the compact form, counts above 4 million photons, or times of an event over 1.3 microseconds
            apart.
    """
    columns: Chunk = {}
    encodings = dict.fromkeys(chunk, "plain")
    for branch, values in chunk.items():
        if form == "compact" and branch in _COUNT_SCALE:
            columns[branch], encodings[branch] = _roots(branch, values), "roots"
        elif form == "compact" and branch in STEPS:
            counts = chunk.get("npho" if branch == "time" else "relative_npho")
            columns |= _steps(branch, values, counts)
            encodings[branch] = "steps"
        else:
            columns[branch] = values
    return columns, encodings


def _dark_code(branch: str, version: int = VERSION) -> int:
    """Code of a sensor that was read and saw nothing; none of 16 bits for relative counts, which do not tell."""
    tells = branch in ("npho", "nphe") and version >= _FIRST_WITH_DARK
    return _LARGEST_CODE if tells else _LARGEST_CODE + 1


def _roots(branch: str, counts: NDArray[Any]) -> NDArray[np.uint16]:
    valid, dark = valid_counts(counts), _dark_code(branch)
    with np.errstate(invalid="ignore"):
        codes = np.rint(np.sqrt(np.where(valid, counts, 0)) / _COUNT_SCALE[branch])
    if codes.max(initial=0) >= dark:
        largest = ((dark - 1) * _COUNT_SCALE[branch]) ** 2
        raise InputError(
            f"'{branch}' reaches {counts[valid].max():.4g}, more than the {largest:.4g} of the compact form; "
            "use the form float32."
        )
    rest = np.where(read_counts(counts) & (dark <= _LARGEST_CODE), dark, 0)
    return np.where(valid, np.maximum(codes, 1), rest).astype(np.uint16)


def _steps(branch: str, times: NDArray[Any], counts: NDArray[Any] | None) -> Chunk:
    valid = valid_times(np.ones_like(times) if counts is None else counts, times)
    first = np.where(valid, times, np.inf).min(1, initial=np.inf)
    last = np.where(valid, times, -np.inf).max(1, initial=-np.inf)
    first, last = (np.where(valid.any(1), x, 0.0).astype(np.float32) for x in (first, last))
    step = np.maximum((last.astype(np.float64) - first) / (_LARGEST_CODE - 1), _SHORTEST_STEP).astype(np.float32)
    if step.max(initial=0) > _LONGEST_STEP:
        raise InputError(
            f"'{branch}' spans {(last - first).max():.3g} s in an event, more than the "
            f"{_LONGEST_STEP * _LARGEST_CODE:.3g} s of the compact form; use the form float32."
        )
    with np.errstate(invalid="ignore"):
        since = (np.where(valid, times, first[:, None]).astype(np.float64) - first[:, None]) / step[:, None]
    codes = np.where(valid, np.clip(np.rint(since), 0, _LARGEST_CODE - 1) + 1, 0).astype(np.uint16)
    return {branch: codes, f"{branch}.first": first, f"{branch}.step": step}
