"""The command `xec calibrate`: corrections of a model from events that are known."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xecml.cli.printing import Debug, Force, Json, Tree, show_table


class Reference(StrEnum):
    """Branches that answers are compared with, here and by `xec evaluate`."""

    truth = "truth"
    reco = "reco"


def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint; with --dry-run also an ONNX file.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE...", help="ROOT files, globs or folders; with several lines, one for each."),
    ] = None,
    lines: Annotated[
        list[float] | None,
        typer.Option("--line", metavar="MEV", help="Energy of the photons in the file; repeat it for each FILE."),
    ] = None,
    reference: Annotated[
        Reference | None,
        typer.Option(
            "--reference", help="Calibrate against the branches energyTruth, timeTruth, uvwTruth, or energyReco, ..."
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            "--points", help="File with the points that the photons come from: u v w in cm, one point per line."
        ),
    ] = None,
    correct: Annotated[
        str,
        typer.Option(
            "--correct", help="Quantities to correct, for example 'energy,timing'; by default all that can be measured."
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Checkpoint to write.", show_default="MODEL_calibrated.pth beside MODEL"),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Remove earlier corrections first; without FILE, do nothing else.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the corrections and write nothing.")] = False,
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Correct a model's energy scale, time and position with known events; the corrections are stored in the model.

    The energy is known by a line (17.6, 54.9, 82.9, 129.4, 52.8 MeV), the position by points of light, and all three by
    truth or by another reconstruction. With several lines the table says how linear the energy is.
    """
    from xecml.inference.calibrate import calibrate_files
    from xecml.inference.known_events import Known, read_points

    known = Known(
        lines=tuple(lines or ()),
        reference=None if reference is None else reference.value,
        points=None if points is None else read_points(points),
    )
    report = calibrate_files(
        model,
        files or [],
        known,
        out=out,
        correct=correct.replace(",", " ").split(),
        reset=reset,
        dry_run=dry_run,
        tree=tree,
        force=force,
    )
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    for title, headers, rows in report.tables():
        show_table(title, headers, rows)
    for sentence in report.sentences():
        print(sentence)
    print("Nothing was written." if report.out is None else f"Wrote {report.out}.")
