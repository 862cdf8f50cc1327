"""The command `xec train`: a recipe, with values from the command line."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xecml.cli.printing import Debug, Force, Json, show
from xecml.errors import InputError

if TYPE_CHECKING:
    from xecml.config import Config
    from xecml.training.loop import Result

STOPPED = 75
"""Exit status of a training that a signal stopped and that should go on, for what requeues it."""
FLAGS = {
    "train_path": "data.train_path", "val_path": "data.val_path", "batch": "data.batch_size",
    "chunksize": "data.chunksize", "epochs": "training.epochs", "lr": "training.lr",
    "weight_decay": "training.weight_decay", "warmup_epochs": "training.warmup_epochs",
    "ema_decay": "training.ema_decay", "grad_clip": "training.grad_clip", "npho_scale": "normalization.npho_scale",
    "npho_scale2": "normalization.npho_scale2", "time_scale": "normalization.time_scale",
    "time_shift": "normalization.time_shift", "sentinel_value": "normalization.sentinel_value",
    "resume_from": "checkpoint.resume_from", "mae_checkpoint": "training.mae_checkpoint",
    "mask_ratio": "model.mask_ratio", "outer_mode": "model.outer_mode", "name": "mlflow.run_name",
}  # fmt: skip
"""Parameters of `xec train` that are keys of a recipe."""


@contextmanager
def warned() -> Iterator[None]:
    """While active, a scheduler's warning ends the command with STOPPED where no training is there to save.

    Libraries are loaded before a training and pictures drawn after it, and both begin anew when it goes on.
    """
    numbers = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    try:
        before = {n: signal.signal(n, _stop) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    except ValueError:  # not the main thread: signals are another's
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    print(
        f"xec: stopped ({name}) before or after the training steps; --resume_from auto continues the training.",
        file=sys.stderr,
        flush=True,
    )
    raise SystemExit(STOPPED)


class Job(StrEnum):
    """What `xec train` trains."""

    regress = "regress"
    mae = "mae"
    inpaint = "inpaint"


def train(
    context: typer.Context,
    job: Annotated[
        Job | None, typer.Argument(metavar="JOB", help="What to train: regress, mae or inpaint.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Recipe: a YAML file, or a name that 'xec recipes' lists.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=V", help="Set any key of the recipe.")
    ] = None,
    train_path: Annotated[str | None, typer.Option("--train_path", help="Training files.")] = None,
    val_path: Annotated[str | None, typer.Option("--val_path", help="Validation files.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the training files.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Events per training step.")] = None,
    chunksize: Annotated[
        int | None, typer.Option("--chunksize", help="Largest number of events that are shuffled together.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight_decay", help="AdamW decay.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option("--warmup_epochs", help="Epochs of warm-up.")] = None,
    ema_decay: Annotated[float | None, typer.Option("--ema_decay", help="Decay of the averaged weights.")] = None,
    grad_clip: Annotated[float | None, typer.Option("--grad_clip", help="Limit of the gradient's norm.")] = None,
    npho_scale: Annotated[float | None, typer.Option("--npho_scale", help="Photons.")] = None,
    npho_scale2: Annotated[float | None, typer.Option("--npho_scale2")] = None,
    time_scale: Annotated[float | None, typer.Option("--time_scale", help="Seconds.")] = None,
    time_shift: Annotated[float | None, typer.Option("--time_shift")] = None,
    sentinel_value: Annotated[float | None, typer.Option("--sentinel_value")] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="Quantities to predict, for example 'angle energy'; all others are switched off."),
    ] = None,
    resume_from: Annotated[
        str | None,
        typer.Option(
            "--resume_from", help="Checkpoint to continue from; auto: the last one of this run, if there is one."
        ),
    ] = None,
    mae_checkpoint: Annotated[
        str | None, typer.Option("--mae_checkpoint", help="Checkpoint whose encoder the training starts from.")
    ] = None,
    mask_ratio: Annotated[float | None, typer.Option("--mask_ratio", help="Share of sensors that are hidden.")] = None,
    outer_mode: Annotated[str | None, typer.Option("--outer_mode", help="finegrid or split.")] = None,
    outer_fine_pool: Annotated[
        str | None, typer.Option("--outer_fine_pool", help="For example '3,3', or none.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    help_config: Annotated[
        bool, typer.Option("--help-config", help="Print every key of a recipe with its default and meaning.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network with the settings of a recipe."""
    if help_config:
        _print_keys(job)
        return
    if job is None:
        raise InputError(f"'xec train' needs to know what to train; name {', '.join(list(Job)[:-1])} or {Job.inpaint}.")
    with warned():
        _train(context.params, job.value, as_json=as_json, force=force)


def _print_keys(job: Job | None) -> None:
    from xecml.recipes import describe

    print(f"{'key':<34} {'default':<14} {'unit':<10} meaning")
    for key, default, unit, meaning in describe(job.value if job else "regress"):
        print(f"{key:<34} {default!s:<14} {unit:<10} {meaning}")


def recipe_of(given: Mapping[str, Any], job: str) -> tuple[Config, str]:
    """The recipe that a command line means, and the name of its run.

    Args:
        given: the options of `xec train` by the names of its parameters.
        job: of the training.

    Raises:
        InputError: the recipe cannot be read, or a key or value is wrong.
    """
    from xecml.config import TasksConfig
    from xecml.recipes import load_config, run_name

    flags: dict[str, Any] = {key: given[name] for name, key in FLAGS.items()}
    if given["tasks"] is not None:
        wanted = given["tasks"].replace(",", " ").split()
        every = set(TasksConfig.model_fields) | set(wanted)  # an unknown one is then named as an unknown key
        flags |= {f"tasks.{task}.enabled": task in wanted for task in every}
    settings, pool = list(given["settings"] or []), given["outer_fine_pool"]
    if pool is not None:
        none = pool.lower() in ("none", "null")
        settings.append(f"model.outer_fine_pool={'null' if none else '[' + pool.strip('[]') + ']'}")
    recipe = load_config(given["config"], settings, flags, job=job)
    return recipe, run_name(recipe, given["config"], job)


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Values of the parameters of `xec train` by name, from the words that follow it; none for those not given."""
    from xecml.cli.commands import app

    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    return dict(command.make_context("xec train", list(words)).params)


def _train(given: Mapping[str, Any], job: str, *, as_json: bool, force: bool) -> None:
    before = time.monotonic()
    recipe, called = recipe_of(given, job)

    from xecml.recipes.shipped import find
    from xecml.reports.finished_training import write_finished
    from xecml.training.loop import train as run

    libraries = time.monotonic() - before
    path = find(given["config"], "train") if given["config"] is not None else None
    result = run(recipe, name=called, kind=job, quiet=as_json, recipe_path=path, force=force)
    files = write_finished(recipe, result, called, force=force)
    result.spent.add_before("libraries, recipe", libraries)
    if result.first_process:
        values = {
            "checkpoint": result.best, "stopped": result.stopped, "seconds": result.seconds,
            "metrics": result.metrics, "artifacts": files, "seconds_by_part": result.spent.seconds,
        }  # fmt: skip
        show(as_json, values, "\n".join([*result.spent.lines(), _last_line(result, len(files))]))
    if result.stopped:
        raise typer.Exit(STOPPED)


def _last_line(result: Result, artifacts: int) -> str:
    """What a training left, in one line."""
    from xecml.events import number_of

    minutes = f"{result.seconds / 60:.1f} minutes"
    if result.stopped:
        what = "best checkpoint so far" if result.validated else "no epoch was validated yet"
        return f"Stopped ({result.stopped}) after {minutes}; {what}: {result.best}."
    more = f" and {number_of(artifacts, 'artifact')} beside it" if artifacts else ""
    return f"Best checkpoint: {result.best} ({minutes}){more}."
