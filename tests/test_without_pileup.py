"""Light of further photons: what the separator sees, what is removed, and which answers change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.points_of_light import light_of_a_point
from xecml import geometry, rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.evaluation.tables import read_table
from xecml.events import INVALID
from xecml.inference import without_pileup
from xecml.inference.trained_model import Model, load_model
from xecml.inference.without_pileup import PILEUP_SHARE, WithoutPileup, light_of_others, removed
from xecml.models.normalise import validity
from xecml.models.separator import N_NUMBERS, Separator
from xecml.simulation.generate import simulate
from xecml.simulation.settings import make_settings


@pytest.fixture(scope="module")
def signal() -> Model:
    return load_model("pretrained:signal")


@pytest.fixture(scope="module")
def photons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every other photon is followed by a second one of 25 MeV and more."""
    path = tmp_path_factory.mktemp("pileup") / "photons.root"
    values = {"n_gamma": (0, 1, 1, 0, 0), "pileup_energy_mev": (25.0, 52.83), "relative_branches": False}
    simulate(path, 192, settings=make_settings(values | {"pileup_counts": True, "expected_counts": True}), seed=5)
    return path


def test_times_are_seen_from_where_the_light_began() -> None:
    npho, times = light_of_a_point((5.0, -10.0, 4.0))
    times[0, 7] += 5e-9
    n, t = torch.from_numpy(npho), torch.from_numpy(times)
    numbers = Separator().numbers(n, t, *validity(n, t), torch.tensor([[5.0, -10.0, 4.0]]), torch.zeros(1))
    assert numbers.shape == (1, N_NUMBERS, geometry.N_SENSORS)
    late = 15 * torch.atanh(numbers[0, 7])
    assert float(late[7]) == pytest.approx(5.0, abs=0.01)
    assert float(late[torch.arange(len(late)) != 7].abs().max()) < 0.01


def test_a_sensor_that_measured_nothing_says_nothing() -> None:
    npho, times = light_of_a_point((0.0, 0.0, 3.0))
    npho[0, 4700] = times[0, 4700] = INVALID
    n, t = torch.from_numpy(npho), torch.from_numpy(times)
    network = Separator()
    numbers = network.numbers(n, t, *validity(n, t), torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(1))
    assert torch.isfinite(numbers).all()
    assert numbers[0, :3, 4700].tolist() == numbers[0, 6:, 4700].tolist() == [0.0, 0.0, 0.0]
    logits = network(n, t, *validity(n, t), torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(1))
    assert logits.shape == (1, geometry.N_SENSORS)
    assert torch.isfinite(logits).all()


def test_shares_are_removed_and_what_is_mostly_of_others_has_no_time() -> None:
    npho, times = np.full((1, 4760), 100.0, np.float32), np.zeros((1, 4760), np.float32)
    npho[0, 2] = INVALID
    share = np.zeros((1, 4760), np.float32)
    share[0, :3] = 0.4, 0.75, 0.75
    left, when = removed(npho, times, share)
    assert left[0, :4].tolist() == pytest.approx([60.0, 25.0, INVALID, 100.0])
    assert when[0, :4].tolist() == pytest.approx([0.0, INVALID, INVALID, 0.0])
    assert light_of_others(npho, share).tolist() == pytest.approx([115 / (4759 * 100)])


def test_events_of_one_photon_keep_their_answers(signal: Model, photons: Path) -> None:
    wrapped = WithoutPileup(signal)
    (chunk,) = rootio.read([photons], ["npho", "time", "nGamma", "uvwTruth", "timeTruth"], chunk_events=1000)
    plain, found = signal.predict(chunk["npho"], chunk["time"]), wrapped.predict(chunk["npho"], chunk["time"])
    assert set(found) == {*plain, PILEUP_SHARE}
    same = found[PILEUP_SHARE] <= without_pileup.LEAST_SHARE
    for name, values in plain.items():
        np.testing.assert_array_equal(found[name][same], values[same], err_msg=name)
        assert (found[name][~same] != values[~same]).any() == (name not in ("energy", "sigma_energy")), name
    one, two = chunk["nGamma"] == 1, chunk["nGamma"] == 2
    assert same[one].mean() > 0.9
    assert same[two].mean() < 0.2
    # the second photon's light was found, and answers are better without it
    errors = [np.abs(10 * (said["uvwFI"] - chunk["uvwTruth"]))[two].mean() for said in (plain, found)]
    late = [np.median(np.abs(said["timing"] - chunk["timeTruth"])[two]) for said in (plain, found)]
    assert errors[1] < errors[0]
    assert late[1] < 0.7 * late[0]


def test_the_shares_are_those_of_the_simulation(signal: Model, photons: Path) -> None:
    branches = ["npho", "time", "npho_pileup", "npho_expected"]
    (chunk,) = rootio.read([photons], branches, chunk_events=1000)
    true = light_of_others(chunk["npho"], chunk["npho_pileup"] / np.maximum(chunk["npho_expected"], 1e-9))
    found = WithoutPileup(signal).predict(chunk["npho"], chunk["time"])[PILEUP_SHARE]
    assert np.corrcoef(true, found)[0, 1] > 0.9
    assert np.median(np.abs(found - true)) < 0.03


def test_an_event_without_an_answer_has_no_share(signal: Model) -> None:
    npho, times = light_of_a_point((0.0, 0.0, 3.0))
    n, t = np.repeat(npho, 2, 0), np.repeat(times, 2, 0)
    n[1] = INVALID
    found = WithoutPileup(signal).predict(n, t)
    assert np.isfinite(found[PILEUP_SHARE]).tolist() == [True, False]
    assert np.isnan(found["uvwFI"][1]).all()
    nothing = WithoutPileup(signal).predict(n[:0], t[:0])
    assert {len(values) for values in nothing.values()} == {0}


class Everything(Separator):
    """Says of all light that it is of further photons."""

    def forward(self, npho: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return torch.full_like(npho, 20.0)


def test_an_event_of_which_nothing_is_left_keeps_its_first_answer(signal: Model) -> None:
    npho, times = light_of_a_point((0.0, 0.0, 3.0))
    first, found = signal.predict(npho, times), WithoutPileup(signal, Everything()).predict(npho, times)
    assert found[PILEUP_SHARE][0] == pytest.approx(1.0)
    assert np.isfinite(found["timing"]).all()
    np.testing.assert_array_equal(found["timing"], first["timing"])


def test_each_model_has_a_separator_of_its_own(signal: Model) -> None:
    shared = without_pileup.shipped_separator()
    assert WithoutPileup(signal).separator is not shared is without_pileup.shipped_separator()


class Stub:
    """What is looked at of a model before anything is computed."""

    tasks: tuple[str, ...] = ("uvwFI", "timing")
    branches = ("npho", "time")
    precision = "float32"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": ("uvwFI", "energy")}, "does not predict timing"),
        ({"branches": ("relative_npho", "relative_time")}, "takes relative_npho and relative_time"),
        ({"precision": "bf16"}, "leave --precision out"),
    ],
)
def test_models_for_which_it_cannot_be_found_are_refused(change: dict[str, Any], said: str) -> None:
    model = Stub()
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(InputError, match=said):
        WithoutPileup(model)  # type: ignore[arg-type]


def test_the_command_writes_the_share(photons: Path, tmp_path: Path) -> None:
    plain, without = tmp_path / "plain.root", tmp_path / "without.root"
    common = ["predict", "--pretrained", "signal", str(photons), "--json", "--out"]
    for out, flags in ((plain, []), (without, ["--without-pileup"])):
        done = CliRunner().invoke(app, [*common, str(out), *flags])
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert said["events"] == 192
    tables = [read_table(out) for out in (plain, without)]
    assert set(tables[1]) - set(tables[0]) == {PILEUP_SHARE}
    many = tables[1][PILEUP_SHARE] > without_pileup.LEAST_SHARE
    assert said["events_without_pileup"] == many.sum() > 0
    assert (tables[0]["pred_u"] == tables[1]["pred_u"])[~many].all()


def test_pieces_of_predictions_with_pileup_are_not_taken_for_others(photons: Path, tmp_path: Path) -> None:
    out = tmp_path / "pieces.root"
    words = ["predict", "--pretrained", "signal", str(photons), "--chunk", "100", "--out", str(out)]
    first = CliRunner().invoke(app, [*words, "--without-pileup"])
    assert "Light of further photons was removed from" in first.output
    again = CliRunner().invoke(app, [*words, "--without-pileup"])
    assert "predicted already" in again.output
    other = CliRunner().invoke(app, words)
    assert other.exit_code != 0
    assert "other options" in str(other.exception)
