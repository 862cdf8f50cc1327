"""Trainings in batch jobs: `--resume_from auto`, savings by the clock, starts that lead nowhere, torchrun's warning."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import point_sources
from tests.test_resume import assert_equal
from tests.test_stopping import at, recipe
from xecml import rootio
from xecml.errors import InputError
from xecml.inference import checkpoint_reading
from xecml.recipes import load_config
from xecml.training import checkpoint_writing, going_on, loop, stopping
from xecml.training.epoch_metrics import Sums
from xecml.training.processes.devices import make_fabric
from xecml.training.processes.rank import TORCHRUN, Place
from xecml.training.regression_job import Regression
from xecml.training.stopping import StopRequest

LAST = "checkpoint_last.pth"


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, (name, n) in enumerate((("train", 96), ("val", 64)), 1):
        rootio.write(folder / f"{name}.root", point_sources(n, seed))
    return folder


def test_auto_begins_goes_on_and_does_not_train_twice(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command three times: stopped, finished, nothing left to do; it ends as one that was not stopped."""
    whole = loop.train(recipe(events, tmp_path), name="whole", quiet=True)
    auto = recipe(events, tmp_path, "checkpoint.resume_from=auto", "checkpoint.weights_only=true")
    with monkeypatch.context() as patch:
        at(patch, Sums, "add", 5, signal.SIGUSR2)  # two calls a step
        first = loop.train(auto, name="run")
    assert first.stopped == "SIGUSR2"
    assert "Continuing" not in capsys.readouterr().out
    second = loop.train(auto, name="run")
    assert second.stopped is None
    assert f"Continuing from {tmp_path}/run/{LAST} at epoch 1, batch 3" in capsys.readouterr().out
    parts = ("model_state", "ema_state", "optimizer_state", "random_states", "ema_updates", "best", "epoch")
    one, two = (checkpoint_reading.load(result.folder / LAST) for result in (whole, second))
    for part in parts:
        assert_equal(one[part], two[part], part)
    changed = (tmp_path / "run" / LAST).stat().st_mtime_ns
    third = loop.train(auto, name="run", quiet=True)
    assert (third.stopped, third.best.name) == (None, "checkpoint_best.pth")
    assert third.metrics == second.metrics
    assert (tmp_path / "run" / LAST).stat().st_mtime_ns == changed


def test_auto_does_not_go_on_from_another_training(events: Path, tmp_path: Path) -> None:
    loop.train(recipe(events, tmp_path, "training.epochs=1"), name="run", quiet=True)
    other = ("tasks.energy.enabled=true", "tasks.angle.enabled=false")
    with pytest.raises(InputError, match="belongs to another training; give this run another --name"):
        loop.train(recipe(events, tmp_path, "checkpoint.resume_from=auto", *other), name="run", quiet=True)


def test_in_a_batch_job_the_clock_saves_too(events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[int, int]] = []

    def noted(path: Path, content: dict[str, Any]) -> None:
        if path.name == LAST:
            places.append((content["epoch"], content["batch_in_epoch"]))

    monkeypatch.setattr(checkpoint_writing, "save", noted)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert going_on.save_every_s() is None
    loop.train(recipe(events, tmp_path, "training.epochs=1"), name="run", quiet=True)
    assert places == [(2, 0)]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert going_on.save_every_s() == 840
    monkeypatch.setattr(loop, "save_every_s", lambda: 0.0)
    places.clear()
    loop.train(recipe(events, tmp_path, "training.epochs=1", "training.accumulate=2"), name="slow", quiet=True)
    assert places == [(1, 2), (1, 4), (1, 6), (2, 0)]


def test_a_long_validation_is_not_added_to_what_a_lost_node_costs(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a batch job the steps of an epoch are saved before it is validated, and gone on with from there."""
    config = recipe(events, tmp_path, "training.epochs=1", "checkpoint.resume_from=auto")
    whole = loop.train(recipe(events, tmp_path, "training.epochs=1"), name="whole", quiet=True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(stopping, "_BEFORE_VALIDATION_S", 0.0)

    class Lost(Exception):  # noqa: N818 - the node, not the program
        pass

    def lost(*_: Any, **__: Any) -> None:
        raise Lost

    with monkeypatch.context() as patch:
        patch.setattr(Regression, "validate", lost)
        with pytest.raises(Lost):
            loop.train(config, name="run", quiet=True)
    content = checkpoint_reading.load(tmp_path / "run" / LAST)
    assert (content["epoch"], content["batch_in_epoch"]) == (1, 6)
    ended = loop.train(config, name="run", quiet=True)
    one, two = (checkpoint_reading.load(result.folder / LAST) for result in (whole, ended))
    for part in ("model_state", "ema_state", "optimizer_state", "random_states", "best", "epoch"):
        assert_equal(one[part], two[part], part)


def test_several_processes_agree_on_when_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose clock is ahead makes all save after the same step, once."""

    class Work:
        def wait(self) -> None:
            pass

    calls = []

    def reduced(tensor: torch.Tensor, *_: Any, **__: Any) -> Work:
        calls.append(tensor.tolist())
        if len(calls) == 1:
            tensor[1] = 1  # another process
        return Work()

    monkeypatch.setattr("torch.distributed.new_group", lambda **_: object())
    monkeypatch.setattr("torch.distributed.all_reduce", reduced)
    stop = StopRequest(several=True, save_every_s=1000.0)
    seen = []
    for _ in range(4):
        assert stop.after_step() is None
        seen.append(stop.save_due)
        if stop.save_due:
            stop.saved()
    assert seen == [False, True, False, False]
    assert calls == [[0, 0]] * 4
    stop._save_every_s = 0.0
    stop.after_step()
    stop.saved()  # what was asked before it is answered after it, and is past
    stop._save_every_s = 1000.0
    stop.after_step()
    assert calls[-2:] == [[0, 1], [0, 0]]
    assert not stop.save_due


def test_three_starts_of_a_job_without_a_step_are_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    going_on.count_start(tmp_path, 1, 0)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for epoch, batch, starts in ((1, 0, 1), (1, 0, 2), (1, 4, 1), (1, 4, 2), (1, 4, 3)):
        going_on.count_start(tmp_path, epoch, batch)
        noted = json.loads((tmp_path / "starts.json").read_text())
        assert (noted["job"], noted["starts"]) == ("17", starts)
    with pytest.raises(
        InputError, match=r"^3 starts of job 17 made no new step \(epoch 1, batch 4\), so it ends here; read"
    ):
        going_on.count_start(tmp_path, 1, 4)
    monkeypatch.setenv("SLURM_JOB_ID", "18")  # submitted anew, it may try again
    going_on.count_start(tmp_path, 1, 4)
    (tmp_path / "starts.json").write_text('{"starts": "many"}')
    going_on.count_start(tmp_path, 1, 4)
    assert json.loads((tmp_path / "starts.json").read_text())["starts"] == 1


def test_a_job_that_starts_in_vain_ends_in_a_sentence(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")

    def fails(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sums, "add", fails)
    config = recipe(events, tmp_path, "checkpoint.resume_from=auto")
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, name="run", quiet=True)
    with pytest.raises(InputError, match="3 starts of job 17"):
        loop.train(config, name="run", quiet=True)


@pytest.mark.parametrize(("rank", "warned"), [(0, True), (1, False)])
def test_torchrun_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, rank: int, warned: bool
) -> None:
    class Enough(Exception):  # noqa: N818 - nothing is wrong
        pass

    def together(*_: Any, **__: Any) -> None:
        raise Enough

    monkeypatch.setattr(loop, "together", together)
    place = Place(TORCHRUN, rank=rank, local_rank=rank, per_node=2)
    with pytest.raises(Enough):
        loop.train(recipe(tmp_path, tmp_path), name="run", place=place)
    said = capsys.readouterr().err
    assert ("Warning: torchrun keeps signals to itself, kills its processes 30 s" in said) == warned
    assert ("with srun" in said) == warned


def test_a_machine_with_slurm_gives_no_advice_to_a_training_outside_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    make_fabric(load_config(None), Place())  # warnings are errors
