"""Prediction files joined to one, in which every event is there once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.conditions_file import TREE, as_text, earlier_of
from xecml.data import source
from xecml.errors import InputError
from xecml.events import number_of
from xecml.files import expand
from xecml.inference import output_parts
from xecml.inference.output_parts import Manifest
from xecml.inference.prediction_columns import PREDICTION_TREE
from xecml.outputs import claim, making
from xecml.progress import progress
from xecml.rootio.treewriter import named_root

_CHUNK = 100_000
_KEYS = ("run", "event")


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Attributes:
        out: file that was written.
        events: in it.
        parts: files that were joined, in their order.
        inputs: files of events that it was compared with; none where nothing says which these are.
    """

    out: Path
    events: int
    parts: list[str]
    inputs: int


@making("merge")
def merge_files(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    inputs: Sequence[str | Path] = (),
    tree: str = rootio.DEFAULT_TREE,
    force: bool = False,
) -> Merged:
    """Join prediction files, and make sure that every event is there once; memory grows by 16 bytes an event.

    Parts of an array are joined in the order of its tasks, others in the order in which they are given.

    Args:
        files: prediction files.
        out: ROOT file to write.
        inputs: files of events that were predicted; by default those that `xec submit` shared out among the parts,
            if the parts are its: then all of them must be named. Without any, an event is only not to be there twice.
        tree: name of the tree in these.
        force: replace an existing file that this function did not make.

    Raises:
        InputError: a part or an event is missing or there twice, or the files have different columns.
    """
    named_root(out)
    found = [path for path in expand(files) if not _is(path, out)]
    if not found:
        raise InputError(f"{out} is the only file that was named; name the output and the parts to merge.")
    claim([out], inputs=[*found, *inputs], force=force)
    manifest = None if inputs else output_parts.beside([Path(path) for path in found])
    if manifest is not None:
        found = _in_order(found, manifest)
    elif len({Path(path).resolve() for path in found}) < len(found):
        raise InputError("A part is named twice; name each part once.")
    keys = [_keys(path, PREDICTION_TREE) for path in found]
    whole = np.concatenate(keys)
    checked = 0
    if inputs:
        checked = _compare(whole, found, [*source.expand(inputs)], tree)
    elif manifest is not None:
        by_out = manifest.outputs()
        for path, own in zip(found, keys, strict=True):
            part = by_out[Path(path).resolve()]
            checked += _compare(own, [path], [manifest.placed(file) for file in part.files], manifest.tree)
    else:
        _refuse_twice(whole, found)
    records = earlier_of(found)
    with rootio.TreeWriter(out, PREDICTION_TREE) as writer, progress(len(whole), "merge") as bar:
        for chunk in _chunks(found):
            writer.extend(chunk)
            bar.advance(len(chunk["run"]))
        if records:
            writer.add_text(TREE, as_text(records))
    return Merged(Path(out), len(whole), found, checked)


def _in_order(found: list[str], manifest: Manifest) -> list[str]:
    """Parts in the order of their tasks, all of them and no others."""
    given = {Path(path).resolve(): path for path in found}
    by_out = manifest.outputs()
    missing = [Path(part.out) for path, part in by_out.items() if path not in given]
    if missing:
        there = [path for path in missing if Path(manifest.placed(str(path))).exists()]
        what = (
            "is not named; name it, or say with --inputs of which files the others are"
            if there
            else "is not there yet; submit the array again, which makes what is missing"
        )
        raise InputError(
            f"{(there or missing)[0]} {what} ({number_of(len(missing), 'part')} of {len(by_out)} missing)."
        )
    others = given.keys() - by_out.keys()
    if others:
        raise InputError(
            f"{given[min(others)]} is no part of the same array as the others; leave it out, or name all files that "
            "were predicted with --inputs."
        )
    return [given[path] for path in by_out]


def _compare(keys: NDArray[np.int64], parts: Sequence[str], inputs: Sequence[str], tree: str) -> int:
    """Make sure that files have just the events of their inputs, and return how many inputs these are."""
    if any(not _numbered(path, tree) for path in inputs):
        # predictions of such files are numbered anew, so that only their number can be compared
        total = source.count_events(inputs, tree)
        if total != len(keys):
            raise InputError(f"{parts[0]} has {number_of(len(keys))} of the {total} of its files; predict them again.")
        return len(inputs)
    wanted = np.concatenate([_keys(path, tree) for path in inputs])
    if np.array_equal(keys, wanted):
        return len(inputs)
    own, given = (np.unique(one, return_counts=True) for one in (keys, wanted))
    where = parts[0] if len(parts) == 1 else f"{parts[0]} ... ({number_of(len(parts), 'part')})"
    every = np.union1d(own[0], given[0])
    counts = [_counts(every, *one) for one in (own, given)]
    off = counts[0] - counts[1]
    for sign, what, how in (
        (-1, "lacks", "predict its files again"),
        (1, "has", "leave out what is not of these files"),
    ):
        if (wrong := every[sign * off > 0]).size:
            more = "" if sign < 0 else " too often or beyond its inputs"
            number = number_of(int(abs(off[off * sign > 0]).sum()))
            raise InputError(f"{where} {what} {number}{more}, the first of them {_named(wrong[0])}; {how}.")
    return len(inputs)  # the same events in another order


def _refuse_twice(keys: NDArray[np.int64], parts: Sequence[str]) -> None:
    ordered = np.sort(keys)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not twice.size:
        return
    holders = [path for path in parts if (_keys(path, PREDICTION_TREE) == twice[0]).any()]
    where = " and ".join(holders[:2]) if len(holders) > 1 else f"{holders[0]}, twice"
    raise InputError(
        f"{_named(twice[0])} is in {where} ({number_of(int(twice.size))} too many); leave one of them out, or name the "
        "files that were predicted with --inputs if they have it twice, too."
    )


def _counts(every: NDArray[np.int64], known: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    found = np.zeros(len(every), np.int64)
    found[np.searchsorted(every, known)] = counts
    return found


def _keys(path: str, tree: str) -> NDArray[np.int64]:
    """Run and event number of each event as one number."""
    with source.open_events(path, tree, source.names_here(path, tree, None)) as reader:
        missing = [name for name in _KEYS if not reader.has(name)]
        if missing:
            raise InputError(
                f"{path} has no branch '{missing[0]}', by which events are told apart; it cannot be merged."
            )
        parts = [np.empty(0, np.int64)]
        for start, stop in rootio.ranges(reader.boundaries(_KEYS), _CHUNK):
            chunk = reader.arrays(_KEYS, start, stop)
            parts.append((chunk["run"].astype(np.int64) << 32) | (chunk["event"].astype(np.int64) & 0xFFFFFFFF))
    return np.concatenate(parts)


def _numbered(path: str, tree: str) -> bool:
    with source.open_events(path, tree, source.names_here(path, tree, None)) as reader:
        return all(reader.has(name) for name in _KEYS)


def _named(key: np.int64) -> str:
    event = int(key) & 0xFFFFFFFF
    return f"run {int(key) >> 32}, event {event - 2**32 if event >= 2**31 else event}"


def _chunks(paths: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
    first: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for path in paths:
        with rootio.open_tree(path, PREDICTION_TREE) as reader:
            names = sorted(reader.in_file)
            for start, stop in rootio.ranges(reader.boundaries(names), _CHUNK) or [(0, 0)]:
                chunk = {name: np.asarray(reader.stored(name, start, stop)) for name in names}
                chunk = {name: values.astype(values.dtype.newbyteorder("=")) for name, values in chunk.items()}
                kinds = {name: (values.dtype, values.shape[1:]) for name, values in chunk.items()}
                first = first or kinds
                if odd := sorted(name for name in first.keys() | kinds.keys() if first.get(name) != kinds.get(name)):
                    raise InputError(
                        f"{path} differs from {paths[0]} in {', '.join(odd)}; merge predictions of one model."
                    )
                yield chunk


def _is(path: str, out: str | Path) -> bool:
    there = Path(out)
    return there.exists() and Path(path).resolve() == there.resolve()
