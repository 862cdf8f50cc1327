"""An output in parts: the input files of each part, fixed when the work is divided, and the parts that exist."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from xecml.files import atomic_path, is_url, mode_of
from xecml.outputs import made_by, mark
from xecml.schema import Described, checked, read_json

NAME = "manifest.json"
SUFFIX = ".jobs"
"""Of the folder beside an output file."""
_ADVICE = "remove it to share the files out anew, or name another --out"


class Part(Described):
    """One file of an output.

    Attributes:
        out: file that is written.
        files: that it is of, in this order.
        sizes: of them in bytes when the work was shared out; -1 of addresses.
        since_ns: time of that by the clock of the file system; what is older is no part. 0 before it is written.
    """

    out: str
    files: list[str] = Field(min_length=1)
    sizes: list[int]
    since_ns: int = 0


class Manifest(Described):
    """All parts of an output.

    Attributes:
        command: words after `xec`, with placeholders for what differs.
        tree: of the input files.
        parts: by number.
        tasks: numbers of the parts that a task makes, by its number; none where every part is a task.
        folder: in which paths are meant, absolute; none in older files, whose paths are meant where a command runs.
    """

    command: list[str] = Field(min_length=1)
    tree: str
    parts: dict[str, Part] = Field(min_length=1)
    tasks: dict[str, list[int]] = Field({})
    folder: str = ""

    @model_validator(mode="after")
    def _each_part_once(self) -> Manifest:
        made = [str(part) for parts in self.tasks.values() for part in parts]
        if self.tasks and (len(set(made)) < len(made) or set(made) != set(self.parts)):
            raise ValueError("its tasks do not make each part once")
        return self

    def of_tasks(self, parts: Iterable[int]) -> dict[int, list[int]]:
        """Those parts that each task makes, of tasks that make any."""
        wanted, tasks = set(parts), self.tasks or {number: [int(number)] for number in self.parts}
        found = {int(task): [part for part in own if part in wanted] for task, own in tasks.items()}
        return {task: own for task, own in found.items() if own}

    def files(self, parts: Iterable[int]) -> list[str]:
        """Input files of parts."""
        return [file for part in parts for file in self.parts[str(part)].files]

    def placed(self, path: str) -> str:
        """A path of it as it is meant here; addresses as they are."""
        return path if is_url(path) or not self.folder else str(Path(self.folder) / path)

    def outputs(self) -> dict[Path, Part]:
        """Its parts by their files, absolute."""
        return {Path(self.placed(part.out)).resolve(): part for part in self.parts.values()}

    def renewed(self, parts: Iterable[int]) -> Manifest:
        """The same, with these parts shared out now: of files as they are."""
        new = {
            str(part): old.model_copy(update={"sizes": [_size(file) for file in old.files], "since_ns": 0})
            for part in parts
            for old in [self.parts[str(part)]]
        }
        return self.model_copy(update={"parts": self.parts | new})

    def extended(self, more: Manifest) -> Manifest:
        """The same and the parts and tasks of another, which get the numbers that follow."""
        part, task = max(map(int, self.parts)) + 1, max(map(int, self.tasks)) + 1
        parts = {str(int(number) + part): one for number, one in more.parts.items()}
        tasks = {str(int(number) + task): [one + part for one in own] for number, own in more.tasks.items()}
        return self.model_copy(update={"parts": self.parts | parts, "tasks": self.tasks | tasks})


@dataclass(frozen=True)
class Progress:
    """Which parts of an output are there.

    Attributes:
        finished: numbers of those that are whole.
        changed: of those whose input files have changed since; they count as not finished.
    """

    finished: list[int]
    changed: list[int]


def manifest_of(
    command: Sequence[str],
    tree: str,
    outs: Mapping[int, Path],
    files: Mapping[str, Sequence[str]],
    tasks: Mapping[str, Sequence[int]] | None = None,
) -> Manifest:
    """The manifest of work that is shared out now.

    Args:
        command: words after `xec`, with placeholders.
        tree: of the input files.
        outs: output by number of the part.
        files: input files by the same numbers, as text.
        tasks: parts by task, where these make several.
    """
    parts = {
        str(number): Part(
            out=str(out), files=list(files[str(number)]), sizes=[_size(file) for file in files[str(number)]]
        )
        for number, out in outs.items()
    }
    return Manifest(
        command=list(command),
        tree=tree,
        parts=parts,
        tasks={task: list(own) for task, own in (tasks or {}).items()},
        folder=str(Path.cwd()),
    )


def read(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    path = folder / NAME
    if mode_of(path) is None:
        return None
    where = f"{path} is damaged"
    return checked(Manifest, read_json(path, "manifest", where, _ADVICE), where, _ADVICE)


def write(folder: Path, manifest: Manifest) -> Path:
    """Write a manifest into a folder; what is shared out with it is marked with the time."""
    with atomic_path(folder / NAME) as temporary:
        temporary.touch()
        now = {"since_ns": temporary.stat().st_mtime_ns}
        parts = {n: part if part.since_ns else part.model_copy(update=now) for n, part in manifest.parts.items()}
        marked = manifest.model_copy(update={"parts": parts})
        text = json.dumps({"made": mark()} | marked.model_dump(mode="json"), indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return folder / NAME


def progress_of(folder: Path, manifest: Manifest) -> Progress:
    """Which parts are there: files that the command finished since the work was shared out, of inputs as they were."""
    written = (folder / NAME).stat().st_mtime_ns
    finished, changed = list[int](), list[int]()
    for number, part in manifest.parts.items():
        out = Path(part.out)
        since = part.since_ns or written
        if mode_of(out) is None or out.stat().st_mtime_ns < since or made_by(out) != manifest.command[0]:
            continue
        as_it_was = [_size(file) for file in part.files] == part.sizes
        (finished if as_it_was else changed).append(int(number))
    return Progress(finished, changed)


def beside(outputs: Sequence[Path]) -> Manifest | None:
    """The manifest of which some files are parts, if it lies beside them; none for others."""
    wanted = {path.resolve() for path in outputs}
    for folder in dict.fromkeys(path.parent for path in outputs):
        for path in sorted(folder.glob(f"*{SUFFIX}/{NAME}")):
            found = read(path.parent)
            if found is not None and wanted & found.outputs().keys():
                return found
    return None


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size  # noqa: PTH116 - addresses too, which are no paths
    except OSError:
        return -1
