"""Where numbers go: a file that is complete on its own, TensorBoard, MLflow, and what happens when one vanishes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from xecml.errors import InputError
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.training import loop
from xecml.training.metrics_logging import MetricsFile, Tracker, add_artifacts

# of MLflow's own libraries
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TINY = shipped()["tiny"].path
NOBODY = "http://127.0.0.1:9"
"""An address that refuses connections."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An MLflow client on a store of its own, which trackers use too."""
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    import mlflow

    yield mlflow.MlflowClient(tracking_uri=uri)
    mlflow.set_tracking_uri(uri)
    if mlflow.active_run():
        mlflow.end_run()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_file_drops_what_lies_beyond_the_checkpoint(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, 1)
    for epoch in (1, 2, 3):
        file.write({"epoch": epoch, "val/loss": math.nan if epoch == 2 else float(epoch)})
    with file.path.open("a") as cut:
        cut.write('{"epoch": 4, "val/l')
    again = MetricsFile(tmp_path, 3)
    assert again.lines() == [{"epoch": 1, "val/loss": 1.0}, {"epoch": 2, "val/loss": None}]
    assert MetricsFile(tmp_path, 1).lines() == []


@pytest.mark.slow
def test_numbers_and_recipe_reach_mlflow(tmp_path: Path, store: Any) -> None:
    tracker = Tracker(tmp_path / "run", 1, run_name="one", experiment="lab")
    many = {f"k{i}": i for i in range(150)}  # more than MLflow takes at once
    recipe = {"training": {"lr": 3e-4, "deep": {"er": None}}, "loss_balance": "manual", "many": many, "raw": "a\udcff"}
    tracker.parameters(recipe)
    for epoch in (1, 2):
        tracker.epoch({"epoch": epoch, "val/theta_bias": 0.1 * epoch, "val/bad": math.nan, "note": "text"})
    assert tracker.hints() == [f"mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{tmp_path}/mlruns.db"]
    tracker.close()
    run = store.get_run(tracker.run_id)
    assert (run.info.run_name, run.info.status) == ("one", "FINISHED")
    assert store.get_experiment(run.info.experiment_id).name == "lab"
    assert run.data.params["training.lr"] == "0.0003"
    assert run.data.params["training.deep.er"] == "None"
    assert run.data.params["loss_balance"] == "manual"
    assert run.data.params["many.k149"] == "149"
    assert run.data.params["raw"] == r"a\udcff"
    history = store.get_metric_history(tracker.run_id, "val/theta_bias")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]
    assert "val/bad" not in run.data.metrics
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2]


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_a_changed_recipe(
    tmp_path: Path, store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Tracker(tmp_path, 1, run_name="one", experiment="lab")
    first.parameters({"training": {"epochs": 2, "lr": 1.0}})
    first.epoch({"epoch": 1, "val/loss": 5.0})
    first.close()
    second = Tracker(tmp_path, 2, run_name="one", experiment="lab", run_id=first.run_id)
    second.parameters({"training": {"epochs": 4, "lr": 1.0}, "checkpoint": {"resume_from": "a.pth"}})
    second.epoch({"epoch": 2, "val/loss": 4.0})
    second.close()
    assert second.run_id == first.run_id
    run = store.get_run(first.run_id)
    assert run.data.params == {"training.epochs": "2", "training.lr": "1.0", "checkpoint.resume_from": "a.pth"}
    assert run.data.tags["changed.training.epochs"] == "4"
    assert "changed.training.lr" not in run.data.tags
    assert run.data.metrics["val/loss"] == 4.0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_run_after_one_that_died_is_its_own(tmp_path: Path, store: Any) -> None:
    died = Tracker(tmp_path / "a", 1, run_name="a", experiment="lab")
    after = Tracker(tmp_path / "b", 1, run_name="b", experiment="lab")
    after.close()
    assert died.run_id != after.run_id
    stopped = Tracker(tmp_path / "c", 1, run_name="c", experiment="lab")
    stopped.close("KILLED")
    stopped.artifacts([stopped.file.path])  # files may follow
    statuses = [store.get_run(t.run_id).info.status for t in (died, after, stopped)]
    assert statuses == ["FAILED", "FINISHED", "KILLED"]
    assert [file.path for file in store.list_artifacts(stopped.run_id)] == ["metrics.jsonl"]


@pytest.mark.slow
def test_files_reach_a_run_that_is_over(tmp_path: Path, store: Any) -> None:
    tracker = Tracker(tmp_path, 1, run_name="one", experiment="lab")
    tracker.close()
    for name in ("a.pdf", "b.csv"):
        (tmp_path / name).write_text(name)
    add_artifacts(str(tracker.run_id), [tmp_path / "a.pdf", tmp_path / "b.csv"])
    assert sorted(file.path for file in store.list_artifacts(tracker.run_id)) == ["a.pdf", "b.csv"]
    assert store.get_run(tracker.run_id).info.status == "FINISHED"


def test_tensorboard_shows_the_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path / "run", 1, run_name="one", tensorboard=tmp_path / "runs")
    for epoch in (1, 2, 3):
        tracker.epoch({"epoch": epoch, "val/loss": 1.0 / epoch, "train/lr": 1e-3})
    assert tracker.hints() == [f"tensorboard --logdir {tmp_path / 'runs'}"]
    tracker.close()
    # killed after epoch 2 was saved: epoch 3 is done again, and shown once
    again = Tracker(tmp_path / "run", 3, run_name="one", tensorboard=tmp_path / "runs")
    again.epoch({"epoch": 3, "val/loss": 0.5, "train/lr": 1e-3})
    again.close()
    board = EventAccumulator(str(tmp_path / "runs" / "one"))
    board.Reload()
    assert sorted(board.Tags()["scalars"]) == ["train/lr", "val/loss"]
    assert [(e.step, round(e.value, 6)) for e in board.Scalars("val/loss")] == [(1, 1.0), (2, 0.5), (3, 0.5)]


@pytest.mark.slow
def test_a_server_that_is_not_there_stops_nothing(
    tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    tracker = Tracker(tmp_path, 1, run_name="one", experiment="lab")
    tracker.parameters({"a": 1})
    tracker.epoch({"epoch": 1, "val/loss": 1.0})
    tracker.artifacts([tmp_path / "metrics.jsonl"])
    tracker.close()
    add_artifacts("0" * 32, [tmp_path / "metrics.jsonl"])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("MLflow is left out: ")
    assert said[1].startswith("MLflow did not get all artifacts of the run: ")
    assert tracker.hints() == []
    assert lines(tmp_path) == [{"epoch": 1, "val/loss": 1.0}]


@pytest.mark.slow
def test_a_server_that_vanishes_stops_nothing(sample: Path, tmp_path: Path, store: Any, monkeypatch: Any) -> None:
    """Between the first and the second epoch of a training, for MLflow's own client."""
    import mlflow

    write, seen = Tracker.epoch, []

    def vanishing(self: Tracker, values: Any) -> None:
        if values["epoch"] == 2:
            seen.append(self.run_id)
            mlflow.set_tracking_uri(NOBODY)
        write(self, values)

    monkeypatch.setattr(Tracker, "epoch", vanishing)
    paths = {"data.train_path": str(sample / "val.root"), "data.val_path": str(sample / "test.root")}
    config = load_config(TINY, ["mlflow.enabled=true"], paths | {"checkpoint.save_dir": str(tmp_path)})
    result = loop.train(config, name="one", quiet=True)
    assert [line["epoch"] for line in lines(result.folder)] == [1, 2]
    assert [m.step for m in store.get_metric_history(seen[0], "val/loss")] == [1]


@pytest.mark.slow
def test_the_names_of_a_regression_are_all_there(sample: Path, tmp_path: Path, store: Any) -> None:
    """In MLflow, TensorBoard and the file alike; on a CPU nothing is said of a GPU."""
    paths = {"data.train_path": str(sample / "val.root"), "data.val_path": str(sample / "test.root")}
    settings = ["mlflow.enabled=true", f"mlflow.tensorboard={tmp_path}/runs", "training.epochs=1"]
    config = load_config(TINY, settings, paths | {"checkpoint.save_dir": str(tmp_path)})
    loop.train(config, name="one", quiet=True)
    expected = {"train/lr", "train/grad_norm", "train/loss", "val/loss", "val/val_resolution_deg"}
    expected |= {f"{p}/loss_{t}" for p in ("train", "val") for t in ("angle", "energy", "timing", "uvwFI")}
    expected |= {f"val/{a}_{what}" for a in ("theta", "phi") for what in ("bias", "rms", "skew", "s68_deg")}
    units = {"energy": "MeV", "timing": "ps", "u": "mm", "v": "mm", "w": "mm"}
    expected |= {f"val/{q}_{what}_{unit}" for q, unit in units.items() for what in ("bias", "s68")}
    expected |= {
        f"system/{name}"
        for name in ("ram_used_gb", "epoch_duration_sec", "throughput_events_per_sec", "avg_data_load_sec",
                     "compute_efficiency")
    }  # fmt: skip
    in_file = set(lines(tmp_path / "one")[0])
    assert expected <= in_file
    assert not [name for name in in_file if "gpu" in name or name.startswith("system/memory")]
    experiment = store.get_experiment_by_name("xecml").experiment_id
    (run,) = store.search_runs([experiment])
    assert expected <= set(run.data.metrics)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "runs" / "one"))
    board.Reload()
    assert expected <= set(board.Tags()["scalars"])


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns"])
def test_a_folder_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match="is a folder, which MLflow no longer takes; use sqlite:///mlruns.db"):
        Tracker(tmp_path, 1, run_name="one", experiment="lab")


def test_places_are_looked_at_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir()
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "taken").write_text("")
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "closed")
    for settings, name, message in (
        (["checkpoint.save_dir=file"], "run", "checkpoint.save_dir: file is not a folder"),
        (["checkpoint.save_dir=file/inside"], "run", "checkpoint.save_dir: file is not a folder"),
        (["checkpoint.save_dir=gone"], "run", "checkpoint.save_dir: gone is not a folder"),
        (["checkpoint.save_dir=closed/x"], "run", "checkpoint.save_dir: the folder closed cannot be written"),
        (["mlflow.tensorboard=file"], "run", "mlflow.tensorboard: file is not a folder"),
        ([], "taken", "checkpoint.save_dir: artifacts/taken is not a folder"),
        ([], "../run", "A run cannot be named '../run': it names a folder"),
    ):
        with pytest.raises(InputError, match=message):
            loop.train(load_config(None, settings), name=name, quiet=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI=mlruns is a folder"):
        loop.train(load_config(None), name="run", quiet=True)
