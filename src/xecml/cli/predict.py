"""The command `xec predict`: answers of a model for files of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from xecml.cli.printing import Apply, ByRun, Debug, Device, Force, Jobs, Json, Precision, Tree, show
from xecml.errors import InputError
from xecml.pretrained import names as shipped_models

if TYPE_CHECKING:
    from xecml.inference.predict import Report


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint or ONNX file.")],
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE...", help="ROOT files, globs or folders.")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="File to write (.root, .parquet or .csv); a folder or a name with * writes one file per input.",
            show_default="none; of --friend, beside each file",
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            help=f"Use a model of the package in place of MODEL: {', '.join(shipped_models())}.",
            hidden=not shipped_models(),
        ),
    ] = None,
    without_pileup: Annotated[
        bool,
        typer.Option(
            "--without-pileup",
            help="Find the light of further photons sensor by sensor, predict without it, and write pileup_share.",
        ),
    ] = False,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = "float32",
    keep: Annotated[
        str,
        typer.Option("--keep", metavar="BRANCH,...", help="Branches to copy from the input, such as run,event,xyzVTX."),
    ] = "",
    chunk: Annotated[
        int | None,
        typer.Option(
            "--chunk", min=1, help="Write pieces OUT_0000.root, ... of so many events; a repeated command continues."
        ),
    ] = None,
    friend: Annotated[
        bool,
        typer.Option("--friend", help="Write only the answers, as a friend tree of each input (TTree::AddFriend)."),
    ] = False,
    rntuple: Annotated[bool, typer.Option("--rntuple", help="Write an RNTuple in place of a TTree.")] = False,
    conditions: ByRun = None,
    apply: Apply = "",
    tree: Tree = "tree",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict files of any size to one tree or table, `predictions`: ROOT, parquet or CSV."""
    from xecml.conditions_file import correction
    from xecml.inference import calibration_record
    from xecml.inference.predict import predict_files
    from xecml.inference.trained_model import Model, load_model
    from xecml.inference.without_pileup import WithoutPileup
    from xecml.pretrained import model_file, pretrained_file

    path = model_file(model) if pretrained is None else pretrained_file(pretrained)
    inputs = [*(() if pretrained is None else (model,)), *(files or ())]
    if not inputs:
        raise InputError("No files to predict are given; name them after the model.")
    by_run = correction(conditions, apply)
    loaded: Model = load_model(path, device=device, precision=precision, threads=1)
    if without_pileup:
        loaded = WithoutPileup(loaded)
    report = predict_files(
        loaded,
        inputs,
        out,
        tree=tree,
        model_path=path,
        correction=by_run,
        jobs=jobs,
        keep=branches(keep),
        chunk=chunk,
        friend=friend,
        ntuple=rntuple,
        force=force,
    )
    values = {
        "out": report.out,
        "outputs": list(report.outputs),
        "kept": list(report.kept),
        "events": report.events,
        "predicted": report.predicted,
        "seconds": report.seconds,
        "events_per_second": report.predicted / report.seconds,
        "device": loaded.device,
        "precision": loaded.precision,
        "loss": None if report.loss is None else report.loss.as_dict(),
        "answers": report.answered.as_dict(),
        "calibration": {task: one.model_dump() for task, one in loaded.calibration.items()},
        "conditions": list(report.corrected),
    } | ({} if report.cleaned is None else {"events_without_pileup": report.cleaned})
    said = [
        _written(report, loaded.device),
        f'In ROOT: tree->AddFriend("predictions", "{report.out}");' if friend else "",
        "" if report.cleaned is None else _cleaned(report.cleaned, report.predicted),
        "" if report.loss is None else report.loss.line(),
        calibration_record.line(loaded.calibration),
        report.answered.line(),
    ]
    show(as_json, values, "\n".join(filter(None, said)))


def branches(text: str) -> tuple[str, ...]:
    """Names of branches, by commas or blanks between them."""
    return tuple(text.replace(",", " ").split())


def _cleaned(events: int, of: int) -> str:
    share = f" ({100 * events / of:.1f} %)" if of else ""
    return f"Light of further photons was removed from {events} of {of} events{share}."


def _written(report: Report, device: str) -> str:
    from xecml.events import number_of

    files = f"{report.out}" if len(report.outputs) == 1 else f"{len(report.outputs)} files {report.out} ..."
    if not report.predicted:
        return f"All {number_of(report.events)} are predicted already in {files}; nothing was done."
    rate = f"{report.predicted / report.seconds:.0f} events/s{' on a GPU' if device == 'cuda' else ''}"
    kept = f", {len(report.kept)} of them kept from before" if report.kept else ""
    return f"Wrote predictions of {number_of(report.events)} to {files} ({rate}{kept})."
