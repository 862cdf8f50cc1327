"""The quick look and the regressor: physics that holds before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import geometry
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.models.compact import tiny
from xecml.models.normalise import ABSOLUTE_DEFAULTS, Normaliser, validity
from xecml.models.quicklook import N_FEATURES, QuickLook, _face_sums
from xecml.models.regressor import Regressor

ALL = ("angle", "energy", "timing", "uvwFI")
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(npho: np.ndarray, time: np.ndarray) -> Inputs:
    n, t = torch.from_numpy(npho), torch.from_numpy(time)
    return n, t, *validity(n, t)


@pytest.fixture(scope="module")
def events() -> dict[str, np.ndarray]:
    return point_sources(300, seed=5, dead=0.02)


@pytest.fixture(scope="module")
def truth(events: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {t: torch.from_numpy(events[TASKS[t].truth]).reshape(300, -1) for t in ALL}


@pytest.fixture(scope="module")
def model(events: dict[str, np.ndarray], truth: dict[str, torch.Tensor]) -> Regressor:
    torch.manual_seed(0)
    network = Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL).eval()
    look = network.encoder.look(*inputs(events["npho"], events["time"]))
    network.fit_targets(look.features, look.light_time, truth)
    return network


def test_the_quick_look_finds_the_source(events: dict[str, np.ndarray]) -> None:
    look = QuickLook()(*inputs(events["npho"], events["time"]))
    assert look.features.shape == (300, N_FEATURES)
    assert look.features.isfinite().all()
    u, v, w = events["uvwTruth"].T
    assert np.median(np.abs(look.features[:, 0].numpy() * 10 - u)) < 0.3
    assert np.median(np.abs(look.features[:, 1].numpy() * 30 - v)) < 0.3
    assert np.corrcoef(look.features[:, 2], w)[0, 1] > 0.95
    travel = look.light_time.numpy() - events["timeTruth"]
    assert (travel > 0).all()  # light arrives later than the photon, by some decimetres at 8 cm/ns
    assert (travel < 8e-9).all()


def test_residual_times_of_bright_sensors_are_narrow(events: dict[str, np.ndarray]) -> None:
    """Less the light's travel, the times of bright sensors agree to their own noise."""
    n, t, valid, timed = inputs(events["npho"], events["time"])
    look = QuickLook()(n, t, valid, timed)
    bright = valid & (look.counts > 4000)
    centred = look.residuals - (look.residuals * bright).sum(1, keepdim=True) / bright.sum(1, keepdim=True).clamp_min(1)
    assert float(centred[bright].std()) < 0.4
    raw = (t * 1e9 - t.where(bright, 0).sum(1, keepdim=True) * 1e9 / bright.sum(1, keepdim=True).clamp_min(1))[bright]
    assert float(centred[bright].std()) < 0.7 * float(raw.std())


def test_dead_sensors_do_not_move_the_quick_look(events: dict[str, np.ndarray]) -> None:
    whole = point_sources(100, seed=9)
    holed = point_sources(100, seed=9, dead=0.03)
    a, b = (QuickLook()(*inputs(e["npho"], e["time"])) for e in (whole, holed))
    assert float((a.counts.sum(1) / b.counts.sum(1) - 1).abs().median()) < 0.02
    assert float((a.features[:, :2] - b.features[:, :2]).abs().median()) < 0.01


def test_answers_are_physical(model: Regressor, events: dict[str, np.ndarray]) -> None:
    """Untrained, the linear anchor alone is already a fair reconstruction; units are those of files."""
    with torch.no_grad():
        for head in model.heads.values():
            head[-1].weight.zero_()  # type: ignore[operator, union-attr, index]
            head[-1].bias.zero_()  # type: ignore[operator, union-attr, index]
        answers = model(*inputs(events["npho"], events["time"]))
    shapes = {"angle": (300, 2), "energy": (300,), "timing": (300,), "uvwFI": (300, 3)}
    assert {t: tuple(a.shape) for t, a in answers.items()} == shapes
    assert np.median(np.abs(answers["uvwFI"].numpy() - events["uvwTruth"]), axis=0).max() < 0.5
    assert np.median(np.abs(answers["energy"].numpy() - events["energyTruth"])) < 0.002
    assert np.median(np.abs(answers["timing"].numpy() - events["timeTruth"])) < 1e-10
    assert np.median(np.abs(answers["angle"].numpy() - events["emiAng"]), axis=0).max() < 1


def test_time_is_equivariant(model: Regressor, events: dict[str, np.ndarray]) -> None:
    later = np.where(events["time"] < 1, events["time"] + np.float32(3e-8), events["time"])
    with torch.no_grad():
        one = model(*inputs(events["npho"], events["time"]))
        two = model(*inputs(events["npho"], later))
    # float32 resolves 2e-15 s at 4e-8 s
    np.testing.assert_allclose(two["timing"] - one["timing"], 3e-8, atol=5e-14)
    np.testing.assert_allclose(two["uvwFI"], one["uvwFI"], atol=2e-3)


def test_hidden_sensors_enter_exactly_as_dead_ones(model: Regressor, events: dict[str, np.ndarray]) -> None:
    n, t, valid, timed = inputs(events["npho"], events["time"])
    hide = torch.rand(n.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    dead = torch.where(hide, torch.tensor(float("nan")), n)
    with torch.no_grad():
        hidden = model(n, t, valid & ~hide, timed & ~hide)
        never = model(dead, t, *validity(dead, t))
    for task in ALL:
        assert torch.equal(hidden[task], never[task])


def test_an_event_without_light_gives_finite_answers(model: Regressor) -> None:
    with torch.no_grad():
        answers = model(*inputs(np.full((2, 4760), 1e10, np.float32), np.full((2, 4760), 1e10, np.float32)))
    assert all(a.isfinite().all() for a in answers.values())


def test_a_target_that_does_not_vary_is_refused(events: dict[str, np.ndarray], truth: dict[str, torch.Tensor]) -> None:
    network = Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL)
    look = network.encoder.look(*inputs(events["npho"], events["time"]))
    constant = truth | {"energy": torch.full((300, 1), 0.0528)}
    with pytest.raises(InputError, match="'energy' has the same truth"):
        network.fit_targets(look.features, look.light_time, constant)


def test_gradients_reach_every_parameter(model: Regressor, events: dict[str, np.ndarray]) -> None:
    torch.manual_seed(1)
    fresh = Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL)
    answers = fresh(*inputs(events["npho"][:8], events["time"][:8]))
    sum(a.square().sum() for a in answers.values()).backward()  # type: ignore[union-attr]
    # the last layers of two views start from zero, so that what feeds them has no gradient in the first step
    asleep = {n for n, p in fresh.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    assert all(n.startswith(("encoder.window.", "encoder.surroundings.")) for n in asleep), asleep
    torch.optim.SGD(fresh.parameters(), lr=1e-3).step()
    answers = fresh(*inputs(events["npho"][:8], events["time"][:8]))
    sum(a.square().sum() for a in answers.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fresh.parameters())


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="Cannot predict"):
        Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ["energie"])


def test_face_sums_follow_the_face_codes() -> None:
    values = torch.rand(3, geometry.N_SENSORS, dtype=torch.float64)
    wanted = torch.stack([values[:, torch.from_numpy(geometry.face_sensors(f))].sum(1) for f in geometry.FACES], 1)
    torch.testing.assert_close(_face_sums(values), wanted)
