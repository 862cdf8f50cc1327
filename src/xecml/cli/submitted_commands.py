"""The commands that `xec submit` takes: read as their own command line reads them, and written out again for a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from xecml.cli.train import recipe_of
from xecml.cluster.batch_script import FILES, TASK
from xecml.cluster.demands import array_of
from xecml.cluster.job_records import SUFFIX
from xecml.cluster.submission import shares
from xecml.errors import InputError
from xecml.events import number_of
from xecml.files import expand, is_url, mode_of, regular_file
from xecml.inference.prediction_outputs import named_outputs
from xecml.limits import shown

ENVIRONMENT = {
    "EPOCHS": "epochs", "LR": "lr", "BATCH": "batch", "TASKS": "tasks", "RESUME_FROM": "resume_from",
    "CHUNK_SIZE": "chunksize",
}  # fmt: skip
"""Variables that the scripts of the replaced system read, and the parameter of `xec train` that each is."""
_AUTO = "auto"
_LAST = "checkpoint_last.pth"


@dataclass(frozen=True)
class Ordinary:
    """An ordinary command, as a job is to run it.

    Attributes:
        words: of the command, after `xec`; in an array TASK and FILES stand for what differs.
        name: of the job.
        folder: where the job's files go.
        several: whether it runs in several processes.
        array: numbers of the tasks as SLURM writes them.
        tasks: one by one.
        files: input files by task, or all of them under `""`.
        run: folder of a training, with TASK where that differs.
        last: checkpoint by which one sees that the job has already saved, where it begins from another.
        notices: what was understood, a line each.
    """

    words: list[str]
    name: str
    folder: Path
    several: bool = False
    array: str | None = None
    tasks: list[int] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    run: Path | None = None
    last: Path | None = None
    notices: list[str] = field(default_factory=list)


def ordinary(command: str, words: Sequence[str], *, name: str | None, array: str | None) -> Ordinary:
    """Read an ordinary command, refuse what it would refuse at once, and make it one for a job.

    Args:
        command: `train`, `predict` or `inpaint`.
        words: that follow it.
        name: of the job; by default that of the run or of the output.
        array: number of tasks, or their numbers as SLURM writes them.

    Raises:
        InputError: files or recipe are unusable, or do not fit an array.
    """
    notices = list[str]()
    if command == "train":
        words = [*words, *_of_environment(words, notices)]
    return (_training if command == "train" else _of_files)(command, words, name, array, notices)


# ---------------------------------------------------------------------------------------------------------- training


def _training(command: str, words: Sequence[str], name: str | None, array: str | None, notices: list[str]) -> Ordinary:
    """A training, named and told to go on by itself; in an array each task has a run of its own."""
    numbers, tasks = array_of(array) if array else (None, [])
    first = [word.replace(TASK, str(tasks[0])) if tasks else word for word in words]
    given = _read(command, first, name=name)
    if given["job"] is None or given["help_config"]:
        raise InputError(
            "Say what to train: xec submit train regress, mae or inpaint, then the options of 'xec train'."
        )
    job = str(getattr(given["job"], "value", given["job"]))
    recipe, called = recipe_of(given, job)
    for key in ("train_path", "val_path"):
        paths = getattr(recipe.data, key)
        if not paths:
            raise InputError(f"data.{key} is not set; give it in the recipe or with --{key}.")
        for path in [paths] if isinstance(paths, str) else paths:
            if not is_url(path) and mode_of(path) is None:
                expand(path)  # a pattern, or a mistake
    values = _read(command, words)
    values["name"] = name or called
    if tasks and TASK not in values["name"]:
        values["name"] += f"_{TASK}"
    resume = values["resume_from"] = values["resume_from"] or recipe.checkpoint.resume_from or _AUTO
    base = values["name"].replace(TASK, "").strip("_-. ") or job
    run = Path(recipe.checkpoint.save_dir) / values["name"]
    if not tasks and resume == _AUTO and (run / _LAST).is_file():
        notices.append(f"{run / _LAST} is there: the job goes on from it; another --name begins anew.")
    return Ordinary(
        words=_written(command, values),
        name=base,
        folder=Path(recipe.checkpoint.save_dir) / base,
        several=True,
        array=numbers,
        tasks=tasks,
        run=run,
        last=None if resume == _AUTO else run / _LAST,
        notices=notices,
    )


def _of_environment(words: Sequence[str], notices: list[str]) -> list[str]:
    """Options that variables of the environment are, as in the scripts of the replaced system."""
    given, found = _read("train", words), list[str]()
    for variable, parameter in ENVIRONMENT.items():
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        option = f"--{parameter}"
        if given[parameter] is not None:
            notices.append(f"{variable}={value} of the environment is not used: {option} is given.")
            continue
        notices.append(f"{variable}={value} of the environment is taken as {option} {value}.")
        found += [option, value]
    return found


# ------------------------------------------------------------------------------------------------------------- files


def _of_files(command: str, words: Sequence[str], name: str | None, array: str | None, notices: list[str]) -> Ordinary:
    """A command that reads files and writes one; in an array each task reads its share and writes a part."""
    values = _read(command, words)
    if values.get("pretrained"):
        inputs = [values["model"], *(values["files"] or ())]
    else:
        inputs = list(values["files"] or ())
        model = values.get("model") or values["repair"]
        if command == "predict":
            regular_file(model, "model")
    if not inputs:
        raise InputError(f"No files for 'xec {command}' are given; name them after the model.")
    files, out = expand(inputs), _output_of(command, values, expand(inputs))
    numbers, tasks = array_of(array) if array else (None, [])
    if tasks:
        if len(files) < len(tasks):
            notices.append(f"There are {number_of(len(files), 'file')}, so the array has so many tasks.")
            numbers, tasks = array_of(str(len(files)) + "".join(array.partition("%")[1:] if array else ""))
        values["files"] = [FILES]
        if values.get("pretrained"):
            values["model"], values["files"] = FILES, []
        if values["out"] and out.suffix:  # folders and names with a star have a file for each input as it is
            values["out"] = str(out.with_name(f"{out.stem}_{TASK}{out.suffix}"))
    if "\t" in "".join(files) or not all(file.isprintable() for file in files):
        raise InputError("A name of a file holds a character that cannot be printed; rename it.")
    return Ordinary(
        words=_written(command, values),
        name=name or out.stem,
        folder=out.with_name(f"{out.name}{SUFFIX}"),
        array=numbers,
        tasks=tasks,
        files=shares(files, tasks) if tasks else {"": files},
        notices=notices,
    )


def _output_of(command: str, values: Mapping[str, Any], files: Sequence[str]) -> Path:
    """What a job is called by: the file that it writes, or the folder in which it writes one for each input."""
    if command != "predict":
        return Path(values["out"])
    named = named_outputs(values["out"], files, friend=values["friend"], ntuple=values["rntuple"])
    if len(named) == 1 and str(named[0][0]) == str(values["out"]):
        return named[0][0]
    return named[0][0].parent / "predictions"


# -------------------------------------------------------------------------------------------------- words and values


def _read(command: str, words: Sequence[str], *, name: str | None = None) -> dict[str, Any]:
    """Values of a command's parameters by name, as it reads them; none for those not given that have no default."""
    context = _command(command).make_context(f"xec {command}", list(words))
    values = dict(context.params)
    if name is not None and "name" in values:
        values["name"] = values["name"] or name
    return values


def _written(command: str, values: Mapping[str, Any]) -> list[str]:
    """Words of a command line, after `xec`, that give parameters these values; defaults are left out."""
    arguments, options = list[str](), list[str]()
    for parameter in _command(command).params:
        value = values.get(parameter.name or "")
        if value is None or value == [] or value == () or value == parameter.default or value is False:
            continue
        many = [_text(item) for item in (value if isinstance(value, list | tuple) else [value])]
        if parameter.param_type_name == "argument":
            arguments += many
        elif value is True:
            options.append(parameter.opts[0])
        else:
            options += [word for item in many for word in (parameter.opts[0], item)]
    # what begins with a dash is a file all the same
    separated = ["--", *arguments] if any(word.startswith("-") for word in arguments) else arguments
    return [command, *options, *separated] if separated is not arguments else [command, *arguments, *options]


def _text(value: Any) -> str:
    text = str(getattr(value, "value", value))
    if not text.isprintable():
        raise InputError(
            f"{shown(text)} cannot stand in the script of a job: it holds a character that cannot be printed."
        )
    return text


def _command(name: str) -> Any:
    from xecml.cli.commands import app

    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]


def say(notices: Sequence[str]) -> None:
    """Print what was understood, where results do not go."""
    for notice in notices:
        print(f"xec submit: {notice}", file=sys.stderr, flush=True)
