"""The command `xec evaluate`: how well a model does on files with truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml.cli.calibrate import Reference
from xecml.cli.printing import Debug, Device, Files, Force, Jobs, Json, Part, Precision, Select, Tree, show_table
from xecml.errors import InputError


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint or exported model.")],
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Folder for table, plots and predictions.")],
    others: Annotated[
        list[Path] | None,
        typer.Option("--model", help="Another model or prediction file to compare with; may be repeated."),
    ] = None,
    reference: Annotated[Reference, typer.Option("--reference", help="What to measure against.")] = Reference.truth,
    dead_list: Annotated[
        Path | None,
        typer.Option(
            "--dead-list", help="Of a repair: file with sensors that are dead in the files, as for 'xec inpaint'."
        ),
    ] = None,
    events: Annotated[
        int | None, typer.Option("--events", min=1, help="Of a repair: number of events to use.", show_default="all")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="CHECKPOINT is the folder of a running training: evaluate each new checkpoint."),
    ] = False,
    patience: Annotated[
        float,
        typer.Option("--patience", min=0, help="With --follow: end after so many minutes without a new checkpoint."),
    ] = 60.0,
    lines: Annotated[
        list[float] | None, typer.Option("--line", metavar="MEV", help="Fit the line of this energy, such as 54.9.")
    ] = None,
    edges: Annotated[
        list[float] | None, typer.Option("--edge", metavar="MEV", help="Fit the end of a spectrum, such as 52.83.")
    ] = None,
    periods: Annotated[
        str, typer.Option("--periods", metavar="RUNS", help="Compare ranges of runs: '430000-430499 430500-430999'.")
    ] = "",
    conditions: Annotated[
        Path | None,
        typer.Option(
            "--conditions", metavar="T", help="Draw the drift of these conditions by run; they are not applied."
        ),
    ] = None,
    saliency: Annotated[
        int | None,
        typer.Option(
            "--saliency",
            min=2,
            metavar="EVENTS",
            help="Also find what decides the answers, on so many of the first events: tables and saliency.pdf.",
        ),
    ] = None,
    depths: Annotated[bool, typer.Option("--depths", help="Also print a table for each bin of depth.")] = False,
    device: Device = "auto",
    precision: Precision = "float32",
    jobs: Jobs = None,
    select: Select = "",
    share: Part = "",
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on files with truth or on data: tables, plots, predictions; of 'inpaint' and 'mae' the repair."""
    from xecml.conditions_file import load_conditions
    from xecml.data.selected_events import WHOLE, Cut, parse_share
    from xecml.evaluation.periods import parse_periods
    from xecml.evaluation.real_data import Asked
    from xecml.inference.repair_models import is_repair
    from xecml.pretrained import model_file
    from xecml.reports.model_evaluation import evaluate_files

    cut = Cut.of(select, parse_share(share) if share else WHOLE)
    if follow:
        if depths:
            raise InputError("--depths prints tables of one checkpoint; leave it out with --follow.")
        if saliency:
            raise InputError("--saliency is about one checkpoint; leave it out with --follow.")
        common: dict[str, Any] = {"others": [model_file(other) for other in others or []], "tree": tree, "cut": cut}
        common["force"] = force
        of_repairs = {"dead_list": dead_list, "max_events": events}
        _follow(checkpoint, files, out, common, {"reference": reference.value}, of_repairs, patience, as_json)
        return
    checkpoint, others = model_file(checkpoint), [model_file(other) for other in others or []]
    if is_repair(checkpoint):
        options: dict[str, Any] = {"others": others, "dead_list": dead_list, "max_events": events, "tree": tree}
        options |= {"cut": cut, "device": device, "precision": precision, "force": force}
        if jobs is not None:
            raise InputError("--jobs is for models that predict physical quantities; this one repairs sensors.")
        if lines or edges or periods or conditions:
            raise InputError(
                "--line, --edge, --periods and --conditions are for models that predict physical quantities; this one "
                "repairs sensors."
            )
        if saliency:
            raise InputError("--saliency is for models that predict physical quantities; this one repairs sensors.")
        if depths:
            raise InputError("--depths is for models that predict physical quantities; this one repairs sensors.")
        _evaluate_repair(checkpoint, files, out, options, as_json)
        return
    if dead_list or events:
        raise InputError("--dead-list and --events are for repairs; this model predicts physical quantities.")
    asked = Asked(
        tuple(lines or ()),
        tuple(edges or ()),
        parse_periods(periods) if periods else (),
        load_conditions(conditions) if conditions else None,
    )
    options = {"others": others, "reference": reference.value, "tree": tree, "cut": cut, "asked": asked, "force": force}
    options |= {"device": device, "precision": precision, "jobs": jobs, "saliency_events": saliency}
    report = evaluate_files(checkpoint, files, out, **options)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        if report.cut:
            print(f"Selected: {report.left.line()}")
        for title, headers, rows in report.tables(depths=depths):
            show_table(title, headers, rows)
        for title, headers, rows in report.data.tables_to_read() if report.data else []:
            show_table(title, headers, rows)
        for title, headers, rows in report.decides.tables(depths=depths) if report.decides else []:
            show_table(title, headers, rows)
        if not depths:
            print("--depths prints the same in bins of depth; the plots and evaluation.json have them in any case.")
        for line in report.sentences():
            print(line)
        if (right := report.evaluations[0].n_gamma_accuracy) is not None:
            print(f"The number of photons is right in {100 * right:.3g} % of events.")
        for warning in report.evaluations[0].warnings:
            print(f"Warning: {warning}")
        print("Wrote " + ", ".join(str(path) for path in report.files.values()) + ".")
        if report.loss is not None:
            print(report.loss.line())
        for name, line in report.calibrations.items():
            print(f"{name}: {line}")
        if said := report.answered.line():
            print(said)


def _follow(
    run: Path,
    files: list[str],
    out: Path,
    common: dict[str, Any],
    of_models: dict[str, Any],
    of_repairs: dict[str, Any],
    patience: float,
    as_json: bool,
) -> None:
    """Evaluate each new checkpoint of a run, with options of all, of models of quantities, and of repairs."""
    import sys

    from xecml.inference.repair_models import is_repair
    from xecml.reports.followed_run import follow
    from xecml.reports.model_evaluation import evaluate_files
    from xecml.reports.repair_evaluation import evaluate_repairs

    def one(checkpoint: Path, folder: Path) -> dict[str, Any]:
        if is_repair(checkpoint):
            report, _, _ = evaluate_repairs(checkpoint, files, folder, **common, **of_repairs)
            return report.headline(checkpoint.stem)
        if any(of_repairs.values()):
            raise InputError("--dead-list and --events are for repairs; this model predicts physical quantities.")
        return evaluate_files(checkpoint, files, folder, **common, **of_models).headline()

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    rows = follow(run, out, one, patience_s=60 * patience, say=say)
    if as_json:
        print(json.dumps({"epochs": rows, "out": str(out)}))


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
