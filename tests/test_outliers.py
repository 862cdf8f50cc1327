"""`outlier` and what is said of files, wherever models predict: Python, commands, graphs, files of before."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import xecml
from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.cli.commands import app
from xecml.config import Config
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.figures.training_page import draw_comparison, save_comparison
from xecml.inference import checkpoint_reading
from xecml.inference.export import export
from xecml.inference.file_comparison import compare_files
from xecml.inference.inpaint import inpaint_files
from xecml.inference.predict import predict_files
from xecml.inference.repair_models import load_repair
from xecml.inference.training_comparison import UNKNOWN
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.training import checkpoint_writing, loop

pytestmark = pytest.mark.slow
RUNNER = CliRunner()
LATE = (
    r"Warning: The file is unlike the training: times of the PMT faces come (1\.9|2|2\.1) ns later against those of the"
)


def recipe_of(kind: str, folder: Path) -> Config:
    settings = ["training.epochs=1", "model.freeze_encoder=false", "checkpoint.save_predictions=0"]
    paths = {"data.train_path": str(folder / "train.root"), "data.val_path": str(folder / "val.root")}
    return load_config(
        shipped()["tiny"].path, settings, paths | {"checkpoint.save_dir": str(folder / "runs")}, job=kind
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression and an inpainter, both exported; files of before; like.root, late.root and dead.root."""
    folder = tmp_path_factory.mktemp("outliers")
    for name, events, seed in (("train", 1500, 1), ("val", 128, 2)):
        rootio.write(folder / f"{name}.root", point_sources(events, seed, dead=0.01))
    for kind in ("regress", "inpaint"):
        done = loop.train(recipe_of(kind, folder), kind=kind, name=kind, quiet=True)
        (folder / f"{kind}.pth").write_bytes(done.best.read_bytes())
        export(folder / f"{kind}.pth", folder / f"{kind}.onnx")
        content = checkpoint_reading.load(done.best)
        for state in ("model_state", "ema_state"):
            if content.get(state) is not None:
                content[state] = {k: w for k, w in content[state].items() if not k.startswith("training_dist")}
            if kind == "inpaint":  # of another version, with other numbers
                content[state]["training_distribution.mean"] = torch.zeros(3)
        checkpoint_writing.save(folder / f"old_{kind}.pth", content)
        if kind == "regress":
            export(folder / "old_regress.pth", folder / "old_regress.onnx")
    like = point_sources(300, seed=3, dead=0.01)
    rootio.write(folder / "like.root", like)
    pmt = np.arange(4760) >= geometry.N_SIPM
    rootio.write(
        folder / "late.root", like | {"time": np.where(pmt & (like["time"] < 9e9), like["time"] + 2e-9, like["time"])}
    )
    rootio.write(
        folder / "dead.root", like | {"npho": np.where(np.arange(4760) % 50 == 7, INVALID, like["npho"]).astype("f4")}
    )
    return folder


def table_of(path: Path, tree: str = "predictions") -> dict[str, np.ndarray]:
    with rootio.open_tree(path, tree) as reader:
        return reader.arrays(sorted(reader.in_file), 0, reader.n_events)


@pytest.mark.parametrize("batch", [1, 2, 7, 300])
def test_graph_and_network_agree_on_outlier(folder: Path, batch: int) -> None:
    events = point_sources(batch, seed=20, dead=0.03)
    events["time"][0] = INVALID
    if batch > 1:
        events["npho"][-1] = 0
    models = [xecml.load_model(folder / name) for name in ("regress.pth", "regress.onnx")]
    one, two = (model.predict(events["npho"], events["time"]) for model in models)
    assert list(one) == list(two)
    assert list(one)[-1] == "outlier"
    assert one["outlier"].shape == two["outlier"].shape == (batch,)
    assert one["outlier"].dtype == two["outlier"].dtype == np.float32
    assert np.isnan(one["outlier"]).tolist() == [batch > 1 and i == batch - 1 for i in range(batch)]
    np.testing.assert_allclose(two["outlier"], one["outlier"], rtol=1e-4, atol=1e-4)
    (_, ours), (_, theirs) = (model.judge(events["npho"], events["time"]) for model in models)
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(theirs.differences, ours.differences, rtol=1e-2, atol=2e-2)
    said, also = (model.training for model in models)
    assert said is not None
    assert also is not None
    np.testing.assert_allclose(said.medians, also.medians, atol=1e-5)


@pytest.mark.parametrize("name", ["regress.pth", pytest.param("regress.onnx", marks=pytest.mark.long)])
def test_energies_beyond_the_training_are_outliers_and_counted(folder: Path, name: str, tmp_path: Path) -> None:
    """Answers saturate beyond the truth of the training, where its light and place do not tell."""
    model = xecml.load_model(folder / name)
    (low, high), truth = model.truth_ends["energy"], table_of(folder / "train.root", "tree")["energyTruth"]
    assert (low, high) == pytest.approx((truth.min(), truth.max()), rel=1e-5)
    events = table_of(folder / "like.root", "tree")
    # the same model, told that it was trained below the median of these answers
    below = float(np.median(model.predict(events["npho"], events["time"])["energy"])) - 1e-3
    told = tmp_path / name
    content = checkpoint_reading.load(folder / "regress.pth")
    for state in ("model_state", "ema_state"):
        content[state]["energy_truth_highest"].fill_(below)
    checkpoint_writing.save(tmp_path / "regress.pth", content)
    if told.suffix == ".onnx":
        export(tmp_path / "regress.pth", told)
    other = xecml.load_model(told)
    answers, before = (one.predict(events["npho"], events["time"]) for one in (other, model))
    sigma = answers.get("sigma_energy", 0.05 / 3 * (below - low))
    past = np.maximum(answers["energy"] - below, 0) / (3 * sigma)
    np.testing.assert_allclose(answers["outlier"], np.hypot(before["outlier"], past), rtol=1e-3)
    compared = other.compare(events["npho"], events["time"])
    assert compared is not None
    np.testing.assert_allclose(compared[0], answers["outlier"], rtol=1e-5)
    number = int((past > 1).sum())
    assert number > 20
    answered = predict_files(other, [folder / "like.root"], tmp_path / "p.root").answered
    assert answered.as_dict()["beyond_training"] == {"energy": pytest.approx(number, abs=1)}
    assert re.search(
        r"\d+ with a predicted energy outside the range of the training \([\d.]+ to [\d.]+ MeV\), whose true energy",
        answered.line(),
    )
    assert "outside" not in predict_files(model, [folder / "like.root"], tmp_path / "p.root").answered.line()


def test_the_graph_says_what_outlier_is(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "regress.onnx")
    assert [o.name for o in session.get_outputs()][-2:] == ["outlier", "outlier_numbers"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["xecml.units"])["outlier"] == "1 is exceeded by 1 % of events of the training kind"
    assert json.loads(metadata["xecml.training"])["events"] > 1400
    repair = onnxruntime.InferenceSession(folder / "inpaint.onnx")
    assert [o.name for o in repair.get_outputs()] == ["npho_filled", "time_filled", "outlier", "outlier_numbers"]


@pytest.mark.parametrize("name", ["regress.pth", "regress.onnx"])
def test_predictions_have_it_beside_what_was_measured_and_one_line(folder: Path, name: str, tmp_path: Path) -> None:
    model = xecml.load_model(folder / name)
    report = predict_files(model, [folder / "like.root"], tmp_path / "p.root")
    events = table_of(folder / "like.root", "tree")
    table = table_of(tmp_path / "p.root")
    assert table["outlier"].dtype == np.float32
    np.testing.assert_allclose(table["outlier"], model.predict(events["npho"], events["time"])["outlier"], rtol=1e-3)
    assert (table["outlier"] > 1).mean() < 0.04
    assert "unlike" not in report.answered.line()
    line = predict_files(model, [folder / "late.root"], tmp_path / "p.root").answered.line()
    assert re.match(LATE, line)
    assert "\n" not in line


def test_files_of_before_go_on_and_say_so(folder: Path, tmp_path: Path) -> None:
    events = point_sources(20, seed=21)
    for kind in ("pth", "onnx"):
        old, new = (xecml.load_model(folder / f"{name}.{kind}") for name in ("old_regress", "regress"))
        assert old.training is None
        assert old.compare(events["npho"], events["time"]) is None
        answers, now = (model.predict(events["npho"], events["time"]) for model in (old, new))
        assert "outlier" not in answers
        np.testing.assert_allclose(answers["energy"], now["energy"], rtol=1e-4)
        report = predict_files(old, [folder / "late.root"], tmp_path / "p.root")
        assert report.answered.line() == UNKNOWN
        assert "outlier" not in table_of(tmp_path / "p.root")
        with pytest.raises(InputError, match=r"does not say what its training events were like.*train it anew"):
            compare_files(folder / f"old_regress.{kind}", [folder / "like.root"])
    filled = inpaint_files(load_repair(folder / "old_inpaint.pth"), [folder / "dead.root"], tmp_path / "f.root")
    assert filled.line() == UNKNOWN
    assert "outlier" not in table_of(tmp_path / "f.root", "tree")


def test_no_events_have_no_outlier(folder: Path) -> None:
    nothing = np.empty((0, 4760), np.float32)
    for name in ("regress.pth", "regress.onnx"):
        model = xecml.load_model(folder / name)
        assert model.predict(nothing, nothing)["outlier"].shape == (0,)
    for name in ("inpaint.pth", "inpaint.onnx"):
        assert load_repair(folder / name).compare(nothing, nothing) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["pth", "onnx"])
def test_repaired_files_have_it_by_their_live_sensors(folder: Path, kind: str, tmp_path: Path) -> None:
    repair = load_repair(folder / f"inpaint.{kind}")
    report = inpaint_files(repair, [folder / "dead.root"], tmp_path / "f.root")
    table = table_of(tmp_path / "f.root", "tree")
    assert table["inpainted"].any()
    assert np.isfinite(table["outlier"]).all()
    # what stands in dead sensors is not looked at
    spoilt = table_of(folder / "dead.root", "tree")
    spoilt["npho"][:, 7::50] = 1e6
    rootio.write(tmp_path / "spoilt.root", {n: spoilt[n] for n in ("npho", "time")})
    (tmp_path / "dead.txt").write_text("\n".join(map(str, range(7, 4760, 50))))
    again = inpaint_files(repair, [tmp_path / "spoilt.root"], tmp_path / "g.root", dead_list=tmp_path / "dead.txt")
    np.testing.assert_allclose(table_of(tmp_path / "g.root", "tree")["outlier"], table["outlier"], rtol=1e-3)
    assert report.as_dict()["training"]["events"] == again.events == 300
    late = inpaint_files(repair, [folder / "late.root"], tmp_path / "h.root", dead_list=tmp_path / "dead.txt")
    assert re.match(LATE, late.line())


@pytest.mark.parametrize("name", ["regress.pth", "regress.onnx", "inpaint.pth", "inpaint.onnx"])
def test_check_prints_the_table_and_draws_the_page(folder: Path, name: str, tmp_path: Path) -> None:
    arguments = ["check", str(folder / "late.root"), "--model", str(folder / name)]
    result = RUNNER.invoke(app, [*arguments, "--pdf", str(tmp_path / "page.pdf")])
    assert result.exit_code == 0, result.output
    assert "time of the outer face against the inner face" in result.output
    assert "differs" in result.output
    assert re.search(LATE, result.output)
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    answer = json.loads(RUNNER.invoke(app, [*arguments, "--json"]).stdout)
    rows = {row["number"]: row for row in answer["training"]["numbers"]}
    assert rows["time_outer"]["verdict"] == "differs"
    assert rows["time_outer"]["file"] - rows["time_outer"]["training"] == pytest.approx(2.0, abs=0.15)
    assert rows["light_outer"]["verdict"] == "like"
    assert answer["training"]["unlike_training"].startswith("The file is unlike the training")
    assert len(rows["time_outer"]["by_depth"]) == 5


def test_pages_are_the_same_again_and_only_of_known_kinds(folder: Path, tmp_path: Path) -> None:
    comparison = compare_files(folder / "regress.pth", [folder / "late.root"])
    for path in ("a.png", "b.png"):
        save_comparison(comparison, tmp_path / path, title="late.root")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(InputError, match=r"ends in \.pdf or \.png"):
        save_comparison(comparison, tmp_path / "a.svg", title="late.root")
    assert "late" in draw_comparison(comparison, "late.root").get_suptitle()


@pytest.mark.long
def test_an_export_whose_outlier_disagrees_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xecml.inference import onnx_files

    run = onnx_files.Session.run

    def wrong(self: onnx_files.Session, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [
            a * np.float32(1.001 if n == "outlier" else 1) for n, a in zip(names, run(self, names, feed), strict=True)
        ]

    monkeypatch.setattr(onnx_files.Session, "run", wrong)
    with pytest.raises(InputError, match="differ by"):
        export(folder / "regress.pth", tmp_path / "x.onnx")


def test_graphs_that_say_something_else_than_they_give_are_refused(folder: Path, tmp_path: Path) -> None:
    def changed(edit: object) -> Path:
        proto = onnx.load(folder / "regress.onnx")
        entry = next(e for e in proto.metadata_props if e.key == "xecml.training")
        said = json.loads(entry.value)
        edit(said)  # type: ignore[operator]
        entry.value = json.dumps(said)
        onnx.save(proto, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    for edit, why in (
        (lambda said: said["keys"].pop(), "tables are of different sizes"),
        (lambda said: said["depth_edges"].reverse(), "depths do not rise"),
        (lambda said: said["keys"].__setitem__(0, "light_of_stars"), "light_of_stars|keys"),
        (lambda said: said.update(medians="none"), "medians"),
        (lambda said: said["between"].__setitem__(0, float("nan")), "between|training"),
    ):
        with pytest.raises(InputError, match=why):
            xecml.load_model(changed(edit))
    proto = onnx.load(folder / "regress.onnx")
    proto.metadata_props.remove(next(e for e in proto.metadata_props if e.key == "xecml.training"))
    onnx.save(proto, tmp_path / "silent.onnx")
    with pytest.raises(InputError, match="wrong or missing"):
        xecml.load_model(tmp_path / "silent.onnx")
