"""The command `xec predict`: answers of a model for files of events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xecml.cli.printing import Apply, ByRun, Debug, Force, Json, Tree, show
from xecml.errors import InputError
from xecml.pretrained import names as shipped_models


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
