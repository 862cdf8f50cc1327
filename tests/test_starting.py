"""What a training starts from: its own checkpoint with other keys, another run's encoder, a name used before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.test_training import recipe
from xecml.errors import InputError
from xecml.inference import checkpoint_reading
from xecml.training import checkpoint_writing, loop


@pytest.fixture(scope="module")
def run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> loop.Result:
    return loop.train(recipe(sample, tmp_path_factory.mktemp("runs")), name="one", quiet=True)


def test_a_name_used_again_does_not_inherit_the_best(run: loop.Result, sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "checkpoint_best.pth").write_bytes(b"of an earlier run")
    checkpoint_writing.take_over(folder, None)
    assert not (folder / "checkpoint_best.pth").exists()
    assert (folder / "before_checkpoint_best.pth").read_bytes() == b"of an earlier run"
    checkpoint_writing.take_over(folder, str(run.folder / "checkpoint_last.pth"))
    assert (folder / "checkpoint_best.pth").read_bytes() == run.best.read_bytes()
    # going on in the same folder leaves it; from a run that has no best one, it is not of this run
    checkpoint_writing.take_over(folder, str(folder / "checkpoint_last.pth"))
    assert (folder / "checkpoint_best.pth").exists()
    checkpoint_writing.take_over(folder, str(tmp_path / "none" / "checkpoint_last.pth"))
    assert not (folder / "checkpoint_best.pth").exists()


def test_changed_rates_of_groups_are_kept_when_going_on(run: loop.Result, sample: Path, tmp_path: Path) -> None:
    on = f"checkpoint.resume_from={run.folder}/checkpoint_last.pth"
    epochs = f"training.epochs={run.metrics['epoch'] + 1}"
    result = loop.train(recipe(sample, tmp_path, on, epochs, "training.weight_decay=0.3"), name="on", quiet=True)
    groups = checkpoint_reading.load(result.folder / "checkpoint_last.pth")["optimizer_state"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    with pytest.raises(InputError, match="trained other weights"):
        loop.train(recipe(sample, tmp_path, on, "training.encoder_lr_scale=0.5"), name="x", quiet=True)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("normalization.npho_scheme=sqrt", "normalization.npho_scheme is sqrt here and log1p there"),
        ("normalization.npho_scale=2", "normalization.npho_scale is 2 here and 1000 there"),
        ("data.time_branch=relative_time", "data.time_branch is relative_time here and time there"),
    ],
)
def test_an_encoder_for_other_inputs_is_refused(
    run: loop.Result, sample: Path, tmp_path: Path, setting: str, said: str
) -> None:
    off = "tasks.timing.enabled=false"
    with pytest.raises(InputError, match=said):
        loop.train(recipe(sample, tmp_path, f"checkpoint.resume_from={run.best}", setting, off), name="x", quiet=True)


def test_another_run_gives_its_encoder(run: loop.Result, sample: Path, tmp_path: Path) -> None:
    """Other tasks: the encoder is taken whole, with its constants; the epoch is 1."""
    start = f"checkpoint.resume_from={run.best}"
    config = recipe(
        sample,
        tmp_path,
        start,
        "tasks.timing.enabled=false",
        "training.lr=1e-9",
        "training.lr_min=0",
        "training.epochs=1",
    )
    result = loop.train(config, name="tuned", quiet=True)
    before, after = checkpoint_reading.load(run.best)["ema_state"], checkpoint_reading.load(result.best)["model_state"]
    for name in ("encoder.features_mean", "encoder.numbers.weight"):
        torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=0)
    assert checkpoint_reading.load(result.best)["tasks"] == ["angle", "energy", "uvwFI"]
    other = recipe(sample, tmp_path, start, "tasks.timing.enabled=false", "model.preset=compact")
    with pytest.raises(InputError, match="does not fit the configured encoder"):
        loop.train(other, name="x", quiet=True)


def test_a_head_begins_anew_where_the_truth_is_distributed_otherwise(
    run: loop.Result, sample: Path, tmp_path: Path
) -> None:
    """Its weights, its form, and the first guess that it corrects; all else is as it was. Going on is as ever."""
    still = ("training.lr=1e-9", "training.lr_min=0", "training.epochs=1", f"checkpoint.resume_from={run.best}")
    scratch = "checkpoint.heads_from_scratch=[angle]"
    narrow = "data.train_selection=abs(uvwTruth[:,1]) < 35"
    likelihood = "tasks.angle.loss_fn=student_nll"
    settings = (*still, "checkpoint.weights_only=true", scratch, narrow, likelihood)
    result = loop.train(recipe(sample, tmp_path, *settings), name="tuned", quiet=True)
    before, after = checkpoint_reading.load(run.best)["ema_state"], checkpoint_reading.load(result.best)["model_state"]
    for name in ("encoder.features_mean", "encoder.numbers.weight", "uvwFI_slope", "heads.uvwFI.1.weight"):
        torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=0)
    assert after["heads.angle.4.bias"].shape == (4,)  # sigmas too
    for name in ("angle_slope", "angle_width", "heads.angle.1.weight"):
        assert not torch.allclose(after[name], before[name], rtol=0.02)
    on = (f"checkpoint.resume_from={result.folder}/checkpoint_last.pth", "training.epochs=2", narrow, likelihood)
    with pytest.raises(InputError, match="belongs to a start from weights alone"):
        loop.train(recipe(sample, tmp_path, *on, scratch), name="x", quiet=True)
    auto = ("checkpoint.resume_from=auto", "training.epochs=2", "checkpoint.weights_only=true", scratch)
    for name, more in (("on", on), ("tuned", (*auto, narrow, likelihood))):
        assert loop.train(recipe(sample, tmp_path, *more), name=name, quiet=True).metrics["epoch"] == 2
    with pytest.raises(InputError, match="needs a checkpoint"):
        loop.train(recipe(sample, tmp_path, scratch), name="x", quiet=True)
    with pytest.raises(InputError, match="names 'n_gamma', which this training does not learn; its tasks are angle"):
        loop.train(recipe(sample, tmp_path, *still, "checkpoint.heads_from_scratch=[n_gamma]"), name="x", quiet=True)
