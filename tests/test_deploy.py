"""Export and prediction: ONNX equals torch, ROOT read equals ROOT written, nothing half-written."""

from __future__ import annotations

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
from xecml.deploy.export import export
from xecml.deploy.predict import predict_files
from xecml.errors import InputError
from xecml.evaluation import predictions
from xecml.evaluation.predictions import OnnxModel, check_rows
from xecml.training import loop


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
    assert list(one) == list(two) == ["angle", "energy", "timing", "uvwFI"]
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
    assert [o.name for o in session.get_outputs()] == ["angle", "energy", "timing", "uvwFI"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["xecml.geometry_hash"] == geometry.geometry_hash()
    assert '"energy": "GeV"' in metadata["xecml.units"]
    assert '"npho_scale": 1000.0' in metadata["xecml.normalization"]
    assert metadata["xecml.run_name"] == "run"


def test_a_subset_of_tasks(trained: Path, tmp_path: Path) -> None:
    report = export(trained, tmp_path / "e.onnx", tasks=["energy"])
    assert report.tasks == ("energy",)
    assert set(report.largest_difference) == {1, 2, 7}
    assert list(xecml.load_model(tmp_path / "e.onnx").tasks) == ["energy"]
    with pytest.raises(InputError, match="did you mean 'energy'"):
        export(trained, tmp_path / "x.onnx", tasks=["energie"])


def test_an_export_that_disagrees_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = predictions.OnnxModel.predict

    def wrong(self: object, npho: np.ndarray, time: np.ndarray) -> dict[str, np.ndarray]:
        return {k: v * 1.01 for k, v in predict(self, npho, time).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(predictions.OnnxModel, "predict", wrong)
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
        "event", "pred_energy", "pred_phi", "pred_theta", "pred_timing", "pred_u", "pred_v", "pred_w", "run",
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
    with pytest.raises(InputError, match="exported already"):
        export(exported, tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"must end in .onnx"):
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


def test_a_graph_that_answers_other_numbers_of_events_is_refused(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer would stand for all events, or all for one."""
    model = OnnxModel(exported)
    whole = model.session.run
    for part in (slice(0, 1), slice(0, 3), slice(0, 0)):
        shorter = SimpleNamespace(run=lambda names, feed, part=part: [a[part] for a in whole(names, feed)])
        monkeypatch.setattr(model, "session", shorter)
        with pytest.raises(InputError, match=r"output 'angle' has shape \(\d, 2\) for 4 events"):
            model.predict(np.ones((4, 4760)), np.zeros((4, 4760)))
    with pytest.raises(InputError, match=r"'x' has shape \(\) for 2 events"):
        check_rows(["x"], [np.array(1.0)], 2)


def test_dead_and_dark_events_are_predicted(exported: Path, trained: Path) -> None:
    npho, time = np.full((2, 4760), 1e10, np.float32), np.full((2, 4760), np.nan, np.float32)
    for path in (exported, trained):
        answers = xecml.load_model(path).predict(npho, time)
        assert all(np.isfinite(a).all() for a in answers.values())


def test_sixteen_bit_arithmetic_agrees(trained: Path) -> None:
    model = xecml.load_model(trained)
    events = point_sources(64, seed=31)
    full = model.predict(events["npho"], events["time"])
    with torch.autocast("cpu", torch.bfloat16):
        half = model.predict(events["npho"], events["time"])
    assert np.abs(full["timing"] - half["timing"]).max() < 5e-12
    assert np.abs(full["uvwFI"] - half["uvwFI"]).max() < 0.05
