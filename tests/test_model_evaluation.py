"""Evaluating files: what is refused before any work, and what is said of few, blank and impossible events."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.conditions_file import load_conditions
from xecml.data.batch import Batch
from xecml.data.selected_events import Cut
from xecml.errors import InputError
from xecml.evaluation.periods import parse_periods
from xecml.evaluation.real_data import Asked
from xecml.evaluation.tables import read_table
from xecml.events import TASKS
from xecml.inference.arithmetic import Arithmetic
from xecml.inference.trained_model import TorchModel
from xecml.models.build import build_regressor
from xecml.models.normalise import validity
from xecml.recipes import load_config
from xecml.reports import model_evaluation
from xecml.training.regression_job import fit_targets

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def fitted() -> TorchModel:
    """A model of energy and time whose anchors alone speak: fitted, and not trained."""
    off = [f"tasks.{task}.enabled=false" for task in ("angle", "uvwFI")]
    config = load_config("tiny", off)
    events = point_sources(400, seed=61)
    n, t = (torch.from_numpy(events[name]) for name in ("npho", "time"))
    truth = {task: torch.from_numpy(events[TASKS[task].truth]).reshape(-1, 1) for task in ("energy", "timing")}
    network = build_regressor(config)
    number = torch.arange(400)
    fit_targets(network, [Batch(n, t, *validity(n, t), truth, number, number)])
    return TorchModel(network, {"config": config.model_dump(mode="json")})


@pytest.fixture
def model(fitted: TorchModel, monkeypatch: pytest.MonkeyPatch) -> TorchModel:
    monkeypatch.setattr(model_evaluation, "load_model", lambda *_, **__: fitted)
    return fitted


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the pictures, which are looked at elsewhere."""
    monkeypatch.setattr(model_evaluation.resolution_pages, "save_resolution_plots", lambda path, *_, **__: path)
    monkeypatch.setattr(model_evaluation.real_data_pages, "save_real_data_plots", lambda path, *_, **__: path)
    monkeypatch.setattr(model_evaluation, "_write_page", lambda *_: None)


def evaluated(folder: Path, events: Columns, **options: object) -> model_evaluation.Report:
    rootio.write(folder / "in.root", events)
    return model_evaluation.evaluate_files("m.pth", [folder / "in.root"], folder / "out", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("truth", r"in\.root has no true value .* needs energyTruth or timeTruth.*'xec predict'.*--reference reco"),
        ("reco", r"in\.root has no reconstructed value .* needs energyReco or timeReco.*'xec predict'"),
    ],
)
def test_files_without_a_reference_are_refused_before_any_work(
    model: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, message: str
) -> None:
    monkeypatch.setattr(model, "predict", lambda *_: pytest.fail("it was predicted"))
    events = point_sources(5)
    with pytest.raises(InputError, match=message) as caught:
        evaluated(tmp_path, {k: events[k] for k in ("npho", "time", "run", "event", "uvwTruth")}, reference=reference)
    assert "pred_" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_reconstructed_quantities_are_a_reference(model: TorchModel, tmp_path: Path) -> None:
    events = point_sources(60, seed=62)
    kept = {k: events[k] for k in ("npho", "time", "run", "event")}
    found = evaluated(tmp_path, kept | {"energyReco": events["energyTruth"] * np.float32(1.1)}, reference="reco")
    table = read_table(tmp_path / "out" / "predictions.root")
    np.testing.assert_array_equal(table["reco_energy"], events["energyTruth"] * np.float32(1.1))
    residual = 1e3 * (table["pred_energy"] - table["reco_energy"])
    assert found.evaluations[0].figures["energy"]["all"].bias == pytest.approx(residual.mean(), rel=1e-4)


def test_runs_that_are_not_there_are_said_before_any_work(
    model: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "judge", lambda *_: pytest.fail("it was predicted"))
    events = point_sources(5, seed=62)  # of run 62
    with pytest.raises(InputError, match=r"No event of .*in\.root is of the runs 1-5; its runs are 62\."):
        evaluated(tmp_path, events, asked=Asked(periods=parse_periods("62 1-5")))
    with pytest.raises(InputError, match=r"in\.root has no run numbers, which --periods needs; leave --periods out"):
        evaluated(tmp_path, {k: v for k, v in events.items() if k != "run"}, asked=Asked(periods=parse_periods("62")))
    (tmp_path / "c.yaml").write_text("ranges: [{runs: [1, 5], dead: [3]}]\n")
    conditions = load_conditions(tmp_path / "c.yaml")
    with pytest.raises(InputError, match=r"Run 62 of .*in\.root is in no range of the conditions"):
        evaluated(tmp_path, events, asked=Asked(conditions=conditions))
    with pytest.raises(InputError, match="has no run numbers, which --conditions needs"):
        evaluated(tmp_path, {k: v for k, v in events.items() if k != "run"}, asked=Asked(conditions=conditions))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_data_are_looked_at_with_a_reconstruction_or_where_it_is_asked_for(model: TorchModel, tmp_path: Path) -> None:
    events = point_sources(60, seed=63)
    plain = evaluated(tmp_path, events)
    assert plain.data is None
    assert "real_data.pdf" not in plain.files
    asked = evaluated(tmp_path, events, asked=Asked(periods=parse_periods("63")))
    assert asked.data is not None
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["real_data"]["reference"] == "truth"
    assert written["real_data"]["quantities"]["timing"]["by_run"]["m.pth"]["n"] == [60]
    assert written["real_data"]["quantities"]["timing"]["by_period"]["m.pth"]["63"]["n"] == 60
    assert written["files"]["real_data.pdf"].endswith("real_data.pdf")


@pytest.mark.slow
def test_blank_and_impossible_events_are_counted_and_left_out(model: TorchModel, tmp_path: Path) -> None:
    events = point_sources(120, seed=63)
    events["npho"][:10], events["time"][10:30], events["energyTruth"][30:33] = 1e10, np.nan, -0.05
    events["npho"][33:40, geometry.face_sensors("outer")] = 1e10
    found = evaluated(tmp_path, events)
    network = found.evaluations[0]
    assert [network.figures[q]["all"].n_not_finite for q in ("energy", "timing")] == [13, 30]
    assert network.figures["energy"]["all"].s68 < 10
    assert network.warnings == ("true_energy is not above 0 in 3 of 120 events; these are left out.",)
    title, headers, rows = found.tables()[0]
    assert len(found.tables()) > 1
    assert found.tables(depths=False) == [(title, headers, rows)]
    assert title == "120 events, all depths"
    assert [row[headers.index("left out")] for row in rows] == ["13", "13", "30"]
    assert found.answered.line().startswith("Of 120 events: 10 not answered (no valid count); 20 without an answer for")
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["answers"]["few_sensors"] == {"events": 7, "faces": {"outer": 7}}
    assert written["evaluations"][0]["n_events_by_depth"]["all"] == 120


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("which", ["one", "three", "identical"])
def test_few_and_identical_events_are_measured_without_alarm(model: TorchModel, tmp_path: Path, which: str) -> None:
    events = point_sources(1 if which == "identical" else 3, seed=64)
    if which == "one":
        events = {k: v[:1] for k, v in events.items()}
    if which == "identical":
        events = {k: np.repeat(v, 40, 0) for k, v in events.items()}
    found = evaluated(tmp_path, events)
    number = {"one": "1 event", "three": "3 events", "identical": "40 events"}[which]
    assert found.tables()[0][0] == f"{number}, all depths"
    assert not found.evaluations[0].warnings
    assert all(title[0] != "0" for title, *_ in found.tables())
    row = found.tables()[0][2][0]
    assert {"one": row[3] == "-", "three": row[3] != "-", "identical": row[3] == "0"}[which]


def test_where_nothing_can_be_measured_the_reason_is_said(model: TorchModel, tmp_path: Path) -> None:
    events = point_sources(6, seed=65)
    with pytest.raises(InputError, match=r"No event of .*in\.root has a valid count"):
        evaluated(tmp_path, events | {"npho": np.zeros_like(events["npho"])})
    impossible = {k: v for k, v in events.items() if k != "timeTruth"} | {"energyTruth": -events["energyTruth"]}
    with pytest.raises(
        InputError, match=r"has no true value .* answered \(true_energy is not above 0 in 6 of 6 events"
    ):
        evaluated(tmp_path, impossible)
    with pytest.raises(InputError, match="holds no events"):
        evaluated(tmp_path, {k: v[:0] for k, v in events.items()})
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_what_16_bits_lose_stands_in_the_report(
    fitted: TorchModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rough, asked = TorchModel(fitted.network, fitted.content, Arithmetic("cpu", "bf16")), []

    def load(_: object, **options: object) -> TorchModel:
        asked.append(options)
        return rough

    monkeypatch.setattr(model_evaluation, "load_model", load)
    report = evaluated(tmp_path, point_sources(60, seed=5), device="cpu", precision="bf16", jobs=2)
    assert asked == [{"device": "cpu", "precision": "bf16", "threads": 1}]
    assert report.loss is not None
    assert (report.loss.events, set(report.loss.within)) == (60, {"energy", "timing"})
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (content["loss"], content["device"]) == (report.loss.as_dict(), "cpu")


@pytest.mark.usefixtures("undrawn")
def test_what_decides_is_found_on_the_first_events_that_are_chosen(model: TorchModel, tmp_path: Path) -> None:
    events = point_sources(60, seed=64)
    plain = evaluated(tmp_path, events)
    assert plain.decides is None
    assert "saliency.pdf" not in plain.files
    cut = Cut.of("energyTruth > 0.02", (0.0, 1.0))
    found = evaluated(tmp_path, events, saliency_events=8, cut=cut)
    assert (tmp_path / "out" / "saliency.pdf").read_bytes().startswith(b"%PDF")
    assert found.decides is not None
    first = np.flatnonzero(events["energyTruth"] > 0.02)[:8]
    np.testing.assert_allclose(found.decides.depth, events["uvwTruth"][first, 2], rtol=1e-6)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())["saliency"]
    assert written == json.loads(json.dumps(found.decides.as_dict()))
    assert (written["events"], written["derivatives"]["events"]) == (8, 8)
    assert any(sentence.startswith("time: s68 ") and "another event's" in sentence for sentence in found.sentences())


def test_one_event_is_not_compared_with_itself(model: TorchModel, tmp_path: Path) -> None:
    events = point_sources(3, seed=65)
    events["npho"][1:] = 1e10
    with pytest.raises(InputError, match=r"1 of 3 events have a valid count and a valid time; .* at least two"):
        evaluated(tmp_path, events, saliency_events=8)
    assert not (tmp_path / "out" / "evaluation.json").exists()
