"""Recipes of the replaced system: accepted as they are, what is gone named in one line, relative inputs understood."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from xecml.config import Config
from xecml.errors import InputError
from xecml.oldconfig import modernise
from xecml.yamlfile import lines_of

COMMON = """
data:
  train_path: /data/train
  val_path: /data/val
  tree_name: tree
  batch_size: {batch}
  chunksize: 256000
  num_workers: 8
  num_threads: 4
normalization:
  npho_scale: 0.58
  npho_scale2: 1.0
  time_scale: 6.5e-8
  time_shift: 0.5
  sentinel_value: -5.0
"""
REGRESSION = (
    COMMON.format(batch=256)
    + """
model:
  outer_mode: finegrid
  outer_fine_pool: [3, 3]
  hidden_dim: 256
  drop_path_rate: 0.0
tasks:
  angle: {enabled: true, loss_fn: smooth_l1, loss_beta: 1.0, weight: 1.0}
  energy: {enabled: false, loss_fn: l1, loss_beta: 1.0, weight: 1.0}
  timing: {enabled: false, loss_fn: l1, loss_beta: 1.0, weight: 1.0}
  uvwFI: {enabled: true, loss_fn: mse, loss_beta: 1.0, weight: 1.0}
training:
  epochs: 20
  lr: 3e-4
  weight_decay: 1e-4
  warmup_epochs: 2
  use_scheduler: true
  amp: true
  ema_decay: 0.999
  channel_dropout_rate: 0.1
  grad_clip: 1.0
  compile: false
loss_balance: manual
reweighting:
  angle: {enabled: false, nbins_2d: [20, 20]}
  energy: {enabled: false, nbins: 30}
  timing: {enabled: false, nbins: 30}
  uvwFI: {enabled: false, nbins_2d: [10, 10]}
checkpoint:
  resume_from: null
  save_dir: artifacts
  save_interval: 10
mlflow:
  experiment: gamma_angle
  run_name: run_4
export:
  onnx: model.onnx
"""
)
MAE = (
    COMMON.format(batch=1024)
    + """
model:
  outer_mode: finegrid
  outer_fine_pool: [3, 3]
  mask_ratio: 0.6
training:
  epochs: 20
  lr: 3e-4
  lr_scheduler: null
  lr_min: 1e-6
  weight_decay: 1e-4
  amp: true
  ema_decay: 0.999
  grad_clip: 1.0
  compile: false
  loss_fn: mse
  npho_weight: 1.0
  time_weight: 1.0
  auto_channel_weight: false
checkpoint:
  resume_from: null
  save_dir: artifacts
  save_interval: 10
  save_predictions: true
mlflow: {experiment: mae, run_name: mae}
"""
)
INPAINTER = (
    COMMON.format(batch=1024)
    + """
model:
  outer_mode: finegrid
  outer_fine_pool: null
  mask_ratio: 0.05
  freeze_encoder: true
training:
  mae_checkpoint: artifacts/mae/checkpoint_best.pth
  epochs: 50
  lr: 1e-4
  lr_scheduler: cosine
  lr_min: 1e-6
  warmup_epochs: 2
  loss_fn: smooth_l1
  npho_weight: 1.0
  time_weight: 1.0
  auto_channel_weight: false
checkpoint: {save_dir: artifacts, save_interval: 10, save_predictions: true}
mlflow: {experiment: inpainting, run_name: inpainter}
"""
)


def read(text: str) -> tuple[dict[str, Any], list[str]]:
    return modernise(yaml.safe_load(text), dict(lines_of(yaml.compose(text, Loader=yaml.SafeLoader))))


def test_an_old_regression_file_is_a_recipe() -> None:
    tree, notices = read(REGRESSION)
    config = Config.model_validate(tree)
    assert (config.data.npho_branch, config.data.time_branch) == ("relative_npho", "relative_time")
    assert (config.data.num_workers, config.data.batch_size, config.training.lr) == (8, 256, 3e-4)
    assert (config.normalization.npho_scale, config.normalization.time_scale) == (0.58, 6.5e-8)
    assert list(config.tasks.enabled()) == ["angle", "uvwFI"]
    assert config.reweighting.angle.nbins_2d == (20, 20)
    assert config.export.onnx == "model.onnx"
    assert len(notices) == 2
    assert notices[0] == (
        "Keys of the replaced system: data.num_threads (line 9): left out, data.num_workers stands for it."
    )
    assert notices[1].endswith("means relative inputs: reading relative_npho and relative_time.")


def test_an_old_autoencoder_file_is_a_recipe() -> None:
    tree, notices = read(MAE)
    config = Config.model_validate(tree)
    assert not config.training.use_scheduler
    assert config.data.npho_branch == "relative_npho"
    assert (config.training.loss_fn, config.model.mask_ratio) == ("mse", 0.6)
    assert "training.lr_scheduler (line 24): now training.use_scheduler: false" in notices[0]


def test_an_old_inpainter_file_is_a_recipe() -> None:
    tree, notices = read(INPAINTER)
    config = Config.model_validate(tree)
    assert config.training.use_scheduler
    assert config.training.mae_checkpoint == "artifacts/mae/checkpoint_best.pth"
    assert (config.training.loss_fn, config.model.mask_ratio, config.model.freeze_encoder) == ("smooth_l1", 0.05, True)
    assert (config.checkpoint.save_dir, config.checkpoint.save_predictions) == ("artifacts", 10)
    line = notices[0]
    assert "checkpoint.save_predictions (line 33): now checkpoint.save_predictions: 10" in line
    assert "training.use_scheduler: true" in line
    assert "model.outer_fine_pool: left out, without effect unless model.preset is reference" in line
    assert all("\n" not in notice for notice in notices)


def test_the_file_itself_is_left_alone() -> None:
    before = yaml.safe_load(INPAINTER)
    given = deepcopy(before)
    modernise(given, {})
    assert given == before


@pytest.mark.parametrize("task", ["energy", "timing"])
def test_energy_and_time_are_refused_on_the_inputs_of_old_files(task: str) -> None:
    tree, _ = read(REGRESSION)
    tree["tasks"][task]["enabled"] = True
    with pytest.raises(ValidationError, match=f"tasks.{task} cannot be learnt from relative inputs"):
        Config.model_validate(tree)


def test_todays_recipes_pass_unchanged() -> None:
    for text in (
        "data: {train_path: a}\ntasks: {energy: {enabled: true}}\n",
        "normalization: {npho_scale: 1000, npho_scale2: 4.08, time_scale: 1.14e-7, time_shift: -0.46}\n",
        "normalization: {npho_scale: 0.58, time_scale: 6.5e-8}\ndata: {npho_branch: npho, time_branch: time}\n",
        "model: {preset: reference, outer_mode: split}\n",
        "data:\nmodel:\n",
        "checkpoint: {save_predictions: 5}\n",
        "{}",
    ):
        assert read(text) == (yaml.safe_load(text), [])


@pytest.mark.parametrize(
    ("text", "branches"),
    [
        # one old constant is enough, also where YAML reads a number without a point as text
        ("normalization: {npho_scale: 0.58}", {"npho_branch": "relative_npho", "time_branch": "relative_time"}),
        ("normalization: {time_scale: 65e-9}", {"npho_branch": "relative_npho", "time_branch": "relative_time"}),
        # a file of the old system that keeps to its defaults
        ("data: {num_threads: 2}", {"npho_branch": "relative_npho", "time_branch": "relative_time"}),
        # what is named stays
        (
            "normalization: {npho_scale: 0.58}\ndata: {npho_branch: npho}",
            {"npho_branch": "npho", "time_branch": "relative_time"},
        ),
        # constants brought up to date
        (
            "data: {num_threads: 2}\nnormalization: {npho_scale: 1000.0}",
            {"time_branch": "relative_time"},
        ),
    ],
)
def test_which_files_mean_relative_inputs(text: str, branches: dict[str, str]) -> None:
    assert read(text)[0]["data"] == branches


def test_a_key_given_in_both_words_keeps_todays() -> None:
    tree, notices = read("training: {lr_scheduler: cosine, use_scheduler: false}")
    assert tree["training"] == {"use_scheduler": False}
    assert "left out, since training.use_scheduler is given too" in notices[0]


def test_a_schedule_that_never_was_is_refused() -> None:
    with pytest.raises(InputError, match=r"Wrong value 'step' for 'training.lr_scheduler' \(line 2\)"):
        read("training:\n  lr_scheduler: step\n")
