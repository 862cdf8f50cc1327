"""What a regression leaves: tables equal to what the model says, its worst events, and nothing lost by one failure."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import rootio
from xecml.config import Config
from xecml.evaluation.tables import read_table
from xecml.events import INVALID
from xecml.figures.worst_events import EventLosses, WorstEvents
from xecml.inference import checkpoint_reading
from xecml.inference.trained_model import TorchModel, load_model
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.reports import finished_training
from xecml.training import loop

# of MLflow's own libraries
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TINY = shipped()["tiny"].path


def recipe(sample: Path, out: Path, *settings: str) -> Config:
    off = [f"tasks.{task}.enabled=false" for task in ("angle", "timing")]
    paths = {"data.train_path": str(sample / "train.root"), "data.val_path": str(sample / "val.root")}
    return load_config(TINY, [*off, "training.epochs=1", *settings], paths | {"checkpoint.save_dir": str(out)})


@pytest.fixture(scope="module")
def run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Result, Config, list[Path]]:
    """A training of energy and position with its artifacts, and MLflow's store beside them."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{out}/mlruns.db")
        patch.chdir(out)
        patch.setattr(finished_training, "SALIENCY_EVENTS", 8)
        patch.setattr(finished_training, "WORST_EVENTS", 2)
        config = recipe(sample, out, "mlflow.enabled=true", "tasks.uvwFI.weight=3")
        result = loop.train(config, name="one", quiet=True)
        more = {"note.txt": lambda path: path.write_text("exported"), "bad.onnx": lambda path: 1 / 0}
        written = finished_training.write_artifacts(result.best, config, result.folder, run_name="one", more=more)
    return result, config, written


def test_all_files_are_there_and_in_mlflow(run: tuple[loop.Result, Config, list[Path]]) -> None:
    result, _, written = run
    names = {
        "predictions_energy.csv", "predictions_uvwFI.csv", "validation_results_one.root",
        "resolution_profile_one.pdf", "saliency_profile_one.pdf", "face_weights_one.pdf",
        "worst_event_1_one.pdf", "worst_event_2_one.pdf", "report.html", "note.txt",
    }  # fmt: skip
    assert {path.name for path in written} == names
    assert all(path.parent == result.folder and path.stat().st_size for path in written)
    assert all(p.read_bytes().startswith(b"%PDF") for p in written if p.suffix == ".pdf")
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    sections = ("summary", "model", "pages", "saliency", "events")
    assert all(f'<h2 id="{name}">' in page for name in sections)
    assert page.count("<img src=") == 2 + finished_training.RANDOM_EVENTS
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{result.folder.parent}/mlruns.db")
    run_id = checkpoint_reading.load(result.best)["run_id"]
    stored = {file.path for file in client.list_artifacts(run_id)}
    assert stored == names | {"checkpoint_best.pth", "metrics.jsonl"}


def test_tables_hold_what_the_model_says(run: tuple[loop.Result, Config, list[Path]], sample: Path) -> None:
    result, _, _ = run
    events = next(rootio.read(sample / "val.root"))
    said = load_model(result.best).predict(events["npho"], events["time"])
    table = read_table(result.folder / "validation_results_one.root")
    assert len(table["event"]) == 256
    np.testing.assert_array_equal(table["n_valid"], (events["npho"] < 9e9).sum(1))
    np.testing.assert_array_equal(table["event"], events["event"])
    np.testing.assert_allclose(table["pred_energy"], said["energy"], rtol=1e-5)
    np.testing.assert_allclose(np.stack([table[f"pred_{c}"] for c in "uvw"], 1), said["uvwFI"], atol=1e-4)
    np.testing.assert_array_equal(table["true_w"], events["uvwTruth"][:, 2])
    # truth of what is not predicted comes along, for profiles against it
    np.testing.assert_array_equal(table["true_theta"], events["emiAng"][:, 0])
    with (result.folder / "predictions_uvwFI.csv").open() as file:
        head, *rows = list(csv.reader(file))
    assert head == ["run", "event", "true_u", "true_v", "true_w", "pred_u", "pred_v", "pred_w"]
    assert rows[7][:2] == ["2", "7"]
    values = np.array(rows, np.float32)
    assert np.array_equal(values[:, 2:5], events["uvwTruth"])
    assert np.array_equal(values[:, 7], table["pred_w"])


def test_vectors_and_widths_have_their_columns(tmp_path: Path) -> None:
    table: dict[str, Any] = {"run": np.array([3]), "event": np.array([2**31 - 1])}
    table |= {"true_emiVec": np.array([[0.1, 0.2, 0.3]], np.float32), "pred_emiVec": np.array([[1, 2, 3]], np.float32)}
    finished_training.write_csv(tmp_path / "v.csv", table, "angleVec")
    lines = (tmp_path / "v.csv").read_text().splitlines()
    assert lines[0] == "run,event," + ",".join(f"{p}_emiVec[{i}]" for p in ("true", "pred") for i in range(3))
    assert lines[1] == "3,2147483647,0.100000001,0.200000003,0.300000012,1,2,3"
    energy = {"pred_energy": np.array([0.05]), "sigma_energy": np.array([0.001]), "true_energy": np.array([0.0528])}
    finished_training.write_csv(tmp_path / "e.csv", table | energy, "energy")
    assert (tmp_path / "e.csv").read_text().splitlines()[0] == "run,event,true_energy,pred_energy,sigma_energy"


@pytest.mark.parametrize("balance", ["manual", "auto"])
def test_the_loss_of_an_event_is_the_configured_one(
    run: tuple[loop.Result, Config, list[Path]], sample: Path, balance: str
) -> None:
    """Against the loss written out by hand: smooth L1 in target widths, position three times."""
    result, _, _ = run
    model = load_model(result.best)
    assert isinstance(model, TorchModel)
    config = recipe(sample, result.folder, "tasks.uvwFI.weight=3", f"loss_balance={balance}")
    if balance == "auto":
        import torch

        model.content = {**model.content, "loss_state": {"balance.log_variance": torch.tensor([0.4, -0.2])}}
    events = next(rootio.read(sample / "val.root"))
    said = model.predict(events["npho"], events["time"])
    losses = EventLosses(model, config)(events, said, model.branches)
    by_hand = {}
    for task, truth in (("energy", events["energyTruth"][:, None]), ("uvwFI", events["uvwTruth"])):
        width = model.network.get_buffer(f"{task}_width").numpy()
        d = np.abs(said[task].reshape(256, -1) - truth) / width
        by_hand[task] = np.where(d < 1, d**2 / 2, d - 0.5).mean(1)
        np.testing.assert_allclose(losses[task], by_hand[task], rtol=1e-4, atol=1e-6)
    factors = (1, 3) if balance == "manual" else (0.5 * np.exp(-0.4), 1.5 * np.exp(0.2))
    total = factors[0] * by_hand["energy"] + factors[1] * by_hand["uvwFI"]
    np.testing.assert_allclose(losses["total"], total, rtol=1e-4, atol=1e-6)
    # what an event cannot tell is not its worst answer
    blank = events | {"npho": np.where(np.arange(256)[:, None] % 2, events["npho"], np.float32(INVALID))}
    said = model.predict(blank["npho"], blank["time"])
    losses = EventLosses(model, config)(blank, said, model.branches)
    assert np.isnan(said["energy"]).sum() == 128
    assert not losses["uvwFI"][::2].any()
    np.testing.assert_allclose(losses["uvwFI"][1::2], by_hand["uvwFI"][1::2], rtol=1e-4, atol=1e-6)


def test_the_worst_are_found_across_chunks() -> None:
    worst, rng = WorstEvents(3), np.random.default_rng(1)
    size = rng.exponential(size=40)
    size[13] = np.nan  # worse than any number
    for start in range(0, 40, 10):
        part = slice(start, start + 10)
        light = np.tile(np.arange(40)[part, None], (1, 4))
        worst.add({"total": size[part], "energy": size[part] / 2}, light, light, {"event": np.arange(40)[part]})
    expected = [13, *np.argsort(-np.nan_to_num(size))[:2]]
    assert [int(e.columns["event"]) for e in worst.events] == expected
    assert [int(e.npho[0]) for e in worst.events] == expected
    assert worst.events[1].parts["energy"] == size[expected[1]] / 2


def test_files_under_other_names_and_a_share_of_each(
    run: tuple[loop.Result, Config, list[Path]], tmp_path: Path
) -> None:
    """Two files of 96 and 32 events with a counts branch of another name, of which 64 events are looked at."""
    result, config, _ = run
    for seed, events in ((21, 96), (22, 32)):
        arrays = point_sources(events, seed)
        arrays["light"] = arrays.pop("npho")
        rootio.write(tmp_path / f"{seed}.root", arrays, tree="gammas")
    data = {"val_path": str(tmp_path), "tree_name": "gammas", "npho_branch": "light"}
    other = config.model_copy(update={"data": config.data.model_copy(update=data)})
    model = load_model(result.best)
    assert isinstance(model, TorchModel)
    seen = finished_training.predict_validation(model, other, most_events=64)
    assert np.unique(seen.table["run"], return_counts=True)[1].tolist() == [48, 16]
    assert np.abs(seen.table["pred_u"] - seen.table["true_u"]).mean() < 2


def test_one_failure_loses_nothing_else(
    run: tuple[loop.Result, Config, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, config, _ = run

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no ink\nat all")

    monkeypatch.setattr(finished_training, "add_artifacts", lambda *_: None)
    for name in ("save_saliency", "save_face_weights", "save_worst"):
        monkeypatch.setattr(finished_training, name, broken)
    monkeypatch.setattr(finished_training.resolution_pages, "save_resolution_plots", broken)
    monkeypatch.setattr(finished_training, "write_page", broken)
    written = finished_training.write_artifacts(result.best, config, tmp_path, run_name="x", most_events=40)
    assert [p.name for p in written] == ["predictions_energy.csv", "predictions_uvwFI.csv", "validation_results_x.root"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert "resolution_profile_x.pdf left out: no ink" in lines
    assert "report.html left out: no ink" in lines
    assert len(lines) == 4 + finished_training.WORST_EVENTS
    # and what needs no predictions is written where there are none
    gone = config.model_copy(update={"data": config.data.model_copy(update={"val_path": str(tmp_path / "none.root")})})
    more = {"note.txt": lambda path: path.write_text("exported")}
    written = finished_training.write_artifacts(result.best, gone, tmp_path, run_name="x", more=more)
    assert [p.name for p in written] == ["note.txt"]
    assert "predictions and plots left out: No such file" in capsys.readouterr().err
