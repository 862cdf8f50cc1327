"""What can be seen of a recipe: its model, batches, loss, schedule, files; `test_config_effect` looks at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xecml.config import Config
from xecml.data.augment import step_generator
from xecml.data.batch import Batch
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.inference import checkpoint_reading
from xecml.models.build import build_model, normaliser
from xecml.training import checkpoint_writing, loop, setup
from xecml.training.processes import devices as of_fabric
from xecml.training.processes.rank import place_of
from xecml.training.regression_job import RegressionLoss

BASE = (
    "data.train_path={sample}/train.root", "data.val_path={sample}/val.root", "data.batch_size=16",
    "model.preset=tiny", "model.hidden_dim=8", "training.epochs=2", "training.warmup_epochs=0.5",
    "training.lr=1e-3", "training.ema_decay=0.9", "training.channel_dropout_rate=0.0", "training.amp=false",
    "mlflow.enabled=false", "mlflow.tensorboard=null", "checkpoint.save_dir={root}/artifacts",
)  # fmt: skip
"""What all probes start from."""


@dataclass
class Bench:
    """What probes work with: a folder of their own, and monkeypatching."""

    root: Path
    patch: pytest.MonkeyPatch


Probe = Callable[[Config, Bench], Any]


@dataclass(frozen=True)
class Effect:
    """A changed value, what is looked at, what is set besides, and the words of the refusal where there is one."""

    value: str
    probe: Probe
    base: tuple[str, ...] = ()
    refused: str | None = None


# --------------------------------------------------------------------------------------------------------- probes


def first_batch(config: Config) -> Batch:
    return next(setup.streams(config, None, None, tasks=list(TASKS))[0].epoch(1))


def digest(*values: Any) -> str:
    found = hashlib.sha256()
    for value in values:
        tensors = value.values() if isinstance(value, dict) else [value]
        for tensor in tensors:
            found.update(np.ascontiguousarray(torch.as_tensor(tensor).detach().numpy()).tobytes())
    return found.hexdigest()


def stream(config: Config, bench: Bench) -> Any:
    """Order and content of training and validation events."""
    found = []
    for events in setup.streams(config, None, None, tasks=["angle"]):
        batch = next(events.epoch(1))
        counts = (events.n_events, events.n_batches, events.workers, events.background, events.fingerprint)
        found.append((*counts, digest(batch.npho, batch.time, batch.event)))
    return found


def constants(config: Config, bench: Bench) -> Any:
    """The transform of inputs."""
    transform = normaliser(config)
    return transform.scheme, {name: float(value) for name, value in transform.named_buffers()}


def network(job: str) -> Probe:
    """A job's network: what it consists of, and its regression's answers in training and in use."""

    def probe(config: Config, bench: Bench) -> Any:
        torch.manual_seed(3)
        model = build_model(config, job)
        parts = {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()}
        if job != "regress":
            return parts
        batch = first_batch(config)
        inputs = tuple(x[:4] for x in batch.inputs())
        answers = []
        for mode in (True, False):
            torch.manual_seed(4)
            answers.append({k: v.detach().clone() for k, v in model.train(mode)(*inputs).items()})
        return parts, [digest(answer) for answer in answers]

    return probe


class Widths:
    """Stands for a model whose target widths are 2."""

    def get_buffer(self, name: str) -> torch.Tensor:
        return torch.full((TASKS[name.removesuffix("_width")].size,), 2.0)


def loss(config: Config, bench: Bench) -> Any:
    """The loss of given answers, by task, and how many weights are learned in it."""
    generator = torch.Generator().manual_seed(7)
    truth = {task: torch.randn(8, info.size, generator=generator) for task, info in TASKS.items()}
    truth["n_gamma"] = torch.ones(8, 1)
    answers = {task: 3 * torch.randn(8, info.size, generator=generator) for task, info in TASKS.items()}
    answers["n_gamma"] = torch.softmax(answers["n_gamma"], 1)
    answers |= {f"sigma_{task}": torch.full((8, info.size), 1.5) for task, info in TASKS.items()}
    zeros, numbers = torch.zeros(8, 1), torch.zeros(8, dtype=torch.int32)
    batch = Batch(zeros, zeros, zeros > 0, zeros > 0, truth, numbers, numbers)
    criterion = RegressionLoss(config)
    total, parts = criterion(Widths(), answers, batch)
    return float(total.detach()), {k: float(v.detach()) for k, v in parts.items()}, len(list(criterion.parameters()))


def augmentation(config: Config, bench: Bench) -> Any:
    """A training batch after augmentation."""
    batch = setup.augmentation_of(config)(first_batch(config), step_generator(1, 2, 3))
    return digest(batch.npho, batch.time, batch.truth["angle"])


def reweighting(config: Config, bench: Bench) -> Any:
    """Weights of training events."""
    weights = setup.reweighting_of(config)
    if weights is None:
        return None
    tasks = list(config.tasks.enabled())
    return digest(next(setup.streams(config, None, weights, tasks=tasks)[0].epoch(1)).weight)


def devices(config: Config, bench: Bench) -> Any:
    """What Fabric is asked for."""
    asked: list[Any] = []
    bench.patch.setattr(of_fabric, "Fabric", lambda **options: asked.append(options))
    bench.patch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29400"), ("NODE_RANK", "0")):
        bench.patch.setenv(name, value)
    of_fabric.make_fabric(config)
    return asked


def waiting(config: Config, bench: Bench) -> Any:
    """How long processes wait for one another."""
    return place_of(config).patience


def tracking(config: Config, bench: Bench) -> Any:
    """What the tracker is asked for."""
    asked: list[Any] = []

    class Recorder:
        def __init__(self, *_: Any, **options: Any) -> None:
            asked.append(options)

        def parameters(self, values: Any) -> None: ...

    bench.patch.setattr(setup, "Tracker", Recorder)
    setup.tracker_of(config, bench.root, 1, "run", None)
    return asked


def command(config: Config, bench: Bench) -> Any:
    """The name that the command line gives a run."""
    from typer.testing import CliRunner

    from xecml.cli.commands import app

    names: list[str] = []

    def stop(*_: Any, name: str, **__: Any) -> None:
        names.append(name)
        raise InputError("stopped")

    bench.patch.setattr(loop, "train", stop)
    given = config.mlflow.run_name
    CliRunner().invoke(app, ["train", "regress", *(["--set", f"mlflow.run_name={given}"] if given else [])])
    return names


def hidden(config: Config, bench: Bench) -> Any:
    """The sensors that an autoencoder is not shown in the middle of the first epoch."""
    job = setup.make_job(config, "mae")
    return digest(job.prepare(first_batch(config), (1, 2, 3), 0.5).hidden)


def rebuilding(config: Config, bench: Bench) -> Any:
    """Loss of an autoencoder's first batch."""
    torch.manual_seed(5)
    job = setup.make_job(config, "mae")
    batch = first_batch(config)
    job.fit([batch], keep_features=False)
    total, parts = job.step.eval()(job.prepare(batch, (1, 2, 3), 0.5))
    return float(total.detach()), {k: float(v.detach()) for k, v in parts.items()}, len(list(job.loss.parameters()))


def training(kind: str) -> Probe:
    """A training of two epochs of four steps: its files, numbers, weights, and how often it saved."""

    def probe(config: Config, bench: Bench) -> Any:
        seen: dict[str, Any] = {"saved": 0}
        save = checkpoint_writing.save

        def counted(path: Path, content: dict[str, Any]) -> None:
            seen["saved"] += 1
            save(path, content)

        def uncompiled(model: Any, wanted: bool) -> Any:
            seen["compiled"] = wanted
            return model

        bench.patch.setattr(checkpoint_writing, "save", counted)
        bench.patch.setattr(of_fabric, "compiled", uncompiled)
        try:
            result = loop.train(config, name="run", kind=kind, quiet=True)
            seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(False)
        lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        seen["metrics"] = [{k: v for k, v in line.items() if not k.startswith("system/")} for line in lines]
        seen["files"] = sorted(str(p.relative_to(bench.root)) for p in bench.root.rglob("*") if p.is_file())
        last = checkpoint_reading.load(result.folder / "checkpoint_last.pth")
        seen["weights"], seen["average"] = digest(last["model_state"]), digest(last["ema_state"])
        seen["best"] = last["best"]
        return seen

    return probe
