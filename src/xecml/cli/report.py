"""The command `xec report`: one page about a model for a browser, compared with other models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from xecml.cli.calibrate import Reference
from xecml.cli.printing import Debug, Force, Json, show_table


def report(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER|PREDICTIONS...", help="Folders of trainings or evaluations, prediction files."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Page to write: .html.")],
    reference: Annotated[Reference, typer.Option("--reference", help="What to measure against.")] = Reference.truth,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a page about a model: numbers, plots, facts; several models are compared in pairs on the same events."""
    from xecml.evaluation.metrics import further_lines, summary
    from xecml.reports.page.sources import report_on

    material = report_on(inputs, out, reference=reference.value, force=force)
    if as_json:
        found = {"out": str(out), "evaluations": [e.as_dict() for e in material.evaluations]}
        print(json.dumps(found | {"comparisons": [pair.as_dict() for pair in material.pairs]}))
        return
    if material.evaluations:
        show_table(material.evaluations[0].title("all"), *summary(material.evaluations))
        for line in further_lines(material.evaluations[0]):
            print(line)
    for pair in material.pairs:
        for sentence in pair.sentences():
            print(sentence)
    for warning in material.warnings:
        print(f"Warning: {warning}")
    for line in material.missing:
        print(f"Not in the page: {line}")
    print(f"Wrote {out}: {out.stat().st_size / 1e6:.1f} MB; open it in a browser.")
