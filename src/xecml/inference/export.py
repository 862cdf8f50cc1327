"""Export to one self-contained ONNX file: raw values in, physical values out, checked against PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import xecml
from xecml import geometry, rootio
from xecml.data import source
from xecml.errors import InputError, nearest
from xecml.events import INVALID, TASKS, branch_names
from xecml.files import atomic_path
from xecml.inference.calibration_record import Correction
from xecml.inference.checkpoint_reading import restored
from xecml.inference.checkpoint_schema import understood
from xecml.inference.export_precision import PRECISIONS, Loss, Losses, loss_as_dict, reduced
from xecml.inference.export_subjects import CodeSubject, PredictionSubject, RepairSubject, Subject, of_torch
from xecml.inference.onnx_files import OUTLIER, PredictionMetadata, Session, open_onnx
from xecml.inference.onnx_writing import OPSET, Graph, graph_of, save
from xecml.inference.repair_models import NetworkRepair, is_repair, load_repair
from xecml.inference.trained_model import TorchModel, load_model
from xecml.models.newer.checkpoints import load_newer
from xecml.models.normalise import Normaliser
from xecml.models.original.checkpoints import load_original, recognise
from xecml.models.original.network import OriginalModel
from xecml.models.regressor import SENSORS_SEEN
from xecml.models.training_distribution import CHANCE
from xecml.models.weight_files import read
from xecml.outputs import claim, making, mark
from xecml.pretrained import model_file

TOLERANCE = 1e-4
"""Largest allowed difference between ONNX Runtime and PyTorch, in widths of the target."""
TEST_BATCHES = (1, 2, 7)
_SAMPLE_CHUNK = 256
_OUTLIER_UNIT = {OUTLIER: f"1 is exceeded by {100 * CHANCE:g} % of events of the training kind"}
_RELATIVE = {"config": {"data": {"npho_branch": "relative_npho", "time_branch": "relative_time"}}}


Said = Mapping[str, Any] | None
"""What a checkpoint of the replaced system's newest version leaves open, by key of its `config`."""


@dataclass(frozen=True)
class Report:
    """What was exported, its corrections, and how far ONNX Runtime and PyTorch are apart, in widths, by batch size.

    Attributes:
        opset: what the file has; it may be higher than what was asked for.
        loss: of a graph in 16 or 8 bits against float32, by answer, on `loss_events` events of the sample.
    """

    out: Path
    tasks: tuple[str, ...]
    bytes: int
    largest_difference: dict[int, float]
    calibration: dict[str, Correction] = field(default_factory=dict)
    opset: int = OPSET
    precision: str = "float32"
    loss: dict[str, Loss] = field(default_factory=dict)
    loss_events: int = 0


@dataclass(frozen=True)
class _Origin:
    """What is exported, and what its file says of it."""

    subject: Subject
    what: tuple[str, ...]
    branches: tuple[str, str]
    names: dict[str, str]
    metadata: dict[str, str]


@making("export")
def export(
    path: str | Path,
    out: str | Path,
    *,
    tasks: Sequence[str] = (),
    packed: bool = False,
    encoder: bool = False,
    opset: int = OPSET,
    precision: str = "float32",
    sample: Sequence[str | Path] = (),
    tree: str = rootio.DEFAULT_TREE,
    said: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Report:
    """Export a checkpoint to ONNX.

    Args:
        path: checkpoint, or `pretrained:NAME`.
        out: file to write, `.onnx`.
        tasks: a subset of the model's tasks; all by default.
        packed: take one array of normalised values, as code for the replaced system does.
        encoder: only the encoder, whose answer is the code that heads see; of any checkpoint.
        opset: set of operators; below 18 the file has 18, which the report says.
        precision: `float32`, `float16` or `int8`, see `xecml.inference.export_precision`.
        sample: event files on which the loss of 16 or 8 bits is measured.
        tree: name of the tree in them.
        said: what a checkpoint of the replaced system's newest version leaves open, see `load_model`.
        force: replace an existing file that this function did not make.

    Raises:
        InputError: bad checkpoint, task or opset, or ONNX Runtime and PyTorch differ by more than the tolerance.
    """
    path = model_file(path)
    _check(path, out, precision, sample, tree)
    claim([out], inputs=[path, *sample], force=force)
    origin = (_encoder if encoder else _model)(path, tasks, said, packed=packed)
    with atomic_path(out) as temporary:
        names = [str(name) for name in origin.subject.example(2)]
        arguments = tuple(torch.from_numpy(array) for array in origin.subject.example(2).values())
        graph = graph_of(origin.subject.module, arguments, names, origin.subject.names, opset)
        save(graph.proto, origin.metadata, temporary)
        session, read_back = open_onnx(temporary)
        differences = agreement(origin.subject, session)
        losses = None
        if precision != "float32":
            losses = _reduce(origin, graph, session, temporary, precision, sample, tree)
        size = temporary.stat().st_size
    return Report(
        Path(out),
        origin.what,
        size,
        differences,
        read_back.calibration if isinstance(read_back, PredictionMetadata) else {},
        graph.opset,
        precision,
        losses.by_answer(precision) if losses else {},
        losses.events if losses else 0,
    )


def _check(path: str | Path, out: str | Path, precision: str, sample: Sequence[str | Path], tree: str) -> None:
    if Path(out).suffix != ".onnx":
        raise InputError(f"The output {out} does not end in .onnx; give it such a name.")
    if Path(path).suffix == ".onnx":
        raise InputError(f"{path} is an exported model; give the checkpoint that it was made from.")
    if precision not in PRECISIONS:
        raise InputError(f"Unknown precision '{precision}'{nearest(precision, PRECISIONS)}; choose {_or(PRECISIONS)}.")
    if precision != "float32" and not sample:
        raise InputError(f"The loss of {precision} is measured on events; name event files with --sample.")
    if precision == "float32" and sample:
        raise InputError(
            "--sample measures the loss of a lower precision than float32; leave it out, or set --precision."
        )
    if sample and not source.count_events(sample, tree):
        raise InputError(f"{sample[0]} holds no events to measure a loss on; name others with --sample.")


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


# ------------------------------------------------------------------------------------------------ what is exported


def _model(path: str | Path, tasks: Sequence[str], said: Said, *, packed: bool) -> _Origin:
    """The predictions of a regression, or the fillings of an autoencoder or inpainter."""
    if is_repair(path):
        return _repair(path, tasks, said, packed=packed)
    model = load_model(path, said=said)
    assert isinstance(model, TorchModel)
    for task in tasks:
        if task not in model.tasks:
            raise InputError(
                f"{path} has no task '{task}'{nearest(task, model.tasks)}; it has {', '.join(model.tasks)}."
            )
    chosen = tuple(tasks) or model.tasks
    subject = PredictionSubject(model, chosen, packed=packed)
    values: dict[str, Any] = {
        "tasks": list(chosen),
        "units": {subject.named[task]: TASKS[task].unit for task in chosen},
        "truth_means": model.truth_means,
        "truth_ends": {task: ends for task, ends in model.truth_ends.items() if task in chosen},
        SENSORS_SEEN: [[round(float(share), 4) for share in kind] for kind in model.usual_sensors],
    }
    if corrected := {task: one.model_dump() for task, one in model.calibration.items() if task in chosen}:
        values["calibration"] = corrected
    if OUTLIER in subject.names and model.training is not None:
        values["units"] |= _OUTLIER_UNIT
        values["training"] = model.training.as_dict()
    constants = _constants(model.network.encoder.normaliser, model, model.content)
    metadata = {f"xecml.{name}": json.dumps(value) for name, value in values.items()} | constants
    return _Origin(
        subject, chosen, model.branches, model.names, metadata | _form(model.network.encoder.normaliser, packed=packed)
    )


def _repair(path: str | Path, tasks: Sequence[str], said: Said, *, packed: bool) -> _Origin:
    """An autoencoder or inpainter as a repair: counts, times and `dead` in, counts and times out."""
    if tasks:
        raise InputError(f"{path} fills dead sensors and has no tasks; leave --tasks out.")
    if packed:
        raise InputError(
            f"{path} fills dead sensors with photons and seconds, which have no packed form; leave --packed out, or "
            "add --encoder."
        )
    repair = load_repair(path, said=said)
    assert isinstance(repair, NetworkRepair)
    subject = RepairSubject(repair)
    units = {"npho": "photons" if repair.absolute else "", "time": "s", "dead": "true or false"}
    metadata = {"xecml.repairs": json.dumps(["npho", "time"])}
    if (training := repair.training) is not None:
        units |= _OUTLIER_UNIT
        metadata["xecml.training"] = json.dumps(training.as_dict())
    metadata["xecml.units"] = json.dumps(units)
    constants = _constants(repair.network.encoder.normaliser, repair, repair.content)
    return _Origin(subject, ("repair",), repair.branches, repair.names, metadata | constants)


@dataclass(frozen=True)
class _Branches:
    branches: tuple[str, str]
    names: dict[str, str]


def _encoder(path: str | Path, tasks: Sequence[str], said: Said, *, packed: bool) -> _Origin:
    """The encoder of any checkpoint, of the replaced system too."""
    if tasks:
        raise InputError("An encoder predicts no task; leave --tasks or --encoder out.")
    content = read(path)
    kind = recognise(content)
    if kind == "newer":
        newer = load_newer(path, content, said=said)
        encoder: Any = newer.encoder
        npho, time = newer.branches
        content = {"config": {"data": {"npho_branch": npho, "time_branch": time}}}
    elif kind is not None:
        network = load_original(path, content)
        encoder = network.encoder if isinstance(network, OriginalModel) else network
        content = _RELATIVE
    else:
        content = understood(content, path)
        encoder = restored(content, path).encoder
    encoder.eval()
    data = content["config"]["data"]
    source_of = _Branches(*branch_names(data["npho_branch"], data["time_branch"], data.get("branches", {})))
    subject = CodeSubject(encoder, encoder.normaliser, packed=packed)
    metadata = {"xecml.encodes": json.dumps(int(encoder.out_width)), "xecml.units": "{}"}
    constants = _constants(encoder.normaliser, source_of, content)
    metadata |= constants | _form(encoder.normaliser, packed=packed)
    return _Origin(subject, ("encoder",), source_of.branches, source_of.names, metadata)


def _form(normaliser: Normaliser, *, packed: bool) -> dict[str, str]:
    """What a file says of its input; files that take raw values say nothing, as those of before."""
    return {"xecml.form": "packed", "xecml.input": normaliser.said} if packed else {}


def _constants(normaliser: Normaliser, model: Any, content: Any) -> dict[str, str]:
    """What every exported file says of itself."""
    values: dict[str, Any] = {
        "branches": list(model.branches),
        "names": model.names,
        "normalization": {name: float(buffer) for name, buffer in normaliser.named_buffers()}
        | {"npho_scheme": normaliser.scheme},
        "invalid_value": INVALID,
        "geometry_hash": geometry.geometry_hash(),
        "version": xecml.__version__,
        "made_by": mark(),
        "run_name": str(content.get("run_name", "")),
        "revision": str(content.get("revision", "")),
    }
    return {f"xecml.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}


# ------------------------------------------------------------------------------------------------ what is compared


def agreement(subject: Subject, session: Session) -> dict[int, float]:
    """Largest difference of ONNX Runtime and PyTorch, in target widths, for each test batch size.

    Raises:
        InputError: it is larger than allowed.
    """
    found = {}
    for batch in TEST_BATCHES:
        feed = subject.example(batch)
        theirs = _run(session, subject, feed)
        away = subject.apart(feed, of_torch(subject, feed), theirs)
        found[batch] = max(float(values.max(initial=0.0)) for values in away.values())
    worst = max(found.values())
    if not worst <= TOLERANCE:
        raise InputError(
            f"ONNX Runtime and PyTorch differ by {worst:.2g} of the target width (allowed {TOLERANCE:g}); nothing was "
            "written: report this with the checkpoint."
        )
    return found


def _run(session: Session, subject: Subject, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return dict(zip(subject.names, session.run(subject.names, feed), strict=True))


def _reduce(
    origin: _Origin,
    graph: Graph,
    exact: Session,
    temporary: Path,
    precision: str,
    sample: Sequence[str | Path],
    tree: str,
) -> Losses:
    """Put the graph in 16 or 8 bits in place of that in float32, which runs already, and measure what this loses."""
    proto = reduced(graph, precision, temporary)
    save(proto, origin.metadata | {"xecml.precision": precision}, temporary)
    rough, _ = open_onnx(temporary)
    losses = Losses(origin.subject.apart)
    for seed, (npho, time) in enumerate(_chunks(origin, sample, tree)):
        feed = origin.subject.feed(npho, time, seed=seed)
        losses.add(feed, _run(exact, origin.subject, feed), _run(rough, origin.subject, feed))
    said = {"events": losses.events, "in": "target widths", "by_answer": loss_as_dict(losses.by_answer(precision))}
    save(proto, origin.metadata | {"xecml.precision": precision, "xecml.loss": json.dumps(said)}, temporary)
    return losses


def _chunks(
    origin: _Origin, sample: Sequence[str | Path], tree: str
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Raw counts and times of the sample's events, chunk by chunk."""
    for path in source.expand(sample):
        here = source.names_here(path, tree, origin.names)
        for chunk in source.read([path], origin.branches, tree=tree, names=here, chunk_events=_SAMPLE_CHUNK):
            npho, time = (np.ascontiguousarray(chunk[branch], np.float32) for branch in origin.branches)
            yield npho, time
