"""What shows itself in a notebook: runs, trainings, evaluations; tables hold names of users as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from xecml.errors import InputError
from xecml.evaluation import metrics
from xecml.inference.answer_counts import Answered
from xecml.notebook import lines_html, table_html
from xecml.reports.model_evaluation import Report
from xecml.reports.run_summary import RunSummary
from xecml.training.loop import Result


def run(folder: Path, epochs: int) -> Path:
    folder.mkdir()
    lines = [
        {"epoch": e, "train/loss": 1 / e, "val/loss": abs(e - 3) + 0.5, "val/theta_s68_deg": 2.5 * e, "train/lr": 0.001,
         "system/epoch_duration_sec": 30.0}
        for e in range(1, epochs + 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 9, "tr')
    return folder


def test_a_run_shows_its_curves_and_its_best_epoch(tmp_path: Path) -> None:
    found = RunSummary(run(tmp_path / "a <b>", 5))
    shown = found._repr_html_()
    assert "5 epochs in 2.5 minutes of training" in shown
    assert "Best epoch 3: validation loss 0.5." in shown
    assert "data:image/svg+xml;base64," in shown
    assert found.table() == (
        ["validation", "best (3)", "last (5)"], [["loss", "0.5", "2.5"], ["theta_s68_deg", "7.5", "12.5"]]
    )  # fmt: skip
    assert "a &lt;b&gt;" in shown
    assert "<b>" not in shown
    assert RunSummary(found.folder)._repr_html_() == shown


def test_a_run_that_has_just_begun_and_a_folder_that_is_none(tmp_path: Path) -> None:
    assert "0 epochs" in RunSummary(run(tmp_path / "new", 0))._repr_html_()
    with pytest.raises(InputError, match=r"is no folder of a run: metrics.jsonl cannot be read"):
        RunSummary(tmp_path)


def test_a_training_and_an_evaluation_show_themselves(tmp_path: Path) -> None:
    result = Result(tmp_path, tmp_path / "checkpoint_best.pth", {"epoch": 2, "val/loss": 0.25}, 60.0)
    assert re.search(r"finished after 1\.0 minutes.*val/loss</td><td[^>]*>0\.25<", result._repr_html_(), re.S)
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.02, 0.06, 500)
    table = {"pred_energy": truth + rng.normal(0, 0.001, 500), "true_energy": truth}
    report = Report([metrics.evaluate(table, "mine<")], {}, Answered())
    assert "500 events" in report._repr_html_()
    assert report.headline()["energy s68 [MeV]"] == pytest.approx(1.0, rel=0.1)


def test_texts_are_escaped() -> None:
    assert "&lt;script&gt;" in table_html(["<script>"], [["a & b"]], "<")
    assert "a &amp; b" in table_html(["<script>"], [["a & b"]])
    assert lines_html(["<x>", ""]) == "<p>&lt;x&gt;</p>"
