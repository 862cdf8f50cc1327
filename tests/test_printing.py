"""What the command line prints and takes: names of any characters, tables, values a line each, a first line."""

from __future__ import annotations

import os
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import point_sources
from tests.test_training import recipe
from xecml import rootio
from xecml.cli import commands
from xecml.cli.info import describe_file
from xecml.cli.printing import lines, show_table
from xecml.errors import InputError
from xecml.recipes import load_config
from xecml.training import checkpoint_writing, setup
from xecml.training.loop import train
from xecml.training.processes.devices import make_fabric


def xec(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, output and errors of a command, in this process."""
    out, error = (TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2))
    monkeypatch.setattr(sys, "argv", ["xec", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdout", out)
    error.reconfigure(errors="backslashreplace")  # as Python's own
    monkeypatch.setattr(sys, "stderr", error)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    texts = []
    for stream in (out, error):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return int(ended.value.code or 0), texts[0], texts[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", ""),
        ("check", ""),
        ("check", "a.root", "--tree", ""),
        ("convert", "a.root", "--out", ""),
        ("convert", "a.root", "--out="),
        ("inpaint", "neighbour_mean", "a.root", "--out", "b.root", "--dead-list", ""),
        ("display", "a.root", "--event", "0", "--out", ""),
        ("train", "regress", "--resume_from="),
        ("evaluate", "", "a.root", "--out", "b"),
    ],
)
def test_an_empty_argument_is_one_sentence(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, error = xec(monkeypatch, *arguments)
    assert (status, out) == (2, "")
    assert error == "xec: An argument is empty, as an unset variable of a shell is; give it a value, or leave it out.\n"
    assert not list(tmp_path.iterdir())


STRANGE = (os.fsdecode(b"\xff\xfe"), "a\nb", "日本😀", "\x1b[31m", "[bold]", ":smile:", "[/x]", "$a_{$")


@pytest.mark.parametrize("name", STRANGE)
def test_names_of_any_characters_are_printed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rootio.write(f"{name}.root", point_sources(3), tree="rec")
    status, out, error = xec(monkeypatch, "info", f"{name}.root")
    assert (status, error) == (0, "")
    assert "rec: events" in out
    status, _, error = xec(monkeypatch, "info", f"{name}.txt")
    assert status == 2
    assert error.count("\n") == 1
    assert "\x1b" not in error
    status, out, error = xec(monkeypatch, "check", f"{name}.root")
    assert status == 2
    assert ".root has no tree 'tree' (did you mean 'rec'?); it has rec.\n" in error


def test_brackets_and_colons_of_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("[bold]title", ["", "n"], [["run[b].root", ":smile:"], ["[/red]", "[1]"]])
    out = capsys.readouterr().out
    for text in ("[bold]title", "run[b].root", ":smile:", "[/red]", "[1]"):
        assert text in out
    assert np.all([len(line) <= 200 for line in out.splitlines()])


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "/abs", "a\nb", os.fsdecode(b"\xff"), "\x1b[0m", "n" * 101, "é" * 51]
)
def test_names_of_runs_stay_in_their_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="A run cannot be named") as caught:
        train(load_config(None, ["data.train_path=none.root"]), name=name)
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


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
    checkpoint_writing.save(tmp_path / "c.pth", content)
    facts = describe_file(str(tmp_path / "c.pth"))
    assert (facts["best"], facts["best_metric"]) == (said, f"val/{metric}")


def test_the_first_line_says_what_does_not_fill_a_batch(sample: Path, tmp_path: Path) -> None:
    for batch, said in (
        (64, "on 768 events, validating on 256;"),
        (100, "on 768 events (700 of them an epoch, in full"),
    ):
        config = recipe(sample, tmp_path, f"data.batch_size={batch}")
        streams = setup.streams(config, None, None, tasks=["energy"])
        fabric = make_fabric(load_config(None, ["training.accelerator=cpu"]))
        assert said in setup.announcement(config, setup.make_job(config, "regress"), *streams, tmp_path, fabric)
