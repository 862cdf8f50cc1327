"""The command line: parse, import, call, show. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml.errors import InputError
from xecml.terminal import Files, Json, Seed, Tree, plain, show, show_table

app = typer.Typer(
    name="xec",
    help="Reconstruct photons in the MEG II liquid-xenon detector with neural networks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Job(StrEnum):
    """What `xec train` trains."""

    regress = "regress"
    mae = "mae"
    inpaint = "inpaint"


class Reference(StrEnum):
    """What residuals are taken to."""

    truth = "truth"
    reco = "reco"


def main() -> None:
    """Run the command line: one sentence and exit status 2 on bad input, no traceback."""
    try:
        app()
    except InputError as error:
        _fail(str(error), 2)
    except FloatingPointError as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        # the reader of our output went away, as `head` does
        sys.stderr.close()
        sys.exit(141)


def _fail(message: str, status: int) -> None:
    print(f"xec: {message}", file=sys.stderr)
    sys.exit(status)


# ------------------------------------------------------------------------------------------------------ simulate


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT.root", help="File to write.")],
    events: Annotated[int, typer.Option("-n", "--events", min=1, help="Events to write.")],
    seed: Seed = 0,
    vertex: Annotated[str | None, typer.Option("--vertex", help="signal or decoupled.")] = None,
    energy: Annotated[str | None, typer.Option("--energy", help="MeV: 52.8, or a range 15:60.")] = None,
    dead: Annotated[float | None, typer.Option("--dead", min=0, max=1, help="Fraction of dead channels.")] = None,
    dead_list: Annotated[Path | None, typer.Option("--dead-list", help="Dead channels, one id a line.")] = None,
    pileup: Annotated[
        float | None, typer.Option("--pileup", min=0, max=1, help="Fraction of events with a second photon.")
    ] = None,
    optics: Annotated[str | None, typer.Option("--optics", help="fast or montecarlo.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML of detector and response constants.")] = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Events a file: OUT_0000.root, ...")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cores to use; the events do not depend on it.")] = 1,
    as_json: Json = False,
) -> None:
    """Simulate photons in the detector to a ROOT file."""
    from xecml.simulation.generate import simulate as run
    from xecml.simulation.settings import load_settings, parse_energy, read_dead_list

    flags: dict[str, Any] = {
        "vertex": vertex, "dead_fraction": dead, "pileup_fraction": pileup, "optics": optics,
        "energy_mev": parse_energy(energy) if energy else None,
        "dead_sensors": read_dead_list(dead_list) if dead_list else None,
    }  # fmt: skip
    chosen = {name: value for name, value in flags.items() if value is not None}
    settings = load_settings(config, chosen)
    report = run(out, events, settings=settings, seed=seed, jobs=jobs, chunk=chunk)
    rate = report.events / report.seconds
    values = {
        "files": report.files,
        "events": report.events,
        "seconds": report.seconds,
        "events_per_second": rate,
    }
    names = str(report.files[0]) if len(report.files) == 1 else f"{len(report.files)} files {report.files[0]} ..."
    show(
        as_json,
        values,
        f"Wrote {report.events} events to {names} in {report.seconds:.1f} s ({rate:.0f} events/s).",
    )


# --------------------------------------------------------------------------------------------------------- check


@app.command()
def check(
    files: Files,
    tree: Tree = "tree",
    pdf: Annotated[Path | None, typer.Option("--pdf", help="One page to look at: occupancy, distributions.")] = None,
    as_json: Json = False,
) -> None:
    """Say whether files can be used: branches, units, dead and hot channels. Exit status 1 if not."""
    from xecml.evaluation.check import check_files

    report = check_files(files, tree=tree)
    if pdf is not None:
        from xecml.evaluation.checkpage import save_check

        save_check(report, pdf)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        show_table("", ["", "", ""], [list(row) for row in report.rows()])
    if not report.usable:
        sys.exit(1)


@app.command()
def convert(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Folder of shards to write.")],
    form: Annotated[str, typer.Option("--form", help="float32, or compact: 16 bits a value.")] = "float32",
    tree: Tree = "tree",
    as_json: Json = False,
) -> None:
    """Convert files to shards that are read from disk as they are; a stopped conversion goes on where it was."""
    from dataclasses import asdict

    from xecml.data.convert import convert as run

    report = run(files, out, form=form, tree=tree)
    kept = f", {report.kept} of them kept from before" if report.kept else ""
    show(
        as_json,
        asdict(report),
        f"Wrote {report.events} events in {report.shards} shards to {out} ({report.bytes / 1e6:.0f} MB{kept}).",
    )


# --------------------------------------------------------------------------------------------------------- train


@app.command()
def train(
    job: Annotated[Job | None, typer.Argument(help="What to train.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Recipe, YAML.")] = None,
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
    as_json: Json = False,
) -> None:
    """Train a network as a recipe says."""
    from xecml.config import TasksConfig
    from xecml.recipes import describe, load_config

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
    run_name = recipe.mlflow.run_name or (config.stem if config else job.value)

    from xecml.deploy.finished import write_finished
    from xecml.training.loop import train as run

    result = run(recipe, name=run_name, kind=job.value, quiet=as_json)
    files = write_finished(recipe, result, run_name)
    if not result.first_process:
        return
    values = {"checkpoint": result.best, "seconds": result.seconds, "metrics": result.metrics, "artifacts": files}
    more = f" and {len(files)} artifacts beside it" if files else ""
    show(as_json, values, f"Best checkpoint: {result.best} ({result.seconds / 60:.1f} minutes){more}.")


# ------------------------------------------------------------------------------- evaluate, export, predict, display


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint or exported model.")],
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Folder for table, plots and predictions.")],
    others: Annotated[
        list[Path] | None, typer.Option("--model", help="Another model or prediction file beside it.")
    ] = None,
    reference: Annotated[Reference, typer.Option("--reference", help="What to measure against.")] = Reference.truth,
    tree: Tree = "tree",
    as_json: Json = False,
) -> None:
    """Measure a model on files with truth: table, plots, predictions; of 'inpaint' and 'mae' how well they repair."""
    from xecml.evaluation.fillers import is_repair
    from xecml.evaluation.report import evaluate_files

    if is_repair(checkpoint):
        _evaluate_repair(checkpoint, files, out, others or [], tree, as_json)
        return
    report = evaluate_files(checkpoint, files, out, others=others or [], reference=reference.value, tree=tree)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        for depth, headers, rows in report.tables():
            show_table(f"{report.evaluations[0].n_events} events, {depth}", headers, rows)
        for warning in report.evaluations[0].warnings:
            print(f"Warning: {warning}")
        print("Wrote " + ", ".join(str(path) for path in report.files.values()) + ".")


def _evaluate_repair(
    checkpoint: Path, files: list[str], out: Path, others: list[Path], tree: str, as_json: bool
) -> None:
    from xecml.evaluation.repair_report import evaluate_repairs

    report, written = evaluate_repairs(checkpoint, files, out, others=others, tree=tree)
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    for title, headers, rows in report.tables():
        show_table(title, headers, rows)
    print("Wrote " + ", ".join(map(str, written)) + ".")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx")],
    tasks: Annotated[str, typer.Option("--tasks", help="For example 'angle energy'; all by default.")] = "",
    as_json: Json = False,
) -> None:
    """Export a checkpoint to one ONNX file, checked against PyTorch."""
    from xecml.deploy.export import export as run

    report = run(checkpoint, out, tasks=tasks.replace(",", " ").split())
    worst = max(report.largest_difference.values())
    show(
        as_json,
        {
            "out": report.out,
            "tasks": report.tasks,
            "bytes": report.bytes,
            "largest_difference": report.largest_difference,
        },
        f"Wrote {report.out} ({report.bytes / 1e6:.1f} MB; {', '.join(report.tasks)}); ONNX Runtime and PyTorch "
        f"agree to {worst:.1e} of the target width at batch sizes {', '.join(map(str, report.largest_difference))}.",
    )


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint or ONNX file.")],
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="ROOT file to write.")],
    tree: Tree = "tree",
    as_json: Json = False,
) -> None:
    """Predict files to a ROOT file with one tree, `predictions`."""
    from xecml.deploy.predict import predict_files
    from xecml.evaluation.predictions import load_model

    report = predict_files(load_model(model), files, out, tree=tree)
    rate = report.events / report.seconds
    values = {
        "out": report.out,
        "events": report.events,
        "seconds": report.seconds,
        "events_per_second": rate,
    }
    show(as_json, values, f"Wrote predictions of {report.events} events to {report.out} ({rate:.0f} events/s).")


@app.command()
def inpaint(
    repair: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Checkpoint of 'inpaint' or 'mae', ONNX file, or neighbour_mean, solid_angle, point_source.",
        ),
    ],
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="ROOT file to write.")],
    dead_list: Annotated[
        Path | None,
        typer.Option("--dead-list", help="Dead channels, one id a line; else the branch 'dead', else found by sight."),
    ] = None,
    tree: Tree = "tree",
    as_json: Json = False,
) -> None:
    """Fill dead channels of files; everything else passes unchanged."""
    from xecml.deploy.inpaint import inpaint_files
    from xecml.evaluation.fillers import load_repair

    filler = load_repair(repair)
    branches = getattr(filler, "branches", ("npho", "time"))
    report = inpaint_files(filler, files, out, dead_list=dead_list, tree=tree, branches=branches)
    known = {"list": "by the list", "branch": "by the file's flags", "automatic": "found by sight"}[report.origin]
    left = f"; left out {', '.join(report.left_out)}, which have no fixed length" if report.left_out else ""
    empty = f", {report.not_filled} without anything to go by" if report.not_filled else ""
    show(
        as_json,
        report.as_dict(),
        f"Filled {report.filled} values of {len(report.sensors)} sensors ({known}{empty}) in {report.events} events to "
        f"{out} ({report.events / report.seconds:.0f} events/s{left}).",
    )


@app.command()
def display(
    file: Annotated[str, typer.Argument(metavar="FILE", help="ROOT file.")],
    event: Annotated[int, typer.Option("--event", min=0, help="Entry in the file, from 0.")],
    out: Annotated[Path, typer.Option("--out", help="Picture to write: .pdf or .png.")],
    model: Annotated[Path | None, typer.Option("--model", help="Show this model's prediction too.")] = None,
    tree: Tree = "tree",
) -> None:
    """Draw an event unfolded over the six faces."""
    from xecml.evaluation.show import display_event

    display_event(file, event, out, model=model, tree=tree)
    print(f"Wrote {out}.")


# ---------------------------------------------------------------------------------------------------------- info


@app.command()
def info(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="ROOT file, checkpoint or ONNX file.")] = None,
    system: Annotated[bool, typer.Option("--system", help="Versions, processors, accelerators.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a file is, or what this machine is."""
    from xecml.evaluation.inspect import describe_file, describe_system

    if file is None and not system:
        raise InputError("Name a file, or ask for --system.")
    values = (describe_system() if system else {}) | (describe_file(file) if file else {})
    width = max(map(len, values))
    show(as_json, values, "\n".join(f"{key:<{width}}  {plain(value)}" for key, value in values.items()))
