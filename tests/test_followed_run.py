"""Checkpoints of a run that are evaluated as they come."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from xecml.errors import InputError
from xecml.inference import checkpoint_reading
from xecml.reports.followed_run import follow


@pytest.fixture(autouse=True)
def _small_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_reading, "load", lambda path: json.loads(Path(path).read_text()))


def save(run: Path, name: str, epoch: int, batch: int = 0, epochs: int = 4) -> None:
    """As a training does: beside, and then in place of the one before."""
    run.mkdir(exist_ok=True)
    content = {"epoch": epoch, "batch_in_epoch": batch, "config": {"training": {"epochs": epochs}}}
    (run / "new").write_text(json.dumps(content))
    (run / "new").replace(run / f"checkpoint_{name}.pth")


def test_each_epoch_is_evaluated_once_until_the_training_has_finished(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    save(run, "last", 2)
    seen: list[tuple[str, int]] = []
    said: list[str] = []

    def evaluate(checkpoint: Path, folder: Path) -> dict[str, Any]:
        done = json.loads(checkpoint.read_text())["epoch"] - 1
        seen.append((checkpoint.name, done))
        folder.mkdir()
        (folder / "evaluation.json").write_text("{}")
        # meanwhile the training goes on, and replaces what is being evaluated
        if done == 1:
            save(run, "last", 3, batch=2)
            save(run, "best", 2)
        if done == 2:
            save(run, "epoch_4", 5)
            save(run, "last", 5)
            save(run, "best", 4)
        return {"theta s68 [deg]": 10.0 / done}

    def look(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 1:"):
            save(run, "last", 3)

    rows = follow(run, out, evaluate, say=look, look_s=0.01)
    assert seen == [("epoch_0001.pth", 1), ("epoch_0002.pth", 2), ("epoch_0004.pth", 4), ("epoch_0003.pth", 3)]
    assert [(row["epoch"], row["theta s68 [deg]"]) for row in rows] == [(1, 10), (2, 5), (3, 10 / 3), (4, 2.5)]
    assert said[0] == "epoch 1: theta s68 [deg] 10"
    assert said[-1].endswith("has finished.")
    assert json.loads((out / "follow.json").read_text())["epochs"] == rows
    assert sorted(path.name for path in out.iterdir()) == [*(f"epoch_000{i}" for i in range(1, 5)), "follow.json"]
    # what is there is not evaluated again
    assert follow(run, out, evaluate, say=look, look_s=0.01) == rows
    assert len(seen) == 4


def test_it_ends_where_nothing_new_comes(tmp_path: Path) -> None:
    save(tmp_path / "run", "last", 1, batch=3)
    said: list[str] = []
    assert follow(tmp_path / "run", tmp_path / "out", lambda *_: {}, patience_s=0.0, say=said.append, look_s=0.0) == []
    assert said == [f"No new checkpoint in {tmp_path / 'run'} for 0 minutes."]
    with pytest.raises(InputError, match="is no folder of a run, which --follow needs"):
        follow(tmp_path / "none", tmp_path / "out", lambda *_: {})
    (tmp_path / "out" / "follow.json").write_text("{")
    with pytest.raises(InputError, match=r"follow.json is damaged .JSONDecodeError.; move it away"):
        follow(tmp_path / "run", tmp_path / "out", lambda *_: {})


def test_a_disk_without_links_is_copied_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    save(tmp_path / "run", "last", 5)
    rows = follow(tmp_path / "run", tmp_path / "out", lambda *_: {"a": 1.0}, say=lambda line: None, look_s=0.0)
    assert rows == [{"epoch": 4, "a": 1.0}]
