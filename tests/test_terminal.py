"""What the command line prints and takes, whatever the names in it."""

from __future__ import annotations

import os
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import cli, rootio
from xecml.errors import InputError
from xecml.files import part_of_a_name
from xecml.recipes import load_config
from xecml.terminal import show_table
from xecml.training.loop import train


def xec(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, output and errors of a command, in this process."""
    out, error = (TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2))
    monkeypatch.setattr(sys, "argv", ["xec", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdout", out)
    error.reconfigure(errors="backslashreplace")  # as Python's own
    monkeypatch.setattr(sys, "stderr", error)
    with pytest.raises(SystemExit) as ended:
        cli.main()
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
    "name", ["a/b", "..", ".", "/abs", "a\nb", os.fsdecode(b"\xff"), "\x1b[0m", "n" * 181, "é" * 91]
)
def test_names_of_runs_stay_in_their_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for way in (
        lambda: part_of_a_name(name, "name of the run"),
        lambda: train(load_config(None, ["data.train_path=none.root"]), name=name),
    ):
        with pytest.raises(InputError, match="The name of the run .* cannot be part of a file's name") as caught:
            way()
        assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())
    for fine in ("run 1", "日本😀", "$x_{", "n" * 180):
        assert part_of_a_name(fine, "name of the run") == fine
