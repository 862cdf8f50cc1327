"""The jobs that rebuild sensors, from the command line's recipes to their files, and what starts from what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uproot

from xecml import geometry
from xecml.config import Config
from xecml.data.batch import Batch
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.inference import checkpoint_reading
from xecml.recipes import JOBS, load_config
from xecml.recipes.shipped import shipped
from xecml.training import checkpoint_writing, loop
from xecml.training.rebuilding_job import RebuildingStep

TINY = shipped()["tiny"].path


def recipe(job: str, sample: Path, out: Path, *settings: str) -> Config:
    paths = {"data.train_path": str(sample / "train.root"), "data.val_path": str(sample / "val.root")}
    return load_config(TINY, settings, paths | {"checkpoint.save_dir": str(out)}, job=job)


@pytest.fixture(scope="module")
def mae(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> loop.Result:
    config = recipe("mae", sample, tmp_path_factory.mktemp("mae"), "masking.clusters=0.5")
    return loop.train(config, name="mae", kind="mae", quiet=True)


@pytest.fixture(scope="module")
def inpaint(sample: Path, mae: loop.Result, tmp_path_factory: pytest.TempPathFactory) -> loop.Result:
    config = recipe("inpaint", sample, tmp_path_factory.mktemp("inpaint"), f"training.mae_checkpoint={mae.best}",
                    "training.epochs=2")  # fmt: skip
    return loop.train(config, name="inpaint", kind="inpaint", quiet=True)


def content_of(path: Path) -> dict[str, Any]:
    with uproot.open(path) as file:
        content: dict[str, Any] = file["tree"].arrays(library="np")
    return content


def lines_of(result: loop.Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["mae", "inpaint"])
def test_metrics_have_the_names_that_users_know(job: str, request: pytest.FixtureRequest) -> None:
    lines = lines_of(request.getfixturevalue(job))
    faces = [*geometry.FACES]
    names = ["total_loss", "loss_npho", "loss_time", *(f"loss_{f}" for f in faces)]
    names += [f"loss_{f}_{c}" for f in faces for c in ("npho", "time")]
    for name in names:
        assert np.isfinite(lines[-1][f"train/{name}"]), name
        assert np.isfinite(lines[-1][f"val/{name}"]), name
    for kind in ("mae", "rmse"):
        for name in ("npho", "time", *(f"{f}_{c}" for f in faces for c in ("npho", "time"))):
            assert np.isfinite(lines[-1][f"val/{kind}_{name}"]), name
    ratio = {"mae": 0.6, "inpaint": 0.05}[job]
    assert lines[-1]["val/actual_mask_ratio"] == pytest.approx(ratio, rel=0.02)
    assert lines[-1]["val/n_masked_total"] > 0
    assert lines[-1]["val/total_loss"] == lines[-1]["val/loss"]
    assert lines[-1]["train/total_loss"] < lines[0]["train/total_loss"]


@pytest.mark.slow
def test_hidden_are_sensors_that_augmentation_has_left(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mirrored events hide the sensors of their own image, and never one that was switched off."""
    seen = []
    forward = RebuildingStep.forward

    def looked_at(step: RebuildingStep, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        hidden = torch.zeros(batch.valid.numel(), dtype=torch.bool).index_fill(0, batch.hidden, True)
        hidden = hidden.reshape(batch.valid.shape)
        assert not (hidden & ~batch.valid).any()
        assert (hidden.sum(1) == torch.floor(0.6 * batch.valid.sum(1) + 1e-6)).all()
        seen.append(float(batch.valid.float().mean()))
        return forward(step, batch)

    monkeypatch.setattr(RebuildingStep, "forward", looked_at)
    config = recipe("mae", sample, tmp_path, "augmentation.mirror_z=0.5", "training.channel_dropout_rate=0.3",
                    "training.epochs=1")  # fmt: skip
    loop.train(config, name="mae", kind="mae", quiet=True)
    assert 0.4 < np.mean(seen) < 0.6  # of the sample seven tenths are valid


@pytest.mark.slow
def test_an_autoencoder_beats_the_means_of_sensors(mae: loop.Result) -> None:
    assert mae.metrics["val/relative_error_npho"] < 0.5
    assert mae.metrics["val/relative_error_time"] < 0.7


@pytest.mark.slow
def test_an_inpainter_beats_an_autoencoder(mae: loop.Result, inpaint: loop.Result) -> None:
    assert inpaint.metrics["val/relative_error_npho"] < mae.metrics["val/relative_error_npho"]


@pytest.mark.slow
def test_the_autoencoder_leaves_truth_masked_prediction_and_error(mae: loop.Result) -> None:
    chunk = content_of(mae.folder / "mae_predictions_epoch_2.root")
    kinds = [f"{kind}_{c}" for kind in ("truth", "masked", "pred", "err") for c in ("npho", "time")]
    assert set(chunk) == {"event_id", "mask", *kinds}
    mask = chunk["mask"].astype(bool)
    assert mask.shape == (256, 4760)
    assert chunk["event_id"].tolist() == list(range(256))
    valid = (chunk["truth_npho"] > 0) & (chunk["truth_npho"] < 9e9)
    assert (mask.sum(1) == np.floor(0.6 * valid.sum(1))).all()
    assert (chunk["masked_npho"][mask] == np.float32(INVALID)).all()
    assert (chunk["masked_npho"][~mask] == chunk["truth_npho"][~mask]).all()
    error = chunk["pred_npho"] - chunk["truth_npho"]
    np.testing.assert_allclose(chunk["err_npho"][mask], error[mask], rtol=1e-5, atol=1e-2)
    assert (chunk["err_npho"][~mask] == np.float32(INVALID)).all()


@pytest.mark.slow
def test_the_inpainter_leaves_a_row_for_each_hidden_sensor(inpaint: loop.Result) -> None:
    rows = content_of(inpaint.folder / "inpainter_predictions_epoch_2.root")
    assert set(rows) == {"event_idx", "sensor_id", "face", "truth_npho", "truth_time", "pred_npho", "pred_time",
                         "error_npho", "error_time"}  # fmt: skip
    assert (rows["face"] == geometry.face_codes()[rows["sensor_id"]]).all()
    assert set(rows["face"].tolist()) == set(range(6))
    np.testing.assert_allclose(rows["error_npho"], rows["pred_npho"] - rows["truth_npho"], rtol=1e-5, atol=1e-2)
    bright = rows["truth_npho"] > 3000
    assert np.median(np.abs(rows["error_npho"][bright] / rows["truth_npho"][bright])) < 0.25
    timed = bright & (np.abs(rows["truth_time"]) < 1)
    assert np.median(np.abs(rows["error_time"][timed])) < 1e-9


@pytest.mark.slow
def test_a_frozen_encoder_is_the_one_it_came_with(mae: loop.Result, inpaint: loop.Result) -> None:
    one, two = (checkpoint_reading.load(r.best) for r in (mae, inpaint))
    encoder = {k: v for k, v in one["ema_state"].items() if k.startswith("encoder.")}
    assert len(encoder) > 20
    assert all(torch.equal(two["model_state"][k], v) for k, v in encoder.items())


@pytest.mark.slow
def test_a_regression_takes_the_encoder_and_its_constants(
    sample: Path, mae: loop.Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe("regress", sample, tmp_path, f"training.mae_checkpoint={mae.best}", "training.epochs=1")
    result = loop.train(config, name="fine")
    said = capsys.readouterr().out
    assert "Took the encoder" in said
    assert "mae" in said
    one, two = (checkpoint_reading.load(r.folder / "checkpoint_last.pth") for r in (mae, result))
    for constant in ("encoder.features_mean", "encoder.features_width", "encoder.normaliser.npho_scale"):
        assert torch.equal(one["ema_state"][constant], two["model_state"][constant])
    assert two["epoch"] == 2


def test_a_frozen_encoder_needs_one_to_start_from(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mae_checkpoint"):
        loop.train(recipe("inpaint", sample, tmp_path), name="none", kind="inpaint", quiet=True)


class _KilledError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("job", ["mae", "inpaint"])
def test_a_job_that_dies_goes_on_bit_for_bit(
    job: str, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the second epoch, where masks, order and dropout must go on as they were."""
    given = ["checkpoint.save_every_steps=5", "model.freeze_encoder=false", "masking.clusters=0.5",
             "model.drop_path_rate=0.1", "training.epochs=2", "data.batch_size=64",
             "checkpoint.save_predictions=0", f"model.mask_ratio={0.6 if job == 'mae' else 0.01}"]  # fmt: skip
    whole = loop.train(recipe(job, sample, tmp_path / "whole", *given), name="run", kind=job, quiet=True)
    save, saved = checkpoint_writing.save, []

    def save_and_die(path: Path, content: dict[str, Any]) -> None:
        save(path, content)
        saved.append((content["epoch"], content["batch_in_epoch"]))
        if saved[-1] == (2, 5):
            raise _KilledError

    config = recipe(job, sample, tmp_path / "killed", *given)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writing, "save", save_and_die)
        with pytest.raises(_KilledError):
            loop.train(config, name="run", kind=job, quiet=True)
    last = tmp_path / "killed" / "run" / "checkpoint_last.pth"
    going_on = recipe(job, sample, tmp_path / "killed", *given, f"checkpoint.resume_from={last}")
    resumed = loop.train(going_on, name="run", kind=job, quiet=True)
    one, two = (checkpoint_reading.load(r.folder / "checkpoint_last.pth") for r in (whole, resumed))
    for part in ("model_state", "ema_state"):
        assert all(torch.equal(two[part][k], v) for k, v in one[part].items())
    clean = [{k: v for k, v in r.metrics.items() if not k.startswith("system/")} for r in (whole, resumed)]
    assert clean[0] == clean[1]


@pytest.mark.slow
def test_a_run_of_another_job_is_not_gone_on_with(sample: Path, mae: loop.Result, tmp_path: Path) -> None:
    """Only its encoder is taken: the epoch is 1, as for any start from elsewhere."""
    config = recipe("inpaint", sample, tmp_path, f"checkpoint.resume_from={mae.folder / 'checkpoint_last.pth'}",
                    "training.epochs=1", "checkpoint.save_predictions=0")  # fmt: skip
    result = loop.train(config, name="next", kind="inpaint", quiet=True)
    assert [line["epoch"] for line in lines_of(result)] == [1]


def test_defaults_of_jobs_lie_below_the_recipe() -> None:
    of_jobs = {job: load_config(None, job=job) for job in JOBS}
    assert [of_jobs[j].model.mask_ratio for j in ("mae", "inpaint")] == [0.6, 0.05]
    assert [of_jobs[j].data.batch_size for j in JOBS] == [256, 1024, 1024]
    assert [of_jobs[j].training.loss_fn for j in ("mae", "inpaint")] == ["mse", "smooth_l1"]
    assert load_config(None, ["model.mask_ratio=0.1"], job="inpaint").model.mask_ratio == 0.1
    assert load_config(TINY, job="mae").data.batch_size == 64


@pytest.mark.parametrize("name", ["mae", "finetune", "inpaint", "regress", "demo", "tiny"])
def test_every_recipe_is_a_recipe(name: str) -> None:
    job = name if name in JOBS else "regress"
    assert load_config(TINY.parent / f"{name}.yaml", job=job).data.batch_size > 0
