"""The commands that `xec submit` takes: read as their own command line reads them, and written out again for a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from xecml.cli import tune
from xecml.cli.command_words import Ordinary, command_named, plain, read, written
from xecml.cli.submitted_files import LEAST_MB, of_files
from xecml.cli.train import recipe_of
from xecml.cluster.batch_script import TASK
from xecml.cluster.demands import array_of
from xecml.cluster.job_records import SUFFIX
from xecml.errors import InputError
from xecml.files import expand, is_url, mode_of
from xecml.recipes import JOBS

ENVIRONMENT = {
    "EPOCHS": "epochs", "LR": "lr", "BATCH": "batch", "TASKS": "tasks", "RESUME_FROM": "resume_from",
    "CHUNK_SIZE": "chunksize",
}  # fmt: skip
"""Variables that the scripts of the replaced system read, and the parameter of `xec train` that each is."""
_AUTO = "auto"
_LAST = "checkpoint_last.pth"


def ordinary(
    command: str, words: Sequence[str], *, name: str | None, array: str | None, least_mb: int = LEAST_MB
) -> Ordinary:
    """Read an ordinary command, refuse wrong input at once, and prepare the command for a job.

    Args:
        command: `train`, `predict`, `inpaint`, `tune` or `jupyter`.
        words: that follow it.
        name: of the job; by default that of the run or of the output.
        array: number of tasks, or their numbers as SLURM writes them.
        least_mb: of input files of a task that shares them with others.

    Raises:
        InputError: files or recipe are unusable, or do not fit an array.
    """
    notices = list[str]()
    if command == "train":
        return _training(command, [*words, *_of_environment(words, notices)], name, array, notices)
    if command == "tune":
        return _search(words, name, array, notices)
    if command == "jupyter":
        return _server(words, name, array, notices)
    return of_files(command, words, name, array, notices, least_mb)


# ---------------------------------------------------------------------------------------------------------- training


def _training(command: str, words: Sequence[str], name: str | None, array: str | None, notices: list[str]) -> Ordinary:
    """A training, named and told to go on by itself; in an array each task has a run of its own."""
    numbers, tasks = array_of(array) if array else (None, [])
    first = [word.replace(TASK, str(tasks[0])) if tasks else word for word in words]
    given = read(command, first, name=name)
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
    values = read(command, words)
    values["name"] = name or called
    if tasks and TASK not in values["name"]:
        values["name"] += f"_{TASK}"
    resume = values["resume_from"] = values["resume_from"] or recipe.checkpoint.resume_from or _AUTO
    base = values["name"].replace(TASK, "").strip("_-. ") or job
    run = Path(recipe.checkpoint.save_dir) / values["name"]
    if not tasks and resume == _AUTO and (run / _LAST).is_file():
        notices.append(f"{run / _LAST} is there: the job goes on from it; another --name begins anew.")
    return Ordinary(
        words=written(command, values),
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
    given, found = read("train", words), list[str]()
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


# --------------------------------------------------------------------------------------------------- searches, servers


def _search(words: Sequence[str], name: str | None, array: str | None, notices: list[str]) -> Ordinary:
    """A worker of a study; in an array each task is one, all of the same study."""
    group = command_named("tune")
    job, given = (words[0] if words else ""), list(words[1:])
    if job not in JOBS:
        raise InputError("Say what to search for: xec submit tune regress, mae or inpaint, then its options.")
    context = group.commands[job].make_context(f"xec tune {job}", list(given))  # which empties it
    values = context.params
    chosen = {key: getattr(values[key], "value", values[key]) for key in tune.CHOSEN}
    frozen = tune.frozen_for(job, values["space"], values["trials"], chosen, list(context.args))
    study = Path(values["study"])
    if frozen is None and not (study / "study.json").is_file():
        raise InputError(f"There is no study in {study}; begin it with --space, a file of what is to be searched.")
    numbers, tasks = array_of(array) if array else (None, [])
    if not tasks:
        notices.append("One worker is submitted; --array 4 would be four, which share the study.")
    own = ["tune", job, *map(plain, given)]
    return Ordinary(own, name or study.name, study, array=numbers, tasks=tasks, notices=notices)


def _server(words: Sequence[str], name: str | None, array: str | None, notices: list[str]) -> Ordinary:
    """JupyterLab on a compute node."""
    if array:
        raise InputError("A session of Jupyter is one job; leave --array out.")
    called = name or "jupyter"
    folder = Path(f"{called}{SUFFIX}")
    session = folder / "session.json"
    values = read("jupyter", words) | {"session": str(session)}
    return Ordinary(written("jupyter", values), called, folder, notices=notices, session=session)


def say(notices: Sequence[str]) -> None:
    """Print notices about how the command was understood to standard error."""
    for notice in notices:
        print(f"xec submit: {notice}", file=sys.stderr, flush=True)
