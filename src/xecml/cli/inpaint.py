"""The command `xec inpaint`: dead sensors of files filled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xecml.choices import REPAIRS
from xecml.cli.printing import Apply, ByRun, DeadList, Debug, Device, Files, Force, Jobs, Json, Precision, Tree, show


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
    dead_list: DeadList = None,
    device: Device = "auto",
    precision: Precision = "float32",
    jobs: Jobs = None,
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

    filler = load_repair(repair, device=device, precision=precision, threads=1)
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
        jobs=jobs,
        correction=correction(conditions, apply),
        force=force,
    )
    known = {
        "list": "by the list", "branch": "by the file's flags", "automatic": "found in the data",
        "conditions": "by the conditions of each run",
    }[report.origin]  # fmt: skip
    left = f"; left out {', '.join(report.left_out)}, which cannot be written" if report.left_out else ""
    loss = f"\n{report.loss.line()}" if report.loss is not None else ""
    unlike = f"\n{said}" if (said := report.line()) else ""
    empty = f", {report.not_filled} without anything to go by" if report.not_filled else ""
    show(
        as_json,
        report.as_dict(),
        ("" if report.sensors else "No dead sensor was found; name them in a list if there are some. ")
        + f"Filled {number_of(report.filled, 'value')} of {number_of(len(report.sensors), 'sensor')} ({known}{empty}) "
        f"in {number_of(report.events)} to {out} ({report.events / report.seconds:.0f} events/s{left}).{loss}{unlike}",
    )
