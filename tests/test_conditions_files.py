"""Conditions by run in the commands: a file of two runs, each event with the mask of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from tests.conftest import point_sources
from tests.recfiles import arrays, events, write_tree
from xecml import rootio
from xecml.checks.event_files import check_files
from xecml.cli import main
from xecml.cli.info import describe_file
from xecml.conditions import Correction
from xecml.conditions_file import earlier, load_conditions
from xecml.errors import InputError
from xecml.events import INVALID, relative_quantities
from xecml.inference.inpaint import inpaint_files
from xecml.inference.predict import predict_files
from xecml.inference.prediction_columns import PREDICTION_TREE
from xecml.simulation import blocks, detectors
from xecml.simulation.settings import SimulationSettings

TABLE = """\
ranges:
  - {runs: [1, 9], dead: [5, 4100], gains: 2.0, time_offsets_ns: 3.0}
  - {runs: [10, 19], dead: [6, 7], gains: {sipm: 0.5, pmt: 1.0}, time_offsets_ns: 0.0}
"""
DEAD = {1: [5, 4100], 12: [6, 7]}
Arrays = dict[str, NDArray[Any]]
Xec = Callable[..., tuple[int, str, str]]


class Fixed:
    """Fills 321 photons and 7 ns."""

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.full(np.shape(npho), 321.0), np.full(np.shape(time), 7e-9)


class Sums:
    """A model whose energy is the sum of the measured counts, and whose time the mean of the measured times."""

    tasks, branches, names, training = ("energy", "timing"), ("npho", "time"), {}, None  # type: ignore[var-annotated]
    truth_ends: ClassVar[dict[str, tuple[float, float]]] = {}

    def judge(self, npho: NDArray[Any], time: NDArray[Any]) -> tuple[Arrays, None]:
        ok = npho < 9e9
        mean = np.where(ok, time, 0).sum(1, dtype=np.float64) / ok.sum(1)
        return {"energy": np.where(ok, npho, 0).sum(1), "timing": mean}, None

    def few_sensors(self, npho: NDArray[Any], time: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        return np.zeros((len(npho), 6), bool)

    @property
    def usual_sensors(self) -> NDArray[np.float32]:
        return np.zeros((4, 6), np.float32)


def two_runs(n: int = 120) -> Arrays:
    chunk = point_sources(n, 5)
    chunk["run"] = np.where(np.arange(n) % 3 == 0, 12, 1).astype(np.int32)
    return chunk


def read(path: Path, tree: str = "tree") -> Arrays:
    with rootio.open_tree(path, tree) as reader:
        return reader.arrays(sorted(reader.in_file), 0, reader.n_events)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(TABLE)
    return tmp_path / "c.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rootio.write(tmp_path / "in.root", two_runs())
    return tmp_path / "in.root"


@pytest.fixture
def xec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Xec:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xec", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


# --------------------------------------------------------------------------------------------------------- inpaint


def test_inpaint_fills_each_event_by_its_own_run(table: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.root"
    report = inpaint_files(Fixed(), file, out, correction=Correction(load_conditions(table)))
    before, after = read(file), read(out)
    assert report.origin == "conditions"
    assert report.sensors == (5, 6, 7, 4100)
    assert report.filled == 240
    for run, dead in DEAD.items():
        here = before["run"] == run
        live = np.delete(np.arange(4760), dead)
        assert (after["inpainted"][here].sum(0) == np.isin(np.arange(4760), dead) * here.sum()).all()
        assert (after["npho"][here][:, dead] == 321).all()
        assert after["npho"][here][:, live].tobytes() == before["npho"][here][:, live].tobytes()
        assert after["time"][here][:, live].tobytes() == before["time"][here][:, live].tobytes()
    (said,) = earlier(out)
    assert (said["command"], said["applied"]) == ("inpaint", ["dead"])
    assert [(r["first"], r["last"], r["events"], r["dead"]) for r in said["runs"]] == [
        (1, 9, 80, [5, 4100]), (10, 19, 40, [6, 7]),
    ]  # fmt: skip
    assert report.as_dict()["corrected"] == (said,)


def test_inpaint_corrects_live_sensors_where_asked_and_only_once(table: Path, file: Path, tmp_path: Path) -> None:
    out, conditions = tmp_path / "out.root", load_conditions(table)
    inpaint_files(Fixed(), file, out, correction=Correction(conditions, ("dead", "gains", "time_offsets")))
    before, after = read(file), read(out)
    here = before["run"] == 1
    ok = (before["npho"] < 9e9)[here]
    ok[:, DEAD[1]] = False
    np.testing.assert_allclose(after["npho"][here][ok], before["npho"][here][ok] / 2, rtol=1e-6)
    np.testing.assert_allclose(after["time"][here][ok], before["time"][here][ok] - 3e-9, atol=2e-15)
    with pytest.raises(InputError, match="corrected for gains before"):
        inpaint_files(Fixed(), out, tmp_path / "twice.root", correction=Correction(conditions, ("dead", "gains")))
    inpaint_files(Fixed(), out, tmp_path / "more.root", correction=Correction(conditions))
    assert [one["applied"] for one in earlier(tmp_path / "more.root")] == [["dead", "gains", "time_offsets"], ["dead"]]
    assert not (tmp_path / "twice.root").exists()


def test_flags_of_the_file_are_dead_besides(table: Path, tmp_path: Path) -> None:
    chunk = two_runs(6)
    chunk["dead"] = np.zeros((6, 4760), bool)
    chunk["dead"][:, 900] = True
    rootio.write(tmp_path / "f.root", chunk)
    inpaint_files(Fixed(), tmp_path / "f.root", tmp_path / "o.root", correction=Correction(load_conditions(table)))
    filled = read(tmp_path / "o.root")["inpainted"]
    assert [np.flatnonzero(row).tolist() for row in filled[:2]] == [[6, 7, 900], [5, 900, 4100]]


def test_what_does_not_go_together_is_refused(table: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "dead.txt").write_text("3\n")
    options: dict[str, Any] = {"correction": Correction(load_conditions(table))}
    with pytest.raises(InputError, match="give one of them"):
        inpaint_files(Fixed(), file, tmp_path / "o.root", dead_list=tmp_path / "dead.txt", **options)
    chunk = two_runs(6)
    chunk["run"][3] = 25
    rootio.write(tmp_path / "far.root", chunk)
    with pytest.raises(InputError, match=r"Run 25 of .*far.root is in no range of the conditions .*\(1-9, 10-19\)"):
        inpaint_files(Fixed(), tmp_path / "far.root", tmp_path / "o.root", **options)
    del chunk["run"]
    rootio.write(tmp_path / "none.root", chunk)
    with pytest.raises(InputError, match="has no run numbers"):
        inpaint_files(Fixed(), tmp_path / "none.root", tmp_path / "o.root", **options)
    assert not (tmp_path / "o.root").exists()


# --------------------------------------------------------------------------------------------------------- predict


def test_predict_reads_each_event_by_its_own_run(table: Path, file: Path, tmp_path: Path) -> None:
    correction = Correction(load_conditions(table), ("dead", "gains", "time_offsets"))
    predict_files(Sums(), [file], tmp_path / "p.root", correction=correction)  # type: ignore[arg-type]
    found, before = read(tmp_path / "p.root", PREDICTION_TREE), read(file)
    ok = before["npho"] < 9e9
    for run, dead in DEAD.items():
        ok[np.ix_(before["run"] == run, dead)] = False
    factor = np.where(before["run"][:, None] == 1, 0.5, np.where(np.arange(4760) < 4092, 2.0, 1.0))
    wanted = np.where(ok, before["npho"] * factor, 0).sum(1)
    np.testing.assert_allclose(found["pred_energy"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found["n_valid"], ok.sum(1))
    offset = np.where(before["run"] == 1, 3e-9, 0.0)
    times = np.where(ok, before["time"], 0).sum(1, dtype=np.float64) / ok.sum(1) - offset
    np.testing.assert_allclose(found["pred_timing"], times, atol=1e-13)
    (said,) = earlier(tmp_path / "p.root")
    assert (said["command"], said["applied"]) == ("predict", ["dead", "gains", "time_offsets"])
    assert describe_file(str(tmp_path / "p.root"))["conditions"] == ["predict: dead, gains, time_offsets by c.yaml"]


# --------------------------------------------------------------------------------------------------------- prepare


def test_prepare_gives_each_event_the_mask_and_the_gains_of_its_run(xec: Xec, tmp_path: Path) -> None:
    rec, out, plain = (tmp_path / name for name in ("rec.root", "out.root", "plain.root"))
    taken = events(12, photons=(1,))
    for i, event in enumerate(taken):
        event.run = 12 if i % 3 == 0 else 1
    write_tree(rec, arrays(taken))
    (tmp_path / "c.yaml").write_text(TABLE)
    code, _, err = xec("prepare", rec, "--out", plain, "--no-cuts")
    assert code == 0, err
    words = ("--conditions", tmp_path / "c.yaml", "--apply", "gains time_offsets", "--json")
    code, said, err = xec("prepare", rec, "--out", out, "--no-cuts", *words)
    assert code == 0, err
    before, after = read(plain), read(out)
    assert len(before["run"]) == 12
    for run, dead in DEAD.items():
        here = before["run"] == run
        ok = (before["npho"] < 9e9)[here]
        ok[:, dead] = False
        assert (after["dead"][here].sum(0) == np.isin(np.arange(4760), dead) * here.sum()).all()
        assert (after["npho"][here][:, dead] == INVALID).all()
        factor = np.full(4760, 0.5) if run == 1 else np.where(np.arange(4760) < 4092, 2.0, 1.0)
        np.testing.assert_allclose(after["npho"][here][ok], (before["npho"][here] * factor)[ok], rtol=1e-6)
        offset = 3e-9 if run == 1 else 0.0
        timed = ok & (np.abs(before["time"][here]) < 1)
        np.testing.assert_allclose(after["time"][here][timed], before["time"][here][timed] - offset, atol=2e-15)
        np.testing.assert_array_equal(after["relative_npho"], relative_quantities(after["npho"], after["time"])[0])
    assert json.loads(said)["conditions"] == earlier(out)
    assert earlier(out)[0]["applied"] == ["dead", "gains", "time_offsets"]
    assert earlier(plain) == []


def test_prepare_without_a_change_is_as_before(xec: Xec, tmp_path: Path) -> None:
    rec = write_tree(tmp_path / "rec.root", arrays(events(12, photons=(1,))))
    (tmp_path / "c.yaml").write_text("ranges: [{runs: [430000, 430009], gains: 1.0, time_offsets_ns: 0.0}]\n")
    words = ("--conditions", tmp_path / "c.yaml", "--apply", "gains,time_offsets")
    for name, more in (("a", ()), ("b", words)):
        code, _, err = xec("prepare", rec, "--out", tmp_path / f"{name}.root", "--no-cuts", *more)
        assert code == 0, err
    a, b = read(tmp_path / "a.root"), read(tmp_path / "b.root")
    assert not b.pop("dead").any()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    code, _, err = xec("prepare", rec, "--out", tmp_path / "n.root", "--apply", "gains")
    assert (code, err.count("\n")) == (2, 1)


# ----------------------------------------------------------------------------------------------------------- check


def test_check_holds_conditions_against_the_events(table: Path, tmp_path: Path, xec: Xec) -> None:
    chunk = two_runs(400)
    chunk["npho"][:, 5] = chunk["time"][:, 5] = INVALID
    bright = np.argmax(np.where(chunk["npho"] < 9e9, 1, 0).sum(0) * (np.arange(4760) > 100))
    chunk["npho"][chunk["run"] == 1, bright] = INVALID
    rootio.write(tmp_path / "f.root", chunk)
    report = check_files(tmp_path / "f.root", correction=Correction(load_conditions(table)))
    by_runs = {f.where: f.message for f in report.findings if f.where.startswith("runs")}
    said = [f.message for f in report.findings if f.where == "runs 1-9"]
    assert any("4100" in text and "have light" in text for text in said)
    assert any(str(bright) in text and "not dead by the conditions" in text for text in said)
    assert "have light: 6, 7" in next(f.message for f in report.findings if f.where == "runs 10-19")
    assert set(by_runs) == {"runs 1-9", "runs 10-19"}
    assert report.conditions.endswith("c.yaml; 1-9: 266 events, 2 dead; 10-19: 134 events, 2 dead")
    assert report.as_dict()["conditions"][0]["command"] == "check"
    code, printed, _ = xec("check", tmp_path / "f.root", "--conditions", table)
    assert code == 0
    assert "not dead by the conditions" in printed.replace("\n", " ")


# -------------------------------------------------------------------------------------------------------- simulate


def test_simulated_sensors_are_those_of_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiled code is given; light maps, which take a while, have no part in it."""

    def sensors_alone(settings: SimulationSettings, seed: int = 0, jobs: int = 2) -> blocks.Physics:
        rest = dict.fromkeys(blocks.Physics._fields)
        return blocks.Physics(**rest | {"response": detectors.response(settings, seed)})  # type: ignore[arg-type]

    monkeypatch.setattr(detectors, "prepare", sensors_alone)
    (tmp_path / "c.yaml").write_text(
        TABLE.replace(
            "time_offsets_ns: 3.0", "time_offsets_ns: 3.0, efficiencies: {sipm: 0.1}, noise_photoelectrons: 0.5"
        )
    )
    common: dict[str, Any] = {"conditions": tmp_path / "c.yaml", "dead_sensors": (9,)}
    made = detectors.Detectors(SimulationSettings(**common), 3, 1, 160)
    assert made.runs() == [(1, 128), (10, 32)]
    plain = detectors.response(SimulationSettings(dead_sensors=(9,)), 3)
    for number, (run, dead) in enumerate([(1, [5, 9, 4100]), (10, [6, 7, 9])]):
        found = made.detector(number, None)
        assert found.settings.run == run
        assert np.flatnonzero(found.physics.response.dead).tolist() == dead
    first, second = (made.detector(number, None).physics.response for number in (0, 1))
    np.testing.assert_allclose(first.gain, 2 * plain.gain)
    np.testing.assert_allclose(second.gain, plain.gain * np.where(np.arange(4760) < 4092, 0.5, 1.0))
    np.testing.assert_allclose(first.delay, plain.delay + 3)
    assert (first.efficiency[0], first.assumed[0], first.efficiency[4200]) == pytest.approx((0.1, 0.12, 0.16))
    assert (first.noise == 0.5).all()
    np.testing.assert_array_equal(second.noise, plain.noise)
    assert second.assumed is second.efficiency
    single = detectors.Detectors(SimulationSettings(run=12, **common), 3, 1, 160)
    assert single.runs() == [(12, 160)]
    assert np.flatnonzero(single.detector(0, None).physics.response.dead).tolist() == [6, 7, 9]
    with pytest.raises(InputError, match="Run 30 of the simulation"):
        detectors.Detectors(SimulationSettings(run=30, **common), 3, 1, 160)


@pytest.mark.slow
def test_simulated_runs_are_as_their_conditions_say(tmp_path: Path, xec: Xec) -> None:
    """Beside the same events of detectors that differ in their dead sensors alone."""
    dead_alone = "ranges: [{runs: [1, 9], dead: [5, 4100]}, {runs: [10, 19], dead: [6, 7]}]\n"
    # what is below the threshold draws no time, and then other events would follow
    (tmp_path / "q.yaml").write_text("map_quality: quick\nresponse: {threshold_photoelectrons: 0.0}\n")
    for name, text in (("alone", dead_alone), ("runs", TABLE)):
        (tmp_path / f"{name}.yaml").write_text(text)
        words = ("-n", 160, "--seed", 4, "--config", tmp_path / "q.yaml", "--conditions", tmp_path / f"{name}.yaml")
        code, _, err = xec("simulate", tmp_path / f"{name}.root", *words)
        assert code == 0, err
    alone, runs = read(tmp_path / "alone.root"), read(tmp_path / "runs.root")
    assert [values.tolist() for values in np.unique(runs["run"], return_counts=True)] == [[1, 10], [128, 32]]
    np.testing.assert_array_equal(runs["energyTruth"], alone["energyTruth"])
    for run, dead in ((1, [5, 4100]), (10, [6, 7])):
        here = runs["run"] == run
        before, after = ({name: events[name][here] for name in ("npho", "time")} for events in (alone, runs))
        assert (after["npho"][:, dead] == INVALID).all()
        assert (after["npho"][:, sorted({5, 6, 7, 4100} - set(dead))] < 9e9).all()
        ok, timed = before["npho"] < 9e9, before["time"] < 9e9
        gain = np.full(4760, 2.0) if run == 1 else np.where(np.arange(4760) < 4092, 0.5, 1.0)
        np.testing.assert_allclose(after["npho"][ok], (before["npho"] * gain)[ok], rtol=1e-6)
        offset = 3e-9 if run == 1 else 0.0
        np.testing.assert_allclose(after["time"][timed], before["time"][timed] + offset, atol=1e-14)
    (said,) = earlier(tmp_path / "runs.root")
    assert (said["command"], said["applied"]) == ("simulate", ["dead", "gains", "time_offsets_ns"])
    assert [part["events"] for part in said["runs"]] == [128, 32]
    done = Correction(load_conditions(tmp_path / "runs.yaml"), ("dead", "gains", "time_offsets"))
    mended = done("runs", dict(runs))
    ok = alone["npho"] < 9e9
    np.testing.assert_allclose(mended["npho"][ok], alone["npho"][ok], rtol=1e-6)
    np.testing.assert_allclose(mended["time"], alone["time"], rtol=1e-6, atol=1e-14)


def test_a_simulated_run_outside_the_conditions_is_refused(tmp_path: Path, xec: Xec) -> None:
    (tmp_path / "c.yaml").write_text(TABLE)
    (tmp_path / "q.yaml").write_text("map_quality: quick\nrun: 30\n")
    words = ("-n", 4, "--config", tmp_path / "q.yaml", "--conditions", tmp_path / "c.yaml")
    code, _, err = xec("simulate", tmp_path / "s.root", *words)
    assert code == 2
    assert "Run 30 of the simulation is in no range" in err
    assert not (tmp_path / "s.root").exists()
