"""Models that come with the package: found by name, loaded, trained from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from xecml import load_model, pretrained, rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.inference.calibrate import calibrate_files
from xecml.inference.export import export
from xecml.inference.known_events import Known
from xecml.pretrained import FOLDER, is_shipped, model_file, names, pretrained_file
from xecml.recipes import load_config
from xecml.reports.model_evaluation import evaluate_files
from xecml.resolution import s68
from xecml.simulation.generate import simulate
from xecml.simulation.settings import make_settings
from xecml.training import loop


def test_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    assert names() == []
    with pytest.raises(InputError, match="no shipped model 'signal'; this package has none"):
        pretrained_file("signal")
    for name in ("signal", "decoupled"):
        (tmp_path / f"{name}.pth").touch()
    assert names() == ["decoupled", "signal"]
    assert model_file("pretrained:signal") == tmp_path / "signal.pth"
    assert is_shipped(tmp_path / "signal.pth")
    assert not is_shipped(tmp_path / "sub" / "signal.pth")
    assert model_file("pretrained.pth") == Path("pretrained.pth")
    with pytest.raises(InputError, match="no shipped model 'signl' .did you mean 'signal'"):
        model_file("pretrained:signl")
    with pytest.raises(InputError, match="choose one of decoupled, signal"):
        model_file("pretrained:")


def test_functions_of_the_package_take_the_names(tmp_path: Path) -> None:
    """Not the command line alone; a wrong name tells that it was understood as one."""
    wrong, event = "pretrained:signl", tmp_path / "events.root"
    event.touch()
    for call in (
        lambda: export(wrong, tmp_path / "out.onnx"),
        lambda: calibrate_files(wrong, [event], Known(reference="truth")),
        lambda: evaluate_files(wrong, [event], tmp_path / "evaluation"),
        lambda: load_model(wrong),
    ):
        with pytest.raises(InputError, match="no shipped model 'signl'"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["events.root"]


DETECTORS: dict[str, dict[str, Any]] = {
    "nominal": {},
    "first photoelectron": {"response": {"time_model": "first"}},
    "others": {"dead_fraction": 0.03, "response": {"time_model": "edge", "gain_spread": 0.05, "pmt_delay_ns": -0.2}},
}


@pytest.fixture(scope="module", params=["signal", "decoupled"])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    folder, files = tmp_path_factory.mktemp("detectors"), {}
    for number, (name, values) in enumerate(DETECTORS.items()):
        settings = make_settings({"vertex": request.param, "energy_mev": 52.83, "relative_branches": False, **values})
        files[name] = folder / f"{number}.root"
        simulate(files[name], 256, settings=settings, seed=5)
    return request.param, files


def whole(path: Path, branches: tuple[str, ...], tree: str = "tree") -> dict[str, np.ndarray]:
    (chunk,) = rootio.read(path, branches, tree=tree)
    return chunk


def test_the_package_brings_models_for_both_kinds_of_photons() -> None:
    assert names() == ["decoupled", "signal"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6
    for name in names():
        recipe = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        assert recipe["tasks"]["uvwFI"]["enabled"]
        assert (FOLDER / f"{name}.jsonl").read_text().startswith("{")


def test_shipped_models_hold_on_detectors_that_differ(shipped: tuple[str, dict[str, Path]]) -> None:
    """Limits are twice what the models have on 2048 events; a model of one detector is off by centimetres."""
    name, files = shipped
    model = load_model(f"pretrained:{name}")
    for detector, path in files.items():
        events = whole(path, ("npho", "time", "uvwTruth", "energyTruth", "timeTruth"))
        said = model.predict(events["npho"], events["time"])
        rest = 10 * (said["uvwFI"] - events["uvwTruth"])
        assert np.abs(np.median(rest, 0)).max() < 2, (detector, np.median(rest, 0))
        assert max(s68(rest[:, i]) for i in range(3)) < 7, detector
        energy = 100 * (np.ravel(said["energy"]) / np.ravel(events["energyTruth"]) - 1)
        assert abs(np.median(energy)) < 4, detector
        assert s68(energy) < 6, detector
        time = 1e12 * (np.ravel(said["timing"]) - np.ravel(events["timeTruth"]))
        assert abs(np.median(time)) < 200, detector
        assert s68(time) < 200, detector


def test_predicting_with_a_shipped_model(shipped: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    name, files = shipped
    out = tmp_path / "predictions.root"
    words = ["predict", "--pretrained", name, str(files["nominal"]), "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = whole(out, ("pred_u", "sigma_u", "outlier"), tree="predictions")
    assert np.isfinite(found["pred_u"]).all()
    assert (found["outlier"] > 1).mean() < 0.1


def test_every_command_that_takes_a_model_takes_a_shipped_one(
    shipped: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    name, files = shipped
    model, file = f"pretrained:{name}", str(files["nominal"])
    out = {key: str(tmp_path / value) for key, value in {"event": "e.png", "page": "p.html", "best": "c.pth"}.items()}
    for words in (
        ["check", file, "--model", model],
        ["display", file, "--event", "1", "--model", model, "--out", out["event"]],
        ["display", file, "--events", "2", "--model", model, "--out", out["page"]],
        ["calibrate", model, file, "--reference", "truth", "--out", out["best"]],
        ["submit", "predict", model, file, "--out", str(tmp_path / "p.root"), "--dry-run"],
        ["info", model],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (words, result.output)
    assert Path(out["page"]).stat().st_size > 10_000


@pytest.mark.slow
def test_training_goes_on_from_a_shipped_model(shipped: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    name, files = shipped
    paths = {"data.train_path": str(files["others"]), "data.val_path": str(files["nominal"])}
    given = [f"checkpoint.resume_from=pretrained:{name}", "training.epochs=1", "training.lr=1e-5", "data.batch_size=64",
             "training.warmup_epochs=0", "mlflow.enabled=false"]  # fmt: skip
    config = load_config("robust", given, paths | {"checkpoint.save_dir": str(tmp_path)})
    result = loop.train(config, name="more", quiet=True)
    before, after = load_model(f"pretrained:{name}"), load_model(result.best)
    events = whole(files["nominal"], ("npho", "time"))
    one, other = (model.predict(events["npho"], events["time"])["uvwFI"] for model in (before, after))
    assert np.abs(one - other).max() > 0
    assert np.abs(one - other).mean() < 0.1  # cm
