"""The command line: parse, import, call, show. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml import __version__, cpu_load
from xecml.choices import REPAIRS
from xecml.cli.calibrate import Reference, calibrate
from xecml.cli.display import display
from xecml.cli.export import export
from xecml.cli.prepare import prepare
from xecml.cli.printing import (
    Apply,
    ByRun,
    Debug,
    Files,
    Force,
    Json,
    Part,
    Seed,
    Select,
    Tree,
    lines,
    show,
    show_table,
)
from xecml.cli.recipes import recipes_app
from xecml.cli.submit import submit_app
from xecml.cli.train import train
from xecml.errors import InputError
from xecml.pretrained import names as shipped_models

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


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence and a status, see `xecml.cli.failures`."""
    from xecml.cli.failures import run

    cpu_load.follow()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    sys.exit(run(_command, debug="--debug" in sys.argv))


def _command() -> None:
    if any(re.fullmatch(r"(--[\w-]+=)?", argument) for argument in sys.argv[1:]):
        raise InputError("An argument is empty, as an unset variable of a shell is; give it a value, or leave it out.")
    app()


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
    events: Annotated[int, typer.Option("-n", "--events", min=1, help="Events to write.")],
    seed: Seed = 0,
    vertex: Annotated[str | None, typer.Option("--vertex", help="signal or decoupled.")] = None,
    energy: Annotated[str | None, typer.Option("--energy", help="MeV: 52.8, or a range 15:60.")] = None,
    dead: Annotated[float | None, typer.Option("--dead", min=0, max=1, help="Fraction of dead sensors.")] = None,
    dead_list: Annotated[Path | None, typer.Option("--dead-list", help="Dead sensors, one id a line.")] = None,
    pileup: Annotated[
        float | None, typer.Option("--pileup", min=0, max=1, help="Fraction of events with a second photon.")
    ] = None,
    optics: Annotated[str | None, typer.Option("--optics", help="fast or montecarlo.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML of detector and response constants, or 'simulation'.")
    ] = None,
    vary: Annotated[
        Path | None,
        typer.Option("--vary", help="YAML with ranges of constants, drawn anew every few hundred events, or 'varied'."),
    ] = None,
    conditions: ByRun = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Events a file: OUT_0000.root, ...")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cores to use; the events do not depend on it.")] = 1,
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
        typer.Option("--model", help="Compare the events with those that this checkpoint or ONNX file was trained on."),
    ] = None,
    pdf: Annotated[
        Path | None,
        typer.Option(
            "--pdf", help="A page to look at: occupancy, distributions; with --model the comparison with its training."
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
    form: Annotated[str, typer.Option("--form", help="float32, or compact: 16 bits a value.")] = "float32",
    tree: Tree = "tree",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert files to shards that are read from disk as they are; a stopped conversion goes on where it was."""
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
    dead_list: Annotated[
        Path | None, typer.Option("--dead-list", help="Of a repair: sensors dead in the files; as for 'xec inpaint'.")
    ] = None,
    events: Annotated[
        int | None, typer.Option("--events", min=1, help="Of a repair: look at so many.", show_default="all")
    ] = None,
    depths: Annotated[bool, typer.Option("--depths", help="Print a table for each bin of depth, too.")] = False,
    select: Select = "",
    share: Part = "",
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on files with truth: table, plots, predictions; of 'inpaint' and 'mae' how well they repair."""
    from xecml.data.selected_events import WHOLE, Cut, parse_share
    from xecml.inference.repair_models import is_repair
    from xecml.pretrained import model_file
    from xecml.reports.model_evaluation import evaluate_files

    cut = Cut.of(select, parse_share(share) if share else WHOLE)
    checkpoint, others = model_file(checkpoint), [model_file(other) for other in others or []]
    if is_repair(checkpoint):
        options: dict[str, Any] = {"others": others, "dead_list": dead_list, "max_events": events, "tree": tree}
        options |= {"cut": cut, "force": force}
        if depths:
            raise InputError("--depths is for models that predict physical quantities; this one repairs sensors.")
        _evaluate_repair(checkpoint, files, out, options, as_json)
        return
    if dead_list or events:
        raise InputError("--dead-list and --events are for repairs; this model predicts physical quantities.")
    options = {"others": others, "reference": reference.value, "tree": tree, "cut": cut, "force": force}
    report = evaluate_files(checkpoint, files, out, **options)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        if report.cut:
            print(f"Selected: {report.left.line()}")
        for title, headers, rows in report.tables(depths=depths):
            show_table(title, headers, rows)
        if not depths:
            print("--depths prints the same in bins of depth; the plots and evaluation.json have them in any case.")
        if (right := report.evaluations[0].n_gamma_accuracy) is not None:
            print(f"The number of photons is right in {100 * right:.3g} % of events.")
        for warning in report.evaluations[0].warnings:
            print(f"Warning: {warning}")
        print("Wrote " + ", ".join(str(path) for path in report.files.values()) + ".")
        for name, line in report.calibrations.items():
            print(f"{name}: {line}")
        if said := report.answered.line():
            print(said)


def _evaluate_repair(checkpoint: Path, files: list[str], out: Path, options: dict[str, Any], as_json: bool) -> None:
    from xecml.reports.repair_evaluation import evaluate_repairs

    report, left, written = evaluate_repairs(checkpoint, files, out, **options)
    if as_json:
        selected = {} if left is None else {"selected": {"cut": options["cut"].named(), **left.as_dict()}}
        print(json.dumps(report.as_dict() | selected))
        return
    if left is not None:
        print(f"Selected: {left.line()}")
    for title, headers, rows in report.tables():
        show_table(title, headers, rows)
    print("Wrote " + ", ".join(map(str, written)) + ".")


app.command()(export)
app.command()(calibrate)


@app.command()
def predict(
    out: Annotated[Path, typer.Option("--out", help="ROOT file to write.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint or ONNX file.")],
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE...", help="ROOT files, globs or folders.")] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            help=f"In place of MODEL, one that comes with the package: {', '.join(shipped_models())}.",
            hidden=not shipped_models(),
        ),
    ] = None,
    conditions: ByRun = None,
    apply: Apply = "",
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict files to a ROOT file with one tree, `predictions`."""
    from xecml.conditions_file import correction
    from xecml.events import number_of
    from xecml.inference import calibration_record
    from xecml.inference.predict import predict_files
    from xecml.inference.trained_model import load_model
    from xecml.pretrained import pretrained_file

    path = Path(model) if pretrained is None else pretrained_file(pretrained)
    inputs = [*(() if pretrained is None else (model,)), *(files or ())]
    if not inputs:
        raise InputError("No files to predict are given; name them after the model.")
    by_run = correction(conditions, apply)
    loaded = load_model(path)
    report = predict_files(loaded, inputs, out, tree=tree, model_path=path, correction=by_run, force=force)
    rate = report.events / report.seconds
    values = {
        "out": report.out,
        "events": report.events,
        "seconds": report.seconds,
        "events_per_second": rate,
        "answers": report.answered.as_dict(),
        "calibration": {task: one.model_dump() for task, one in loaded.calibration.items()},
        "conditions": list(report.corrected),
    }
    text = f"Wrote predictions of {number_of(report.events)} to {report.out} ({rate:.0f} events/s)."
    said = [calibration_record.line(loaded.calibration), report.answered.line()]
    show(as_json, values, "\n".join(filter(None, [text, *said])))


@app.command()
def inpaint(
    repair: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help=f"Checkpoint of 'inpaint' or 'mae', ONNX file, or {', '.join(REPAIRS)}.",
        ),
    ],
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="ROOT file to write.")],
    dead_list: Annotated[
        Path | None,
        typer.Option("--dead-list", help="Dead sensors, one id a line; else the branch 'dead', else found by sight."),
    ] = None,
    conditions: ByRun = None,
    apply: Apply = "",
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fill dead sensors of files; everything else passes unchanged."""
    from xecml.conditions_file import correction
    from xecml.events import number_of
    from xecml.inference.inpaint import inpaint_files
    from xecml.inference.repair_models import load_repair

    filler = load_repair(repair)
    branches, names = getattr(filler, "branches", ("npho", "time")), getattr(filler, "names", {})
    report = inpaint_files(
        filler,
        files,
        out,
        dead_list=dead_list,
        tree=tree,
        branches=branches,
        names=names,
        repair_path=repair,
        correction=correction(conditions, apply),
        force=force,
    )
    known = {
        "list": "by the list", "branch": "by the file's flags", "automatic": "found by sight",
        "conditions": "by the conditions of each run",
    }[report.origin]  # fmt: skip
    left = f"; left out {', '.join(report.left_out)}, which cannot be written" if report.left_out else ""
    unlike = f"\n{said}" if (said := report.line()) else ""
    empty = f", {report.not_filled} without anything to go by" if report.not_filled else ""
    show(
        as_json,
        report.as_dict(),
        ("" if report.sensors else "No dead sensor was found; name them in a list if there are some. ")
        + f"Filled {number_of(report.filled, 'value')} of {number_of(len(report.sensors), 'sensor')} ({known}{empty}) "
        f"in {number_of(report.events)} to {out} ({report.events / report.seconds:.0f} events/s{left}).{unlike}",
    )


app.command()(display)


# ---------------------------------------------------------------------------------------------------------- info


@app.command()
def info(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="ROOT file, checkpoint or ONNX file.")] = None,
    system: Annotated[bool, typer.Option("--system", help="Versions, processors, accelerators.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a file is, or what this machine is."""
    from xecml.cli.info import describe_file, describe_system
    from xecml.pretrained import model_file

    if file is None and not system:
        raise InputError("Name a file, or ask for --system.")
    values = (describe_system() if system else {}) | (describe_file(str(model_file(file))) if file else {})
    show(as_json, values, lines(values))
