"""What is printed: tables without blanks at line ends in files, values a line each, the first line of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning_fabric import Fabric

from tests.test_training import recipe
from xecml.evaluation.inspect import describe_file
from xecml.recipes import load_config
from xecml.terminal import lines, show_table
from xecml.training import checkpoint, loop


def test_tables_in_files_have_no_blanks_at_line_ends(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(
        "3 events", ["quantity", "unit", "s68"], [["theta", "deg", "3.0"], ["phi", "", ""], ["u", "mm", "x" * 99]]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "3 events"
    assert [line.split() for line in printed[4:7]] == [["theta", "deg", "3.0"], ["phi"], ["u", "mm", "x" * 99]]
    assert all(line == line.rstrip() for line in printed)


def test_values_are_a_line_each() -> None:
    values = {
        "kind": "checkpoint",
        "best": None,
        "tasks": ["angle", "energy"],
        "shares": [[1.0, 0.25], [0, 2]],
        "trees": [],
    }
    assert lines(values | {"metrics": {"val/loss": 2.0817941942, "val/u_s68_mm": 5.0}}).splitlines() == [
        "kind                   checkpoint",
        "best                   none",
        "tasks                  angle, energy",
        "shares                 [1, 0.25], [0, 2]",
        "trees                  none",
        "metrics: val/loss      2.08179",
        "metrics: val/u_s68_mm  5",
    ]


@pytest.mark.parametrize(
    ("metric", "kept", "said"),
    [("loss", 2.5, 2.5), ("n_gamma_accuracy", -0.75, 0.75), ("val_resolution_deg", float("inf"), None)],
)
def test_a_checkpoint_says_of_what_its_best_value_is(
    tmp_path: Path, metric: str, kept: float, said: float | None
) -> None:
    content = {
        "kind": "regress",
        "config": load_config(None, [f"checkpoint.best_metric={metric}"]).model_dump(mode="json"),
    }
    content |= {"model_state": {}, "epoch": 2, "best": kept, "metrics": {}, "run_name": "run", "tasks": ["angle"]}
    checkpoint.save(tmp_path / "c.pth", content)
    facts = describe_file(str(tmp_path / "c.pth"))
    assert (facts["best"], facts["best_metric"]) == (said, f"val/{metric}")


def test_the_first_line_says_what_does_not_fill_a_batch(sample: Path, tmp_path: Path) -> None:
    for batch, said in (
        (64, "on 768 events, validating on 256;"),
        (100, "on 768 events (700 of them an epoch, in full"),
    ):
        config = recipe(sample, tmp_path, f"data.batch_size={batch}")
        streams = loop.streams(config, None, None, tasks=["energy"])
        fabric = Fabric(accelerator="cpu", devices=1)
        assert said in loop._announcement(config, loop.make_job(config, "regress"), *streams, tmp_path, fabric)
