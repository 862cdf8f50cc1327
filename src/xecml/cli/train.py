"""The command `xec train`: its flags laid over a recipe."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xecml.cli.printing import Debug, Force, Json, show

if TYPE_CHECKING:
    from xecml.training.loop import Result

STOPPED = 75
"""Exit status of a training that a signal stopped and that should go on, for what requeues it."""


class Job(StrEnum):
    """What `xec train` trains."""

    regress = "regress"
    mae = "mae"
    inpaint = "inpaint"


def train(
    job: Annotated[Job | None, typer.Argument(help="What to train.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Recipe: a YAML file, or a name that 'xec recipes' lists.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=V", help="Set any key of the recipe.")
    ] = None,
    train_path: Annotated[str | None, typer.Option("--train_path", help="Training files.")] = None,
    val_path: Annotated[str | None, typer.Option("--val_path", help="Validation files.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the training files.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Events a step.")] = None,
    chunksize: Annotated[int | None, typer.Option("--chunksize", help="Events shuffled among themselves.")] = None,
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
        str | None, typer.Option("--tasks", help="For example 'angle energy'; the others are off.")
    ] = None,
    resume_from: Annotated[str | None, typer.Option("--resume_from", help="Checkpoint to go on from.")] = None,
    mae_checkpoint: Annotated[
        str | None, typer.Option("--mae_checkpoint", help="Checkpoint whose encoder is taken.")
    ] = None,
    mask_ratio: Annotated[float | None, typer.Option("--mask_ratio", help="Share of sensors hidden.")] = None,
    outer_mode: Annotated[str | None, typer.Option("--outer_mode", help="finegrid or split.")] = None,
    outer_fine_pool: Annotated[
        str | None, typer.Option("--outer_fine_pool", help="For example '3,3', or none.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    help_config: Annotated[bool, typer.Option("--help-config", help="Print every key and its meaning.")] = False,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network as a recipe says."""
    before = time.monotonic()

    from xecml.config import TasksConfig
    from xecml.recipes import describe, load_config, run_name
    from xecml.recipes.shipped import find

    if help_config:
        print(f"{'key':<34} {'default':<14} {'unit':<10} meaning")
        for key, default, unit, meaning in describe(job.value if job else "regress"):
            print(f"{key:<34} {default!s:<14} {unit:<10} {meaning}")
        return
    if job is None:
        raise typer.BadParameter(f"name one of {', '.join(Job)}.", param_hint="job")
    flags: dict[str, Any] = {
        "data.train_path": train_path, "data.val_path": val_path, "data.batch_size": batch,
        "data.chunksize": chunksize, "training.epochs": epochs, "training.lr": lr,
        "training.weight_decay": weight_decay, "training.warmup_epochs": warmup_epochs,
        "training.ema_decay": ema_decay, "training.grad_clip": grad_clip,
        "normalization.npho_scale": npho_scale, "normalization.npho_scale2": npho_scale2,
        "normalization.time_scale": time_scale, "normalization.time_shift": time_shift,
        "normalization.sentinel_value": sentinel_value, "checkpoint.resume_from": resume_from,
        "training.mae_checkpoint": mae_checkpoint, "model.mask_ratio": mask_ratio, "model.outer_mode": outer_mode,
        "mlflow.run_name": name,
    }  # fmt: skip
    if tasks is not None:
        wanted = tasks.replace(",", " ").split()
        every = set(TasksConfig.model_fields) | set(wanted)  # an unknown one is then named as an unknown key
        flags |= {f"tasks.{task}.enabled": task in wanted for task in every}
    given = list(settings or [])
    if outer_fine_pool is not None:
        none = outer_fine_pool.lower() in ("none", "null")
        given.append(f"model.outer_fine_pool={'null' if none else '[' + outer_fine_pool.strip('[]') + ']'}")
    recipe = load_config(config, given, flags, job=job.value)
    called = run_name(recipe, config, job.value)

    from xecml.reports.finished_training import write_finished
    from xecml.training.loop import train as run

    libraries = time.monotonic() - before
    path = find(config, "train") if config is not None else None
    result = run(recipe, name=called, kind=job.value, quiet=as_json, recipe_path=path, force=force)
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
