"""Convert ROOT files to shards in a stream; an interrupted conversion continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from xecml import geometry, rootio
from xecml.data import manifests, shards, source
from xecml.data.manifests import FORMS, MANIFEST, shard_name
from xecml.errors import InputError
from xecml.events import BRANCHES, Chunk
from xecml.files import atomic_path, is_folder, is_url, mode_of
from xecml.outputs import making, mark, refuse_inputs
from xecml.progress import progress

EVENTS_A_SHARD = 16_384
_SENSOR_PAIRS = (("npho", "time"), ("relative_npho", "relative_time"))


@dataclass(frozen=True)
class Report:
    """What a conversion did; `kept` shards were there already."""

    out: Path
    events: int
    shards: int
    kept: int
    bytes: int
    seconds: float


@making("convert")
def convert(
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    form: str = "float32",
    branches: Sequence[str] | None = None,
    tree: str = rootio.DEFAULT_TREE,
    names: Mapping[str, str] | None = None,
    events_a_shard: int = EVENTS_A_SHARD,
) -> Report:
    """Write events as shards; memory does not grow with their number.

    Every shard appears under its name only when it is complete. If the conversion is stopped, the same call keeps
    the shards that are there and makes the others; the folder can be read once `manifest.json` is in it.

    Args:
        inputs: ROOT files, globs, folders, or shards of another form.
        out: folder to write.
        form: `float32`, or `compact`, which takes 16 bits for a count or time; see `xecml.data.shards`.
        branches: what to keep; by default all known branches that cannot be derived from others.
        tree: name of the tree.
        names: canonical branch name -> name in the files; shards hold canonical names.
        events_a_shard: events a shard.

    Raises:
        InputError: unusable input, or `out` holds something else than shards of these files.
    """
    if form not in FORMS:
        raise InputError(f"Unknown form '{form}' of shards; choose one of {', '.join(FORMS)}.")
    if events_a_shard < 1:
        raise InputError(f"Cannot write {events_a_shard} events a shard; use a number above zero.")
    started, folder = time.monotonic(), Path(out)
    paths = source.expand(inputs)
    # what a conversion finds of its own it keeps, and it takes nothing else
    refuse_inputs([folder], [*paths, *(Path(path).parent for path in paths if source.is_shard(path))])
    plan = _plan(paths, branches, tree, dict(names or {}), form, events_a_shard)
    total = sum(s["events"] for s in plan["sources"])
    starts = range(0, total, events_a_shard)
    kept = 0
    _prepare(folder, plan)
    with progress(total, "convert") as bar:
        for index, first in enumerate(starts):
            last = min(first + events_a_shard, total)
            if _complete(folder / shard_name(index), plan, first, last):
                kept += 1
                bar.advance(last - first)
                continue
            with _ShardWriter(folder, index, plan, first) as writer:
                for chunk in _chunks(plan, first, last):
                    writer.add(chunk)
                    bar.advance(len(next(iter(chunk.values()))))
    names_of_shards = [shard_name(i) for i in range(len(starts))]
    with atomic_path(folder / MANIFEST) as temporary:
        content = {"made_by": mark()} | plan | {"events": total, "shards": names_of_shards}
        temporary.write_text(json.dumps(content, indent=1), "utf-8")
    size = sum(f.stat().st_size for name in names_of_shards for f in (folder / name).iterdir())
    return Report(folder, total, len(starts), kept, size, time.monotonic() - started)


def _plan(
    paths: Sequence[str], branches: Sequence[str] | None, tree: str, names: dict[str, str], form: str, size: int
) -> dict[str, Any]:
    """All that decides what the shards hold; its hash tells shards of another conversion."""
    sources: list[dict[str, Any]] = []
    kept = set(branches or BRANCHES)
    for path in paths:
        with source.open_events(path, tree, names) as reader:
            there = set(reader.known()) if branches is None else set(branches)
            if reader.n_events:
                reader.arrays(sorted(there), 0, 1)
                kept &= there
            # the same file has the same name from wherever the command is given
            name = path if is_url(path) else str(Path(path).resolve())
            sources.append({"path": name, "events": reader.n_events, **_state(path)})
    if not sum(s["events"] for s in sources):
        raise InputError(f"{paths[0]} holds no events, so there is nothing to convert; name files with events.")
    chosen = [b for b in BRANCHES if b in kept and (branches is not None or not _derivable(b, kept))]
    if not any(set(pair) <= set(chosen) for pair in _SENSOR_PAIRS):
        raise InputError(f"{paths[0]} has no pair of counts and times to convert; name its branches.")
    plan = {
        "format": manifests.FORMAT,
        "version": manifests.VERSION,
        "geometry_hash": geometry.geometry_hash(),
        "form": form,
        "kept": chosen,
        "tree": tree,
        "names": names,
        "block_events": manifests.BLOCK_EVENTS,
        "events_a_shard": size,
        "sources": sources,
    }
    return plan | {"plan": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]}


def _state(path: str) -> dict[str, int]:
    """What tells that a file has changed since."""
    if is_url(path):
        return {}
    stat = Path(path).stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _derivable(branch: str, kept: set[str]) -> bool:
    # with photoelectrons the earliest time is another one: then relative quantities are kept
    return branch == "nphe" or (branch.startswith("relative_") and {"npho", "time"} <= kept and "nphe" not in kept)


def _prepare(folder: Path, plan: Mapping[str, Any]) -> None:
    """Make the folder, or see that it holds nothing but shards of the same plan; forget unfinished ones."""
    if mode_of(folder) is not None and not is_folder(folder):
        raise InputError(f"Cannot write shards to {folder}: it is a file; name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write {folder}: {error.strerror}; choose another output folder.") from error
    for path in folder.glob(".shard_*.partial"):
        shutil.rmtree(path)
    for path in folder.iterdir():
        known = path.is_file() if path.name == MANIFEST else path.name.startswith("shard_") and path.is_dir()
        if not known or path.is_symlink():
            raise InputError(f"{folder} holds {path.name}, which is no shard; name an empty or new folder.")
        manifest = path.parent if path.name == MANIFEST else path
        if (manifest / MANIFEST).exists() and manifests.read_manifest(manifest).plan != plan["plan"]:
            raise InputError(
                f"{folder} holds shards of other files, or of these files before they changed, or of another form; "
                "name another folder or remove it."
            )


def _complete(path: Path, plan: Mapping[str, Any], first: int, last: int) -> bool:
    """Whether a shard is there, whole and undamaged; a damaged one is removed."""
    if not path.is_dir():
        return False
    try:
        shard = shards.Shard(path)
        shard.verify()
        wanted = (plan["plan"], first, last - first)
        if (shard.manifest.plan, shard.manifest.first, shard.n_events) == wanted:
            return True
    except InputError:
        pass
    shutil.rmtree(path)
    return False


def _chunks(plan: Mapping[str, Any], first: int, last: int) -> Iterator[Chunk]:
    """Events `first` to `last` of all sources, in chunks of exactly one block but for the last."""
    held: list[Chunk] = []
    offset = 0
    for entry in plan["sources"]:
        begin, end = max(first - offset, 0), min(last - offset, entry["events"])
        offset += entry["events"]
        if begin >= end:
            continue
        with source.open_events(entry["path"], plan["tree"], plan["names"]) as reader:
            for start in range(begin, end, manifests.BLOCK_EVENTS):
                held.append(reader.arrays(plan["kept"], start, min(start + manifests.BLOCK_EVENTS, end)))
                while sum(map(_length, held)) >= manifests.BLOCK_EVENTS:
                    joined = _joined(held)
                    yield {k: v[: manifests.BLOCK_EVENTS] for k, v in joined.items()}
                    held = [{k: v[manifests.BLOCK_EVENTS :] for k, v in joined.items()}]
    if held and _length(rest := _joined(held)):
        yield rest


def _length(chunk: Chunk) -> int:
    return len(next(iter(chunk.values())))


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    return {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}


class _ShardWriter:
    """Writes one shard beside its name, and renames it when it is complete."""

    def __init__(self, folder: Path, index: int, plan: Mapping[str, Any], first: int) -> None:
        self._target = folder / shard_name(index)
        self._partial = folder / f".{shard_name(index)}.partial"
        self._plan, self._first = plan, first
        self._events = 0
        self._files: dict[str, BinaryIO] = {}
        self._columns: dict[str, dict[str, Any]] = {}
        self._encodings: dict[str, str] = {}

    def __enter__(self) -> _ShardWriter:
        self._partial.mkdir()
        return self

    def add(self, chunk: Chunk) -> None:
        """Append a block of events."""
        columns, self._encodings = shards.encode(chunk, self._plan["form"])
        for name, values in columns.items():
            stored = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            if name not in self._files:
                self._files[name] = (self._partial / f"{name}.bin").open("wb")
                self._columns[name] = {
                    "file": f"{name}.bin",
                    "dtype": stored.dtype.str,
                    "shape": list(stored.shape[1:]),
                    "checksums": [],
                }
            self._files[name].write(stored.data)
            self._columns[name]["checksums"].append(shards.checksum(stored))
        self._events += _length(chunk)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        manifest = {key: self._plan[key] for key in ("format", "version", "geometry_hash", "form", "plan")}
        manifest |= {"first": self._first, "events": self._events}
        manifest |= {"branches": self._encodings, "columns": self._columns}
        path = self._partial / MANIFEST
        path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        self._partial.rename(self._target)
