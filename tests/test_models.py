"""The quick look and the regressor: physics that holds before any training."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import geometry
from xecml.data.batch import Batch
from xecml.errors import InputError
from xecml.evaluation.metrics import pull
from xecml.events import TASKS, relative_quantities
from xecml.inference.export import TOLERANCE, export
from xecml.models.build import build_regressor
from xecml.models.networks.compact import PRESETS, tiny
from xecml.models.networks.quick_look import N_FEATURES, QuickLook
from xecml.models.networks.sensor_sums import face_sums, mean_around
from xecml.models.normalise import ABSOLUTE_DEFAULTS, Normaliser, validity
from xecml.models.regressor import Regressor
from xecml.recipes import load_config
from xecml.training import checkpoint_writing
from xecml.training.regression_job import RegressionLoss

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
    network.fit_targets(look.features, look.event_time, truth)
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


@pytest.mark.parametrize("side", [3, 7])
def test_means_over_squares_are_those_of_the_librarys_pooling(side: int) -> None:
    grid = torch.rand((5, 1, 93, 44), generator=torch.Generator().manual_seed(3))
    pooled = torch.nn.functional.avg_pool2d(grid, side, 1, side // 2)
    torch.testing.assert_close(mean_around(grid, side), pooled, rtol=1e-5, atol=0)


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


LAYOUTS = {
    "tiny": ["model.preset=tiny"],
    "compact": ["model.preset=compact"],
    "tiny, relative": ["model.preset=tiny", "data.npho_branch=relative_npho", "data.time_branch=relative_time"],
    "reference": ["model.preset=reference"],
    "original": ["model.layout=original", "data.npho_branch=relative_npho", "data.time_branch=relative_time"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_event_without_a_measurement_has_no_answer(layout: str, events: dict[str, np.ndarray]) -> None:
    """In use NaN: everything without a count, the time alone without times; in training numbers."""
    relative = "data.npho_branch=relative_npho" in LAYOUTS[layout]
    heads = HEADS if not relative else [h for h in HEADS if h.split(".")[1][:6] not in ("energy", "timing")]
    off = [f"tasks.{task}.enabled=false" for task in ("energy", "timing")] if relative else []
    torch.manual_seed(0)
    network = build_regressor(load_config(None, [*LAYOUTS[layout], *off, *heads, "model.hidden_dim=8"]))
    npho, time = (events[name][:6].copy() for name in ("npho", "time"))
    if relative:
        npho, time = (x.astype(np.float32) for x in relative_quantities(npho, time))
    for event, nothing in enumerate((1e10, 0.0, np.nan)):
        npho[event] = nothing
    npho[3, : geometry.N_SIPM] = 1e10  # some are left
    time[4] = 1e10
    with torch.no_grad():
        answers, kept = network.eval()(*inputs(npho, time)), network.train()(*inputs(npho, time))
    assert set(answers) == set(network.outputs())
    for name, values in answers.items():
        lost = np.array([True, True, True, False, name.removeprefix("sigma_") == "timing", False])
        answered = values.isfinite().reshape(6, -1)
        assert answered.all(1).tolist() == answered.any(1).tolist() == (~lost).tolist(), name
        assert kept[name].isfinite().all()


def test_a_target_that_does_not_vary_is_refused(events: dict[str, np.ndarray], truth: dict[str, torch.Tensor]) -> None:
    network = Regressor(tiny(Normaliser(**ABSOLUTE_DEFAULTS)), ALL)
    look = network.encoder.look(*inputs(events["npho"], events["time"]))
    constant = truth | {"energy": torch.full((300, 1), 0.0528)}
    with pytest.raises(InputError, match="'energy' has the same truth"):
        network.fit_targets(look.features, look.event_time, constant)


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
    torch.testing.assert_close(face_sums(values), wanted)


# ---------------------------------------------------------------------------- every preset and every kind of head

# a head of every task, with widths where a task can have them
HEADS = [
    f"tasks.{t}={{enabled: true, loss_fn: {'cross_entropy' if t == 'n_gamma' else 'gaussian_nll'}}}" for t in TASKS
]
PARAMETERS = {"tiny": 176_744, "compact": 4_243_776, "base": 7_689_936, "large": 14_186_592}
SIZES = [pytest.param(p, marks=() if p in ("tiny", "compact") else pytest.mark.slow) for p in PRESETS]


def every_head(preset: str, sample: dict[str, np.ndarray]) -> Regressor:
    """A model whose every layer does something: those that begin at zero are set to random numbers too."""
    torch.manual_seed(0)
    network = build_regressor(load_config(None, [f"model.preset={preset}", *HEADS]))
    look = network.encoder.look(*inputs(sample["npho"], sample["time"]))
    events = len(look.light_time)
    truth = {t: torch.from_numpy(sample[info.truth]).reshape(events, -1) for t, info in TASKS.items()}
    truth["n_gamma"] = truth["n_gamma"] + torch.arange(events)[:, None] % 2
    network.fit_targets(look.features, look.event_time, truth)
    for view in (network.encoder.window, network.encoder.surroundings):  # type: ignore[attr-defined]
        view[-1].reset_parameters()
        view[-1].weight.data /= getattr(view[-1], "scale", 1.0)
    for task in network.with_sigma:
        network.widen(task, [1.3])
    return network.eval()


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    """Enough events to fit anchors of some eighty numbers."""
    return point_sources(2000, seed=6, dead=0.02)


def apart(network: Regressor, one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference of each answer, in widths of its target."""
    widths = {name: network.get_buffer(f"{name.removeprefix('sigma_')}_width") for name in network.outputs()}
    return {name: float(((one[name] - two[name]) / widths[name].squeeze()).abs().max()) for name in widths}


def test_presets_have_their_sizes() -> None:
    sizes = {
        name: sum(p.numel() for p in make(Normaliser(**ABSOLUTE_DEFAULTS)).parameters())
        for name, make in PRESETS.items()
    }
    assert sizes == PARAMETERS


@pytest.mark.parametrize("preset", SIZES)
def test_sixteen_bits_agree_for_every_head(preset: str, sample: dict[str, np.ndarray]) -> None:
    network, x = every_head(preset, sample), inputs(sample["npho"][:32], sample["time"][:32])
    with torch.no_grad():
        exact = network(*x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(*x)
    assert set(exact) == {*TASKS, *(f"sigma_{t}" for t in TASKS if t != "n_gamma")}
    assert all(a.isfinite().all() and a.dtype == torch.float32 for a in rough.values())
    differences = apart(network, exact, rough)
    assert max(differences.values()) < 0.02, differences
    assert max(differences.values()) > 1e-5  # it did run in 16 bits


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name == "compact" else pytest.mark.long) for name in PRESETS]
)
def test_every_head_is_exported(preset: str, sample: dict[str, np.ndarray], tmp_path: Path) -> None:
    network = every_head(preset, sample)
    recipe = load_config(None, [f"model.preset={preset}", *HEADS]).model_dump(mode="json")
    checkpoint_writing.save(
        tmp_path / "c.pth", {"kind": "regress", "config": recipe, "ema_state": network.state_dict()}
    )
    report = export(tmp_path / "c.pth", tmp_path / "m.onnx")
    assert report.tasks == tuple(TASKS)
    assert max(report.largest_difference.values()) < TOLERANCE  # sigmas too, at batches of 1, 2, 7


@pytest.mark.slow
@pytest.mark.long  # a compiler of C++ takes minutes for every head; that it is one graph is tested below
@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)
@pytest.mark.parametrize("preset", ["tiny", "compact"])
def test_compiled_is_the_same_for_every_head(preset: str, sample: dict[str, np.ndarray]) -> None:
    network, x = every_head(preset, sample), inputs(sample["npho"][:4], sample["time"][:4])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        # one graph, or an error: nothing in a forward pass falls back to Python
        compiled = torch.compile(network, dynamic=False, fullgraph=True)
        differences = apart(network, compiled(*x), network(*x))
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", [name if name == "tiny" else pytest.param(name, marks=pytest.mark.long) for name in PRESETS]
)
def test_a_training_step_is_one_graph(preset: str, sample: dict[str, np.ndarray]) -> None:
    """Forward and backward are traced whole, and give the gradients of the plain way."""
    network, x = every_head(preset, sample).train(), inputs(sample["npho"][:4], sample["time"][:4])
    found = []
    for forward in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        network.zero_grad()
        sum(a.square().sum() for a in forward(*x).values()).backward()  # type: ignore[union-attr]
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == dict(network.named_parameters()).keys()
    for name, gradient in found[0].items():
        assert float((found[1][name] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-12, name


def test_positions_of_a_survey_are_loaded_with_the_weights(sample: dict[str, np.ndarray]) -> None:
    """A model that knows only ideal positions answers with those of a checkpoint, in everything that needs them."""
    surveyed = torch.tensor(geometry.positions(), dtype=torch.float32) + torch.tensor([0.2, -0.1, 0.3])
    here, there = tiny(Normaliser(**ABSOLUTE_DEFAULTS), positions=surveyed), tiny(Normaliser(**ABSOLUTE_DEFAULTS))
    x = inputs(sample["npho"][:8], sample["time"][:8])
    with torch.no_grad():
        before = there.look(*x)
        there.load_state_dict(here.state_dict())
        one, other = here.look(*x), there.look(*x)
    for name, value in one._asdict().items():
        torch.testing.assert_close(getattr(other, name), value, rtol=0, atol=0, msg=name)
    assert not torch.equal(before.residuals, other.residuals)
    assert not torch.equal(before.expected, other.expected)


@pytest.mark.slow
def test_trained_sigmas_are_right() -> None:
    """A short training of heads that say how sure they are: pulls on other events have width 1."""
    train, test = point_sources(4000, seed=41), point_sources(1000, seed=42)
    torch.manual_seed(0)
    heads = [f"tasks.{t}={{enabled: true, loss_fn: gaussian_nll}}" for t in ("energy", "timing", "uvwFI")]
    config = load_config(None, ["model.preset=tiny", "tasks.angle.enabled=false", "model.hidden_dim=32", *heads])
    network, loss = build_regressor(config), RegressionLoss(config)

    def batch(events: dict[str, np.ndarray], rows: torch.Tensor) -> Batch:
        n, t = (torch.from_numpy(events[k])[rows] for k in ("npho", "time"))
        truth = {k: torch.from_numpy(events[TASKS[k].truth]).reshape(-1, TASKS[k].size)[rows] for k in network.tasks}
        return Batch(n, t, *validity(n, t), truth, rows, rows)

    whole = batch(train, torch.arange(4000))
    look = network.encoder.look(*whole.inputs())
    network.fit_targets(look.features, look.event_time, whole.truth)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=5 * 32)
    for _ in range(5):
        for rows in torch.randperm(4000).split(125):
            part = batch(train, rows)
            loss(network, network(*part.inputs()), part)[0].backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    other = batch(test, torch.arange(1000))
    with torch.no_grad():
        answers = network.eval()(*other.inputs())
    for task in network.tasks:
        off = answers[task].reshape(1000, -1) - other.truth[task]
        for component in (off / answers[f"sigma_{task}"].reshape(1000, -1)).T:
            p = pull(component.numpy())
            assert p.figures.s68 == pytest.approx(1.0, abs=0.15), task
            assert p.coverage_95 == pytest.approx(0.95, abs=0.04), task
