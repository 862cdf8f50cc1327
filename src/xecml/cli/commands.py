"""The command line: parse, import, call, show. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml import __version__, cpu_load
from xecml.cli import usage_errors
from xecml.cli.baseline import baseline
from xecml.cli.calibrate import calibrate
from xecml.cli.diff import diff
from xecml.cli.display import display
from xecml.cli.evaluate import evaluate
from xecml.cli.export import export
from xecml.cli.inpaint import inpaint
from xecml.cli.jupyter import jupyter
from xecml.cli.merge import merge
from xecml.cli.predict import predict
from xecml.cli.prepare import prepare
from xecml.cli.printing import (
    Apply,
    ByRun,
    Debug,
    Files,
    Force,
    Json,
    Seed,
    Tree,
    lines,
    show,
    show_table,
)
from xecml.cli.recipes import recipes_app
from xecml.cli.report import report
from xecml.cli.submit import submit_app
from xecml.cli.train import train
from xecml.cli.tune import tune_app
from xecml.errors import InputError

app = typer.Typer(
    name="xec",
    help="Reconstruct photons in the MEG II liquid-xenon detector with neural networks.",
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


app.add_typer(recipes_app, name="recipes")
app.add_typer(submit_app, name="submit")
app.add_typer(tune_app, name="tune")


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence and a status, see `xecml.cli.failures`."""
    from xecml.cli.failures import run

    cpu_load.follow()
    # pictures go to files; a notebook hands down its own backend, which need not be installed where `xec` is
    os.environ["MPLBACKEND"] = "agg"
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    sys.exit(run(_command, debug="--debug" in sys.argv))


def _command() -> None:
    if any(re.fullmatch(r"(--[\w-]+=)?", argument) for argument in sys.argv[1:]):
        raise InputError("An argument is empty, as an unset variable of a shell is; give it a value, or leave it out.")
    usage_errors.run(app, "xec")


def _say_version(asked: bool) -> None:
    if asked:
        print(f"xec {__version__}")
        raise typer.Exit


@app.callback()
def _front(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Reconstruct photons in the MEG II liquid-xenon detector with neural networks."""


# ------------------------------------------------------------------------------------------------------ simulate


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT.root", help="File to write.")],
    events: Annotated[int, typer.Option("-n", "--events", min=1, help="Number of events.")],
    seed: Seed = 0,
    vertex: Annotated[str | None, typer.Option("--vertex", help="signal or decoupled.")] = None,
    energy: Annotated[str | None, typer.Option("--energy", help="MeV: 52.8, or a range 15:60.")] = None,
    dead: Annotated[float | None, typer.Option("--dead", min=0, max=1, help="Fraction of dead sensors.")] = None,
    dead_list: Annotated[
        Path | None, typer.Option("--dead-list", help="File with ids of dead sensors, one per line.")
    ] = None,
    pileup: Annotated[
        float | None, typer.Option("--pileup", min=0, max=1, help="Fraction of events with a second photon.")
    ] = None,
    optics: Annotated[str | None, typer.Option("--optics", help="fast or montecarlo.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="YAML file with constants of detector and response, or 'simulation' for the shipped one."
        ),
    ] = None,
    vary: Annotated[
        Path | None,
        typer.Option(
            "--vary",
            help="YAML file with ranges of constants, drawn anew every few hundred events; or 'varied'.",
        ),
    ] = None,
    conditions: ByRun = None,
    chunk: Annotated[
        int | None,
        typer.Option("--chunk", min=1, help="Write several files, OUT_0000.root, ..., of so many events each."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Number of cores to use; the events do not depend on it.")
    ] = 1,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Simulate photons in the detector to a ROOT file."""
    from xecml.events import number_of
    from xecml.recipes.shipped import find
    from xecml.simulation.generate import simulate as run
    from xecml.simulation.settings import load_settings, load_vary, parse_energy, read_dead_list

    flags: dict[str, Any] = {
        "vertex": vertex, "dead_fraction": dead, "pileup_fraction": pileup, "optics": optics,
        "energy_mev": parse_energy(energy) if energy is not None else None,
        "dead_sensors": read_dead_list(dead_list) if dead_list else None,
        "vary": load_vary(vary) if vary is not None else None, "conditions": conditions,
    }  # fmt: skip
    chosen = {name: value for name, value in flags.items() if value is not None}
    settings = load_settings(config, chosen)
    read = [*(find(path, "simulate") for path in (config, vary) if path is not None), dead_list]
    options: dict[str, Any] = {"seed": seed, "jobs": jobs, "chunk": chunk, "settings_from": read}
    report = run(out, events, settings=settings, force=force, **options)
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
        f"Wrote {number_of(report.events)} to {names} in {report.seconds:.1f} s ({rate:.0f} events/s).",
    )


# --------------------------------------------------------------------------------------------------------- check


@app.command()
def check(
    files: Files,
    tree: Tree = "tree",
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Compare the events with the training events of this checkpoint or ONNX file."),
    ] = None,
    pdf: Annotated[
        Path | None,
        typer.Option(
            "--pdf",
            help="PDF page to write: occupancy, distributions; with --model also the comparison with its training.",
        ),
    ] = None,
    conditions: ByRun = None,
    apply: Apply = "",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether files can be used: branches, units, dead and hot sensors. Exit status 1 if not.

    With --model also whether they are like the events that it was trained on: a table of what was compared, and which
    of it is the detector's. That files are unlike these is no error: the model may then be wrong by more than it says.
    """
    from xecml.checks.event_files import check_files
    from xecml.conditions_file import correction
    from xecml.pretrained import model_file

    model = None if model is None else model_file(model)
    report = check_files(files, tree=tree, correction=correction(conditions, apply))
    comparison = None
    if model is not None and report.predictable and report.n_events:
        from xecml.inference.file_comparison import compare_files

        comparison = compare_files(model, files, tree=tree)
    if pdf is not None and comparison is not None and model is not None:
        from xecml.figures.training_page import save_comparison

        names = ", ".join(Path(file).name for file in report.files[:4])
        title = f"{names} beside the training of {model}"
        save_comparison(comparison, pdf, title=title, inputs=[model, *report.files], force=force)
    elif pdf is not None:
        from xecml.figures.check_page import save_check

        save_check(report, pdf, force=force)
    if as_json:
        compared = {} if comparison is None else {"model": str(model), "training": comparison.as_dict()}
        print(json.dumps(report.as_dict() | compared))
    else:
        show_table("", ["", "", ""], [list(row) for row in report.rows()])
        if comparison is not None:
            from xecml.inference.training_comparison import HEADERS

            show_table(f"Beside the training of {model}", HEADERS, comparison.rows())
            print(comparison.verdict())
    if not report.usable:
        sys.exit(1)


@app.command()
def convert(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Folder of shards to write.")],
    form: Annotated[str, typer.Option("--form", help="float32, or compact for 16 bits per value.")] = "float32",
    tree: Tree = "tree",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert files to shards, which need no decoding when they are read; a stopped conversion continues."""
    from dataclasses import asdict

    from xecml.data.convert import convert as run
    from xecml.events import number_of

    report = run(files, out, form=form, tree=tree)
    kept = f", {report.kept} of them kept from before" if report.kept else ""
    show(
        as_json,
        asdict(report),
        f"Wrote {number_of(report.events)} in {number_of(report.shards, 'shard')} to {out} "
        f"({report.bytes / 1e6:.0f} MB{kept}).",
    )


app.command()(prepare)
app.command()(train)


# --------------------------------------------------------------- evaluate, report, export, predict, baseline, display


app.command()(evaluate)
app.command()(report)
app.command()(diff)
app.command()(export)
app.command()(calibrate)
app.command()(predict)
app.command()(merge)
app.command()(jupyter)
app.command()(inpaint)
app.command()(baseline)
app.command()(display)


# ---------------------------------------------------------------------------------------------------------- info


@app.command()
def info(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="ROOT file, checkpoint or ONNX file.")] = None,
    system: Annotated[
        bool, typer.Option("--system", help="Print versions, processors, GPUs, memory and compiler.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print what a file contains, or what this machine has."""
    from xecml.cli.info import describe_file
    from xecml.cli.system import describe_system
    from xecml.pretrained import model_file

    if file is None and not system:
        raise InputError("Name a file, or ask for --system.")
    values = (describe_system() if system else {}) | (describe_file(str(model_file(file))) if file else {})
    show(as_json, values, lines(values))
