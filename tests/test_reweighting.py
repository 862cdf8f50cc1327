"""Reweighting: flat in truth, mean 1, kept with a run, defined everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xecml import rootio
from xecml.data.reweighting import Reweighting, default_bins
from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.figures.reweighted_sample import draw_reweighting, save_reweighting


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    n = 20_000
    energy = 0.015 + 0.045 * rng.beta(2, 5, n)
    angle = np.stack([90 + 25 * rng.normal(size=n).clip(-2, 2), rng.uniform(-60, 60, n)], 1)
    uvw = np.stack([rng.normal(0, 8, n), rng.uniform(-60, 60, n), rng.exponential(4, n)], 1)
    return {"energyTruth": energy, "emiAng": angle, "uvwTruth": uvw, "timeTruth": rng.uniform(-1e-8, 1e-8, n)}


@pytest.fixture(scope="module")
def file(truth: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reweighting") / "truth.root"
    with rootio.TreeWriter(path) as writer:
        for part in np.array_split(np.arange(20_000), 7):
            writer.extend({name: values[part].astype(np.float32) for name, values in truth.items()})
    return path


def as_tasks(truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = {"energy": "energyTruth", "angle": "emiAng", "uvwFI": "uvwTruth", "timing": "timeTruth"}
    return {task: truth[b].astype(np.float32).reshape(20_000, -1) for task, b in names.items()}


def test_defaults_are_those_of_the_recipe() -> None:
    assert default_bins("angle") == (20, 20)
    assert default_bins("energy") == default_bins("timing") == (30,)
    assert default_bins("uvwFI") == (10, 10, 10)
    assert default_bins("uvwFI", nbins_2d=[8, 12]) == (8, 12, 8)
    assert default_bins("angle", nbins_2d=[5, 6]) == (5, 6)
    assert default_bins("energy", nbins=12) == (12,)
    with pytest.raises(InputError, match="'angleVec' cannot be reweighted"):
        default_bins("angleVec")
    with pytest.raises(InputError, match="has 0 bins"):
        default_bins("energy", 0)


def test_one_task_becomes_flat_with_mean_one(file: Path, truth: dict[str, np.ndarray]) -> None:
    fitted = Reweighting.fit(file, {"energy": (30,)})
    weights = fitted(as_tasks(truth))
    assert weights.dtype == np.float32
    assert weights.mean(dtype=float) == pytest.approx(1, abs=1e-6)
    energy = truth["energyTruth"].astype(np.float32)
    before, _ = np.histogram(energy, 30)
    after, _ = np.histogram(energy, 30, weights=weights)
    filled = before > 0
    assert before.max() / before[filled].min() > 20
    # events on an edge may fall on either side of it by rounding
    np.testing.assert_allclose(after[filled], 20_000 / filled.sum(), rtol=0.02)


def test_weights_are_the_inverse_content_of_the_bin(file: Path, truth: dict[str, np.ndarray]) -> None:
    fitted = Reweighting.fit(file, {"angle": (4, 5)})
    angle = truth["emiAng"].astype(np.float32)
    contents, *_ = np.histogram2d(*angle.T.astype(float), bins=(4, 5))
    products = fitted.tables["angle"].weights * contents
    np.testing.assert_allclose(products[contents > 0], products.max(), rtol=0.01)


def test_tasks_multiply(file: Path, truth: dict[str, np.ndarray]) -> None:
    bins = {"energy": (30,), "uvwFI": (10, 10, 10), "angle": (20, 20), "timing": (30,)}
    tasks = as_tasks(truth)
    weights = Reweighting.fit(file, bins)(tasks)
    product = np.prod([Reweighting.fit(file, {t: n})(tasks).astype(float) for t, n in bins.items()], axis=0)
    assert weights.mean(dtype=float) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(weights, product / product.mean(), rtol=1e-4)


def test_outside_the_sample_and_in_empty_bins(tmp_path: Path) -> None:
    energy = np.array([0.0] * 6 + [0.25] * 2 + [1.0] * 4, np.float32)
    rootio.write(tmp_path / "e.root", {"energyTruth": energy})
    fitted = Reweighting.fit(tmp_path / "e.root", {"energy": (4,)})
    weights = fitted({"energy": np.array([[0.1], [0.3], [0.6], [0.9], [-5.0], [7.0]], np.float32)})
    # contents 6, 2, 0, 4: the empty bin weighs as one of the mean content of the others
    expected = 1 / np.array([6, 2, 4, 4, 6, 4])
    np.testing.assert_allclose(weights, expected * 12 / 3, rtol=1e-6)


def test_one_energy_leaves_weights_at_one(tmp_path: Path) -> None:
    rootio.write(tmp_path / "m.root", {"energyTruth": np.full(5, 0.0528, np.float32)})
    fitted = Reweighting.fit(tmp_path / "m.root", {"energy": (30,)})
    np.testing.assert_allclose(fitted({"energy": np.full((3, 1), 0.0528, np.float32)}), 1)


def test_the_state_is_plain_and_complete(file: Path, truth: dict[str, np.ndarray]) -> None:
    fitted = Reweighting.fit(file, {"energy": (30,), "uvwFI": (4, 5, 4)})
    state = json.loads(json.dumps(fitted.state()))
    again = Reweighting.from_state(state)
    np.testing.assert_array_equal(again(as_tasks(truth)), fitted(as_tasks(truth)))
    assert again.state() == fitted.state()
    assert again.tasks == ("energy", "uvwFI")


def test_the_picture_s_numbers_conserve_events(file: Path) -> None:
    fitted = Reweighting.fit(file, {"energy": (30,), "uvwFI": (4, 5, 4)})
    assert set(fitted.distributions) == {"energy", "u", "v", "w"}
    for shown in fitted.distributions.values():
        assert shown.before.sum() == 20_000
        assert shown.after.sum() == pytest.approx(20_000)
    alone = Reweighting.fit(file, {"energy": (30,)}).distributions["energy"]
    filled = alone.before > 0
    np.testing.assert_allclose(alone.after[filled], 20_000 / filled.sum(), rtol=1e-6)


def test_batches_carry_weights(sample: Path) -> None:
    fitted = Reweighting.fit(sample / "train.root", {"energy": (10,)})
    options = {"tasks": ["energy"], "batch_size": 64, "buffer_events": 256, "shuffle": False}
    weighted = list(EventStream(str(sample / "train.root"), weights=fitted, **options).epoch(0))  # type: ignore[arg-type]
    weights = np.concatenate([b.weight for b in weighted])
    truth = np.concatenate([b.truth["energy"] for b in weighted])
    np.testing.assert_array_equal(weights, fitted({"energy": truth}))
    assert weights.mean(dtype=float) == pytest.approx(1, abs=1e-6)
    plain = next(EventStream(str(sample / "train.root"), **options).epoch(0))  # type: ignore[arg-type]
    assert (plain.weight == 1).all()


def test_a_reweighted_task_must_be_on(sample: Path) -> None:
    fitted = Reweighting.fit(sample / "train.root", {"energy": (10,)})
    with pytest.raises(InputError, match=r"reweighting\.energy needs the truth of 'energy'"):
        EventStream(str(sample / "train.root"), tasks=["angle"], batch_size=64, buffer_events=256, weights=fitted)


def test_unusable_samples_are_named(tmp_path: Path) -> None:
    rootio.write(tmp_path / "none.root", {"energyTruth": np.empty(0, np.float32)})
    with pytest.raises(InputError, match="no events with truth"):
        Reweighting.fit(tmp_path / "none.root", {"energy": (3,)})
    with pytest.raises(InputError, match="No task"):
        Reweighting.fit(tmp_path / "none.root", {})
    with pytest.raises(InputError, match="no branch 'emiAng'"):
        Reweighting.fit(tmp_path / "none.root", {"angle": (3, 3)})


def test_the_picture_shows_before_and_after(file: Path, tmp_path: Path) -> None:
    fitted = Reweighting.fit(file, {"energy": (30,), "angle": (20, 20)})
    figure = draw_reweighting(fitted)
    assert [axes.get_xlabel() for axes in figure.axes] == ["energy [MeV]", "theta [deg]", "phi [deg]"]
    before, after = (patch.get_data() for patch in figure.axes[0].patches)
    np.testing.assert_array_equal(before.values, fitted.distributions["energy"].before)
    np.testing.assert_array_equal(after.values, fitted.distributions["energy"].after)
    assert before.edges[[0, -1]] == pytest.approx([15, 60], abs=6)
    save_reweighting(fitted, tmp_path / "weights.pdf")
    assert (tmp_path / "weights.pdf").read_bytes().startswith(b"%PDF")
