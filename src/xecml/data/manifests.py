"""Metadata of shards and of folders of shards, checked before they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from xecml import geometry
from xecml.errors import InputError
from xecml.events import BRANCHES
from xecml.geometry import N_SENSORS
from xecml.schema import Described, Events, PlainName, Text, checked, read_json

FORMAT = "xecml-shards"
VERSION = 2
MANIFEST = "manifest.json"
BLOCK_EVENTS = 512
FORMS = ("float32", "compact")
ROOTS, STEPS = ("npho", "nphe", "relative_npho"), ("time", "relative_time")
"""Branches that the form `compact` stores as roots of counts and as steps of time."""

Encoding = Literal["plain", "roots", "steps"]
Checksum = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
_AGAIN = "run the same 'xec convert' again"


class _Head(Described):
    """What a manifest of any version says."""

    format: Text
    version: int = Field(ge=1)
    geometry_hash: Text


class Column(Described):
    """A file of numbers: one row an event, a checksum a block."""

    file: PlainName
    dtype: Text
    shape: list[int]
    checksums: list[Checksum]


class ShardManifest(_Head):
    """Of a shard: which events of the whole, which branches, in which columns."""

    form: Literal["float32", "compact"]
    plan: Text
    first: int = Field(ge=0, lt=2**53)
    events: Events
    branches: dict[PlainName, Encoding]
    columns: dict[PlainName, Column]

    @model_validator(mode="after")
    def _columns_of_branches(self) -> ShardManifest:
        wanted: dict[str, tuple[str, list[int]]] = {}
        for branch, encoding in self.branches.items():
            wanted |= columns_of(branch, encoding)
        blocks = -(-self.events // BLOCK_EVENTS)
        if odd := wanted.keys() ^ self.columns.keys():
            raise ValueError(f"its branches and columns do not agree on '{min(odd)}'")
        for name, column in self.columns.items():
            if (column.dtype, column.shape) != wanted[name]:
                raise ValueError(f"column '{name}' must be of {wanted[name][0]} and shape {wanted[name][1]}")
            if len(column.checksums) != blocks:
                raise ValueError(f"column '{name}' has {len(column.checksums)} checksums for {blocks} blocks")
        return self


class Source(Described):
    """A file that shards were made of."""

    path: Text
    events: int = Field(ge=0)


class FolderManifest(_Head):
    """Of a folder of shards: how many events, of which files, in which shards."""

    form: Literal["float32", "compact"]
    plan: Text
    events: Events
    events_a_shard: Events
    shards: list[PlainName] = Field(min_length=1)
    sources: list[Source] = Field(min_length=1)

    @model_validator(mode="after")
    def _all_shards(self) -> FolderManifest:
        if (of_sources := sum(source.events for source in self.sources)) != self.events:
            raise ValueError(f"its sources have {of_sources} events, not {self.events}")
        wanted = -(-self.events // self.events_a_shard)
        if len(self.shards) != wanted or any(name != shard_name(i) for i, name in enumerate(self.shards)):
            raise ValueError(f"its {self.events} events are in {wanted} shards, {shard_name(0)} and so on")
        return self


def columns_of(branch: str, encoding: str) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of one event by column, of a branch in an encoding.

    Raises:
        ValueError: unknown branch, or one that is never encoded so.
    """
    if branch not in BRANCHES or branch not in {"roots": ROOTS, "steps": STEPS}.get(encoding, BRANCHES):
        raise ValueError(f"'{branch}' is no branch that is stored as {encoding}")
    if encoding == "plain":
        return {branch: (np.dtype(BRANCHES[branch].dtype).newbyteorder("<").str, list(BRANCHES[branch].shape))}
    codes: dict[str, tuple[str, list[int]]] = {branch: ("<u2", [N_SENSORS])}
    return codes if encoding == "roots" else codes | {f"{branch}.{part}": ("<f4", []) for part in ("first", "step")}


def shard_name(index: int) -> str:
    """Name of a shard in its folder."""
    return f"shard_{index:05d}"


def read_manifest(folder: str | Path) -> ShardManifest | FolderManifest:
    """The manifest of a shard or of a folder of shards.

    Raises:
        InputError: there is none, it is damaged, of a newer version, or of another geometry.
    """
    path = Path(folder) / MANIFEST
    if not os.path.lexists(path):
        raise InputError(
            f"{folder} has no {MANIFEST}; it is no folder of shards, or its conversion was stopped: "
            f"{_AGAIN} to finish it."
        )
    # of a whole folder the shards are good still
    damaged = path if any(Path(folder).glob("shard_*")) else folder
    said = f"{path} is damaged", f"remove {damaged} and {_AGAIN}"
    content = read_json(path, "manifest of shards", *said)
    _check_head(checked(_Head, content, *said), folder, path)
    if "shards" in content:
        return checked(FolderManifest, content, *said)
    return checked(ShardManifest, content, *said)


def _check_head(head: _Head, folder: str | Path, path: Path) -> None:
    if head.format != FORMAT or head.version > VERSION:
        raise InputError(
            f"{path} is of format {head.format[:80]} {head.version}; this version reads {FORMAT} up to {VERSION}."
        )
    if head.geometry_hash != geometry.geometry_hash():
        raise InputError(
            f"{folder} was made for sensor geometry {head.geometry_hash[:80]}, not {geometry.geometry_hash()}; "
            "convert the files again with this version."
        )


def shard_of(folder: str | Path) -> ShardManifest:
    """The manifest of a single shard.

    Raises:
        InputError: as `read_manifest`, or it is a whole folder of them.
    """
    found = read_manifest(folder)
    if not isinstance(found, ShardManifest):
        raise InputError(f"{folder} is a folder of shards, but one shard is expected; name a shard in it.")
    return found


def shards_of(folder: str | Path) -> list[str]:
    """Paths of the shards in a folder, or the path itself if it is one shard.

    Raises:
        InputError: the manifest is unusable, or shards are missing.
    """
    content = read_manifest(folder)
    if isinstance(content, ShardManifest):
        return [str(folder)]
    paths = [inside(folder, name) for name in content.shards]
    missing = [p for p in paths if not (p / MANIFEST).is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing; {_AGAIN} to restore it.")
    return [str(p) for p in paths]


def inside(folder: str | Path, name: str) -> Path:
    """The path of a name that a manifest gives.

    Raises:
        InputError: there is a link by that name that leads out of the folder.
    """
    path = Path(folder) / name
    if path.is_symlink() and path.resolve().parent != Path(folder).resolve():
        raise InputError(f"{path} is a link that leads out of {folder}; replace the link by the file that it leads to.")
    return path


def facts(folder: str | Path) -> dict[str, Any]:
    """Facts about a shard or folder of shards, for `xec info`."""
    content = read_manifest(folder)
    named = ("version", "geometry_hash", "form", "events")
    values: dict[str, Any] = {name: getattr(content, name) for name in named}
    if isinstance(content, ShardManifest):
        return values | {"first event": content.first, "branches": sorted(content.branches)}
    branches = shard_of(inside(folder, content.shards[0])).branches
    sources = [source.path for source in content.sources]
    return values | {"shards": len(content.shards), "branches": sorted(branches), "made of": sources}
