"""Export and prediction: ONNX equals torch, ROOT read equals ROOT written, nothing half-written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import xecml
from tests.conftest import point_sources
from tests.test_training import recipe
from xecml import geometry, rootio
from xecml.errors import InputError
from xecml.events import valid_counts, valid_times
from xecml.inference import checkpoint_reading, onnx_files, trained_model
from xecml.inference.export import agreement, export
from xecml.inference.export_subjects import PredictionSubject
from xecml.inference.predict import predict_files
from xecml.training import checkpoint_writing, loop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop.train(recipe(sample, tmp_path_factory.mktemp("runs")), name="run", quiet=True).best


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(trained, out)
    return out


def read_all(path: Path) -> dict[str, np.ndarray]:
    # prediction columns are no branches of the vocabulary: name them
    with rootio.open_tree(path, "predictions") as reader:
        return reader.arrays(sorted(reader.in_file), 0, reader.n_events)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_equals_torch_at_any_batch_size(trained: Path, exported: Path, batch: int) -> None:
    events = point_sources(batch, seed=20, dead=0.03)
    one, two = (xecml.load_model(p).predict(events["npho"], events["time"]) for p in (trained, exported))
    assert list(one) == list(two) == ["angle", "energy", "timing", "uvwFI", "outlier"]
    widths = {"angle": 0.1, "energy": 3e-4, "timing": 1e-11, "uvwFI": 0.1}
    for task, width in widths.items():
        assert (
            one[task].shape == two[task].shape == ((batch, 2), (batch,), (batch,), (batch, 3))[list(widths).index(task)]
        )
        assert np.abs(one[task] - two[task]).max() < 2e-3 * width


def test_the_file_is_self_contained_and_describes_itself(exported: Path) -> None:
    assert [p.name for p in exported.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(exported)
    assert [(i.name, i.type, i.shape[1]) for i in session.get_inputs()] == [
        ("npho", "tensor(float)", 4760), ("time", "tensor(float)", 4760),
    ]  # fmt: skip
    names = ["angle", "energy", "timing", "uvwFI", "outlier", "outlier_numbers"]
    assert [o.name for o in session.get_outputs()] == names
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["xecml.geometry_hash"] == geometry.geometry_hash()
    assert '"energy": "GeV"' in metadata["xecml.units"]
    assert '"npho_scale": 1000.0' in metadata["xecml.normalization"]
    assert metadata["xecml.run_name"] == "run"
    assert xecml.load_model(exported).calibration == {}


@pytest.mark.long
def test_a_subset_of_tasks(trained: Path, tmp_path: Path) -> None:
    report = export(trained, tmp_path / "e.onnx", tasks=["energy"])
    assert report.tasks == ("energy",)
    assert set(report.largest_difference) == {1, 2, 7}
    assert list(xecml.load_model(tmp_path / "e.onnx").tasks) == ["energy"]
    with pytest.raises(InputError, match="did you mean 'energy'"):
        export(trained, tmp_path / "x.onnx", tasks=["energie"])


@pytest.mark.long
def test_an_export_that_disagrees_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = onnx_files.Session.run

    def wrong(self: onnx_files.Session, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [answer * np.float32(1.01) for answer in run(self, names, feed)]

    monkeypatch.setattr(onnx_files.Session, "run", wrong)
    with pytest.raises(InputError, match="differ by"):
        export(trained, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_predictions_of_files(trained: Path, exported: Path, sample: Path, tmp_path: Path) -> None:
    files = [sample / "test.root", sample / "val.root"]
    for model in (trained, exported):
        report = predict_files(xecml.load_model(model), files, tmp_path / "p.root")
        table = read_all(tmp_path / "p.root")
        assert report.events == len(table["run"]) == 512
    events = rootio.read(files, ["event", "energyTruth", "emiAng", "npho", "time"], chunk_events=256)
    first = next(events)
    np.testing.assert_array_equal(table["event"][:256], first["event"])
    np.testing.assert_array_equal(table["true_energy"][:256], first["energyTruth"])
    np.testing.assert_array_equal(table["true_phi"][:256], first["emiAng"][:, 1])
    answers = xecml.load_model(exported).predict(first["npho"], first["time"])
    np.testing.assert_allclose(table["pred_energy"][:256], answers["energy"], rtol=1e-5)
    np.testing.assert_allclose(table["pred_w"][:256], answers["uvwFI"][:, 2], atol=1e-4)
    opening = geometry.opening_angle(answers["angle"], first["emiAng"])
    np.testing.assert_allclose(table["opening_angle"][:256], opening, atol=1e-2)
    assert table["true_emiVec"].shape == (512, 3)
    assert table["xyzVTX"].shape == (512, 3)


def test_files_without_truth_are_predicted(exported: Path, tmp_path: Path) -> None:
    events = point_sources(9)
    rootio.write(tmp_path / "real.root", {k: events[k] for k in ("npho", "time", "run", "event")})
    predict_files(xecml.load_model(exported), [tmp_path / "real.root"], tmp_path / "p.root")
    assert sorted(read_all(tmp_path / "p.root")) == [
        "event", "n_timed", "n_valid", "outlier", "pred_energy", "pred_phi", "pred_theta", "pred_timing", "pred_u",
        "pred_v", "pred_w", "run",
    ]  # fmt: skip


def test_bad_models_and_inputs_are_one_sentence(trained: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "foreign.onnx",
    )
    proto = onnx.load(exported)
    for entry in proto.metadata_props:
        entry.value = "0" * 16 if entry.key == "xecml.geometry_hash" else entry.value
    onnx.save(proto, tmp_path / "elsewhere.onnx")
    for name, message in (
        ("none.onnx", "No such model"),
        ("text.onnx", "cannot be loaded as an ONNX model"),
        ("foreign.onnx", "was not exported by this package"),
        ("elsewhere.onnx", "another sensor geometry"),
    ):
        with pytest.raises(InputError, match=message):
            xecml.load_model(tmp_path / name)
    model = xecml.load_model(trained)
    with pytest.raises(InputError, match=r"npho has shape \(3, 100\)"):
        model.predict(np.ones((3, 100)), np.ones((3, 100)))
    with pytest.raises(InputError, match=r"time has shape \(2, 4760\)"):
        model.predict(np.ones((3, 4760)), np.ones((2, 4760)))
    with pytest.raises(InputError, match="is an exported model; give the checkpoint"):
        export(exported, tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"does not end in .onnx"):
        export(trained, tmp_path / "x.pth")


def test_a_prediction_that_fails_leaves_nothing(exported: Path, tmp_path: Path) -> None:
    events = point_sources(20)
    rootio.write(tmp_path / "in.root", events)
    (tmp_path / "cut.root").write_bytes((tmp_path / "in.root").read_bytes()[:-2000])
    model = xecml.load_model(exported)
    with pytest.raises(InputError, match="truncated"):
        predict_files(model, [tmp_path / "in.root", tmp_path / "cut.root"], tmp_path / "out.root")
    rootio.write(tmp_path / "empty.root", {k: v[:0] for k, v in events.items()})
    with pytest.raises(InputError, match="holds no events"):
        predict_files(model, [tmp_path / "empty.root"], tmp_path / "out.root")
    assert not (tmp_path / "out.root").exists()


def blanked() -> dict[str, np.ndarray]:
    """Twenty events: eight without any valid count, of three kinds, four without any valid time, the rest whole."""
    events = point_sources(20, seed=33)
    events["npho"][:3], events["npho"][3:5], events["npho"][5:8] = 1e10, 0.0, np.nan
    events["time"][8:12] = 1e10
    return events


def test_events_without_a_measurement_have_no_answer(exported: Path, trained: Path) -> None:
    """The same in Python, of checkpoint and exported file, and by the graph itself, as C++ code runs it."""
    events = blanked()
    session = onnxruntime.InferenceSession(exported)
    names = [output.name for output in session.get_outputs()]
    graph = dict(zip(names, session.run(names, {k: events[k] for k in ("npho", "time")}), strict=True))
    del graph["outlier_numbers"]  # of sensors that are missing there are none
    models = [xecml.load_model(path).predict(events["npho"], events["time"]) for path in (trained, exported)]
    for answers in (*models, graph):
        for task, values in answers.items():
            kept = np.isfinite(values).reshape(20, -1)
            assert kept[12 if task == "timing" else 8 :].all()
            assert not kept[: 12 if task == "timing" else 8].any()
            np.testing.assert_allclose(values, models[0][task], rtol=1e-3)


def test_files_of_before_answer_no_more_than_those_of_now(
    trained: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint and an exported file that do not say what their training had."""
    content = checkpoint_reading.load(trained)
    for state in ("model_state", "ema_state"):
        content[state] = {k: w for k, w in content[state].items() if k != "sensors_seen"}
    checkpoint_writing.save(tmp_path / "old.pth", content)
    proto = onnx.load(exported)
    for entry in [e for e in proto.metadata_props if e.key == "xecml.sensors_seen"]:
        proto.metadata_props.remove(entry)
    onnx.save(proto, tmp_path / "old.onnx")
    events = blanked()
    now = xecml.load_model(trained)
    for name in ("old.pth", "old.onnx"):
        old = xecml.load_model(tmp_path / name)
        answers, said = old.predict(events["npho"], events["time"]), now.predict(events["npho"], events["time"])
        for task in said:
            np.testing.assert_allclose(answers[task], said[task], rtol=1e-3)
        assert not old.few_sensors(np.where(np.arange(4760) < 4092, events["npho"], 1e10)).any()
    # whose graph said a number, of all events: here the same one
    ones = [np.ones(shape, np.float32) for shape in ((20, 2), (20,), (20,), (20, 3), (20,))]
    monkeypatch.setattr(old, "session", SimpleNamespace(run=lambda *_: ones))
    answers = old.predict(events["npho"], events["time"])
    assert np.isnan(answers["uvwFI"]).any(1).tolist() == [i < 8 for i in range(20)]
    assert np.isnan(answers["timing"]).tolist() == [i < 12 for i in range(20)]


def test_no_event_has_no_answer(exported: Path, trained: Path) -> None:
    nothing = np.empty((0, 4760), np.float32)
    for path in (exported, trained):
        answers = xecml.load_model(path).predict(nothing, nothing)
        shapes = {task: values.shape for task, values in answers.items()}
        assert shapes == {"angle": (0, 2), "energy": (0,), "timing": (0,), "uvwFI": (0, 3), "outlier": (0,)}
        assert {values.dtype for values in answers.values()} == {np.dtype("f4")}
        assert xecml.load_model(path).few_sensors(nothing, nothing).shape == (0, 6)


def test_models_know_on_how_many_sensors_they_were_trained(exported: Path, trained: Path) -> None:
    events = point_sources(40, seed=34, dead=0.01)
    fifth = np.where(np.random.default_rng(1).random(4760) < 0.2, np.float32(1e10), events["npho"])
    models = [xecml.load_model(path) for path in (exported, trained)]
    np.testing.assert_array_equal(*(model.usual_sensors for model in models))
    for model in models:
        assert model.few_sensors(events["npho"], events["time"]).mean() < 0.02
        assert model.few_sensors(fifth).any(1).all()
        assert model.few_sensors(events["npho"], np.full((40, 4760), np.nan)).all()


def test_a_prediction_says_what_it_could_not_answer(exported: Path, trained: Path, tmp_path: Path) -> None:
    events = blanked()
    events["npho"][12:14, geometry.face_sensors("us")] = 1e10
    rootio.write(tmp_path / "in.root", events)
    for path in (exported, trained):
        report = predict_files(xecml.load_model(path), [tmp_path / "in.root"], tmp_path / "p.root")
        assert report.answered.line().startswith(
            "Of 20 events: 8 not answered (no valid count); 4 without an answer for the time (no valid time); "
            "2 answered on fewer sensors than the training had (us 2); 4 answered on fewer times"
        )
        table = read_all(tmp_path / "p.root")
        assert table["n_valid"].dtype == table["n_timed"].dtype == np.int32
        np.testing.assert_array_equal(table["n_valid"], valid_counts(events["npho"]).sum(1))
        np.testing.assert_array_equal(table["n_timed"], valid_times(events["npho"], events["time"]).sum(1))
        assert np.isnan(table["pred_u"]).tolist() == (table["n_valid"] == 0).tolist()
        assert np.isnan(table["pred_timing"]).tolist() == (table["n_timed"] == 0).tolist()


def test_an_export_that_answers_what_was_not_measured_is_refused(
    exported: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph = xecml.load_model(trained), xecml.load_model(exported)
    assert isinstance(model, trained_model.TorchModel)
    assert isinstance(graph, trained_model.OnnxModel)
    subject = PredictionSubject(model, model.tasks, packed=False)
    assert max(agreement(subject, graph.session).values()) < 1e-4
    run = graph.session.run
    monkeypatch.setattr(graph.session, "run", lambda *inputs: [np.nan_to_num(answer) for answer in run(*inputs)])
    with pytest.raises(InputError, match="differ by inf"):
        agreement(subject, graph.session)


def test_outputs_that_are_no_root_files_by_name_are_refused(exported: Path, sample: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.txt would be a ROOT file; give it a name that ends in \.root"):
        predict_files(xecml.load_model(exported), [sample / "test.root"], tmp_path / "p.txt")
    assert list(tmp_path.iterdir()) == []


def test_sixteen_bit_arithmetic_agrees(trained: Path) -> None:
    model = xecml.load_model(trained)
    events = point_sources(64, seed=31)
    full = model.predict(events["npho"], events["time"])
    with torch.autocast("cpu", torch.bfloat16):
        half = model.predict(events["npho"], events["time"])
    assert np.abs(full["timing"] - half["timing"]).max() < 5e-12
    assert np.abs(full["uvwFI"] - half["uvwFI"]).max() < 0.05
