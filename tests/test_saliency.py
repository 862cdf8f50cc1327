"""Derivatives of answers: exact for a network that is known, equal to differences for a real one; their shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import point_sources
from xecml.data.batch import Batch, validity
from xecml.errors import InputError
from xecml.evaluation.hot_spots import INNER, REACH
from xecml.evaluation.saliency import Saliency, saliency
from xecml.events import INVALID
from xecml.figures import saliency as pictures
from xecml.geometry import FACES, N_SENSORS, face_codes
from xecml.inference.trained_model import TorchModel
from xecml.models.build import build_regressor
from xecml.models.regressor import UNBOUNDED
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.training.regression_job import fit_targets

TINY = shipped()["tiny"].path


class Endless(nn.Module):
    """A network that does not know where its training ended."""

    def truth_ends(self, task: str) -> tuple[Tensor, Tensor]:
        return torch.tensor([-UNBOUNDED]), torch.tensor([UNBOUNDED])


class Known(Endless):
    """energy = sum of a ln n + b t."""

    tasks = ("energy",)

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.a, self.b = (torch.from_numpy(rng.normal(size=N_SENSORS)).float() for _ in range(2))
        self.register_buffer("energy_width", torch.tensor([0.5]))
        self.register_buffer("energy_truth_mean", torch.zeros(1))

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> dict[str, Tensor]:
        light = torch.log(torch.where(valid, npho, 1.0)) @ self.a
        return {"energy": light + 1e9 * torch.where(timed, time, 0.0) @ self.b}


def as_model(network: Any) -> TorchModel:
    return TorchModel(network, {"config": {"data": {"npho_branch": "npho", "time_branch": "time"}}})


@pytest.fixture(scope="module")
def known() -> tuple[Known, Saliency]:
    events = point_sources(40, seed=3)
    events["npho"][:, :100] = INVALID
    events["npho"][10:, 100:200] = INVALID
    network = Known()
    return network, saliency(as_model(network), events["npho"], events["time"])


def test_a_known_network_has_its_own_coefficients(known: tuple[Known, Saliency]) -> None:
    """Widths of 0.5; a sensor measured in a quarter of the events counts a quarter."""
    network, s = known
    assert (s.outputs, s.tasks, s.events) == (("energy",), ("energy",), 40)
    for values, coefficients in ((s.counts[0], network.a), (s.times[0], network.b)):
        expected = coefficients.abs().double().numpy() / 0.5
        bright = np.flatnonzero(s.measured)[:600]
        bright = bright[bright >= 200]
        assert np.all(values[:100] == 0)
        assert np.all(values[bright] <= expected[bright] * (1 + 1e-5))
        np.testing.assert_allclose(values.max(), expected[values.argmax()], rtol=1e-5)
    assert not s.measured[:100].any()
    assert np.all(s.counts[0, 100:200] <= network.a[100:200].abs().numpy() / 0.5 / 4 * (1 + 1e-5))


def test_sums_and_shares_are_those_of_the_sensors(known: tuple[Known, Saliency]) -> None:
    _, s = known
    for code, face in enumerate(FACES):
        assert s.by_face("times")[0, code] == pytest.approx(s.times[0, face_codes() == code].sum()), face
    share = s.face_shares("counts")["energy"]
    assert share.sum() == pytest.approx(1)
    assert share[0] == pytest.approx(s.counts[0, :4092].sum() / s.counts[0].sum())


def test_regions_add_up_to_faces_and_maps_are_centred_on_the_hot_spot(known: tuple[Known, Saliency]) -> None:
    """Derivatives by ln n are the network's own a, with their signs, wherever the hot spot is."""
    network, s = known
    inner = s.regions[:, :, :, list(INNER)].sum(-1).mean(1)
    np.testing.assert_allclose(inner[0], s.by_face("counts")[:, 0])
    np.testing.assert_allclose(s.regions[1, :, :, -1].mean(0), s.by_face("times")[:, 5])
    assert s.maps.shape == (2, 1, 2 * REACH + 1, 2 * REACH + 1)
    events = point_sources(1, seed=8)
    one = saliency(as_model(network), events["npho"], events["time"])
    light = np.where(events["npho"][0, :4092] < 9e9, events["npho"][0, :4092], 0.0).reshape(93, 44)
    row, column = np.unravel_index(light.argmax(), light.shape)
    middle = network.a[:4092].reshape(93, 44).numpy()[row - 2 : row + 3, column - 2 : column + 3] / 0.5
    around = one.maps[0, 0, REACH - 3 : REACH + 4, REACH - 3 : REACH + 4]
    # the hot spot is that of smoothed light, which may lie beside the brightest chip
    shifts = [around[i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
    assert any(np.allclose(shift, middle, rtol=1e-4) for shift in shifts)


@pytest.fixture(scope="module")
def real() -> tuple[TorchModel, dict[str, Any]]:
    """A toy network with random weights and fitted anchors."""
    torch.manual_seed(1)
    events = point_sources(160, seed=5)
    npho, time = torch.from_numpy(events["npho"]), torch.from_numpy(events["time"])
    truth = {"energy": events["energyTruth"][:, None], "timing": events["timeTruth"][:, None]}
    numbers = torch.zeros(len(npho), dtype=torch.int32)
    batch = Batch(
        npho, time, *validity(npho, time), {k: torch.from_numpy(v) for k, v in truth.items()}, numbers, numbers
    )
    network = build_regressor(load_config(TINY, ["tasks.angle.enabled=false", "tasks.uvwFI.enabled=false"]))
    fit_targets(network, [batch])
    return as_model(network), events


@pytest.mark.parametrize("task", ["energy", "timing"])
def test_derivatives_equal_differences(real: tuple[TorchModel, dict[str, Any]], task: str) -> None:
    """Of the brightest sensors of an event, whose count is moved by a percent up and down, and time by 0.1 ns."""
    model, events = real
    npho, time = events["npho"][:1], events["time"][:1]
    s = saliency(model, npho, time)
    row, width = s.outputs.index(task), float(model.network.get_buffer(f"{task}_width"))
    bright = np.argsort(-np.where(npho[0] < 9e9, npho[0], 0))[1:9]
    for kind, start, steps in (("counts", npho, npho[0, bright] * 0.01), ("times", time, np.full(8, 1e-10))):
        up, down = (np.repeat(start, 8, 0) for _ in range(2))
        up[np.arange(8), bright] += steps
        down[np.arange(8), bright] -= steps
        other = np.repeat(time if kind == "counts" else npho, 8, 0)
        answers = [model.predict(*((x, other) if kind == "counts" else (other, x)))[task] for x in (up, down)]
        per_unit = 0.02 if kind == "counts" else 0.2
        differences = np.abs(answers[0].astype(float) - answers[1]) / per_unit / width
        largest = getattr(s, kind)[row].max()
        np.testing.assert_allclose(getattr(s, kind)[row, bright], differences, atol=0.03 * largest)


def test_the_time_moves_with_all_times(real: tuple[TorchModel, dict[str, Any]]) -> None:
    """A nanosecond on all sensors is one on the answer: absolute derivatives add up to that at least."""
    model, events = real
    s = saliency(model, events["npho"][:16], events["time"][:16])
    width_ns = float(model.network.get_buffer("timing_width")) * 1e9
    assert s.by_face("times")[s.outputs.index("timing")].sum() >= 0.999 / width_ns


def test_no_events_and_no_numbers_are_refused(real: tuple[TorchModel, dict[str, Any]]) -> None:
    model, events = real
    with pytest.raises(InputError, match="need events"):
        saliency(model, events["npho"][:0], events["time"][:0])
    network = Known()
    network.a[300] = float("inf")
    with pytest.raises(InputError, match="not a finite number"):
        saliency(as_model(network), events["npho"][:4], events["time"][:4])


def test_bars_are_the_shares(known: tuple[Known, Saliency]) -> None:
    _, s = known
    for axes, kind in zip(pictures.draw_face_weights(s).axes, ("counts", "times"), strict=True):
        lengths = [bar.get_width() for bar in axes.patches]
        np.testing.assert_allclose(lengths, 100 * s.face_shares(kind)["energy"])


def test_a_page_by_face_and_a_map_for_each_output(known: tuple[Known, Saliency], tmp_path: Path) -> None:
    _, s = known
    assert pictures.save_saliency(tmp_path / "saliency.pdf", s) == 3
    assert (tmp_path / "saliency.pdf").read_bytes().startswith(b"%PDF")
    faces, maps, page = pictures.saliency_figures(s)
    dots = np.array([line.get_ydata()[0] for line in faces.axes[0].lines])
    np.testing.assert_allclose(dots, s.by_face("counts")[0])
    np.testing.assert_allclose(maps.axes[0].images[0].get_array(), s.maps[0, 0, ::-1])
    drawn = np.concatenate([c.get_array() for c in page.axes[1].collections if c.get_array() is not None])
    np.testing.assert_allclose(np.sort(drawn), np.sort(s.times[0, s.measured]))
