"""Selections in a training and an evaluation: what they leave is printed, kept, and all that is looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xecml import rootio
from xecml.cli import main
from xecml.cli.info import describe_file
from xecml.data.selected_events import Cut
from xecml.errors import InputError
from xecml.evaluation.tables import read_table
from xecml.figures import resolution_pages
from xecml.inference import checkpoint_reading
from xecml.inference.trained_model import TorchModel, load_model
from xecml.recipes import load_config
from xecml.reports import model_evaluation
from xecml.reports.finished_training import predict_validation
from xecml.reports.model_evaluation import evaluate_files
from xecml.training import loop

TRAINED, VALIDATED = "energyTruth > 0.03 and fiducial", "energyTruth < 0.05"


@pytest.fixture(scope="module")
def run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Result, Any]:
    """A training of the energy on part of one file, validated on the rest of it."""
    folder = tmp_path_factory.mktemp("run")
    both = str(sample / "train.root")
    flags = {
        "data.train_path": both, "data.val_path": both, "data.train_selection": TRAINED, "data.train_share": 0.75,
        "data.val_selection": VALIDATED, "data.val_share": (0.75, 1.0), "checkpoint.save_dir": str(folder),
    }  # fmt: skip
    off = [f"tasks.{task}.enabled=false" for task in ("angle", "timing", "uvwFI")]
    config = load_config("tiny", [*off, "training.epochs=1", "data.batch_size=32"], flags)
    return loop.train(config, name="one"), config


def call(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    patch.setattr(sys, "argv", ["xec", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def left(sample: Path, low: int, high: int, kept: Any) -> tuple[int, np.ndarray[Any, Any]]:
    (chunk,) = rootio.read(sample / "train.root", ["event", "energyTruth"], chunk_events=1000)
    part = slice(low, high)
    return len(chunk["event"]), chunk["event"][part][kept(chunk["energyTruth"][part])]


def test_what_is_left_is_in_the_checkpoint_and_in_info(run: tuple[loop.Result, Any], sample: Path) -> None:
    result, _ = run
    content = checkpoint_reading.load(result.best)
    assert content["config"]["data"]["train_selection"] == TRAINED
    assert content["config"]["data"]["val_share"] == [0.75, 1.0]
    events, trained = left(sample, 0, 576, lambda energy: energy > 0.03)
    taken = content["selected"]["train"]
    assert (taken["events"], taken["left"]) == (events, len(trained))  # all of them are fiducial
    assert [step["left"] for step in taken["steps"]] == [576, len(trained), len(trained)]
    said = describe_file(str(result.best))["selected"]
    assert said["train"] == f"{len(trained)} of 768 events: share 0 to 0.75 of each file, {TRAINED}"
    assert said["val"].endswith(VALIDATED)


def test_artifacts_are_of_the_selected_validation_events(run: tuple[loop.Result, Any], sample: Path) -> None:
    result, config = run
    model = load_model(result.best)
    assert isinstance(model, TorchModel)
    _, wanted = left(sample, 576, 768, lambda energy: energy < 0.05)
    np.testing.assert_array_equal(predict_validation(model, config).table["event"], wanted)


def test_an_announcement_says_what_is_left(
    run: tuple[loop.Result, Any], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run[1].model_copy(deep=True)
    config.checkpoint.save_dir = str(tmp_path)
    loop.train(config, name="two")
    printed = capsys.readouterr()
    assert "Selected for training: " in printed.out
    assert "of 768 events" in printed.out
    assert "share 0 to 0.75 of each file: 576; energyTruth > 0.03: " in printed.out
    assert "Selected for validation: " in printed.out
    assert "are training events too" not in printed.err


def test_an_evaluation_is_of_the_selected_events(
    run: tuple[loop.Result, Any], sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(model_evaluation, "_write_page", lambda *_: None)
    monkeypatch.setattr(resolution_pages, "save_resolution_plots", lambda _, *a, title, **b: titles.append(title))
    file = sample / "train.root"
    report = evaluate_files(run[0].best, [file], tmp_path / "out", cut=Cut.of(VALIDATED, (0.75, 1.0)))
    _, wanted = left(sample, 576, 768, lambda energy: energy < 0.05)
    np.testing.assert_array_equal(read_table(tmp_path / "out" / "predictions.root")["event"], wanted)
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())["selected"]
    assert (kept["events"], kept["left"]) == (768, len(wanted))
    assert kept["cut"] == f"share 0.75 to 1 of each file, {VALIDATED}"
    assert VALIDATED in titles[0]
    assert report.as_dict()["selected"] == kept
    whole = evaluate_files(run[0].best, [file], tmp_path / "whole")
    assert "selected" not in whole.as_dict()


def test_the_command_selects_and_says_so(
    run: tuple[loop.Result, Any],
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(model_evaluation, "_write_page", lambda *_: None)
    monkeypatch.setattr(resolution_pages, "save_resolution_plots", lambda *_, **__: None)
    best, file, out = str(run[0].best), str(sample / "val.root"), str(tmp_path / "out")
    code, printed, err = call(
        monkeypatch, capsys, "evaluate", best, file, "--out", out, "--select", "energyTruth > 0.03", "--share", "0.5"
    )
    assert code == 0, err
    assert "Selected: " in printed
    assert "of 256 events" in printed
    for wrong in (
        ["--select", "energyTruth >"],
        ["--select", "energyTruth > 9"],
        ["--share", "2"],
        ["--select", "e > 0"],
    ):
        code, _, err = call(monkeypatch, capsys, "evaluate", best, file, "--out", str(tmp_path / "none"), *wrong)
        assert code == 2
        assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_recipes_with_selections_that_are_none_are_refused() -> None:
    for setting, said in (
        ("data.train_selection=energyTruth >", "cannot be understood"),
        ("data.val_selection=import os", "cannot be understood"),
        ("data.train_share=[0.5, 0.2]", "must rise"),
        ("data.val_share=2", "less than or equal to 1"),
        ("data.val_share=0", "must rise"),
    ):
        with pytest.raises(InputError, match=said):
            load_config(None, [setting])
