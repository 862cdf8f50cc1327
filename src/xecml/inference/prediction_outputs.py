"""Which files a prediction writes, and which events go into each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xecml.data import source
from xecml.errors import InputError
from xecml.files import is_folder, is_url
from xecml.inference.event_parts import Part
from xecml.inference.prediction_writers import check_ending

FRIEND = "_predictions.root"
"""What the name of a friend beside its file ends in."""
_MOST_PIECES = 10_000


@dataclass(frozen=True)
class Output:
    """A file to write.

    Attributes:
        path: of it.
        parts: of the input, in their order.
        piece: its number among the pieces of one output; none where that is whole.
        of: pieces of that output.
    """

    path: Path
    parts: tuple[Part, ...]
    piece: int | None = None
    of: int = 1

    @property
    def events(self) -> int:
        """In it."""
        return sum(part.stop - part.start for part in self.parts)


def named_outputs(
    out: str | Path | None, paths: Sequence[str], *, friend: bool = False, ntuple: bool = False
) -> list[tuple[Path, list[str]]]:
    """The output files that `--out` means, and the inputs of each.

    Args:
        out: a file for all; a folder (there, or ending with a slash) or a name with one `*`, which stands for the name
            of each input, for a file each; nothing for friends beside their files.
        paths: of `source.expand`.
        friend: the outputs are to be friends of their inputs.
        ntuple: they are to be RNTuples.

    Raises:
        InputError: a name cannot be used, or two inputs would go to the same file.
    """
    text = "" if out is None else str(out)
    if not text:
        if not friend:
            raise InputError(
                "There is no output for the predictions; give --out with a name that ends in .root, .parquet or .csv, "
                "or with a folder."
            )
        found = [(_beside(path), [path]) for path in paths]
    elif text.endswith("/") or (not is_url(text) and "*" not in text and is_folder(text)):
        found = [(Path(text) / f"{_stem(path)}.root", [path]) for path in paths]
    elif "*" in text:
        if text.count("*") > 1:
            raise InputError(f"The output {text} has several '*'; give one, which stands for the name of each input.")
        found = [(Path(text.replace("*", _stem(path))), [path]) for path in paths]
    else:
        found = [(Path(text), list(paths))]
    for path, of in found:
        check_ending(path, ntuple=ntuple)
        if friend:
            _check_friend(path, of, ntuple=ntuple)
    _check_distinct(found)
    return found


def _check_friend(path: Path, of: Sequence[str], *, ntuple: bool) -> None:
    if len(of) > 1:
        raise InputError(
            f"A friend tree belongs to one file, but {path} would belong to {len(of)}; give a folder with --out."
        )
    if path.suffix != ".root" or ntuple:
        raise InputError(
            f"A friend tree is a TTree, but {path} would not be one; end its name in .root, and leave --rntuple out."
        )
    if source.is_shard(of[0]):
        raise InputError(f"{of[0]} is no ROOT file, so it cannot have a friend tree; leave --friend out.")


def _beside(path: str) -> Path:
    if is_url(path):
        raise InputError(f"Nothing can be written beside {path}; give a folder with --out.")
    return Path(path).with_name(f"{_stem(path)}{FRIEND}")


def _stem(path: str) -> str:
    return Path(path).name.removesuffix(".root")


def _check_distinct(found: Sequence[tuple[Path, list[str]]]) -> None:
    taken: dict[Path, str] = {}
    for path, of in found:
        if path in taken:
            raise InputError(
                f"{taken[path]} and {of[0]} would both be written to {path}; predict them separately, or rename one."
            )
        taken[path] = of[0]


def planned(named: Sequence[tuple[Path, list[str]]], counts: Sequence[int], chunk: int | None = None) -> list[Output]:
    """Outputs with the events that go into each, in the order of the inputs.

    Args:
        named: of `named_outputs`.
        counts: events of each input, in the same order.
        chunk: events a piece; whole outputs by default.

    Raises:
        InputError: there would be too many pieces.
    """
    outputs, before, left = list[Output](), 0, list(counts)
    for path, of in named:
        whole = list[Part]()
        for name in of:
            events = left.pop(0)
            whole.append(Part(name, 0, events, before))
            before += events
        if chunk is None:
            # a file without events adds nothing, but to be the only one
            some = [part for part in whole if part.stop] or whole[:1]
            outputs.append(Output(path, tuple(some)))
            continue
        pieces = _pieces(whole, chunk)
        if len(pieces) > _MOST_PIECES:
            raise InputError(f"--chunk {chunk} makes {len(pieces)} pieces; give more events a piece.")
        for i, parts in enumerate(pieces):
            outputs.append(Output(piece_path(path, i), tuple(parts), i, len(pieces)))
    return outputs


def piece_path(path: Path, number: int) -> Path:
    """The file of a piece."""
    return path.with_name(f"{path.stem}_{number:04d}{path.suffix}")


def _pieces(parts: Sequence[Part], chunk: int) -> list[list[Part]]:
    """Parts cut so that each piece has `chunk` events, and the last what is left."""
    pieces, room = [list[Part]()], chunk
    for part in parts:
        start = part.start
        while start < part.stop:
            if not room:
                pieces.append([])
                room = chunk
            stop = min(part.stop, start + room)
            pieces[-1].append(part._replace(start=start, stop=stop))
            room, start = room - (stop - start), stop
    return pieces if pieces[0] else [list(parts[:1])]
