"""The command `xec export`: a checkpoint to one ONNX file."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xecml.cli.printing import Debug, Force, Json, Tree, show

if TYPE_CHECKING:
    from xecml.inference.export import Report


class Precision(StrEnum):
    """What trained weights are kept and multiplied in."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx")],
    tasks: Annotated[
        str, typer.Option("--tasks", help="Quantities to export, for example 'angle energy'; by default all.")
    ] = "",
    packed: Annotated[
        bool,
        typer.Option(
            "--packed",
            help="Write a graph with one input (B, 4760, 2) of normalised values and outputs output_TASK or output.",
        ),
    ] = False,
    encoder: Annotated[
        bool, typer.Option("--encoder", help="Export only the encoder; any checkpoint has one.")
    ] = False,
    opset: Annotated[int, typer.Option("--opset", help="Set of ONNX operators; 18 is the lowest.")] = 18,
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision", help="Precision of the weights; the loss of precision below float32 is measured on --sample."
        ),
    ] = Precision.float32,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample", metavar="FILE", help="Events on which the loss of precision is measured; may be repeated."
        ),
    ] = None,
    tree: Tree = "tree",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="What a checkpoint of the replaced system does not contain, such as npho_threshold=10.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export a checkpoint to one ONNX file, checked against PyTorch."""
    from xecml.inference import calibration_record
    from xecml.inference.export import export as run
    from xecml.models.newer.form import said_of

    report = run(
        checkpoint,
        out,
        tasks=tasks.replace(",", " ").split(),
        packed=packed,
        encoder=encoder,
        opset=opset,
        precision=precision.value,
        sample=sample or (),
        tree=tree,
        said=said_of(settings or []),
        force=force,
    )
    show(
        as_json,
        {
            "out": report.out,
            "tasks": report.tasks,
            "bytes": report.bytes,
            "largest_difference": report.largest_difference,
            "calibration": {task: one.model_dump() for task, one in report.calibration.items()},
            "opset": report.opset,
            "precision": report.precision,
            "loss": {name: asdict(loss) for name, loss in report.loss.items()},
            "loss_events": report.loss_events,
        },
        "\n".join(filter(None, [*_said(report, opset), calibration_record.line(report.calibration)])),
    )


def _said(report: Report, asked: int) -> list[str]:
    worst = max(report.largest_difference.values())
    lines = [
        f"Wrote {report.out} ({report.bytes / 1e6:.1f} MB; {', '.join(report.tasks)}); ONNX Runtime and PyTorch "
        f"agree to {worst:.1e} of the target width at batch sizes {', '.join(map(str, report.largest_difference))}."
    ]
    if report.opset != asked:
        lines.append(
            f"Opset {asked} was asked for, but PyTorch's exporter writes none below {report.opset}: the file has opset "
            f"{report.opset}, which needs ONNX Runtime 1.15 or later."
        )
    if report.loss:
        losses = ", ".join(f"{name} {loss.within:.1e} ({loss.largest:.1e})" for name, loss in report.loss.items())
        lines.append(
            f"In {report.precision}, 68 % of {report.loss_events} events differ from float32 by less than (at most), "
            f"in target widths: {losses}."
        )
    return lines
