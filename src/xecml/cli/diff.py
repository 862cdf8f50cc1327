"""The command `xec diff`: two prediction files event by event."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from xecml.cli.printing import Debug, Json, show_table


def diff(
    first: Annotated[str, typer.Argument(metavar="A.root", help="Prediction file, or a pattern of several.")],
    second: Annotated[str, typer.Argument(metavar="B.root", help="The same events, predicted by something else.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, max=1, help="Share of a column's spread that does not count.")
    ] = 0.0,
    tree: Annotated[str, typer.Option("--tree", help="Name of the tree in both.")] = "predictions",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two prediction files, of two models or two versions of the program. Exit status 1 if they differ."""
    from xecml.evaluation.file_differences import HEADERS, compare_files

    found = compare_files(first, second, tree=tree, tolerance=tolerance)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        if found.changed:
            show_table("", HEADERS, found.rows())
        for line in found.lines():
            print(line)
    if not found.equal:
        sys.exit(1)
