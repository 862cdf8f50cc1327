"""What a training stores beside weights: ends of the truth, a peak that is at the truth, and pulls of width 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from tests.test_stopping import recipe
from xecml import load_model, rootio
from xecml.inference import checkpoint_reading
from xecml.inference.trained_model import TorchModel
from xecml.models import sigma_shape
from xecml.resolution import s68
from xecml.training import checkpoint_writing, loop, regression_job, validated_answers

ENERGY = ("tasks.energy.enabled=true", "tasks.angle.enabled=false", "training.epochs=1", "training.ema_decay=0.9")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("energies")
    for seed, (name, n) in enumerate((("train", 96), ("val", 64), ("other", 96)), 1):
        sample = point_sources(n, seed)
        if name == "other":
            sample["energyTruth"] = (sample["energyTruth"] + 0.03).astype(np.float32)
        rootio.write(folder / f"{name}.root", sample)
    return folder


def energies(path: Path) -> np.ndarray:
    (chunk,) = rootio.read(path, ("energyTruth",))
    return chunk["energyTruth"]


def state(folder: Path, name: str = "best") -> dict[str, Any]:
    return checkpoint_reading.load(folder / f"checkpoint_{name}.pth")["ema_state"]


def test_the_ends_are_those_of_the_whole_sample_however_a_training_begins(events: Path, tmp_path: Path) -> None:
    """Also where only weights are taken from a training on another sample, or from a file of before."""
    own, other = (energies(events / f"{name}.root") for name in ("train", "other"))
    first = loop.train(recipe(events, tmp_path, *ENERGY), name="first", quiet=True)
    assert load_model(first.best).truth_ends == {"energy": (pytest.approx(own.min()), pytest.approx(own.max()))}
    both = f"data.train_path=[{events}/train.root,{events}/other.root]"
    old = checkpoint_reading.load(first.best)
    for key in ("model_state", "ema_state"):
        old[key] = {name: weight for name, weight in old[key].items() if "energy_truth_" not in name} | {
            "energy_truth_mean": old[key]["energy_truth_mean"]
        }
    checkpoint_writing.save(tmp_path / "old.pth", old)
    assert load_model(tmp_path / "old.pth").truth_ends == {}
    for number, start in enumerate((first.best, tmp_path / "old.pth")):
        settings = (*ENERGY, both, "checkpoint.weights_only=true", f"checkpoint.resume_from={start}")
        wide = load_model(loop.train(recipe(events, tmp_path, *settings), name=f"wide{number}", quiet=True).best)
        assert wide.truth_ends == {"energy": (pytest.approx(own.min()), pytest.approx(other.max()))}
        assert wide.truth_means["energy"] == pytest.approx(np.concatenate([own, other]).mean(), rel=1e-4)


def test_a_selection_has_its_own_ends(events: Path, tmp_path: Path) -> None:
    middle = float(np.median(energies(events / "train.root")))
    settings = (*ENERGY, f"data.train_selection=energyTruth > {middle}")
    model = load_model(loop.train(recipe(events, tmp_path, *settings), name="run", quiet=True).best)
    assert model.truth_ends["energy"][0] > middle


def test_ends_of_a_calibrated_model_are_corrected_as_its_answers(events: Path, tmp_path: Path) -> None:
    first = loop.train(recipe(events, tmp_path, *ENERGY), name="first", quiet=True)
    (chunk,) = rootio.read(events / "other.root", ("npho", "time"))
    plain, other = load_model(first.best), load_model(first.best)
    assert isinstance(other, TorchModel)
    other.network.corrections.get_buffer("energy_factor").fill_(1.1)
    calibrated = TorchModel(other.network, other.content)
    np.testing.assert_allclose(calibrated.truth_ends["energy"], 1.1 * np.array(plain.truth_ends["energy"]), rtol=1e-6)
    one, two = (model.predict(chunk["npho"], chunk["time"]) for model in (plain, calibrated))
    np.testing.assert_allclose(two["energy"], 1.1 * one["energy"], rtol=1e-6)
    np.testing.assert_allclose(two["outlier"], one["outlier"], rtol=1e-4)


def test_the_best_checkpoint_is_scaled_and_the_last_one_is_not(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peak that is 2 % high; and what goes on from the best checkpoint is what was trained."""
    monkeypatch.setattr(regression_job, "peaks", lambda answers, truth: {"energy_peak_percent": 2.0})
    run = loop.train(recipe(events, tmp_path, *ENERGY), name="run", quiet=True)
    assert run.metrics["val/energy_peak_percent"] == 2.0
    best, last = (state(run.folder, name) for name in ("best", "last"))
    torch.testing.assert_close(1.02 * best["energy_width"], last["energy_width"])
    torch.testing.assert_close(best["heads.energy.0.weight"], last["heads.energy.0.weight"], rtol=0, atol=0)
    on = ("training.epochs=2", f"checkpoint.resume_from={run.best}")
    more = loop.train(recipe(events, tmp_path, *ENERGY, *on), name="more", quiet=True)
    torch.testing.assert_close(state(more.folder, "last")["energy_width"], last["energy_width"])
    torch.testing.assert_close(1.02 * state(more.folder)["energy_width"], last["energy_width"])


def test_sigmas_of_the_best_checkpoint_are_those_that_the_validation_shows(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The width of the pulls multiplies them; the training, and what goes on from it, knows nothing of that."""
    found = {"energy_pull_width": 1.25, "u_pull_width": 0.8, "v_pull_width": float("nan"), "w_pull_width": 7.0}
    monkeypatch.setattr(regression_job, "pull_widths", lambda answers, truth: found)
    likelihoods = tuple(f"tasks.{task}.loss_fn=student_nll" for task in ("energy", "uvwFI"))
    settings = (*ENERGY, "tasks.uvwFI.enabled=true", *likelihoods)
    run = loop.train(recipe(events, tmp_path, *settings), name="run", quiet=True)
    assert run.metrics["val/energy_pull_width"] == 1.25
    best, last = (state(run.folder, name) for name in ("best", "last"))
    assert best["energy_sigma_factor"].tolist() == [1.25]
    assert best["uvwFI_sigma_factor"].tolist() == [pytest.approx(0.8), 1.0, 1.0]  # unknown, or of no network at all
    assert last["energy_sigma_factor"].tolist() == [1.0]
    (chunk,) = rootio.read(events / "other.root", ("npho", "time"))
    scaled, plain = load_model(run.best), load_model(run.best)
    assert isinstance(plain, TorchModel)
    plain.network.get_buffer("uvwFI_sigma_factor").fill_(1.0)
    one, two = (model.predict(chunk["npho"], chunk["time"]) for model in (plain, scaled))
    np.testing.assert_allclose(two["sigma_uvwFI"], [0.8, 1.0, 1.0] * one["sigma_uvwFI"], rtol=1e-6)
    np.testing.assert_array_equal(two["uvwFI"], one["uvwFI"])
    anew = ("checkpoint.weights_only=true", f"checkpoint.resume_from={run.best}")
    more = loop.train(recipe(events, tmp_path, *settings, *anew), name="more", quiet=True)
    assert state(more.folder)["energy_sigma_factor"].tolist() == [1.25]  # and not its square
    old = checkpoint_reading.load(run.best)
    old["ema_state"] = {name: w for name, w in old["ema_state"].items() if not name.endswith(("_factor", "_shape"))}
    checkpoint_writing.save(tmp_path / "old.pth", old)
    before = load_model(tmp_path / "old.pth").predict(chunk["npho"], chunk["time"])
    np.testing.assert_array_equal(before["sigma_uvwFI"], one["sigma_uvwFI"])


def answers_of_wrong_widths(n: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Residuals whose width is known but for a factor that depends on energy and depth."""
    rng = np.random.default_rng(seed)
    energy, depth = rng.uniform(0.015, 0.060, n), rng.exponential(6.0, n)
    truth = {"energy": energy[:, None], "uvwFI": np.stack([*rng.normal(0, 10, (2, n)), depth], 1)}
    wrong = 0.7 + 15 * (energy - 0.015) + 0.01 * depth
    widths = {"energy": (0.02 * energy)[:, None], "uvwFI": np.full((n, 3), 0.2)}
    noise = {name: rng.standard_t(4, w.shape) * w for name, w in widths.items()}
    answers = {name: truth[name] + noise[name] * wrong[:, None] for name in truth}
    return {k: v.astype(np.float32) for k, v in (answers | {f"sigma_{n}": w for n, w in widths.items()}).items()}, truth


def test_widths_are_right_at_every_energy_and_depth_once_their_shape_is_fitted() -> None:
    """On other events than the fit's; with a factor alone they are off by a third at the ends."""
    fitted = validated_answers.fitted_widths(*answers_of_wrong_widths(40_000, 1))
    answers, truth = answers_of_wrong_widths(60_000, 2)
    energy, depth = truth["energy"][:, 0], truth["uvwFI"][:, 2]
    of = sigma_shape.terms({name: torch.from_numpy(answers[name]) for name in ("energy", "uvwFI")})
    bins = [(energy < 0.02), (energy > 0.052), (depth < 1), (depth > 12), (energy > 0.05) & (depth > 10)]
    for task, component in (("energy", 0), ("uvwFI", 0), ("uvwFI", 2)):
        factors, shape = fitted[task]
        total = torch.tensor(factors) * sigma_shape.factors(torch.from_numpy(shape).float(), of)
        pulls = (answers[task] - truth[task])[:, component] / answers[f"sigma_{task}"][:, component]
        after = [s68((pulls / total.numpy()[:, component])[events]) for events in bins]
        before = [s68(pulls[events]) / s68(pulls) for events in bins]
        assert max(abs(width - 1) for width in before) > 0.2
        assert max(abs(width - 1) for width in after) < 0.07, (task, component, after)


def test_few_events_and_networks_without_energy_and_place_have_no_shape() -> None:
    answers, truth = answers_of_wrong_widths(2000, 3)
    assert validated_answers.fitted_widths(answers, truth) == {}
    time = {"timing": np.zeros((5000, 1)), "sigma_timing": np.ones((5000, 1))}
    assert validated_answers.fitted_widths(time, {"timing": np.zeros((5000, 1))}) == {}
    shape = torch.full((sigma_shape.N_TERMS, 2), 0.5)
    assert sigma_shape.factors(shape, None).tolist() == [[1.0, 1.0]]
    # far away from the sample a width stays finite
    of = sigma_shape.terms({"energy": torch.tensor([1e-9, 1e9]), "uvwFI": torch.tensor([[0, 0, -5.0], [0, 0, 1e6]])})
    assert of is not None
    assert torch.isfinite(of).all()
    assert float(sigma_shape.factors(100 * shape, of).max()) == 3.0


def test_widths_of_pulls_are_measured_by_column() -> None:
    """Angles through the seam, a vector in one, and nothing of a few events."""
    rng = np.random.default_rng(4)
    truth = {"angle": np.tile([90.0, 179.0], (2000, 1)), "angleVec": np.tile([0.6, 0.0, 0.8], (2000, 1))}
    noise = rng.standard_normal((2000, 5))
    answers = {"angle": truth["angle"] + noise[:, :2] * [2.0, 3.0], "angleVec": truth["angleVec"] + noise[:, 2:] * 0.02}
    answers["angle"][:, 1] = (answers["angle"][:, 1] + 180) % 360 - 180
    sigmas = {"sigma_angle": np.full((2000, 2), 2.0), "sigma_angleVec": np.full((2000, 3), 0.01)}
    found = validated_answers.pull_widths(answers | sigmas, truth)
    expected = {
        "theta_pull_width": 1.0,
        "phi_pull_width": 1.5,
    } | {f"emiVec_{axis}_pull_width": 2.0 for axis in "xyz"}
    assert found == {name: pytest.approx(width, rel=0.06) for name, width in expected.items()}
    assert validated_answers.pull_widths(answers, truth) == {}
    few = [{name: values[:999] for name, values in part.items()} for part in (answers | sigmas, truth)]
    assert validated_answers.pull_widths(*few) == {}
