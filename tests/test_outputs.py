"""What commands may write: inputs stay whatever their names, and so do files that another command or hand made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from xecml import outputs, rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.figures.style import save_figure
from xecml.outputs import claim, made_by, making

from .conftest import point_sources


def _events(path: Path, events: int = 4) -> Path:
    rootio.write(path, point_sources(events))
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------- inputs stay


def _same(path: Path) -> Path:
    return path


def _roundabout(path: Path) -> Path:
    (path.parent / "by").mkdir()
    return path.parent / "by" / ".." / path.name


def _symbolic(path: Path) -> Path:
    link = path.with_name("link.root")
    link.symlink_to(path)
    return link


def _hard(path: Path) -> Path:
    link = path.with_name("hard.root")
    os.link(path, link)
    return link


@pytest.mark.parametrize("named", [_same, _roundabout, _symbolic, _hard])
@pytest.mark.parametrize("given", ["{0}", "{0.parent}", "{0.parent}/*.root"])
def test_an_input_is_not_written_under_any_name(tmp_path: Path, named: Callable[[Path], Path], given: str) -> None:
    data = _events(tmp_path / "a.root")
    before = _digest(data)
    with making("predict"), pytest.raises(InputError, match="it is the input .*choose another output"):
        claim([named(data)], inputs=[given.format(data), None, "root://elsewhere//a.root"], force=True)
    assert _digest(data) == before


def test_a_new_file_in_a_folder_of_inputs_may_be_written(tmp_path: Path) -> None:
    _events(tmp_path / "a.root")
    with making("predict"):
        assert claim([tmp_path / "new.root"], inputs=[tmp_path]) == ()


# ------------------------------------------------------------------------------------------ and what others made


def _tree(path: Path) -> None:
    with rootio.TreeWriter(path) as writer:
        for _ in range(3):
            # many baskets: the mark is found without reading them all
            writer.extend({"npho": np.random.default_rng(1).random((100, 4760))})


def _picture(path: Path) -> None:
    save_figure(Figure(), path)


@pytest.mark.parametrize(("name", "write"), [("a.root", _tree), ("a.pdf", _picture), ("a.png", _picture)])
def test_a_product_is_replaced_by_its_command_alone(
    tmp_path: Path, name: str, write: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    with making("evaluate"):
        write(path)
        assert claim([path]) == (path,)
    assert f"replacing {path} of an earlier 'xec evaluate'" in capsys.readouterr().err
    assert made_by(path) == "evaluate"
    with making("predict"):
        with pytest.raises(InputError, match="not made by 'xec predict'.*--force"):
            claim([path])
        assert claim([path], force=True) == (path,)


def test_what_a_command_uses_of_others_is_its_own(tmp_path: Path) -> None:
    with making("train"), making("display"):
        _picture(tmp_path / "event.png")
    assert made_by(tmp_path / "event.png") == "train"


@pytest.mark.parametrize(
    ("name", "content", "maker"),
    [
        ("metrics.jsonl", '{"epoch": 1, "train/loss": 2}\n', "train"),
        ("metrics.jsonl", '{"day": 1}\n', None),
        ("predictions_angle.csv", "run,event,true_theta\n", "train"),
        ("predictions_angle.csv", "run,event,note\n", None),
        ("notes.root", "my own notes", None),
        ("empty.root", "", None),
    ],
)
def test_files_without_a_mark_are_known_by_their_form(
    tmp_path: Path, name: str, content: str, maker: str | None
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert made_by(path) == maker


def test_the_mark_is_found_without_reading_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large.root"
    with path.open("wb") as file:
        file.write(b"made by 'xec predict'")
        file.seek(2**33)  # a hole: nothing of it is on the disk
        file.write(b"end")
    assert made_by(path) == "predict"
    assert outputs.mark() == "made by xecml"


# ------------------------------------------------------------------------------------------------- every command


def _commands(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Words of every command that writes, and the files in `folder` that it would replace."""
    data, model = str(folder / "a.root"), str(folder / "m.pth")
    return {
        "simulate": (["simulate", data, "-n", "1"], ["a.root"]),
        "simulate chunks": (["simulate", str(folder / "s.root"), "-n", "2", "--chunk", "1"], ["s_0001.root"]),
        "check": (["check", data, "--pdf", str(folder / "c.pdf")], ["c.pdf"]),
        "evaluate": (["evaluate", model, data, "--out", str(folder)], ["predictions.root"]),
        "evaluate report": (["evaluate", model, data, "--out", str(folder)], ["evaluation.json"]),
        "evaluate page": (["evaluate", model, data, "--out", str(folder)], ["report.html"]),
        "report": (["report", data, "--out", str(folder / "r.html")], ["r.html"]),
        "evaluate pages": (["evaluate", model, data, "--out", str(folder)], ["resolution.pdf"]),
        "export": (["export", model, str(folder / "m.onnx")], ["m.onnx"]),
        "predict": (["predict", model, data, "--out", str(folder / "p.root")], ["p.root"]),
        "inpaint": (["inpaint", "solid_angle", data, "--out", str(folder / "i.root")], ["i.root"]),
        "display": (["display", data, "--event", "0", "--out", str(folder / "e.png")], ["e.png"]),
        "display page": (["display", data, "--out", str(folder / "e.html")], ["e.html"]),
        "display geometry": (["display", "--geometry", str(folder / "g.pdf")], ["g.pdf"]),
        "prepare": (["prepare", data, "--out", str(folder / "r.root")], ["r.root"]),
        "convert": (["convert", data, "--out", str(folder / "shards")], ["shards/notes.txt"]),
    }


@pytest.fixture(scope="module")
def model(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as it is before its training, which serves here."""
    import torch

    from xecml.recipes import load_config
    from xecml.training import checkpoint_writing, loop

    folder = tmp_path_factory.mktemp("model")
    settings = {
        "data.train_path": f"{sample}/train.root", "data.val_path": f"{sample}/val.root", "data.batch_size": 256,
        "model.preset": "tiny", "training.epochs": 1, "training.warmup_epochs": 0.5, "mlflow.enabled": False,
        "mlflow.tensorboard": None, "checkpoint.save_dir": str(folder),
    }  # fmt: skip
    result = loop.train(load_config(None, [], settings), name="run", quiet=True)
    assert torch.load(result.best, weights_only=True)["format"] == checkpoint_writing.FORMAT
    return result.best


@pytest.mark.parametrize("name", list(_commands(Path())))
def test_every_command_leaves_what_is_not_its_own(tmp_path: Path, model: Path, name: str) -> None:
    _events(tmp_path / "a.root")
    (tmp_path / "m.pth").write_bytes(model.read_bytes())
    words, files = _commands(tmp_path)[name]
    for file in (tmp_path / f for f in files):
        file.parent.mkdir(exist_ok=True)
        if file.name != "a.root":
            file.write_text("written by hand over many days")
    before = {path: _digest(path) for path in tmp_path.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, InputError), result.output
    assert files[0].split("/")[-1] in str(result.exception)
    assert {path: _digest(path) for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["predict", "{m}", "{a}", "--out", "{a}"], "a.root"),
        (["predict", "{m}", "{a}", "--out", "{m}"], "m.pth"),
        (["evaluate", "{m}", "{f}/predictions.root", "--out", "{f}"], "predictions.root"),
        (["evaluate", "{m}", "{a}", "--model", "{f}/predictions.root", "--out", "{f}"], "predictions.root"),
        (["export", "{f}/m.onnx", "{f}/m.onnx"], "m.onnx"),
        (["inpaint", "solid_angle", "{a}", "--out", "{a}"], "a.root"),
        (["inpaint", "{m}", "{a}", "--out", "{m}"], "m.pth"),
        (["inpaint", "solid_angle", "{a}", "--dead-list", "{f}/d.root", "--out", "{f}/d.root"], "d.root"),
        (["display", "{a}", "--event", "0", "--out", "{a}"], "a.root"),
        (["display", "{a}", "--event", "0", "--model", "{m}", "--out", "{m}"], "m.pth"),
        (["check", "{a}", "--pdf", "{a}"], "a.root"),
        (["report", "{a}", "--out", "{a}"], "a.root"),
        (["simulate", "{f}/d.root", "-n", "1", "--dead-list", "{f}/d.root"], "d.root"),
        (["simulate", "{f}/y.root", "-n", "1", "--config", "{f}/y.root"], "y.root"),
        (["prepare", "{a}", "--out", "{a}"], "a.root"),
        (["prepare", "{a}", "--map", "{f}/y.root", "--out", "{f}/y.root"], "y.root"),
        (["prepare", "{a}", "--dead-list", "{f}/d.root", "--out", "{f}/d.root"], "d.root"),
        (["convert", "{f}/shards", "--out", "{f}/shards"], "shards/manifest.json"),
    ],
)
def test_no_command_writes_over_its_input_even_by_force(
    tmp_path: Path, model: Path, words: list[str], out: str
) -> None:
    data = _events(tmp_path / "a.root")
    _events(tmp_path / "predictions.root")
    (tmp_path / "m.pth").write_bytes(model.read_bytes())
    (tmp_path / "m.onnx").write_text("a model")
    (tmp_path / "d.root").write_text("7\n")
    (tmp_path / "y.root").write_text("vertex: signal\n")
    assert CliRunner().invoke(app, ["convert", str(data), "--out", str(tmp_path / "shards")]).exit_code == 0
    before = _digest(tmp_path / out)
    words = [word.format(m=tmp_path / "m.pth", a=data, f=tmp_path) for word in words]
    force = [] if words[0] in ("convert",) else ["--force"]
    result = CliRunner().invoke(app, [*words, *force])
    assert isinstance(result.exception, InputError), result.output
    assert _digest(tmp_path / out) == before


# --------------------------------------------------------------------------------------------------------- runs


def _train(folder: Path, sample: Path, *more: str) -> InputError | None:
    words = ["train", "regress", "--train_path", f"{sample}/train.root", "--val_path", f"{sample}/val.root",
             "--epochs", "1", "--batch", "256", "--name", "run", "--set", f"checkpoint.save_dir={folder}",
             "--set", "model.preset=tiny", "--set", "mlflow.enabled=false", "--set", "mlflow.tensorboard=null",
             "--set", "training.warmup_epochs=0.5", *more]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, InputError), result.output
    return result.exception if isinstance(result.exception, InputError) else None


@pytest.mark.parametrize("more", [["--mae_checkpoint"], ["--set", "checkpoint.weights_only=true", "--resume_from"]])
def test_a_run_does_not_replace_the_checkpoint_that_it_starts_from(
    tmp_path: Path, sample: Path, model: Path, more: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    best = tmp_path / "run" / "checkpoint_best.pth"
    best.write_bytes(model.read_bytes())
    error = _train(tmp_path, sample, *more, str(best))
    assert error is not None
    assert "it is the input" in str(error)
    assert _digest(best) == _digest(model)


@pytest.mark.slow
def test_a_run_leaves_files_of_others_in_its_folder(
    tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "run" / "metrics.jsonl"
    notes.parent.mkdir()
    notes.write_text("my notes")
    error = _train(tmp_path, sample)
    assert error is not None
    assert "metrics.jsonl exists and was not made by 'xec train'" in str(error)
    assert [p.name for p in notes.parent.iterdir()] == ["metrics.jsonl"]
    notes.rename(notes.with_name("resolution_profile_run.pdf"))
    assert _train(tmp_path, sample) is None
    assert notes.with_name("resolution_profile_run.pdf").read_text() == "my notes"
    assert notes.read_text().startswith('{"epoch": 1')


@pytest.mark.slow
@pytest.mark.long
def test_a_second_run_of_a_name_replaces_all_of_the_first(tmp_path: Path, sample: Path) -> None:
    more = ("--set", "export.onnx=model.onnx")
    assert _train(tmp_path, sample, *more) is None
    first = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.onnx", "predictions_angle.csv", "worst_event_1_run.pdf"} <= first
    for path in (tmp_path / "run").iterdir():
        os.utime(path, (0, 0))
    assert _train(tmp_path, sample, *more) is None
    kept = {path.name for path in (tmp_path / "run").iterdir() if path.stat().st_mtime == 0}
    assert kept == {"before_checkpoint_best.pth"}
