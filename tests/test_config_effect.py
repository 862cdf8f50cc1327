"""Every key of a recipe has an effect: changing it changes something that can be seen, or is refused.

`EFFECTS` holds a changed value for each key and what is looked at (a probe). A new key needs a line there; without one
the first test fails and names it.
"""

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

from tests.conftest import point_sources
from xecml import rootio
from xecml.config import Config, describe, load_config
from xecml.data.augment import step_generator
from xecml.data.batch import Batch
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.models.build import build_model, normaliser
from xecml.training import checkpoint, loop, processes
from xecml.training.regress import RegressionLoss

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
    return next(loop.streams(config, None, None, tasks=list(TASKS))[0].epoch(1))


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
    for events in loop.streams(config, None, None, tasks=["angle"]):
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
    total, parts = criterion(Widths(), answers, batch)  # type: ignore[arg-type]
    return float(total.detach()), {k: float(v.detach()) for k, v in parts.items()}, len(list(criterion.parameters()))


def augmentation(config: Config, bench: Bench) -> Any:
    """A training batch after augmentation."""
    batch = loop._augmentation(config)(first_batch(config), step_generator(1, 2, 3))
    return digest(batch.npho, batch.time, batch.truth["angle"])


def reweighting(config: Config, bench: Bench) -> Any:
    """Weights of training events."""
    weights = loop._reweighting(config)
    if weights is None:
        return None
    tasks = list(config.tasks.enabled())
    return digest(next(loop.streams(config, None, weights, tasks=tasks)[0].epoch(1)).weight)


def devices(config: Config, bench: Bench) -> Any:
    """What Fabric is asked for."""
    asked: list[Any] = []
    bench.patch.setattr(processes, "Fabric", lambda **options: asked.append(options))
    bench.patch.setattr(torch.cuda, "is_available", lambda: True)
    processes.make_fabric(config)
    return asked


def tracking(config: Config, bench: Bench) -> Any:
    """What the tracker is asked for."""
    asked: list[Any] = []

    class Recorder:
        def __init__(self, *_: Any, **options: Any) -> None:
            asked.append(options)

        def parameters(self, values: Any) -> None: ...

    bench.patch.setattr(loop, "Tracker", Recorder)
    loop._tracker(config, bench.root, 1, "run", None)
    return asked


def command(config: Config, bench: Bench) -> Any:
    """The name that the command line gives a run."""
    from typer.testing import CliRunner

    from xecml.cli import app

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
    job = loop.make_job(config, "mae")
    return digest(job.prepare(first_batch(config), (1, 2, 3), 0.5).hidden)


def rebuilding(config: Config, bench: Bench) -> Any:
    """Loss of an autoencoder's first batch."""
    torch.manual_seed(5)
    job = loop.make_job(config, "mae")
    batch = first_batch(config)
    job.fit([batch], keep_features=False)
    total, parts = job.step.eval()(job.prepare(batch, (1, 2, 3), 0.5))
    return float(total.detach()), {k: float(v.detach()) for k, v in parts.items()}, len(list(job.loss.parameters()))


def training(kind: str) -> Probe:
    """A training of two epochs of four steps: its files, numbers, weights, and how often it saved."""

    def probe(config: Config, bench: Bench) -> Any:
        seen: dict[str, Any] = {"saved": 0}
        save = checkpoint.save

        def counted(path: Path, content: dict[str, Any]) -> None:
            seen["saved"] += 1
            save(path, content)

        def uncompiled(model: Any, wanted: bool) -> Any:
            seen["compiled"] = wanted
            return model

        bench.patch.setattr(checkpoint, "save", counted)
        bench.patch.setattr(processes, "compiled", uncompiled)
        try:
            result = loop.train(config, name="run", kind=kind, quiet=True)
            seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
        finally:
            torch.use_deterministic_algorithms(False)
        lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        seen["metrics"] = [{k: v for k, v in line.items() if not k.startswith("system/")} for line in lines]
        seen["files"] = sorted(str(p.relative_to(bench.root)) for p in bench.root.rglob("*") if p.is_file())
        last = checkpoint.load(result.folder / "checkpoint_last.pth")
        seen["weights"], seen["average"] = digest(last["model_state"]), digest(last["ema_state"])
        seen["best"] = last["best"]
        return seen

    return probe


# ------------------------------------------------------------------------------------------------------- the table

_train = training("regress")
_regression, _rebuilder, _inpainter = (network(job) for job in ("regress", "mae", "inpaint"))
_ALL = (*(f"tasks.{task}.enabled=true" for task in TASKS), "tasks.n_gamma.loss_fn=cross_entropy")
_SMOOTH = tuple(f"tasks.{task}.loss_fn=smooth_l1" for task in TASKS if task != "n_gamma")


def together(section: str, probe: Probe, *base: str, **values: str) -> dict[str, Effect]:
    """Entries of keys of a section that are looked at in the same way."""
    return {f"{section}.{key}": Effect(value, probe, base) for key, value in values.items()}


EFFECTS: dict[str, Effect] = {
    **together("data", stream, train_path="{sample}/val.root", val_path="{sample}/train.root", batch_size="8",
               npho_branch="relative_npho", time_branch="relative_time", chunksize="16", buffer_mb="0.5",
               num_workers="0", branches="{{npho: time}}"),
    "data.tree_name": Effect("other", stream, refused="other"),
    **together("normalization", constants, npho_scale="2.0", npho_scale2="2.0", time_scale="2e-8", time_shift="0.25",
               sentinel_value="-4.0", npho_scheme="sqrt"),
    **together("model", _regression, preset="compact", layout="original", hidden_dim="16", head_dropout="0.3",
               drop_path_rate="0.4"),
    **together("model", _regression, "model.preset=reference", outer_mode="split", outer_fine_pool="null",
               hex_mixing="attention", validity_channel="true"),
    "model.mask_ratio": Effect("0.3", hidden),
    "model.decoder": Effect("reference", _rebuilder, refused="needs the tokens"),
    "model.decoder_width": Effect("32", _rebuilder),
    **together("model", _inpainter, inpaint_heads="faces", freeze_encoder="false"),
    "loss_balance": Effect("auto", loss, _ALL),
    **together("training", _train, epochs="1", lr="2e-3", lr_min="5e-4", weight_decay="0.5", warmup_epochs="1.5",
               use_scheduler="false", ema_decay="0.5", grad_clip="1e-2", accumulate="2", compile="true",
               deterministic="true", seed="1"),
    **together("training", devices, amp="true", accelerator="cpu", devices="2", num_nodes="2"),
    # weights that do not move make no epoch better than the first
    **together("training", _train, "training.epochs=3", "training.lr=1e-12", "training.lr_min=0",
               "checkpoint.best_metric=phi_s68", early_stop_epochs="1"),
    **together("training", _train, "training.epochs=2", validate_every="2"),
    "training.encoder_lr_scale": Effect("0.1", _train),
    "training.channel_dropout_rate": Effect("0.2", augmentation),
    **together("training", rebuilding, loss_fn="l1", npho_weight="2.0", time_weight="2.0", auto_channel_weight="true",
               count_scale="sqrt"),
    **together("training", rebuilding, "training.loss_fn=smooth_l1", loss_beta="0.1"),
    "training.mae_checkpoint": Effect("{root}/none.pth", _train, refused="No such checkpoint"),
    **together("masking", hidden, light="5.0", clusters="5.0", boards="5.0", face="5.0"),
    **together("masking", hidden, "masking.light=1.0", random="0.0"),
    **together("masking", hidden, "masking.ramp_epochs=5", ratio_start="0.1"),
    **together("masking", hidden, "masking.ratio_start=0.1", "masking.ramp_epochs=1", ramp_epochs="2.0"),
    "masking.time_threshold": Effect("1000.0", rebuilding),
    **together("augmentation", augmentation, mirror_z="1.0", mirror_y="1.0", gain_jitter="0.1", time_jitter="1e-9",
               dead_clusters="1.0", pileup="1.0"),
    **together("augmentation", augmentation, "augmentation.dead_clusters=1.0", cluster_radius="9.0"),
    **together("augmentation", augmentation, "augmentation.pileup=1.0", pileup_light="[0.8, 0.9]", pileup_time="1e-7"),
    "checkpoint.resume_from": Effect("{root}/none.pth", _train, refused="No such checkpoint"),
    **together("checkpoint", _train, save_dir="{root}/elsewhere", save_interval="1", save_every_steps="1",
               best_metric="theta_s68"),
    "checkpoint.save_predictions": Effect("0", training("mae"), ("training.epochs=1",)),
    "checkpoint.weights_only": Effect("true", _train, ("checkpoint.resume_from={trained}",)),
    "mlflow.run_name": Effect("other", command),
    **together("mlflow", tracking, enabled="true", tensorboard="{root}/runs"),
    **together("mlflow", tracking, "mlflow.enabled=true", experiment="other"),
}  # fmt: skip
for _task in TASKS:
    _only = (*_ALL, *_SMOOTH)
    _other = "l1" if _task != "n_gamma" else "mse"
    EFFECTS |= {
        f"tasks.{_task}.enabled": Effect("false", loss, _ALL),
        f"tasks.{_task}.loss_fn": Effect(
            _other, loss, _only, "loss_fn cannot be mse" if _task == "n_gamma" else None
        ),
        f"tasks.{_task}.loss_beta": Effect("0.3", loss, _only),
        f"tasks.{_task}.weight": Effect("2.0", loss, _only),
    }  # fmt: skip
for _task in ("angle", "energy", "timing", "uvwFI"):
    _on = (f"reweighting.{_task}.enabled=true", "tasks.energy.enabled=true", "tasks.timing.enabled=true")
    _on = (*_on, "tasks.uvwFI.enabled=true")
    EFFECTS |= {
        f"reweighting.{_task}.enabled": Effect("true", reweighting, _on[1:]),
        f"reweighting.{_task}.nbins": Effect("3", reweighting, _on),
        f"reweighting.{_task}.nbins_2d": Effect("[3, 2]", reweighting, _on),
    }

WITHOUT_EFFECT = {
    "tasks.n_gamma.loss_beta": "cross entropy has no beta",
    **{f"reweighting.{task}.nbins": "in two and three dimensions nbins_2d counts" for task in ("angle", "uvwFI")},
    **{f"reweighting.{task}.nbins_2d": "a scalar has nbins" for task in ("energy", "timing")},
}
"""Keys that are there because all quantities share their keys, and of what they are without meaning."""

ELSEWHERE = {"export.onnx": "acted on by the command line after a training"}
"""Keys whose effect is beyond a training; each has its test beside what acts on it."""


# ------------------------------------------------------------------------------------------------------------ tests


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, (name, n) in enumerate((("train", 64), ("val", 32)), 1):
        rootio.write(folder / f"{name}.root", point_sources(n, seed, dead=0.01))
    return folder


@pytest.fixture(scope="module")
def seen() -> dict[Any, Any]:
    """What probes saw of base recipes, so that each is looked at once."""
    return {}


@pytest.fixture(scope="module")
def trained(events: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after the first of two epochs."""
    root = tmp_path_factory.mktemp("trained")
    given = [s.format(sample=events, root=root) for s in BASE]
    return loop.train(load_config(None, [*given, "checkpoint.save_interval=1"]), name="run", quiet=True).folder / (
        "checkpoint_epoch_1.pth"
    )


def test_every_key_has_an_entry() -> None:
    keys = {key for key, _, _ in describe()}
    assert keys - EFFECTS.keys() - ELSEWHERE.keys() == set(), "add these keys to EFFECTS, with a value and a probe"
    assert (EFFECTS.keys() | ELSEWHERE.keys()) - keys == set(), "these keys are gone; take them out"
    assert WITHOUT_EFFECT.keys() <= EFFECTS.keys()


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_has_its_effect(key: str, events: Path, trained: Path, seen: dict[Any, Any], tmp_path: Path) -> None:
    effect = EFFECTS[key]

    def look(name: str, settings: tuple[str, ...]) -> Any:
        root = tmp_path / name
        root.mkdir()
        given = [s.format(sample=events, root=root, trained=trained) for s in settings]
        with pytest.MonkeyPatch.context() as patch:
            return effect.probe(load_config(None, given), Bench(root, patch))

    base = (*BASE, *effect.base)
    if effect.refused:
        with pytest.raises(InputError, match=effect.refused):
            look("changed", (*base, f"{key}={effect.value}"))
        return
    if (effect.probe, base) not in seen:
        seen[effect.probe, base] = look("base", base)
    before, after = seen[effect.probe, base], look("changed", (*base, f"{key}={effect.value}"))
    if key in WITHOUT_EFFECT:
        assert after == before, "it has an effect after all; take it out of WITHOUT_EFFECT"
    else:
        assert after != before


def test_a_probe_sees_no_difference_where_there_is_none(events: Path, tmp_path: Path) -> None:
    """Or every key would seem to have an effect: the same recipe twice, in other folders."""
    for probe in (stream, constants, _regression, loss, augmentation, hidden, rebuilding, _train):
        looks = []
        for name in ("one", "two"):
            root = tmp_path / f"{id(probe)}-{name}"
            root.mkdir()
            given = [s.format(sample=events, root=root) for s in BASE]
            with pytest.MonkeyPatch.context() as patch:
                looks.append(probe(load_config(None, given), Bench(root, patch)))
        assert looks[0] == looks[1]
