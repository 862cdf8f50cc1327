"""`xec baseline`: files in, a prediction tree out; constants beside it; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import point_sources
from tests.test_end_to_end import Xec
from xecml import geometry, rootio
from xecml.conventional.reconstruction import PLAIN_ENERGY
from xecml.errors import InputError
from xecml.evaluation.tables import read_table
from xecml.events import INVALID
from xecml.inference.baseline import baseline_files, tasks_of
from xecml.resolution import s68

EVENTS = 700


def sample(events: int, seed: int) -> dict[str, NDArray[Any]]:
    found = point_sources(events, seed)
    found["npho"] = np.where(found["npho"] > 9e9, 0, found["npho"]).astype(np.float32)
    return found


@pytest.fixture
def xec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Xec:
    return Xec(monkeypatch, capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of points of light, constants for them, and what they answer."""
    path = tmp_path_factory.mktemp("baseline")
    rootio.write(path / "train.root", sample(EVENTS, 1))
    rootio.write(path / "test.root", sample(300, 2))
    baseline_files([path / "train.root"], path / "train_out.root", calibrate=True)
    return path


def test_a_calibration_stands_beside_its_answers_and_serves_other_files(folder: Path, xec: Xec) -> None:
    made = folder / "train_out.constants.json"
    content = json.loads(made.read_text())
    assert content["made_by"] == "made by 'xec baseline'"
    assert (content["sample"]["files"], content["sample"]["events"]) == (["train.root"], EVENTS)
    report = xec.json("baseline", folder / "test.root", "--out", folder / "answers.root", "--constants", made)
    assert (report["events"], report["not_answered"], report["without_time"]) == (300, 0, 0)
    table = read_table(folder / "answers.root")
    truth = sample(300, 2)
    for axis, column in zip(range(3), ("u", "v", "w"), strict=True):
        assert s68(table[f"pred_{column}"] - truth["uvwTruth"][:, axis]) < 0.25
        assert (table[f"sigma_{column}"] > 0).all()
    assert s68(table["pred_energy"] / truth["energyTruth"]) < 0.01
    assert s68(table[PLAIN_ENERGY] / truth["energyTruth"]) < 0.015
    assert s68(table["pred_timing"] - truth["timeTruth"]) < 50e-12
    np.testing.assert_array_equal(table["event"], truth["event"])
    np.testing.assert_array_equal(table["true_theta"], truth["emiAng"][:, 0])
    np.testing.assert_allclose(
        table["opening_angle"],
        geometry.opening_angle(np.stack([table["pred_theta"], table["pred_phi"]], 1), truth["emiAng"]),
        atol=1e-3,
    )


def test_quantities_are_chosen(folder: Path) -> None:
    constants = folder / "train_out.constants.json"
    report = baseline_files(
        [folder / "test.root"], folder / "some.root", constants=constants, tasks=tasks_of("energy uvwFI")
    )
    assert report.tasks == ("energy", "uvwFI")
    table = read_table(folder / "some.root")
    assert {name for name in table if name.startswith("pred_")} == {"pred_energy", "pred_u", "pred_v", "pred_w"}


def test_dead_sensors_are_left_out_by_list_by_flag_and_by_sight(folder: Path, tmp_path: Path) -> None:
    """A tenth of the sensors show 50,000 photons or none in every event; the answers are the same whoever says it."""
    constants, events = folder / "train_out.constants.json", sample(300, 2)
    dead = np.random.default_rng(4).random(geometry.N_SENSORS) < 0.05
    hot = dead & (np.arange(geometry.N_SENSORS) % 2 == 0)
    events["npho"][:, dead] = 0
    events["npho"][:, hot] = 5e4
    rootio.write(tmp_path / "spoilt.root", events)
    rootio.write(tmp_path / "flagged.root", events | {"dead": np.broadcast_to(dead, (300, geometry.N_SENSORS)).copy()})
    (tmp_path / "dead.txt").write_text("\n".join(map(str, np.flatnonzero(dead))))
    run = {"constants": constants, "tasks": ("uvwFI", "energy")}
    baseline_files([tmp_path / "spoilt.root"], tmp_path / "l.root", dead_list=tmp_path / "dead.txt", **run)
    baseline_files([tmp_path / "flagged.root"], tmp_path / "f.root", **run)
    report = baseline_files([tmp_path / "spoilt.root"], tmp_path / "s.root", **run)
    assert report.dead == dead.sum()
    listed, flagged, seen = (read_table(tmp_path / f"{name}.root") for name in "lfs")
    truth = sample(300, 2)
    for name in ("pred_u", "pred_w", "pred_energy"):
        np.testing.assert_array_equal(listed[name], flagged[name])
        np.testing.assert_array_equal(listed[name], seen[name])
    assert s68(listed["pred_u"] - truth["uvwTruth"][:, 0]) < 0.3
    assert abs(np.median(listed["pred_energy"] / truth["energyTruth"]) - 1) < 0.01


def test_events_that_cannot_be_answered_are_counted(folder: Path, tmp_path: Path) -> None:
    events = sample(20, 3)
    events["npho"][:2], events["time"][2:5] = INVALID, INVALID
    rootio.write(tmp_path / "in.root", events)
    report = baseline_files([tmp_path / "in.root"], tmp_path / "o.root", constants=folder / "train_out.constants.json")
    assert (report.not_answered, report.without_time) == (2, 3)
    assert "Of 20 events: 2 not answered (no light on the inner face); 3 without a time." in report.lines()
    table = read_table(tmp_path / "o.root")
    assert np.isnan(table["pred_u"]).sum() == 2
    assert np.isnan(table["pred_timing"]).sum() == 5


def test_bad_input_is_one_sentence_and_leaves_nothing(folder: Path, tmp_path: Path, xec: Xec) -> None:
    test, out = folder / "test.root", tmp_path / "o.root"
    no_truth = {name: values for name, values in sample(30, 1).items() if name in ("npho", "time")}
    rootio.write(tmp_path / "data.root", no_truth)
    rootio.write(tmp_path / "empty.root", {name: values[:0] for name, values in sample(5, 1).items()})
    rootio.write(tmp_path / "relative.root", {"relative_npho": no_truth["npho"], "relative_time": no_truth["time"]})
    (tmp_path / "c.json").write_text("{}")
    for arguments, said in (
        ((tmp_path / "no.root", "--out", out), "No such file"),
        ((test, "--out", tmp_path / "o.txt"), "root"),
        ((test, "--out", test), "it is the input"),
        ((test, "--out", out, "--constants", "muon"), "There are no constants 'muon'"),
        ((test, "--out", out, "--constants", tmp_path / "c.json"), "is no file of constants"),
        ((test, "--out", out, "--tasks", "uvwFI enrgy"), "did you mean 'energy'"),
        ((test, "--out", out, "--calibrate", "--constants", "signal"), "leave one of the two options out"),
        ((test, "--out", out, "--calibrate"), "give 500 or more"),
        ((tmp_path / "data.root", "--out", out, "--calibrate"), "has no uvwTruth"),
        ((tmp_path / "empty.root", "--out", out), "holds no events"),
        ((tmp_path / "relative.root", "--out", out), "npho"),
        ((test, "--out", out, "--dead-list", tmp_path / "none.txt"), "No such dead list"),
    ):
        xec("baseline", *arguments, status=2)
        assert said in xec.error, arguments
        assert xec.error.count("\n") == 1
    assert not out.exists()
    assert not (tmp_path / "o.constants.json").exists()


def test_a_quantity_without_constants_is_refused() -> None:
    with pytest.raises(InputError, match="The conventional reconstruction has no 'angleVec'"):
        tasks_of("angleVec")
