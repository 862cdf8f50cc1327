"""The command `xec evaluate`: how well a model does on files with truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml.cli.calibrate import Reference
from xecml.cli.printing import Debug, Files, Force, Json, Part, Select, Tree, show_table
from xecml.errors import InputError


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
        for line in report.sentences():
            print(line)
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
