"""Losses, schedule, optimiser groups, checkpoints, and a run from beginning to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.conftest import point_sources
from xecml import rootio
from xecml.config import Config
from xecml.errors import InputError
from xecml.inference import checkpoint_reading
from xecml.inference.trained_model import load_model
from xecml.models.build import build_regressor
from xecml.models.ridge import Ridges
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.training import checkpoint_writing, loop, losses, regression_job
from xecml.training.learning_rate import learning_rate, parameter_groups
from xecml.training.losses import distance as loss_per_event
from xecml.training.weight_average import WeightAverage

TINY = shipped()["tiny"].path


def recipe(sample: Path, out: Path, *settings: str) -> Config:
    paths = {"data.train_path": str(sample / "train.root"), "data.val_path": str(sample / "val.root")}
    return load_config(TINY, settings, paths | {"checkpoint.save_dir": str(out)})


def test_losses_have_their_textbook_values() -> None:
    d = torch.tensor([[0.5], [-2.0], [0.0]])
    assert loss_per_event("l1", d).tolist() == [0.5, 2.0, 0.0]
    assert loss_per_event("mse", d).tolist() == [0.25, 4.0, 0.0]
    for beta in (0.3, 1.0, 2.5):
        for name, theirs in (
            ("smooth_l1", torch.nn.functional.smooth_l1_loss),
            ("huber", torch.nn.functional.huber_loss),
        ):
            keyword = {"beta": beta} if name == "smooth_l1" else {"delta": beta}
            wanted = theirs(d, torch.zeros_like(d), reduction="none", **keyword)[:, 0]
            torch.testing.assert_close(loss_per_event(name, d, beta), wanted)
    with pytest.raises(InputError, match="Unknown loss"):
        loss_per_event("l3", d)


def test_schedule_warms_up_and_falls_as_half_a_cosine() -> None:
    rate = {"epochs": 10.0, "lr_max": 1.0, "lr_min": 0.1, "warmup_epochs": 2.0}
    assert learning_rate(0, **rate) == pytest.approx(0.01)
    assert learning_rate(1, **rate) == pytest.approx(0.505)
    assert learning_rate(2, **rate) == pytest.approx(1)
    assert learning_rate(6, **rate) == pytest.approx(0.55)
    assert learning_rate(10, **rate) == pytest.approx(0.1)
    assert learning_rate(12, **rate) == pytest.approx(0.1)
    assert learning_rate(6, **rate, cosine=False) == 1


def test_only_matrices_decay() -> None:
    model = build_regressor(load_config(TINY))
    decayed, free = parameter_groups(model, 0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    assert all(names[id(p)].endswith("weight") and p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_an_encoder_can_learn_more_slowly(sample: Path, tmp_path: Path) -> None:
    model = build_regressor(load_config(TINY))
    groups = parameter_groups(model, 0.1, encoder_scale=0.2)
    names = {id(p): n for n, p in model.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(names)
    for group in groups:
        assert {names[id(p)].startswith("encoder.") for p in group["params"]} == {group["lr_scale"] == 0.2}
    frozen = loop.train(
        recipe(sample, tmp_path, "training.encoder_lr_scale=0", "training.epochs=1"), name="frozen", quiet=True
    )
    start = build_regressor(load_config(TINY))
    weights = checkpoint_reading.load(frozen.best)["model_state"]
    last = f"encoder.window.{len(start.encoder.window) - 1}.weight"
    # the last layer of a view begins at zero, and stays there
    assert torch.equal(weights[last], start.state_dict()[last])


@pytest.fixture(scope="module")
def run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> loop.Result:
    return loop.train(recipe(sample, tmp_path_factory.mktemp("runs")), name="one", quiet=True)


def test_a_run_leaves_checkpoints_and_metrics(run: loop.Result) -> None:
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "checkpoint_best.pth",
        "checkpoint_last.pth",
        "metrics.jsonl",
    ]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for name in ("train/loss", "train/loss_angle", "train/lr", "train/grad_norm", "val/loss", "val/loss_timing",
                 "val/theta_bias", "val/theta_rms", "val/theta_skew", "val/phi_bias", "val/val_resolution_deg",
                 "val/u_s68_mm", "val/energy_s68_MeV", "val/timing_s68_ps", "system/throughput_events_per_sec",
                 "system/compute_efficiency", "system/avg_data_load_sec", "system/epoch_duration_sec"):  # fmt: skip
        assert all(np.isfinite(line[name]) for line in lines), name
    assert lines[1]["train/loss"] < lines[0]["train/loss"]


@pytest.mark.slow
def test_validation_can_be_rarer(sample: Path, tmp_path: Path) -> None:
    result = loop.train(
        recipe(sample, tmp_path, "training.epochs=3", "training.validate_every=2"), name="rare", quiet=True
    )
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert ["val/loss" in line for line in lines] == [False, True, True]
    assert all("train/loss" in line for line in lines)
    assert checkpoint_reading.load(result.best)["best"] == min(line["val/loss"] for line in lines[1:])


def test_training_learns_point_sources(run: loop.Result) -> None:
    """Even the toy finds a point source: position to millimetres, energy to a few percent, time to tens of ps."""
    assert run.metrics["val/u_s68_mm"] < 5
    assert run.metrics["val/energy_s68_MeV"] < 2
    assert run.metrics["val/timing_s68_ps"] < 60


def test_the_best_checkpoint_has_the_lowest_validation_loss(run: loop.Result) -> None:
    content = checkpoint_reading.load(run.best)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert content["best"] == min(line["val/loss"] for line in lines)
    assert content["tasks"] == ["angle", "energy", "timing", "uvwFI"]
    assert Config.model_validate(content["config"]).training.epochs == 2


def test_the_average_is_an_exponential_one(run: loop.Result) -> None:
    """0.9 a step over 24 steps: the averaged weights lag behind, and buffers agree."""
    content = checkpoint_reading.load(run.folder / "checkpoint_last.pth")
    assert content["ema_updates"] == 24
    same = [torch.equal(content["ema_state"][k], v) for k, v in content["model_state"].items() if "_width" in k]
    assert all(same)
    key = "encoder.numbers.weight"
    assert not torch.equal(content["ema_state"][key], content["model_state"][key])


def test_a_run_is_reproducible(run: loop.Result, sample: Path, tmp_path: Path) -> None:
    again = loop.train(recipe(sample, tmp_path), name="one", quiet=True)
    one, two = (checkpoint_reading.load(r.folder / "checkpoint_last.pth") for r in (run, again))
    assert all(torch.equal(two["model_state"][k], v) for k, v in one["model_state"].items())


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(run: loop.Result, sample: Path, tmp_path: Path) -> None:
    config = recipe(sample, tmp_path, "checkpoint.save_interval=1")
    loop.train(config, name="one", quiet=True)
    resumed = recipe(sample, tmp_path, f"checkpoint.resume_from={tmp_path}/one/checkpoint_epoch_1.pth")
    loop.train(resumed, name="one", quiet=True)
    one, two = (checkpoint_reading.load(folder / "checkpoint_last.pth") for folder in (run.folder, tmp_path / "one"))
    for part in ("model_state", "ema_state"):
        assert all(torch.equal(two[part][k], v) for k, v in one[part].items())
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


@pytest.mark.parametrize("bad", [(17,), None])
def test_a_nan_loss_stops_the_run_and_names_events(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: tuple[int, ...] | None
) -> None:
    """The event alone where it is one, and some of the batch where it is all; before anything is spoilt by it."""
    original = regression_job.RegressionLoss.forward

    def poisoned(self: Any, model: Any, answers: Any, batch: Any) -> Any:
        total, parts = original(self, model, answers, batch)
        poison = bad is None or np.isin(batch.event.numpy(), bad).any()
        return total * (float("nan") if poison else 1.0), parts

    monkeypatch.setattr(regression_job.RegressionLoss, "forward", poisoned)
    named = r"for run/event 1/17; " if bad else r"for a batch with run/event (1/\d+, ){7}1/\d+ and \d+ more; "
    with pytest.raises(FloatingPointError, match=named + "look at these events with 'xec check'"):
        loop.train(recipe(sample, tmp_path, "data.num_workers=0"), name="nan", quiet=True)


def test_a_gradient_that_is_no_number_stops_the_run_too(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = regression_job.RegressionLoss.forward

    def steep(self: Any, model: Any, answers: Any, batch: Any) -> Any:
        total, parts = original(self, model, answers, batch)
        return total + (total - total.detach()).sqrt(), parts  # of a zero

    monkeypatch.setattr(regression_job.RegressionLoss, "forward", steep)
    with pytest.raises(FloatingPointError, match=r"The gradient is not finite for events with run/event 1/\d+"):
        loop.train(recipe(sample, tmp_path), name="steep", quiet=True)


def test_an_early_end_is_an_end(sample: Path, tmp_path: Path) -> None:
    """Weights that do not move make no better epoch; what a finished run leaves is left all the same."""
    still = (
        "training.lr=1e-30",
        "training.lr_min=0",
        "training.early_stop_epochs=1",
        "checkpoint.best_metric=phi_s68_deg",
    )
    result = loop.train(recipe(sample, tmp_path, *still, "training.epochs=9"), name="still", quiet=True)
    assert (result.stopped, result.metrics["epoch"]) == (None, 2)


def test_a_wrong_best_metric_costs_no_epoch(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'u_s68_mm'"):
        loop.train(recipe(sample, tmp_path, "checkpoint.best_metric=u_s68_m"), name="x", quiet=True)
    assert not (tmp_path / "x" / "metrics.jsonl").exists()


def test_runs_that_cannot_start_say_why(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data.train_path is not set"):
        loop.train(load_config(None), name="x", quiet=True)
    mono = point_sources(128, seed=8)
    mono["energyTruth"][:] = 0.0528
    rootio.write(tmp_path / "mono.root", mono)
    paths = {"data.train_path": str(tmp_path / "mono.root"), "data.val_path": str(sample / "val.root")}
    with pytest.raises(InputError, match="'energy' has the same truth"):
        loop.train(load_config(TINY, [], paths), name="x", quiet=True)


def test_bad_checkpoints_are_one_sentence(run: loop.Result, sample: Path, tmp_path: Path) -> None:
    def spoiled(name: str, **changes: Any) -> Path:
        torch.save(torch.load(run.best, weights_only=True) | changes, tmp_path / name)
        return tmp_path / name

    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "cut.pth").write_bytes(run.best.read_bytes()[:5000])
    torch.save({"weights": 1}, tmp_path / "other.pth")
    for path, message in (
        (tmp_path / "none.pth", "No such checkpoint"),
        (tmp_path / "text.pth", "cannot be read as a checkpoint"),
        (tmp_path / "cut.pth", "cannot be read as a checkpoint"),
        (tmp_path / "other.pth", "is not a checkpoint of this package"),
        (spoiled("new.pth", format_version=99), "update xecml"),
        (spoiled("geometry.pth", geometry_hash="0" * 16), "was made for sensor geometry 0000"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            checkpoint_reading.load(path)
        assert "\n" not in str(caught.value)
    other = recipe(sample, tmp_path, f"checkpoint.resume_from={run.best}", "model.hidden_dim=16")
    with pytest.raises(InputError, match=r"does not fit the configured model: heads.angle"):
        loop.train(other, name="x", quiet=True)


def test_checkpoints_of_another_versions_network_are_one_sentence(run: loop.Result, tmp_path: Path) -> None:
    content = checkpoint_reading.load(run.best)
    weights = {name: w for name, w in content["ema_state"].items() if name != "encoder.numbers.weight"}
    checkpoint_writing.save(tmp_path / "less.pth", content | {"ema_state": weights})
    with pytest.raises(InputError, match=r"encoder.numbers.weight is missing"):
        load_model(tmp_path / "less.pth")
    older = {**content["config"], "model": {**content["config"]["model"], "wings": 2}}
    checkpoint_writing.save(tmp_path / "older.pth", content | {"config": older})
    with pytest.raises(InputError, match=r"written by xecml .*'model.wings'"):
        load_model(tmp_path / "older.pth")


def test_gaussian_likelihood_is_lowest_at_the_true_width() -> None:
    d = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)) * 2
    values = {s: float(losses.negative_log_likelihood(d, torch.full_like(d, s)).mean()) for s in (1.0, 2.0, 4.0)}
    assert values[2.0] == pytest.approx(0.5 + np.log(2), abs=0.05)
    assert values[2.0] < min(values[1.0], values[4.0])


def test_student_likelihood_gives_the_core_its_width_and_far_events_no_say() -> None:
    """Of Student's t itself its 68 % half-width; one event in twenty far away moves neither width nor place."""
    random = np.random.default_rng(0)
    core = torch.from_numpy(2.0 * random.standard_t(3, 40000)).float()[:, None]
    half_width = float((core.quantile(0.8413) - core.quantile(0.1587)) / 2)

    def best(d: torch.Tensor) -> tuple[float, float]:
        place = torch.zeros(1, requires_grad=True)
        log_sigma = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([place, log_sigma], max_iter=100)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            sigma = torch.exp(log_sigma).expand(len(d), 1)
            loss = losses.student_nll(losses.Compared(place.expand(len(d), 1), d, torch.ones(1), sigma)).mean()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return float(place.detach()), float(torch.exp(log_sigma.detach()))

    place, sigma = best(core)
    assert place == pytest.approx(0, abs=0.05)
    assert sigma == pytest.approx(half_width, rel=0.02)
    far = core.clone()
    far[::20] += 500
    place, sigma = best(far)
    assert place == pytest.approx(0, abs=0.3)
    assert sigma == pytest.approx(half_width, rel=0.25)


def test_opening_angle_loss_is_the_angle_and_has_gradients_everywhere() -> None:
    a = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]], requires_grad=True)
    b = torch.tensor([[1.0, 0, 0], [0, 2, 0], [-1, 0, 0]])
    angle = losses.angle_between(a, b)
    torch.testing.assert_close(angle, torch.tensor([0, np.pi / 2, np.pi], dtype=torch.float32), atol=1e-5, rtol=0)
    angle.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_learned_balance_is_the_documented_sum() -> None:
    parts = {"angle": torch.tensor(2.0), "energy": torch.tensor(8.0)}
    assert float(losses.TaskBalance({"angle": 1.0, "energy": 0.5})(parts)) == 6.0
    learned = losses.TaskBalance({"angle": 1.0, "energy": 0.5}, learned=True)
    assert float(learned(parts).detach()) == 3.0
    assert learned.log_variance is not None
    with torch.no_grad():
        learned.log_variance.copy_(torch.tensor([0.0, np.log(4.0)]))
    assert float(learned(parts).detach()) == pytest.approx(1 + 0.5 + 0.5 * np.log(4))


def test_a_reweighted_run_keeps_its_weights(sample: Path, tmp_path: Path) -> None:
    config = recipe(sample, tmp_path, "reweighting.energy.enabled=true", "training.epochs=1")
    result = loop.train(config, name="flat", quiet=True)
    assert result.reweighting is not None
    state = checkpoint_reading.load(result.best)["reweighting"]
    assert list(state["tables"]) == ["energy"]
    with pytest.raises(InputError, match="switch on tasks.energy"):
        loop.train(recipe(sample, tmp_path, "reweighting.energy.enabled=true", "tasks.energy.enabled=false"), name="x")


@pytest.mark.slow
def test_every_loss_and_answer_trains(sample: Path, tmp_path: Path) -> None:
    """Widths, directions as vectors, learned balance, accumulation: one short run with all of them."""
    settings = (
        "tasks.energy.loss_fn=gaussian_nll",
        "tasks.uvwFI.loss_fn=gaussian_nll",
        "tasks.angle.loss_fn=opening_angle",
        "tasks.angleVec.enabled=true",
        "loss_balance=auto",
        "training.accumulate=2",
        "training.epochs=2",
        "training.early_stop_epochs=1",
        "checkpoint.best_metric=u_s68_mm",
        "augmentation.mirror_z=0.5",
        "augmentation.gain_jitter=0.01",
    )
    result = loop.train(recipe(sample, tmp_path, *settings), name="all", quiet=True)
    content = checkpoint_reading.load(result.best)
    assert content["loss_state"]["balance.log_variance"].abs().sum() > 0
    model = load_model(result.best)
    events = point_sources(16, seed=12)
    answers = model.predict(events["npho"], events["time"])
    widths = {"sigma_energy", "sigma_uvwFI"}
    assert set(answers) == {"angle", "energy", "timing", "uvwFI", "angleVec", "outlier"} | widths
    np.testing.assert_allclose(np.linalg.norm(answers["angleVec"], axis=1), 1, atol=1e-5)
    assert (answers["sigma_uvwFI"] > 0).all()
    pull = (answers["uvwFI"] - events["uvwTruth"]) / answers["sigma_uvwFI"]
    assert 0.2 < np.abs(pull).mean() < 5


def test_the_average_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    ours = WeightAverage(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        ours.update()
        theirs.update_parameters(model)
    pairs = zip(ours.module.parameters(), theirs.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_linear_paths_are_least_squares_judged_on_events_left_out() -> None:
    random = torch.Generator().manual_seed(1)
    x, codes = (torch.randn(60, n, generator=random, dtype=torch.float64) for n in (2, 9))
    x = x + 3  # numbers need not be centred
    y = x @ torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64) + 0.3 * codes[:, :2] + 7
    y = y + 0.2 * torch.randn(60, 2, generator=random, dtype=torch.float64)
    fit = Ridges(x, codes).fit(y)
    assert fit.path is not None
    standard = (codes - codes.mean(0)) / codes.std(0)
    inputs = torch.cat([torch.ones(60, 1, dtype=torch.float64), x, standard], 1)
    errors = []
    for exponent in range(-8, 5):
        penalty = torch.cat([torch.full((3,), 1e-12), torch.full((9,), 10.0 ** (exponent / 2))]).double()
        left = []
        for i in range(60):
            others = torch.arange(60) != i
            gram = inputs[others].T @ inputs[others] + 60 * torch.diag(penalty)
            left.append(y[i] - inputs[i] @ torch.linalg.solve(gram, inputs[others].T @ y[others]))
        errors.append(torch.stack(left))
    best = torch.stack(errors).abs().mean(1).argmin(0)
    expected = torch.stack([errors[b][:, j] for j, b in enumerate(best.tolist())], 1)
    # the numbers' own small penalty, and that their fit heeds far events less, are all that differs
    torch.testing.assert_close(fit.rest, expected, rtol=0, atol=0.02)
    plain = Ridges(x, None).fit(y)
    assert plain.path is None
    assert (fit.rest.std(0) < 0.75 * plain.rest.std(0)).all()
    answer = fit.offset + x @ fit.slope + codes @ fit.path.weight + fit.path.bias
    assert ((y - answer).std(0) < fit.rest.std(0)).all()
    assert (y - answer).mean(0).abs().max() < 1e-9
    noise = torch.randn(60, 9, generator=random, dtype=torch.float64)
    useless = Ridges(x, noise).fit(x[:, :1])
    assert useless.path is not None
    assert useless.path.weight.abs().max() < 1e-4


def test_a_few_far_events_do_not_decide_a_fit() -> None:
    random = torch.Generator().manual_seed(2)
    x = torch.randn(2000, 3, generator=random, dtype=torch.float64)
    slope = torch.tensor([[1.0], [-2.0], [0.0]], dtype=torch.float64)
    y = x @ slope + 0.1 * torch.randn(2000, 1, generator=random, dtype=torch.float64)
    far = y.clone()
    far[::20] = 100 * x[::20, :1]  # another law in one of twenty events
    for target in (y, far):
        fit = Ridges(x, None).fit(target)
        torch.testing.assert_close(fit.slope, slope, rtol=0, atol=0.02)
        assert abs(float(fit.offset)) < 0.02


def test_the_penalty_is_the_one_that_holds_on_other_runs() -> None:
    """A number that says much in each run, but something else in every other one, is penalised away."""
    random = torch.Generator().manual_seed(3)
    x = torch.randn(4000, 2, generator=random, dtype=torch.float64)
    run = torch.arange(4000) // 500
    sign = torch.where(run % 2 == 0, 1.0, -1.0).double()
    noise = torch.randn(4000, generator=random, dtype=torch.float64)
    lasting = (x[:, 0] + 0.1 * noise)[:, None]
    fleeting = (sign * x[:, 1] + 0.1 * noise)[:, None]
    kept, dropped = (
        Ridges(x, None, run)._best_penalty(y[:, 0], torch.ones(4000).double()) for y in (lasting, fleeting)
    )
    assert kept == 1e-3
    assert dropped == 0.1


@pytest.mark.slow
def test_a_linear_path_starts_from_the_code_of_a_given_encoder(run: loop.Result, sample: Path, tmp_path: Path) -> None:
    """Other tasks, so that only the encoder is taken; with the path the first answers are as good at once.

    Not energy's, whose anchor is a factor on the summed light without a path and a sum beside one.
    """
    start = (
        f"checkpoint.resume_from={run.best}", "tasks.timing.enabled=false", "tasks.energy.loss_fn=gaussian_nll",
        "training.lr=1e-9", "training.lr_min=0",
    )  # fmt: skip
    scores = {}
    for path in ("false", "true"):
        config = recipe(sample, tmp_path, *start, f"model.linear_path={path}")
        result = loop.train(config, name=f"path_{path}", quiet=True)
        scores[path] = [
            result.metrics[f"val/{name}"] for name in ("u_s68_mm", "v_s68_mm", "w_s68_mm", "energy_s68_MeV")
        ]
        load_model(result.best)
    # the anchors leave little of these points of light; what the path adds must not be worse
    without, beside = (np.array(scores[path]) for path in ("false", "true"))
    assert np.prod(beside[:3]) < 1.1 * np.prod(without[:3])
    assert max(beside[:3] / without[:3]) < 1.1
    assert beside[3] < 1.5 * without[3]
