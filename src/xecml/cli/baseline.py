"""The command `xec baseline`: files reconstructed without learning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xecml.cli.printing import Apply, ByRun, DeadList, Debug, Files, Force, Json, Tree, show


def baseline(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="ROOT file to write.")],
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Find the constants on these files, which have truth: OUT.constants.json."),
    ] = False,
    constants: Annotated[
        str,
        typer.Option(
            "--constants", help="File of constants, or shipped ones: signal, decoupled.", show_default="signal"
        ),
    ] = "",
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            help="Quantities, for example 'uvwFI energy timing'; 'angle' takes three times as long.",
        ),
    ] = "",
    dead_list: DeadList = None,
    conditions: ByRun = None,
    apply: Apply = "",
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Reconstruct files without learning, as the experiment does, to a ROOT file like that of 'xec predict'."""
    from xecml.conditions_file import correction
    from xecml.inference.baseline import baseline_files, tasks_of

    report = baseline_files(
        files,
        out,
        constants=constants,
        calibrate=calibrate,
        tasks=tasks_of(tasks),
        dead_list=dead_list,
        tree=tree,
        correction=correction(conditions, apply),
        force=force,
    )
    show(as_json, report.as_dict(), "\n".join(report.lines()))
