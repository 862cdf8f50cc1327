"""Commands that read many files, as jobs: the files are divided among tasks once, when the job is submitted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from xecml.cli.command_words import Ordinary, read, written
from xecml.cluster.batch_script import FILES, TASK
from xecml.cluster.demands import array_of
from xecml.cluster.job_records import SUFFIX
from xecml.cluster.status import Status
from xecml.cluster.submission import shares
from xecml.errors import InputError
from xecml.events import number_of
from xecml.files import expand, is_url, regular_file
from xecml.inference import output_parts
from xecml.inference.output_parts import Manifest
from xecml.inference.prediction_outputs import FRIEND, named_outputs
from xecml.pretrained import model_file

LEAST_MB = 200
"""Of the input files of a task: a task of less would be over before it is worth its start."""


@dataclass(frozen=True)
class _Asked:
    """What a command line asks for."""

    command: str
    words: list[str]
    values: dict[str, Any]
    files: list[str]
    out: Path
    """What the command writes; the folder, if it writes a file for each input."""
    outs: list[Path]
    """The file of each input, if it writes one for each; otherwise none."""
    folder: Path
    name: str


def of_files(
    command: str, words: Sequence[str], name: str | None, array: str | None, notices: list[str], least_mb: int
) -> Ordinary:
    """A command that reads files and writes one, or one for each; in an array each task reads its share.

    Args:
        command: `predict` or `inpaint`.
        words: that follow it.
        name: of the job.
        array: number of tasks, or their numbers as SLURM writes them.
        notices: to which what was understood is added.
        least_mb: of input files of a task, where these are fewer it is given more of them.

    Raises:
        InputError: files are missing, or the parts that are there are of another command.
    """
    asked = _asked(command, words, name)
    if array is None:
        own = written(command, asked.values)
        return Ordinary(own, asked.name, asked.folder, files={"": asked.files}, notices=notices)
    there = output_parts.read(asked.folder)
    if there is not None:
        return _what_is_left(asked, there, array, least_mb, notices)
    manifest = _shared_out(asked, array, least_mb, notices)
    return _in_parts(asked, manifest, map(int, manifest.parts), array, notices)


def without(ordinary: Ordinary, open_ones: Sequence[Status]) -> Ordinary:
    """The command without tasks that still wait or run for an earlier submission."""
    busy = {one.task for one in open_ones if one.open and one.task is not None}
    left = [task for task in ordinary.tasks if task not in busy]
    if left == ordinary.tasks:
        return ordinary
    jobs = " and ".join(sorted({one.record.id for one in open_ones if one.open}))
    if not left:
        return replace(ordinary, done=f"All that is missing is being made by job {jobs}, which still runs.")
    notice = f"{number_of(len(ordinary.tasks) - len(left), 'task')} are left to job {jobs}, which still runs."
    return _of_tasks(ordinary, {task: ordinary.files[str(task)] for task in left}, [notice])


def _asked(command: str, words: Sequence[str], name: str | None) -> _Asked:
    values = read(command, words)
    if values.get("pretrained"):
        inputs = [values["model"], *(values["files"] or ())]
    else:
        inputs = list(values["files"] or ())
        model = values.get("model") or values["repair"]
        if command == "predict":
            regular_file(model_file(model), "model")
    if not inputs:
        raise InputError(f"No files for 'xec {command}' are given; name them after the model.")
    files = expand(inputs)
    out, outs = _output_of(command, values, files)
    if "\t" in "".join(files) or not all(file.isprintable() for file in files):
        raise InputError("A name of a file holds a character that cannot be printed; rename it.")
    in_parts = dict(values) | {"files": [FILES]}
    if not outs:
        in_parts["out"] = str(out.with_name(f"{out.stem}_{TASK}{out.suffix}"))
    if values.get("pretrained"):
        in_parts |= {"model": FILES, "files": []}
    place = out / _pattern(values) if outs else out
    folder = place.with_name(f"{place.name}{SUFFIX}")
    return _Asked(command, written(command, in_parts), values, files, out, outs, folder, name or place.stem)


def _pattern(values: Mapping[str, Any]) -> str:
    """What tells the files of a command apart from others in their folder."""
    if not values["out"]:
        return Path(FRIEND).stem.strip("_")
    name = Path(values["out"]).name
    return name.replace("*", "") if "*" in name else "predictions"


def _output_of(command: str, values: dict[str, Any], files: list[str]) -> tuple[Path, list[Path]]:
    """The file that a command writes and none; or the folder in which it writes one for each input, and these."""
    if command != "predict":
        return Path(values["out"]), []
    named = named_outputs(values["out"], files, friend=values["friend"], ntuple=values["rntuple"])
    first = Path(named[0][0])
    one = len(named) == 1 and str(first) == str(values["out"])
    return (first, []) if one else (first.parent, [path for path, _ in named])


def _shared_out(asked: _Asked, array: str, least_mb: int, notices: list[str]) -> Manifest:
    """Files shared out now; short ones are grouped, so that a task lasts."""
    _, tasks = array_of(array)
    most = len(asked.files)
    if most < len(tasks):
        notices.append(f"There are {number_of(most, 'file')}, so the array has as many tasks.")
    total = sum(map(_size, asked.files))
    if least_mb and not any(map(is_url, asked.files)) and (worth := max(int(total / 1e6 / least_mb), 1)) < most:
        most = worth
        if most < len(tasks):
            notices.append(
                f"The files have {total / 1e6:.0f} MB, so the array has {number_of(most, 'task')}, of {least_mb} MB or "
                "more each (--least-mb)."
            )
    if most < len(tasks):
        tasks = list(range(most))
    files, tree = shares(asked.files, tasks), str(asked.values.get("tree") or "tree")
    if not asked.outs:
        outs = {task: asked.out.with_name(f"{asked.out.stem}_{task}{asked.out.suffix}") for task in tasks}
        return output_parts.manifest_of(asked.words, tree, outs, files)
    number = {file: i for i, file in enumerate(asked.files)}
    return output_parts.manifest_of(
        asked.words,
        tree,
        dict(enumerate(asked.outs)),
        {str(i): [file] for i, file in enumerate(asked.files)},
        {task: [number[file] for file in own] for task, own in files.items()},
    )


def _in_parts(asked: _Asked, manifest: Manifest, parts: Iterable[int], array: str, notices: Sequence[str]) -> Ordinary:
    """The command with those tasks of a manifest that make some parts, and their files."""
    whole = Ordinary(asked.words, asked.name, asked.folder, array=array, manifest=manifest, notices=list(notices))
    files = {task: manifest.files(own) for task, own in manifest.of_tasks(parts).items()}
    return _of_tasks(whole, files, [])


def _of_tasks(ordinary: Ordinary, files: Mapping[int, list[str]], notices: Sequence[str]) -> Ordinary:
    """The command with these tasks, and the files of each."""
    percent = "".join((ordinary.array or "").partition("%")[1:])
    return replace(
        ordinary,
        array=_ranges([*files]) + percent,
        tasks=[*files],
        files={str(task): own for task, own in files.items()},
        notices=[*ordinary.notices, *notices],
    )


def _what_is_left(asked: _Asked, there: Manifest, array: str, least_mb: int, notices: list[str]) -> Ordinary:
    """Of an array that was submitted before: what is not there yet."""
    path = asked.folder / output_parts.NAME
    kept, given = ([word for word in words if word != "--force"] for words in (there.command, asked.words))
    if kept != given:
        raise InputError(
            f"The {_kind(asked)}s of {asked.out} are those of another command ({path}); name another --out, or remove "
            f"{path} to begin anew."
        )
    known = {file: int(number) for number, part in there.parts.items() for file in part.files}
    if more := [file for file in asked.files if file not in known]:
        there = _with_more(asked, there, more, array, least_mb, notices, path)
    if asked.values.get("chunk"):
        notices.append("With --chunk, a task finds out itself which of its files exist, so all tasks are submitted.")
        return _in_parts(asked, there, map(int, there.parts), array, notices)
    progress = output_parts.progress_of(asked.folder, there)
    if progress.changed:
        notices.append(
            f"Made again, because their files have changed: {number_of(len(progress.changed), _kind(asked))}."
        )
    wanted = set(map(int, there.parts))
    if asked.outs:  # each of them is a file of its own
        wanted = {int(number) for number, part in there.parts.items() if part.files[0] in set(asked.files)}
    left = wanted - set(progress.finished)
    if not array.partition("%")[0].isdecimal():  # numbers of tasks, and not how many
        chosen = set(array_of(array)[1])
        left = {part for task, own in there.of_tasks(left).items() if task in chosen for part in own}
    of = number_of(len(wanted), _kind(asked))
    if not left:
        done = _in_parts(asked, there, wanted, array, notices)
        return replace(done, done=f"All requested {_kind(asked)}s ({of}) exist{_merging(asked)}")
    notices.append(f"{len(wanted & set(progress.finished))} of {of} exist; the other {len(left)} are submitted.")
    return _in_parts(asked, there.renewed(left & set(progress.changed)), left, array, notices)


def _with_more(
    asked: _Asked, there: Manifest, more: list[str], array: str, least_mb: int, notices: list[str], path: Path
) -> Manifest:
    """A manifest for files that came later: with them, where each has a file of its own; parts of one file stay."""
    number = number_of(len(more), "file")
    if not asked.outs:
        notices.append(
            f"{number} more than when it was first submitted, such as {more[0]}, are not in {path}; give them an --out "
            "of their own."
        )
        return there
    notices.append(f"{number} more than when it was first submitted, such as {more[0]}, get tasks of their own.")
    out_of = dict(zip(asked.files, asked.outs, strict=True))
    tasks = array if array.partition("%")[0].isdecimal() else str(len(more))
    new = _shared_out(replace(asked, files=more, outs=[out_of[file] for file in more]), tasks, least_mb, [])
    return there.extended(new)


def _kind(asked: _Asked) -> str:
    """What is made at once: a file for an input, or a part of the output."""
    return "file" if asked.outs else "part"


def _merging(asked: _Asked) -> str:
    """How to join what an array made, where that can be done."""
    if not asked.outs:
        return (
            f"; join them with: xec merge {asked.out.with_name(asked.out.stem)}_*{asked.out.suffix} --out {asked.out}"
        )
    if not asked.values["out"] or any(out.suffix != ".root" for out in asked.outs):
        return "."
    folder, name = asked.outs[0].parent, Path(str(asked.values["out"]).replace("*", "all")).name
    pattern = str(asked.values["out"]) if "*" in str(asked.values["out"]) else f"{folder}/*.root"
    merged = folder.parent / (name if "*" in str(asked.values["out"]) else f"{folder.resolve().name}.root")
    return f"; join them with: xec merge {shlex.quote(pattern)} --out {shlex.quote(str(merged))}"


def _ranges(tasks: Sequence[int]) -> str:
    """Numbers of tasks as SLURM writes them: `0-3,7`."""
    ordered = sorted(tasks)
    starts = [ordered[0], *(b for a, b in pairwise(ordered) if b != a + 1)]
    ends = [*(a for a, b in pairwise(ordered) if b != a + 1), ordered[-1]]
    if len(ordered) == 1:
        return f"{ordered[0]}-{ordered[0]}"  # a number alone is that many
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size  # noqa: PTH116 - addresses too, which are no paths
    except OSError:
        return 0
