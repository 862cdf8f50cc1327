"""Recipes: defaults, laying settings over, errors that say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from xecml.errors import InputError
from xecml.recipes import describe, load_config


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("data:\n  batch_size: 12\ntraining:\n  lr: 0.001\ntasks:\n  energy: {enabled: true}\n")
    return path


def test_file_then_settings_then_flags(recipe: Path) -> None:
    config = load_config(recipe, ["training.lr=3e-4", "training.epochs=7"], {"data.batch_size": 5, "training.lr": None})
    assert (config.data.batch_size, config.training.lr, config.training.epochs) == (5, 3e-4, 7)
    assert list(config.tasks.enabled()) == ["angle", "energy"]


def test_defaults_are_those_users_know() -> None:
    config = load_config(None)
    assert config.data.batch_size == 256
    assert config.data.chunksize == 256_000
    assert config.training.epochs == 20
    assert config.training.lr == 3e-4
    assert config.training.weight_decay == 1e-4
    assert config.training.warmup_epochs == 2
    assert config.training.ema_decay == 0.999
    assert config.training.grad_clip == 1.0
    assert list(config.tasks.enabled()) == ["angle"]
    assert [t.loss_fn for t in (config.tasks.angle, config.tasks.energy, config.tasks.timing, config.tasks.uvwFI)] == [
        "smooth_l1", "l1", "l1", "mse",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training:\n  epoch: 3\n",
            r"Unknown key 'training.epoch' \(.*recipe.yaml, line 2\) .*'training.epochs'",
        ),
        ("trainings:\n  epochs: 3\n", r"Unknown key 'trainings' \(.*line 1\)"),
        ("training:\n  epochs: 2\n  lr: -1\n", r"Wrong value -1 for 'training.lr' \(.*line 3\)"),
        ("training:\n  lr: fast\n", r"Wrong value 'fast' for 'training.lr'"),
        ("tasks:\n  angle: {loss_fn: l3}\n", r"Wrong value 'l3' for 'tasks.angle.loss_fn'"),
        ("tasks:\n  angle: {enabled: false}\n", "no task is enabled"),
        ("training:\n  count_balance: 3000\n", "needs training.count_scale=sqrt"),
        ("data: [1, 2\n", "is not valid YAML"),
        ("- a\n", "must hold sections"),
    ],
)
def test_wrong_recipes_say_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(tmp_path / "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_wrong_settings_say_where(recipe: Path) -> None:
    with pytest.raises(
        InputError, match=r"'training.epochz' \(--set training.epochz=3\) \(did you mean 'training.epochs'"
    ):
        load_config(recipe, ["training.epochz=3"])
    with pytest.raises(InputError, match=r"Wrong value 0 for 'data.batch_size' \(the command line\)"):
        load_config(recipe, [], {"data.batch_size": 0})
    with pytest.raises(InputError, match="not of the form"):
        load_config(recipe, ["training.epochs"])
    with pytest.raises(InputError, match="not a section"):
        load_config(recipe, ["training.lr.x=3"])
    with pytest.raises(InputError, match="No such recipe"):
        load_config(recipe.with_name("none.yaml"))


@pytest.mark.parametrize(("task", "key"), [("energy", "npho"), ("timing", "time")])
def test_absolute_quantities_are_refused_on_relative_inputs(task: str, key: str) -> None:
    with pytest.raises(InputError, match=f"tasks.{task} cannot be learnt from relative inputs"):
        load_config(None, [f"tasks.{task}.enabled=true", f"data.{key}_branch=relative_{key}"])


def test_every_key_has_a_meaning() -> None:
    keys = list(describe())
    assert len(keys) > 40
    assert all(meaning for *_, meaning in keys)
    units = {key: unit for key, _, unit, _ in keys}
    assert units["normalization.time_scale"] == units["augmentation.pileup_time"] == "s"
    assert units["augmentation.cluster_radius"] == "cm"
    assert units["training.epochs"] == "epochs"
    assert units["model.preset"] == ""


def test_a_task_given_in_part_keeps_its_own_defaults() -> None:
    names = ["energy", "timing", "uvwFI", "n_gamma"]
    tasks = load_config(None, [f"tasks.{name}.enabled=true" for name in names]).tasks
    assert [tasks.enabled()[name].loss_fn for name in names] == ["l1", "l1", "mse", "cross_entropy"]
    assert load_config(None, ["tasks.angle.weight=2"]).tasks.angle.enabled
