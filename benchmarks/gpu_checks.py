"""What a device must get right, and what surrounds its steps: agreement, resume, reading, prediction."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import gpu_steps
from gpu_steps import Step, arithmetic, events, recipe, timed
from xecml import rootio
from xecml.config import Config
from xecml.data.convert import convert
from xecml.events import TASKS
from xecml.inference import checkpoint_reading
from xecml.inference.example_events import example_events
from xecml.inference.export import export
from xecml.models.build import build_regressor
from xecml.models.normalise import validity
from xecml.rootio.treewriter import TreeWriter
from xecml.training import loop, setup
from xecml.training.epoch_metrics import Sums

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-2
"""Of float32 on the device against the processor: relative differences of loss and of the whole gradient."""
STATE = ("model_state", "ema_state", "optimizer_state", "random_states", "best", "epoch")
_STOP_AFTER = 5
ADVICE = "for its CUDA provider make an environment of its own and replace onnxruntime by onnxruntime-gpu"


# ---------------------------------------------------------------------------------------------------------- agreement


def agreement(preset: str, job: str, device: torch.device, batch: int) -> dict[str, Any]:
    """Loss and gradient of the same weights and events on the device and on the processor, by precision.

    Returns:
        For each precision the relative differences of the loss, of the gradient as a whole (L2 norm), and of the
        parameter whose gradient differs most, with its name; `agrees` by those of float32.
    """
    wanted = _gradient(preset, job, torch.device("cpu"), batch, "float32")
    found: dict[str, Any] = {"preset": preset, "job": job}
    for precision in gpu_steps.PRECISIONS[::-1]:
        loss, gradients = _gradient(preset, job, device, batch, precision)
        apart = {name: (gradients[name] - g).norm() for name, g in wanted[1].items()}
        sizes = {name: g.norm() for name, g in wanted[1].items()}
        whole = _norm(apart) / max(_norm(sizes), 1e-30)
        # of a parameter that hardly has a gradient the difference is rounding alone
        worst = max(apart, key=lambda name: float(apart[name] / (sizes[name] + 1e-3 * _norm(sizes))))
        found[precision] = {
            "loss": abs(loss - wanted[0]) / max(abs(wanted[0]), 1e-30), "gradient": whole, "worst_parameter": worst,
            "worst": float(apart[worst] / (sizes[worst] + 1e-3 * _norm(sizes))),
        }  # fmt: skip
    exact = found["float32"]
    return found | {"agrees": bool(exact["loss"] < LOSS_TOLERANCE and exact["gradient"] < GRADIENT_TOLERANCE)}


def _norm(parts: Mapping[str, Tensor]) -> float:
    return float(torch.stack(list(parts.values())).norm())


def _gradient(
    preset: str, job: str, device: torch.device, batch: int, precision: str
) -> tuple[float, dict[str, Tensor]]:
    """Loss, and gradients by parameter in float64 on the processor, without anything that is left to chance."""
    step = Step(recipe(preset, job, "model.head_dropout=0"), job, batch, device)
    _without_chance(step.module)
    with arithmetic(precision, device) as forward:
        total = step.loss(0, forward)
        total.backward()
    gradients = {name: p.grad.double().cpu() for name, p in step.module.named_parameters() if p.grad is not None}
    return float(total.detach()), gradients


@torch.no_grad()
def _without_chance(module: nn.Module) -> None:
    """No dropout, and numbers in place of the zeros that layers begin with, which would hide what is before them."""
    for number, parameter in enumerate(module.parameters()):
        if not parameter.any():
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.copy_(0.02 * drawn)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0  # type: ignore[assignment]


# ------------------------------------------------------------------------------------------------------------- files


class Files:
    """Event files for trainings, each made when it is first asked for.

    Args:
        folder: where they go.
        large: events of the files by which reading is timed.
        batch: events of a step that reads them.
        small: events of the file for all else.
        different: events of which the large files are made, again and again.
    """

    def __init__(self, folder: Path, *, large: int, batch: int, small: int = 160, different: int = 256) -> None:
        self.folder, self.n_large, self.batch = folder, large, batch
        self._n_small, self._different = small, different

    def small(self) -> Path:
        """A ROOT file of ten batches of 16."""
        return self._made("small", self._n_small)

    def large(self) -> Path:
        """A ROOT file to read from."""
        return self._made("large", self.n_large)

    def shards(self) -> Path:
        """The same as shards."""
        folder = self.folder / "shards"
        if not folder.exists():
            convert([self.large()], folder)
        return folder

    def _made(self, name: str, number: int) -> Path:
        path = self.folder / f"{name}.root"
        if path.exists():
            return path
        with TreeWriter(path, rootio.DEFAULT_TREE) as writer:
            for first in range(0, number, self._different):
                batch = events(min(self._different, number - first), seed=0, different=self._different)
                writer.extend(_columns(batch, first))
        return path


def _columns(batch: Any, first: int) -> dict[str, np.ndarray]:
    count = np.arange(first, first + len(batch), dtype=np.int32)
    truth = {TASKS[task].truth: values.numpy() for task, values in batch.truth.items()}
    truth["nGamma"] = np.ones(len(batch), np.int32)
    columns = {"npho": batch.npho.numpy(), "time": batch.time.numpy(), "run": count // 1000, "event": count} | truth
    return {name: x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x for name, x in columns.items()}


def training(files: Files, out: Path, preset: str, job: str, device: torch.device, *more: str) -> Config:
    """A recipe for a training on the small file."""
    own = (
        f"data.train_path={files.small()}", f"data.val_path={files.small()}", f"checkpoint.save_dir={out}",
        f"training.accelerator={device.type}", "data.batch_size=16", "training.epochs=2",
    )  # fmt: skip
    return recipe(preset, job, *own, *more)


@contextmanager
def _in_peace() -> Iterator[None]:
    """Without the notices of trainings, whose validation sample is meant to be the training sample here."""
    with mock.patch.object(setup, "shared_events", return_value=()), mock.patch.object(sys, "stderr", sys.stdout):
        yield


def _trained(config: Config, name: str, job: str) -> loop.Result:
    """A training that goes to its end; one that a signal stops from outside ends all."""
    with _in_peace():
        result = loop.train(config, name=name, kind=job, quiet=True)
    if result.stopped:
        raise KeyboardInterrupt(result.stopped)
    return result


# ------------------------------------------------------------------------------------------------------------ resume


def resume(files: Files, out: Path, preset: str, job: str, device: torch.device, *, deterministic: bool) -> dict:
    """A training that is stopped by a signal and continued, compared bit by bit with two uninterrupted ones.

    Two uninterrupted ones tell whether the device gives the same bits twice at all.
    """
    mode = "deterministic" if deterministic else "as usual"
    found: dict[str, Any] = {"preset": preset, "job": job, "algorithms": mode}
    settings = (f"training.deterministic={str(deterministic).lower()}", "checkpoint.resume_from=auto")
    folder = out / f"{preset}_{job}_{mode.replace(' ', '_')}"
    config = training(files, folder, preset, job, device, *settings)
    try:
        states = [_ended(config, name, job) for name in ("one", "two")]
        with _in_peace(), _stopped_after(_STOP_AFTER):
            stopped = loop.train(config, name="stopped", kind=job, quiet=True).stopped
        states.append(_ended(config, "stopped", job))
    except RuntimeError as error:
        return found | {"failed": gpu_steps.reason(error)}
    finally:
        torch.use_deterministic_algorithms(False)
    return found | {
        "stopped_by": stopped,
        "twice_the_same": difference(states[0], states[1]) == 0,
        "bit_for_bit": difference(states[0], states[2]) == 0,
        "largest_difference": difference(states[0], states[2]),
    }


def _ended(config: Config, name: str, job: str) -> dict[str, Any]:
    """What the last checkpoint of a training holds; it goes on if it was stopped."""
    content = checkpoint_reading.load(_trained(config, name, job).folder / "checkpoint_last.pth")
    return {key: content[key] for key in STATE}


@contextmanager
def _stopped_after(steps: int) -> Iterator[None]:
    """Send the signal of a scheduler's warning in a step."""
    add, calls = Sums.add, [0]

    def counted(self: Sums, *given: Any, **named: Any) -> None:
        calls[0] += 1
        if calls[0] == 2 * steps:  # twice a step
            signal.raise_signal(signal.SIGUSR1)
        add(self, *given, **named)

    with mock.patch.object(Sums, "add", counted):
        yield


def difference(one: Any, two: Any) -> float:
    """Largest difference between numbers of two structures alike; infinity where they are not alike."""
    if isinstance(one, Tensor):
        if not isinstance(two, Tensor) or one.shape != two.shape:
            return float("inf")
        return float((one.double() - two.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, Mapping):
        if not isinstance(two, Mapping) or one.keys() != two.keys():
            return float("inf")
        return max((difference(one[key], two[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple):
        if not isinstance(two, list | tuple) or len(one) != len(two):
            return float("inf")
        return max((difference(a, b) for a, b in zip(one, two, strict=True)), default=0.0)
    if isinstance(one, float):
        return 0.0 if one == two else abs(one - two)
    return 0.0 if one == two else float("inf")


# ----------------------------------------------------------------------------------------------------------- reading


def reading(files: Files, out: Path, preset: str, job: str, kind: str, device: torch.device) -> dict[str, Any]:
    """The whole loop's rate and how long it waits for data, from ROOT files or shards; of the last epoch."""
    path = files.shards() if kind == "shards" else files.large()
    settings = (f"data.train_path={path}", f"data.batch_size={files.batch}", "training.epochs=3", "data.num_workers=4")
    config = training(files, out / f"{preset}_{job}_{kind}", preset, job, device, *settings)
    folder = _trained(config, "reading", job).folder
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "preset": preset, "job": job, "from": kind, "batch": files.batch, "events": files.n_large,
        "events_per_s": last["system/throughput_events_per_sec"],
        "waiting_ms_per_batch": 1e3 * last["system/avg_data_load_sec"],
        "waiting_percent": 100 - last["system/compute_efficiency"],
        "gpu_utilization_percent": last.get("system/gpu_utilization_pct"),
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------- prediction


def prediction(preset: str, batch: int, precision: str, device: torch.device, least_s: float) -> dict[str, Any]:
    """Events a second from counts and times in the processor's memory to answers there, by PyTorch."""
    torch.manual_seed(0)
    network = build_regressor(recipe(preset, "regress")).to(device).eval()
    given = events(batch)

    def answers(_: int) -> dict[str, Tensor]:
        npho, moment = (x.to(device, non_blocking=True) for x in (given.npho, given.time))
        with forward():
            return {name: y.float().cpu() for name, y in network(npho, moment, *validity(npho, moment)).items()}

    found = {"preset": preset, "by": f"PyTorch, {precision}", "batch": batch}
    try:
        gpu_steps.free(device)
        with arithmetic(precision, device) as forward, torch.no_grad():
            return found | {"events_per_s": batch / timed(answers, device, least_s)}
    except RuntimeError as error:
        return found | {"failed": gpu_steps.reason(error)}


def onnx_file(files: Files, out: Path, preset: str, device: torch.device) -> Path:
    """An exported network of a preset, of a training of one step."""
    graph = out / f"{preset}.onnx"
    if not graph.exists():
        more = ("data.batch_size=160", "training.epochs=1")
        config = training(files, out / f"{preset}_onnx", preset, "regress", device, *more)
        export(_trained(config, "run", "regress").best, graph)
    return graph


def onnx_prediction(graph: Path, preset: str, batch: int, device: torch.device, least_s: float) -> dict[str, Any]:
    """The same by ONNX Runtime, with its provider for the device; and whether that is what it used."""
    import onnxruntime

    found: dict[str, Any] = {"preset": preset, "by": "ONNX Runtime", "batch": batch}
    wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        return found | {"failed": f"ONNX Runtime {onnxruntime.__version__} here has no {wanted}; {ADVICE}"}
    if device.type == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries, which PyTorch has brought
    npho, moment = example_events(batch)
    try:
        session = onnxruntime.InferenceSession(str(graph), providers=[wanted])
        used = session.get_providers()[0]
        seconds = timed(lambda _: session.run(None, {"npho": npho, "time": moment}), torch.device("cpu"), least_s)
    except Exception as error:  # its own kinds, which all derive from this one alone
        return found | {"failed": gpu_steps.reason(error)}
    if used != wanted:  # it takes another one without saying so
        return found | {"failed": f"ONNX Runtime could not use its {wanted}, and took {used}"}
    return found | {"by": f"ONNX Runtime, {used}", "events_per_s": batch / seconds}
