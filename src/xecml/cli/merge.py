"""The command `xec merge`: prediction files to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xecml.cli.printing import Debug, Force, Json, Tree, show


def merge(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Prediction files, globs or folders.")],
    out: Annotated[Path, typer.Option("--out", help="ROOT file to write.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--inputs", help="Event files that were predicted; not needed for parts that 'xec submit' made."),
    ] = None,
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Join prediction files, such as the parts of an array, and make sure that every event is there once."""
    from xecml.events import number_of
    from xecml.inference.merge import merge_files

    report = merge_files(files, out, inputs=inputs or (), tree=tree, force=force)
    values = {"out": report.out, "events": report.events, "parts": report.parts, "inputs": report.inputs}
    checked = (
        f"every event of {number_of(report.inputs, 'input file')} is there once"
        if report.inputs
        else "no event is there twice; --inputs FILES looks whether one is missing"
    )
    show(
        as_json,
        values,
        f"Merged {number_of(report.events)} of {number_of(len(report.parts), 'file')} to {report.out}; {checked}.",
    )
