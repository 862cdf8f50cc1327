"""The regression job's own part: what is fitted, the loss, and the metrics of a validation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from tests.test_models import ALL, inputs
from xecml.data.batch import Batch
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.inference.line_fit import integral
from xecml.models.networks.compact import tiny
from xecml.models.normalise import ABSOLUTE_DEFAULTS, Normaliser
from xecml.models.regressor import SENSORS_SEEN, Regressor
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.training.processes.devices import make_fabric
from xecml.training.regression_job import (
    Regression,
    RegressionLoss,
    TrainingStep,
    fit_targets,
    peaks,
    resolution_metrics,
    validate,
)

TINY = shipped()["tiny"].path


@pytest.fixture(scope="module")
def events() -> dict[str, np.ndarray]:
    return point_sources(300, seed=5, dead=0.02)


@pytest.fixture(scope="module")
def truth(events: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {t: torch.from_numpy(events[TASKS[t].truth]).reshape(300, -1) for t in ALL}


def test_events_without_a_measurement_do_not_touch_what_is_fitted_or_learnt(
    events: dict[str, np.ndarray], truth: dict[str, torch.Tensor]
) -> None:
    """Means, widths and anchors are those of the others, and such events have no part in loss and gradient."""
    holed = {name: events[name].copy() for name in ("npho", "time")}
    holed["npho"][:40], holed["time"][40:70] = 1e10, np.nan
    batches, networks = [], []
    for rows, arrays in ((slice(0, 300), holed), (slice(40, 300), holed), (slice(70, 300), events)):
        n, t, valid, timed = inputs(arrays["npho"][rows], arrays["time"][rows])
        number = torch.arange(len(n))
        batches.append(Batch(n, t, valid, timed, {k: y[rows] for k, y in truth.items()}, number, number))
        torch.manual_seed(0)
        networks.append(Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL))
        fit_targets(networks[-1], [batches[-1]])
    for name, buffer in networks[0].named_buffers():
        if name != SENSORS_SEEN:
            torch.testing.assert_close(buffer, networks[1].get_buffer(name), rtol=1e-5, atol=1e-12, msg=name)
    for part in ("width", "truth_mean"):
        of_time = (network.get_buffer(f"timing_{part}") for network in (networks[0], networks[2]))
        # events without times share in the standardisation of the numbers, and so a little in the fit
        torch.testing.assert_close(*of_time, rtol=0.1 if part == "width" else 1e-3, atol=1e-12)
    step = TrainingStep(networks[0], RegressionLoss(load_config(TINY)))
    gradients = []
    for batch in (batches[0], replace(batches[0], truth={k: y.clone() for k, y in batches[0].truth.items()})):
        if gradients:
            for task, y in batch.truth.items():
                y[: 70 if task == "timing" else 40] += 1e3
        networks[0].zero_grad()
        total, _ = step(batch)
        total.backward()
        gradients.append([p.grad.clone() for p in networks[0].parameters() if p.grad is not None])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_a_task_that_nothing_is_measured_for_is_refused(
    events: dict[str, np.ndarray], truth: dict[str, torch.Tensor]
) -> None:
    number = torch.arange(300)
    for branch, message in (
        ("time", "No training event has a valid time, so that 'timing'"),
        ("npho", "a valid count"),
    ):
        n, t, valid, timed = inputs(
            *(np.full_like(events[b], 1e10) if b == branch else events[b] for b in ("npho", "time"))
        )
        network = Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL)
        with pytest.raises(InputError, match=message):
            fit_targets(network, [Batch(n, t, valid, timed, truth, number, number)])
    n, t, valid, timed = (x[:1] for x in inputs(events["npho"], events["time"]))
    with pytest.raises(InputError, match="only one training event"):
        fit_targets(network, [Batch(n, t, valid, timed, {k: y[:1] for k, y in truth.items()}, number[:1], number[:1])])


# ----------------------------------------------------------------------------------------------------- validation


def batch_of(events: dict[str, np.ndarray], truth: dict[str, torch.Tensor], rows: slice) -> Batch:
    n, t, valid, timed = inputs(events["npho"][rows], events["time"][rows])
    number = torch.arange(len(n))
    return Batch(n, t, valid, timed, {k: y[rows] for k, y in truth.items()}, number, number)


def test_a_validation_is_that_of_the_events_that_can_be_answered(
    events: dict[str, np.ndarray], truth: dict[str, torch.Tensor]
) -> None:
    """In any batches: losses and resolutions are those without the others, and the time is judged by its own."""
    torch.manual_seed(0)
    network = Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL)
    fit_targets(network, [batch_of(events, truth, slice(0, 300))])
    loss, fabric = RegressionLoss(load_config(TINY)), make_fabric(load_config(TINY, ["training.accelerator=cpu"]))
    holed = {name: events[name].copy() for name in ("npho", "time")}
    holed["npho"][:20], holed["time"][20:50] = 0.0, 1e10
    batches = [batch_of(holed, truth, rows) for rows in (slice(0, 64), slice(64, 300))]
    found, _ = validate(network, loss, batches, fabric)
    answerable, _ = validate(network, loss, [batch_of(holed, truth, slice(20, 300))], fabric)
    timed, _ = validate(network, loss, [batch_of(holed, truth, slice(50, 300))], fabric)
    assert all(math.isfinite(value) for value in found.values())
    for name, value in found.items():
        expected = timed[name] if "timing" in name else answerable[name]
        if name != "loss":
            assert value == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert found["loss"] == pytest.approx(sum(found[f"loss_{task}"] for task in ALL), rel=1e-6)
    blank = batch_of({"npho": np.full_like(events["npho"], np.nan), "time": events["time"]}, truth, slice(0, 9))
    with pytest.raises(InputError, match="No validation event has a valid count, so that 'angle' cannot be judged"):
        validate(network, loss, [blank], fabric)
    dark = batch_of({"npho": events["npho"], "time": np.full_like(events["time"], 1e10)}, truth, slice(0, 9))
    with pytest.raises(InputError, match="No validation event has a valid time, so that 'timing' cannot be judged"):
        validate(network, loss, [dark], fabric)


def test_names_of_metrics_end_in_their_unit() -> None:
    """But for the biases and rms of angles, which have none, as users' tables know them."""
    rng = np.random.default_rng(1)
    shapes = {"angle": (50, 2), "energy": (50, 1), "timing": (50, 1), "uvwFI": (50, 3)}
    truth = {task: rng.normal(size=shape) for task, shape in shapes.items()}
    answers = {task: y + rng.normal(size=y.shape) for task, y in truth.items()}
    answers["energy"][:7] = np.nan
    found = resolution_metrics(answers, truth)
    assert set(found) == {
        "theta_bias", "theta_rms", "theta_skew", "theta_s68_deg", "phi_bias", "phi_rms", "phi_skew", "phi_s68_deg",
        "energy_bias_MeV", "energy_s68_MeV", "timing_bias_ps", "timing_s68_ps", "u_bias_mm", "u_s68_mm", "v_bias_mm",
        "v_s68_mm", "w_bias_mm", "w_s68_mm", "val_resolution_deg",
    }  # fmt: skip
    difference = (answers["energy"] - truth["energy"])[7:, 0] * 1e3
    assert found["energy_bias_MeV"] == pytest.approx(difference.mean())


# ---------------------------------------------------------------------------------------------------- peak at the truth


@pytest.mark.parametrize("more", [{}, {"linear_path": True}], ids=["a factor on the light", "a sum"])
def test_answers_and_widths_are_scaled(
    more: dict[str, bool], events: dict[str, np.ndarray], truth: dict[str, torch.Tensor]
) -> None:
    torch.manual_seed(0)
    network = Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL, with_sigma=["energy"], **more)
    fit_targets(network, [batch_of(events, truth, slice(0, 300))])
    one = inputs(events["npho"], events["time"])
    before = network.eval()(*one)
    network.scale("energy", 0.97)
    after = network(*one)
    for name, answers in before.items():
        factor = 0.97 if name in ("energy", "sigma_energy") else 1.0
        torch.testing.assert_close(after[name], factor * answers, rtol=2e-5, atol=1e-6)


def test_the_model_to_use_has_the_peak_of_its_energies_at_the_truth() -> None:
    """Of answers with a tail to one side; the model that is trained on is not touched, and few events say nothing."""
    rng = np.random.default_rng(2)
    energy = rng.uniform(0.02, 0.06, (40_000, 1))
    grid = np.linspace(0.6, 1.2, 5000)
    cumulated = integral(grid, 1.007, 0.02, 0.7)
    ratio = np.interp(rng.uniform(cumulated[0], cumulated[-1], energy.shape), cumulated, grid)
    found = peaks({"energy": ratio * energy}, {"energy": energy})
    assert found == {"energy_peak_percent": pytest.approx(0.7, abs=0.06)}
    assert np.median(ratio) < 1.004  # the middle lies below the peak
    assert peaks({"energy": (ratio * energy)[:99]}, {"energy": energy[:99]}) == {}
    assert peaks({"energy": np.full((300, 1), np.nan)}, {"energy": energy[:300]}) == {}
    job = Regression(load_config(TINY))
    used = job.in_use(job.model, found)
    assert isinstance(used, Regressor)
    factor = 1 / (1 + found["energy_peak_percent"] / 100)
    assert float(used.get_buffer("energy_width")) == pytest.approx(factor * float(job.model.get_buffer("energy_width")))
    assert float(job.model.get_buffer("energy_width")) == 1.0
    for unsure in ({}, {"energy_peak_percent": math.nan}, {"energy_peak_percent": -40.0}):
        assert float(job.in_use(job.model, unsure).get_buffer("energy_width")) == 1.0


def test_a_single_event_has_no_widths() -> None:
    job = Regression(load_config(TINY))
    one = {task: np.ones((1, TASKS[task].size)) for task in ALL}
    line = job.summary(resolution_metrics(one, one))
    assert line == "opening angle 0.00 deg, u v w - - - mm, energy - MeV, time - ps"
