"""Export to one self-contained ONNX file: raw values in, physical values out, checked against PyTorch."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import xecml
from xecml import geometry
from xecml.errors import InputError, nearest
from xecml.events import INVALID, TASKS, measured, photoelectrons
from xecml.files import atomic_path
from xecml.garbage_collection import no_collection
from xecml.inference.calibration_record import Correction
from xecml.inference.onnx_files import OUTLIER, OUTLIER_NUMBERS
from xecml.inference.repair_models import NetworkRepair, OnnxRepair, is_repair, load_repair
from xecml.inference.trained_model import OnnxModel, TorchModel, load_model
from xecml.inference.training_said import joined
from xecml.models.normalise import Normaliser, validity
from xecml.models.original.network import OriginalModel
from xecml.models.rebuild.filler import Filler
from xecml.models.regressor import SENSORS_SEEN, Regressor
from xecml.models.training_distribution import CHANCE
from xecml.outputs import claim, making, mark

TOLERANCE = 1e-4
"""Largest allowed difference between ONNX Runtime and PyTorch, in widths of the target."""
TEST_BATCHES = (1, 2, 7)


@dataclass(frozen=True)
class Report:
    """What was exported, its corrections, and how far ONNX Runtime and PyTorch are apart, in widths, by batch size."""

    out: Path
    tasks: tuple[str, ...]
    bytes: int
    largest_difference: dict[int, float]
    calibration: dict[str, Correction] = field(default_factory=dict)


_NEARLY = 1e-3
"""Photoelectrons from one within which a sensor may have a time or not."""
_OUTLIER_UNIT = {OUTLIER: f"1 is exceeded by {100 * CHANCE:g} % of events of the training kind"}
_LEAST_WIDTH = 1e-3
"""ns; a training sample has times if they spread by more."""


class RawModel(nn.Module):
    """A model that finds validity from the raw values itself, as users of an exported file need."""

    def __init__(self, network: Regressor | OriginalModel, tasks: Sequence[str]) -> None:
        super().__init__()
        self.network, self.answers = network, network.outputs(tasks)
        self.judges = network.training_distribution.fitted
        self.outputs = (*self.answers, *((OUTLIER, OUTLIER_NUMBERS) if self.judges else ()))

    def forward(self, npho: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        """Answers of the tasks in order, from raw counts and times (B, 4760), and how far events are from training."""
        inputs = (npho, time, *validity(npho, time))
        if not self.judges:
            answers = self.network(*inputs)
            return tuple(answers[name] for name in self.answers)
        answers, judged = self.network.judged(*inputs)
        return (*(answers[name] for name in self.answers), judged.outlier, joined(judged))


class RawRepair(nn.Module):
    """A repair, and how far events are from its training by the sensors that are not dead."""

    def __init__(self, repair: NetworkRepair) -> None:
        super().__init__()
        assert isinstance(repair.filler, Filler)
        self.filler = repair.filler

    def forward(self, npho: Tensor, time: Tensor, dead: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Filled counts and times (B, 4760), `outlier` (B,) and what it is made of."""
        model = self.filler.model
        valid, timed = (mask & ~dead for mask in validity(npho, time))
        inputs = (npho, time, valid, timed)
        judged = model.training_distribution(*inputs, model.encoder.look(*inputs))
        return (*self.filler(npho, time, dead), judged.outlier, joined(judged))


@making("export")
def export(
    path: str | Path,
    out: str | Path,
    *,
    tasks: Sequence[str] = (),
    said: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Report:
    """Export a checkpoint to ONNX.

    Args:
        path: checkpoint.
        out: file to write, `.onnx`.
        tasks: a subset of the model's tasks; all by default.
        said: what a checkpoint of the replaced system's newest version leaves open, see `load_model`.
        force: replace an existing file that this function did not make.

    Raises:
        InputError: bad checkpoint or task, or ONNX Runtime and PyTorch differ by more than the tolerance.
    """
    if Path(out).suffix != ".onnx":
        raise InputError(f"The output {out} must end in .onnx.")
    if Path(path).suffix == ".onnx":
        raise InputError(f"{path} is exported already; give a checkpoint.")
    claim([out], inputs=[path], force=force)
    if is_repair(path):
        return _export_repair(path, Path(out), tasks, said)
    model = load_model(path, said=said)
    assert isinstance(model, TorchModel)
    for task in tasks:
        if task not in model.tasks:
            raise InputError(
                f"{path} has no task '{task}'{nearest(task, model.tasks)}; it has {', '.join(model.tasks)}."
            )
    chosen = tuple(tasks) or model.tasks
    with atomic_path(out) as temporary:
        _write(model, chosen, temporary)
        exported = OnnxModel(temporary)
        differences = _compare(model, exported, chosen)
        size = temporary.stat().st_size
    return Report(Path(out), chosen, size, differences, exported.calibration)


def _export_repair(path: str | Path, out: Path, tasks: Sequence[str], said: Mapping[str, Any] | None) -> Report:
    """Export an autoencoder or inpainter as a repair: counts, times and `dead` in, counts and times out."""
    if tasks:
        raise InputError(f"{path} fills dead sensors and has no tasks; leave --tasks out.")
    repair = load_repair(path, said=said)
    assert isinstance(repair, NetworkRepair)
    with atomic_path(out) as temporary:
        arguments = tuple(torch.from_numpy(a) for a in (*example_events(2), _example_dead(2)))
        names = ["npho_filled", "time_filled"]
        units = {"npho": "photons" if repair.absolute else "", "time": "s", "dead": "true or false"}
        module: nn.Module = repair.filler
        if (training := repair.training) is not None:
            module, names = RawRepair(repair).eval(), [*names, OUTLIER, OUTLIER_NUMBERS]
            units |= _OUTLIER_UNIT
        proto = _program(module, arguments, ["npho", "time", "dead"], names)
        metadata = {"xecml.repairs": json.dumps(["npho", "time"]), "xecml.units": json.dumps(units)}
        if training is not None:
            metadata["xecml.training"] = json.dumps(training.as_dict())
        _save(proto, _constants(repair.network.encoder.normaliser, repair) | metadata, temporary)
        differences = _compare_repairs(repair, OnnxRepair(temporary))
        size = temporary.stat().st_size
    return Report(out, ("repair",), size, differences)


def _write(model: TorchModel, tasks: Sequence[str], out: Path) -> None:
    raw = RawModel(model.network, tasks).eval()
    arguments = tuple(torch.from_numpy(a) for a in example_events(2))
    _save(_program(raw, arguments, ["npho", "time"], list(raw.outputs)), _metadata(model, tasks), out)


def _program(module: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str]) -> Any:
    """An ONNX model of a module whose arguments all have the batch as their first axis."""
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so late
    except ImportError as error:
        raise InputError("Export needs ONNX; install it with: pip install 'xecml[onnx]'.") from error
    batch = torch.export.Dim("batch", min=1)
    with _quiet(), no_collection():
        # an example batch of 1 would freeze the batch size
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in arguments),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _save(proto: Any, metadata: dict[str, str], out: Path) -> None:
    import onnx

    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    onnx.save(proto, str(out))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself away from users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _metadata(model: TorchModel, tasks: Sequence[str]) -> dict[str, str]:
    """Everything that a reader of the file must know, as strings; structures are JSON."""
    values: dict[str, Any] = {
        "tasks": list(tasks),
        "units": {task: TASKS[task].unit for task in tasks},
        "truth_means": model.truth_means,
        SENSORS_SEEN: [[round(float(share), 4) for share in kind] for kind in model.usual_sensors],
    }
    if corrected := {task: one.model_dump() for task, one in model.calibration.items() if task in tasks}:
        values["calibration"] = corrected
    constants = _constants(model.network.encoder.normaliser, model)
    if model.training is not None:
        values["units"] |= _OUTLIER_UNIT
        values["training"] = model.training.as_dict()
    return {f"xecml.{name}": json.dumps(value) for name, value in values.items()} | constants


def _constants(normaliser: Normaliser, model: TorchModel | NetworkRepair) -> dict[str, str]:
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
        "run_name": str(model.content.get("run_name", "")),
        "revision": str(model.content.get("revision", "")),
    }
    return {f"xecml.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}


def _example_dead(events: int, seed: int = 0) -> np.ndarray:
    """Dead sensors (events, 4760), one in twenty."""
    dead: np.ndarray = np.random.default_rng(seed).random((events, geometry.N_SENSORS)) < 0.05
    return dead


def example_events(events: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts and times (events, 4760) that look like showers, with dead and dark sensors among them.

    Dark sensors read zero, in every other event they were not measured.

    A point of light of 2.4 million photons at random places; only meant to exercise a network.
    """
    rng = np.random.default_rng(seed)
    uvw = rng.uniform((-20.0, -50.0, 1.0), (20.0, 50.0, 15.0), (events, 3))
    away = geometry.xyz_from_uvw(uvw)[:, None] - geometry.positions()
    distance = np.linalg.norm(away, axis=2)
    cosine = np.clip(np.sum(away * geometry.normals(), axis=2) / distance, 0.02, 1)
    npho = rng.poisson(2.4e6 * cosine * 1.4 / (4 * np.pi * (distance**2 + 1)))
    time = 1e-9 * (distance / 8 + rng.normal(0, 0.3, npho.shape)) + rng.uniform(-1e-8, 1e-8, (events, 1))
    dark, dead = npho == 0, rng.uniform(size=npho.shape) < 0.02
    dead[1::2] |= dark[1::2]
    return np.where(dead, INVALID, npho).astype(np.float32), np.where(dead | dark, INVALID, time).astype(np.float32)


def _compare(model: TorchModel, exported: OnnxModel, tasks: Sequence[str]) -> dict[int, float]:
    """Largest difference in target widths for each test batch size; refuse what is too large."""
    differences: dict[int, float] = {}
    for batch in TEST_BATCHES:
        npho, time = _without_measurement(*example_events(batch, seed=batch))
        ours, theirs = model.predict(npho, time), exported.predict(npho, time)
        away = [_outlier_apart(ours, theirs)]
        for name in model.network.outputs(tasks):
            width = model.network.get_buffer(f"{name.removeprefix('sigma_')}_width").numpy()
            away.append(_apart(ours[name], theirs[name], width.reshape(ours[name].shape[1:] or ())))
        differences[batch] = max(away)
    return _accepted(differences)


def _outlier_apart(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Largest difference of `outlier`, which is 1 at its limit, against its size where it is larger."""
    if OUTLIER not in ours:
        return 0.0
    return _apart(ours[OUTLIER], theirs[OUTLIER], np.maximum(np.nan_to_num(ours[OUTLIER]), 1.0))


def _without_measurement(npho: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same events, the last of two without a time, the last three of seven without anything valid."""
    if len(npho) == 2:
        time[-1] = INVALID
    elif len(npho) > 2:
        npho[-3:] = np.array([[INVALID], [0.0], [np.nan]])
    return npho, time


def _apart(ours: np.ndarray, theirs: np.ndarray, width: np.ndarray) -> float:
    """Largest difference in widths; none between NaN and NaN, and an infinite one between NaN and a number."""
    one, two = np.isnan(ours), np.isnan(theirs)
    if (one != two).any():
        return math.inf
    return float(np.where(one, 0.0, np.abs(ours - theirs) / width).max())


def _compare_repairs(repair: NetworkRepair, exported: OnnxRepair) -> dict[int, float]:
    """Largest difference for each test batch size, in widths of counts (transformed) and times over the sample."""
    normaliser, (count_width, time_width) = repair.network.encoder.normaliser, repair.widths
    differences: dict[int, float] = {}
    for batch in TEST_BATCHES:
        npho, time = example_events(batch, seed=batch)
        dead = _example_dead(batch, batch)
        (n, t), (n2, t2) = repair.fill(npho, time, dead), exported.fill(npho, time, dead)
        some = torch.ones((), dtype=torch.bool)
        counts, counts2 = (normaliser.counts(torch.from_numpy(x[dead]), some) for x in (n, n2))
        away = float((counts - counts2).abs().max() / count_width)
        # a sensor of one photoelectron may have a time in one answer and none in the other
        known, known2 = measured(t[dead]), measured(t2[dead])
        odd = (known != known2) & (np.abs(photoelectrons(n)[dead] - 1) > _NEARLY)
        late = np.where(known & known2, t[dead] - t2[dead], np.where(odd, np.inf, 0.0))
        # times of a sample that has none are not learnt, and have no width
        has_times = time_width > _LEAST_WIDTH
        differences[batch] = max(away, float(np.abs(late).max() * 1e9 / time_width) if has_times else 0.0)
        if (ours := repair.compare(npho, time, dead)) is not None and (theirs := exported.compare(npho, time, dead)):
            differences[batch] = max(differences[batch], _outlier_apart({OUTLIER: ours[0]}, {OUTLIER: theirs[0]}))
    return _accepted(differences)


def _accepted(differences: dict[int, float]) -> dict[int, float]:
    """The differences, if they are small enough."""
    worst = max(differences.values())
    if not worst <= TOLERANCE:
        raise InputError(
            f"ONNX Runtime and PyTorch differ by {worst:.2g} of the target width (allowed {TOLERANCE:g}); nothing was "
            "written: report this with the checkpoint."
        )
    return differences
