"""Every key of a recipe has an effect: changing it changes something that can be seen, or is refused.

`EFFECTS` holds a changed value for each key and what is looked at (a probe). A new key needs a line there; without one
the first test fails and names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import point_sources
from tests.probes import (
    BASE,
    Bench,
    Effect,
    Probe,
    augmentation,
    command,
    constants,
    devices,
    hidden,
    loss,
    network,
    rebuilding,
    reweighting,
    stream,
    tracking,
    training,
    waiting,
)
from xecml import rootio
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.recipes import describe, load_config
from xecml.training import loop

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
               num_workers="0", branches="{{npho: time}}", train_selection="energyTruth > 0.03",
               val_selection="fiducial and event > 3", train_share="[0.0, 0.5]", val_share="[0.5, 1.0]"),
    "data.tree_name": Effect("other", stream, refused="other"),
    **together("normalization", constants, npho_scale="2.0", npho_scale2="2.0", time_scale="2e-8", time_shift="0.25",
               sentinel_value="-4.0", npho_scheme="sqrt"),
    **together("model", _regression, preset="compact", layout="original", hidden_dim="16", head_dropout="0.3",
               drop_path_rate="0.4", linear_path="true"),
    **together("model", _regression, "model.preset=reference", outer_mode="split", outer_fine_pool="null",
               hex_mixing="attention", validity_channel="true"),
    **together("normalization", constants, "model.layout=newer", sentinel_npho="-2.0", npho_threshold="10.0"),
    **together("model", _regression, "model.layout=newer", encoder_dim="32", dim_feedforward="64",
               num_fusion_layers="1"),
    "model.mask_ratio": Effect("0.3", hidden),
    "model.decoder": Effect("reference", _rebuilder, refused="needs the tokens"),
    "model.decoder_width": Effect("32", _rebuilder),
    **together("model", _inpainter, inpaint_heads="faces", freeze_encoder="false"),
    "loss_balance": Effect("auto", loss, _ALL),
    **together("training", _train, epochs="1", lr="2e-3", lr_min="5e-4", weight_decay="0.5", warmup_epochs="1.5",
               use_scheduler="false", ema_decay="0.5", grad_clip="1e-2", accumulate="2", compile="true",
               deterministic="true", seed="1"),
    **together("training", devices, amp="true", accelerator="cpu", devices="2", num_nodes="2"),
    "training.join_timeout": Effect("5.0", waiting),
    # weights that do not move make no epoch better than the first
    **together("training", _train, "training.epochs=3", "training.lr=1e-12", "training.lr_min=0",
               "checkpoint.best_metric=phi_s68_deg", early_stop_epochs="1"),
    **together("training", _train, "training.epochs=2", validate_every="2"),
    "training.encoder_lr_scale": Effect("0.1", _train),
    "training.channel_dropout_rate": Effect("0.2", augmentation),
    **together("training", rebuilding, loss_fn="l1", npho_weight="2.0", time_weight="2.0", auto_channel_weight="true",
               count_scale="sqrt"),
    "training.count_balance": Effect("1000.0", rebuilding, ("training.count_scale=sqrt",)),
    **together("training", rebuilding, "training.loss_fn=smooth_l1", loss_beta="0.1"),
    "training.mae_checkpoint": Effect("{root}/none.pth", _train, refused="No such checkpoint"),
    **together("masking", hidden, light="5.0", clusters="5.0", boards="5.0", face="5.0", spot="5.0"),
    **together("masking", hidden, "masking.light=1.0", random="0.0"),
    "masking.listed": Effect("9.0", hidden, ("masking.dead_list={sample}/dead.txt", "masking.listed=1.0")),
    **together("masking", hidden, "masking.dead_list={sample}/dead.txt", "masking.listed=9.0",
               dead_list="{sample}/others.txt"),
    **together("masking", hidden, "masking.ramp_epochs=5", ratio_start="0.1"),
    **together("masking", hidden, "masking.ratio_start=0.1", "masking.ramp_epochs=1", ramp_epochs="2.0"),
    "masking.time_threshold": Effect("1000.0", rebuilding),
    **together("augmentation", augmentation, mirror_z="1.0", mirror_y="1.0", gain_jitter="0.1", time_jitter="1e-9",
               dead_clusters="1.0", dead_channels="1.0", pileup="1.0"),
    **together("augmentation", augmentation, "augmentation.dead_clusters=1.0", cluster_radius="9.0"),
    **together("augmentation", augmentation, "augmentation.dead_channels=1.0", dead_fraction="0.3"),
    **together("augmentation", augmentation, "augmentation.pileup=1.0", pileup_light="[0.8, 0.9]", pileup_time="1e-7"),
    "checkpoint.resume_from": Effect("{root}/none.pth", _train, refused="No such checkpoint"),
    **together("checkpoint", _train, save_dir="{root}/elsewhere", save_interval="1", save_every_steps="1",
               best_metric="theta_s68_deg"),
    "checkpoint.save_predictions": Effect("0", training("mae"), ("training.epochs=1",)),
    "checkpoint.weights_only": Effect("true", _train, ("checkpoint.resume_from={trained}",)),
    "checkpoint.heads_from_scratch": Effect(
        "[angle]", _train, ("checkpoint.resume_from={trained}", "checkpoint.weights_only=true")
    ),
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
    _on = (f"reweighting.{_task}.enabled=true", *(f"tasks.{_t}.enabled=true" for _t in ("energy", "timing", "uvwFI")))
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
    for name, first in (("dead", 0), ("others", 2000)):
        (folder / f"{name}.txt").write_text("\n".join(map(str, range(first, first + 300))))
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
    keys = {key for key, *_ in describe()}
    assert keys - EFFECTS.keys() - ELSEWHERE.keys() == set(), "add these keys to EFFECTS, with a value and a probe"
    assert (EFFECTS.keys() | ELSEWHERE.keys()) - keys == set(), "these keys are gone; take them out"
    assert WITHOUT_EFFECT.keys() <= EFFECTS.keys()


@pytest.mark.slow
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


@pytest.mark.slow
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
