"""The main job by its commands: simulated ROOT file in, trained and exported model out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.cli import commands
from xecml.events import INVALID

ROOT = Path(__file__).parents[1]


class Xec:
    """Run `xec` in this process; keep its exit status and what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object, status: int = 0) -> str:
        self._monkeypatch.setattr(sys, "argv", ["xec", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            commands.main()
        captured = self._capsys.readouterr()
        assert (caught.value.code or 0) == status, captured.err
        self.error = captured.err
        return captured.out

    def json(self, *arguments: object, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status))


@pytest.fixture
def xec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Xec:
    return Xec(monkeypatch, capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("way")
    (path / "quick.yaml").write_text("map_quality: quick\n")
    return path


@pytest.mark.slow
@pytest.mark.long
def test_the_whole_way(folder: Path, xec: Xec) -> None:
    quick = ("--config", folder / "quick.yaml")
    for seed, (name, events) in enumerate((("train", 640), ("val", 128), ("test", 192))):
        made = xec.json("simulate", folder / f"{name}.root", "-n", events, "--energy", "15:60", "--seed", seed, *quick)
        assert made["events"] == events
    assert xec.json("check", folder / "test.root")["usable"] is True
    paths = ("--train_path", folder / "train.root", "--val_path", folder / "val.root")
    trained = xec.json("train", "regress", "--config", "tiny", *paths, "--epochs", 3, "--name", "run",
                       "--set", f"checkpoint.save_dir={folder}")  # fmt: skip
    parts = trained["seconds_by_part"]
    assert {"libraries, recipe", "files, fits, first weights", "epochs", "validation", "pictures"} <= parts.keys()
    assert all(seconds >= 0 for seconds in parts.values())
    best = folder / "run" / "checkpoint_best.pth"
    report = xec.json("evaluate", best, folder / "test.root", "--out", folder / "evaluation")
    network, constant, centroid = report["evaluations"]
    assert (constant["name"], centroid["name"]) == ("mean of training truth", "light centroid")
    for quantity in ("theta", "phi", "energy", "timing", "u", "v", "w"):
        assert network["figures"][quantity]["all"]["s68"] < 0.5 * constant["figures"][quantity]["all"]["s68"]
    assert network["figures"]["v"]["all"]["s68"] < centroid["figures"]["v"]["all"]["s68"]
    assert not network["warnings"]
    assert (folder / "evaluation" / "resolution.pdf").read_bytes().startswith(b"%PDF")
    exported = xec.json("export", best, folder / "model.onnx")
    assert max(exported["largest_difference"].values()) < 1e-4
    for model, out in ((best, "torch.root"), (folder / "model.onnx", "onnx.root")):
        xec("predict", model, folder / "test.root", "--out", folder / out)
    columns = ["pred_u", "event"]
    one, two = (next(rootio.read(folder / f"{n}.root", columns, tree="predictions")) for n in ("torch", "onnx"))
    np.testing.assert_allclose(one["pred_u"], two["pred_u"], atol=1e-3)
    np.testing.assert_array_equal(one["event"], np.arange(192))
    xec("display", folder / "test.root", "--event", 5, "--model", folder / "model.onnx", "--out", folder / "event.png")
    assert (folder / "event.png").read_bytes().startswith(b"\x89PNG")
    xec("convert", folder / "test.root", "--out", folder / "shards")
    xec("display", folder / "shards", "--event", 5, "--out", folder / "same.png")
    xec("predict", best, folder / "shards", "--out", folder / "shards.root")
    same = next(rootio.read(folder / "shards.root", columns, tree="predictions"))
    np.testing.assert_array_equal(same["pred_u"], one["pred_u"])
    assert xec.json("info", folder / "shards")["kind"] == "shards"
    assert xec.json("check", folder / "shards")["usable"] is True
    assert xec.json("info", best)["tasks"] == ["angle", "energy", "timing", "uvwFI"]
    assert "npho" in xec("info", folder / "test.root")
    assert xec.json("info", folder / "model.onnx")["kind"] == "ONNX"
    assert xec.json("info", "--system")["xecml"]


@pytest.mark.slow
def test_simulated_light_is_where_the_truth_says(folder: Path, xec: Xec) -> None:
    xec("simulate", folder / "spot.root", "-n", 64, "--energy", "52.8", "--seed", 9, "--config", folder / "quick.yaml")
    chunk = next(rootio.read(folder / "spot.root", ["npho", "uvwTruth"]))
    inner = np.where(chunk["npho"] < 9e9, chunk["npho"], 0)[:, : geometry.N_SIPM]
    brightest = geometry.uvw_from_xyz(geometry.positions()[inner.argmax(1)])
    shallow = chunk["uvwTruth"][:, 2] < 10
    off = np.abs(brightest - chunk["uvwTruth"])[shallow, :2]
    assert np.median(off, axis=0).max() < 1.5


def test_bad_files_fail_the_check(tmp_path: Path, xec: Xec) -> None:
    events = point_sources(150, seed=3)
    nanoseconds = events | {"time": np.where(events["time"] < 1, events["time"] * np.float32(1e9), events["time"])}
    dead = events["npho"].copy()
    dead[:, geometry.face_sensors("us")] = INVALID
    for name, content in (("good", events), ("ns", nanoseconds), ("dead", events | {"npho": dead})):
        rootio.write(tmp_path / f"{name}.root", content)
    xec("check", tmp_path / "good.root")
    assert "nanoseconds" in xec("check", tmp_path / "ns.root", status=1)
    assert "us" in xec("check", tmp_path / "dead.root", status=1)


def test_bad_input_is_one_sentence_and_status_two(tmp_path: Path, xec: Xec, sample: Path) -> None:
    (tmp_path / "text.root").write_text("text")
    rootio.write(tmp_path / "none.root", {"npho": np.ones((3, 4760), np.float32)})
    tiny = ("--config", "tiny")
    test = sample / "test.root"
    for command, message in (
        (("check", tmp_path / "missing.root"), "No such file"),
        (("check", tmp_path / "text.root"), "cannot be read as a ROOT file"),
        (("check", test, "--tree", "event"), "has no tree 'event'"),
        (("train", "regress", *tiny, "--set", "training.epoch=3"), "did you mean 'training.epochs'"),
        (("train", "regress", *tiny, "--tasks", "angel"), "Unknown key 'tasks.angel'"),
        (("train", "regress", *tiny, "--train_path", tmp_path / "none.root", "--val_path", test), "no branch 'time'"),
        (("evaluate", tmp_path / "no.pth", test, "--out", tmp_path / "e"), "No such model"),
        (("predict", tmp_path / "no.onnx", test, "--out", tmp_path / "p.root"), "No such model"),
        (("export", tmp_path / "no.pth", tmp_path / "m.onnx"), "No such model"),
        (("display", test, "--event", 999, "--out", tmp_path / "e.png"), "has no entry 999"),
        (("display", test, "--event", 1, "--out", tmp_path / "e.gif"), ".pdf, .png or .html"),
        (("simulate", tmp_path / "s.root", "-n", 5, "--energy", "much"), "is no energy"),
        (("simulate", tmp_path / "s.txt", "-n", 5), "a name that ends in .root"),
        (("inpaint", "point_source", test, "--out", tmp_path / "i.dat"), "a name that ends in .root"),
        (("simulate", tmp_path / "s.root", "-n", 5, "--vertex", "target"), "vertex"),
        (("info", tmp_path / "missing.txt"), "No such file"),
        (("info", ROOT / "README.md"), "does not end in .root"),
        (("info",), "Name a file"),
    ):
        out = xec(*command, status=2)
        assert out == ""
        assert message in xec.error
        assert len(xec.error.strip().splitlines()) == 1, xec.error
        assert "Traceback" not in xec.error
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["none.root", "text.root"]


def test_keys_are_listed(xec: Xec) -> None:
    listing = xec("train", "--help-config")
    assert "training.lr" in listing
    assert "learning rate after the warm-up" in listing
