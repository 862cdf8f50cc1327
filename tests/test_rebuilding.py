"""The autoencoder and the inpainter: nothing leaks from hidden sensors, every sensor is reached, sizes, losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import geometry
from xecml.config import Config
from xecml.conventional.solidangles import solid_angles as solid_angles_of_squares
from xecml.data.batch import Batch
from xecml.errors import InputError
from xecml.models.build import build_autoencoder, build_inpainter
from xecml.models.networks.quick_look import QuickLook
from xecml.models.networks.reference import TOKENS
from xecml.models.normalise import validity
from xecml.models.rebuild.decoders import LightDecoder, ReferenceDecoder, sensor_cells
from xecml.models.rebuild.head import Asked
from xecml.models.rebuild.head_of_hot_spot import HotSpotHead, window_sensors
from xecml.models.rebuild.head_of_nearest import NearestHead, pair_features
from xecml.models.rebuild.inpainter import Inpainter
from xecml.models.rebuild.point_light import PointSource, cartesian
from xecml.models.rebuild.point_sum import sum_of_solid_angles
from xecml.models.rebuild.sensor_targets import Rebuilt, Truth
from xecml.recipes import load_config
from xecml.training.rebuilding_job import ErrorSums, Rebuilding, RebuildingLoss, answer_and_truth

B, S = 6, geometry.N_SENSORS


def batch_of(events: int = B, seed: int = 0, *, dead: float = 0.02) -> Batch:
    chunk = point_sources(events, seed, dead=dead)
    npho, time = torch.from_numpy(chunk["npho"]), torch.from_numpy(chunk["time"])
    numbers = torch.arange(events)
    return Batch(npho, time, *validity(npho, time), {}, numbers, numbers)


def recipe(job: str, *settings: str) -> Config:
    free = ["model.preset=tiny", "model.freeze_encoder=false"]
    return load_config(None, [*free, *settings], job=job)


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """A model in which nothing is zero any more, ready to answer."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


KINDS = [("mae", ()), ("inpaint", ()), ("inpaint", ("model.inpaint_heads=faces",))]


@pytest.fixture(scope="module", params=KINDS, ids=["mae", "nearest", "faces"])
def job(request: pytest.FixtureRequest) -> Rebuilding:
    kind, settings = request.param
    made = Rebuilding(recipe(kind, *settings), kind)
    made.fit([batch_of(64, 3)], keep_features=False)
    moved(made.model)
    return made


@torch.no_grad()
def test_what_hidden_sensors_measured_does_not_reach_the_answer(job) -> None:
    batch = job.prepare(batch_of(), (0, 1), 0.0)
    answer, light_time = job.model(*batch.inputs(), batch.hidden)
    for array in (batch.npho, batch.time):
        array.view(-1)[batch.hidden] *= 3
    again, light_time_again = job.model(*batch.inputs(), batch.hidden)
    assert torch.equal(answer.counts, again.counts)
    assert torch.equal(answer.nanoseconds, again.nanoseconds)
    assert torch.equal(light_time, light_time_again)


@torch.no_grad()
def test_seen_sensors_do_reach_the_answer(job) -> None:
    batch = job.prepare(batch_of(), (0, 1), 0.0)
    answer, _ = job.model(*batch.inputs(), batch.hidden)
    batch.npho[batch.valid] *= 2
    again, _ = job.model(*batch.inputs(), batch.hidden)
    assert (again.counts != answer.counts).float().mean() > 0.99


@torch.no_grad()
def test_times_follow_a_shift_of_all_times(job) -> None:
    batch = job.prepare(batch_of(), (0, 1), 0.0)
    answer, light_time = job.model(*batch.inputs(), batch.hidden)
    batch.time[batch.timed] += 5e-9
    again, light_time_again = job.model(*batch.inputs(), batch.hidden)
    torch.testing.assert_close(light_time_again - light_time, torch.full((B,), 5e-9), rtol=0, atol=2e-14)
    torch.testing.assert_close(again.nanoseconds, answer.nanoseconds, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_every_sensor_can_be_asked_and_learns(job) -> None:
    batch = batch_of(2, dead=0.0)
    # the two events hide alternating sensors, the outer centre's among them
    batch.hidden = torch.cat([torch.arange(0, S, 2), S + torch.arange(1, S, 2)])
    answer, _ = job.model(*batch.inputs(), batch.hidden)
    assert answer.counts.shape == (S,)
    assert torch.isfinite(answer.counts).all()
    assert torch.isfinite(answer.nanoseconds).all()
    # the loss of each hidden sensor that counted goes back to its answer, and from there to weights
    truth = job.model.ground.truth(batch, torch.zeros(2), batch.hidden)
    total, _ = job.loss(answer, truth, job.model.ground)
    (slope,) = torch.autograd.grad(total, answer.counts, retain_graph=True)
    assert (slope != 0).equal(truth.counted)
    assert truth.counted.float().mean() > 0.5
    total.backward()
    learning = [p for p in job.model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)
    job.model.zero_grad()
    counts = torch.zeros(S).index_copy(0, batch.hidden % S, answer.counts.detach())
    outer_centre = torch.arange(4742, 4760)
    assert counts[outer_centre].unique().numel() == len(outer_centre)


@pytest.mark.parametrize("name", ["mse", "l1", "smooth_l1"])
def test_the_loss_counts_exactly_the_hidden_sensors(name: str) -> None:
    job = Rebuilding(recipe("mae", f"training.loss_fn={name}", "training.time_weight=0.5"), "mae")
    job.fit([batch_of(32, 3)], keep_features=False)
    batch = job.prepare(batch_of(), (0, 1), 0.0)
    with torch.no_grad():
        answer, truth = answer_and_truth(job.model, batch)
        total, parts = job.loss(answer, truth, job.model.ground)
    faces = geometry.face_codes()[(batch.hidden % S).numpy()]
    wanted = {}
    for channel, found, true, width, weight in (
        ("npho", answer.counts, truth.counts, job.model.ground.width[0], truth.counted.float()),
        ("time", answer.nanoseconds, truth.nanoseconds, job.model.ground.width[1], truth.time_weight),
    ):
        d = ((found - true) / width).abs().numpy().astype(float)
        loss = {"mse": d**2, "l1": d, "smooth_l1": np.where(d < 1, d**2 / 2, d - 0.5)}[name]
        w = weight.numpy().astype(float)
        wanted[channel] = [
            (loss * w)[faces == f].sum() / w[faces == f].sum() if w[faces == f].sum() else 0 for f in range(6)
        ]
    for channel, values in wanted.items():
        for face, value in zip(geometry.FACES, values, strict=True):
            assert float(parts[f"loss_{face}_{channel}"]) == pytest.approx(value, rel=1e-4)
        assert float(parts[f"loss_{channel}"]) == pytest.approx(sum(values), rel=1e-4)
    assert float(total) == pytest.approx(sum(wanted["npho"]) + 0.5 * sum(wanted["time"]), rel=1e-4)


def test_photons_and_their_roots_weigh_alike_at_the_balance() -> None:
    job = Rebuilding(recipe("mae"), "mae")
    ground = job.model.ground
    true = torch.tensor([3000.0, 40000.0, 3000.0, 50.0])
    found = true + torch.tensor([3.0, 30.0, -900.0, 1.0])
    every = torch.ones(4, dtype=torch.bool)
    counts = [ground.normaliser.counts(n, every) for n in (found, true)]
    sensor = torch.tensor([0, 1, 4100, 4101])
    truth = Truth(counts[1], torch.zeros(4), true, every, torch.zeros(4), sensor)
    parts = []
    for balance in (0.0, 3000.0):
        loss = RebuildingLoss("mse", 1.0, {"npho": 1.0, "time": 1.0}, count_scale="sqrt", count_balance=balance)
        parts.append([float(x) for x in loss.sums(Rebuilt(counts[0], torch.zeros(4)), truth, ground)[0][0]])
    n, m = found.numpy(), true.numpy()
    roots = ((np.sqrt(n + 1) - np.sqrt(m + 1)) / 10) ** 2
    photons = (n - m) ** 2 / 3000 / 400
    codes = geometry.face_codes()[sensor.numpy()]
    for got, wanted in zip(parts, (roots, roots + photons), strict=True):
        assert got == pytest.approx(np.bincount(codes, wanted, 6), rel=2e-3)
    assert photons[0] == pytest.approx(roots[0], rel=2e-3)
    assert photons[1] / roots[1] == pytest.approx(40000 / 3000, rel=2e-3)


def test_times_without_light_are_not_learnt() -> None:
    job = Rebuilding(recipe("mae", "masking.time_threshold=500"), "mae")
    batch = batch_of()
    every = torch.arange(B * S)
    truth = job.model.ground.truth(batch, torch.zeros(B), every)
    dim = (batch.npho <= 500).flatten() | ~batch.timed.flatten()
    assert (truth.time_weight[dim] == 0).all()
    torch.testing.assert_close(truth.time_weight[~dim], batch.npho.flatten()[~dim].sqrt())
    assert torch.equal(truth.counted, batch.valid.flatten())


def test_learned_channel_weights_are_those_of_two_uncertainties() -> None:
    loss = RebuildingLoss("mse", 1.0, {"npho": 1.0, "time": 1.0}, learned=True)
    log_s = torch.tensor([0.3, -0.4])
    with torch.no_grad():
        loss.balance.log_variance.copy_(2 * log_s)
    means = torch.rand(2, 6)
    total, _ = loss.total(means)
    wanted = (means.sum(1) / (2 * torch.exp(log_s) ** 2) + log_s).sum()
    torch.testing.assert_close(total, wanted)


def test_errors_are_those_of_all_hidden_sensors_together() -> None:
    job = Rebuilding(recipe("mae"), "mae")
    job.fit([batch_of(32, 3)], keep_features=False)
    batches = [job.prepare(batch_of(n, n), (n,), 0.0) for n in (3, 7)]
    sums, apart, errors = ErrorSums(), [ErrorSums(), ErrorSums()], []
    with torch.no_grad():
        for batch, alone in zip(batches, apart, strict=True):
            answer, truth = answer_and_truth(job.model, batch)
            for total in (sums, alone):
                total.add(answer, truth, job.model.ground, job.loss, int(batch.valid.sum()))
            errors.append((answer.counts - truth.counts)[truth.counted])
    metrics = sums.metrics(job.loss)
    every = torch.cat(errors).double()
    assert metrics["rmse_npho"] == pytest.approx(float(every.square().mean().sqrt()), rel=1e-5)
    assert metrics["mae_npho"] == pytest.approx(float(every.abs().mean()), rel=1e-5)
    assert metrics["n_masked_total"] == sum(len(b.hidden) for b in batches)
    assert metrics["actual_mask_ratio"] == pytest.approx(0.6, abs=1e-3)
    assert ErrorSums.joined(apart).metrics(job.loss) == pytest.approx(metrics)
    sums.weights[1] = 0  # as of relative inputs, whose times are not known
    counts_only = sums.metrics(job.loss)
    assert "rmse_npho" in counts_only
    assert "rmse_time" not in counts_only
    assert job.summary(counts_only) == job.summary(metrics).split(", time")[0]


def test_the_means_of_sensors_have_a_relative_error_of_one() -> None:
    job = Rebuilding(recipe("mae", "training.loss_fn=mse"), "mae")
    batch = batch_of(48, 3, dead=0.0)
    job.fit([batch], keep_features=False)
    batch.hidden = torch.arange(48 * S)
    truth = job.model.ground.truth(batch, torch.zeros(48), batch.hidden)
    means = job.model.ground.mean[0][truth.sensor]
    spread = ((means - truth.counts)[truth.counted] / job.model.ground.width[0]).square().mean().sqrt()
    # the mean is drawn a little to the overall mean
    assert float(spread) == pytest.approx(1, abs=0.02)


def test_the_light_of_a_point_is_near_what_points_give() -> None:
    batch = batch_of(64, 5, dead=0.0)
    point = PointSource()(*batch.inputs())
    bright = batch.valid & (batch.npho > 3000)
    ratio = torch.log(batch.npho[bright] / point.photons[bright])
    assert abs(float(ratio.median())) < 0.1
    assert float(ratio.std()) < 0.35
    later = (batch.time - point.look.light_time[:, None])[bright] * 1e9
    assert float((later - point.nanoseconds[bright]).std()) < 0.4
    assert float(later.std()) > 0.8


def test_the_light_of_a_point_needs_no_lit_face() -> None:
    batch = batch_of(2, dead=0.0)
    batch.valid[:] = False
    batch.timed[:] = False
    point = PointSource()(*batch.inputs())
    assert torch.isfinite(point.photons).all()
    assert torch.isfinite(point.nanoseconds).all()


@pytest.mark.parametrize(("mode", "millions"), [("finegrid", 53.2), ("split", 58.1)])
def test_reference_decoders_have_their_size(mode: str, millions: float) -> None:
    decoder = ReferenceDecoder(TOKENS[mode])
    assert sum(p.numel() for p in decoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    answer = decoder(torch.randn(2, 1024 * len(TOKENS[mode])))
    assert answer.shape == (2, S, 2)
    assert (answer.std(0) > 0).all()  # every sensor has an answer of its event
    light = LightDecoder(1024 * len(TOKENS[mode]))
    assert sum(p.numel() for p in light.parameters()) < 0.1 * sum(p.numel() for p in decoder.parameters())


def test_reference_decoder_answers_by_place() -> None:
    """A map that holds the sensor numbers gives every sensor its own number back."""
    fine = geometry.outer_fine_ids().T
    maps = [geometry.inner_map(), geometry.us_map(), geometry.ds_map(), fine,
            np.concatenate(geometry.top_rows()), np.concatenate(geometry.bottom_rows())]  # fmt: skip
    cells, shares = sensor_cells(maps)
    values = torch.tensor(np.concatenate([m.ravel() for m in maps]).astype(np.float32))
    torch.testing.assert_close((values[cells] * shares).sum(1), torch.arange(S, dtype=torch.float32))


def test_windows_are_pasted_where_they_are_cut() -> None:
    look = QuickLook()
    maps = torch.randn(3, *geometry.inner_map().shape)
    row, column = torch.tensor([0, 50, 92]), torch.tensor([0, 20, 43])
    cut = look.window(maps, row, column)
    pasted = LightDecoder(16, width=16)._pasted(cut[:, None].repeat(1, 2, 1), row, column)[:, 0]
    inside = pasted != 0
    assert torch.equal(pasted[inside], maps.flatten(1)[inside])
    assert [int(n) for n in inside.sum(1)] == [144, 24 * 24, 13 * 13]


def test_reference_decoders_need_reference_tokens() -> None:
    with pytest.raises(InputError, match="preset=reference"):
        build_autoencoder(recipe("mae", "model.decoder=reference"))


def test_neighbours_stand_in_the_frame_of_their_sensor() -> None:
    table = np.zeros((S, 2), np.int32)
    table[0] = 1, 44  # the next along z, the next row
    pairs = pair_features(table)[0]
    assert pairs[0, 3] * 5 == pytest.approx(1.5098, abs=1e-3)
    assert abs(pairs[0, 0]) * 5 == pytest.approx(1.5098, abs=1e-3)
    assert pairs[1, 3] * 5 == pytest.approx(1.530, abs=1e-3)
    assert abs(pairs[1, 1]) * 5 == pytest.approx(1.530, abs=1e-2)
    assert pairs[:, 4].tolist() == [1, 1]


@torch.no_grad()
def test_only_seen_neighbours_are_looked_at() -> None:
    torch.manual_seed(0)
    head = moved(NearestHead(8))
    maps = torch.randn(1, S, 5)
    seen = torch.rand(1, S) > 0.5
    maps[..., :3] *= seen[..., None]
    distance, hidden = torch.full((1, S), 9.0), torch.tensor([2000, 4500, 4759])
    asked = Asked(hidden, maps, seen, torch.randn(1, 1, 8), torch.zeros(1, 9), distance)
    answer = head(asked)
    other = maps.clone()
    unseen = ~seen[0]
    unseen[hidden] = False
    other[0, unseen] += 5
    assert torch.equal(head(asked._replace(maps=other)), answer)
    changed = maps.clone()
    changed[0, head.candidates[2000][seen[0][head.candidates[2000]]][15]] += 1
    assert (head(asked._replace(maps=changed)) != answer).any(1).tolist() == [True, False, False]


def test_a_frozen_encoder_stays_as_it_is() -> None:
    model = build_inpainter(load_config(None, ["model.preset=tiny"], job="inpaint"))
    assert isinstance(model, Inpainter)
    model.train()
    assert not model.encoder.training
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.heads.parameters())


def test_windows_hold_the_chips_around_and_nothing_beyond_the_edge() -> None:
    table, ids = window_sensors(2), geometry.inner_map()
    assert table.shape == (geometry.N_SIPM, 24)
    expected = [ids[r, c] for r in range(38, 43) for c in range(10, 15) if (r, c) != (40, 12)]
    assert list(table[ids[40, 12]]) == expected
    corner = table[ids[0, 0]]
    assert sorted(corner[corner < S]) == sorted({*ids[:3, :3].ravel()} - {ids[0, 0]})


@torch.no_grad()
def test_only_chips_near_the_hot_spot_get_an_answer_of_its_head() -> None:
    torch.manual_seed(0)
    head = moved(HotSpotHead(16, 9, width=32, layers=1))
    distance = torch.full((2, S), 50.0)
    distance[1, [700, 4400]] = 3.0
    hidden = torch.tensor([700, 710, S + 700, S + 710, S + 4400])
    seen = torch.ones(2, S, dtype=torch.bool)
    asked = Asked(hidden, torch.randn(2, S, 5), seen, torch.randn(2, 1, 16), torch.randn(2, 9), distance)
    answer = head(asked)
    assert answer.shape == (5, 2)
    assert answer.any(1).tolist() == [False, False, True, False, False]
    none = head(asked._replace(hidden=hidden[:2]))
    assert not none.any()


def test_solid_angles_are_exact_close_by() -> None:
    """Of chips that see much of a point, wherever in front of them it is; others are taken for small."""
    rng = np.random.default_rng(0)
    uvw = np.stack([rng.uniform(-30, 30, 300), rng.uniform(-65, 65, 300), np.exp(rng.uniform(-3, 3, 300))], 1)
    points = cartesian(*torch.tensor(uvw.astype(np.float32)).unbind(1))
    found = PointSource().solid_angles(points)[0].double().numpy()[:, : geometry.N_SIPM]
    exact = solid_angles_of_squares(points.double().numpy())[:, : geometry.N_SIPM]
    large = exact > 0.05
    assert large.any(1).mean() > 0.6
    assert np.abs(found[large] / exact[large] - 1).max() < 2e-3
    assert np.abs(found - exact).max() < 1e-3


@pytest.mark.parametrize("heads", ["nearest", "faces"])
@pytest.mark.parametrize("preset", ["tiny", "compact", "reference"])
def test_inpainters_learn_with_all_their_weights(preset: str, heads: str) -> None:
    """Several processes wait for the gradient of every weight, so none may go without."""
    settings = [f"model.preset={preset}", f"model.inpaint_heads={heads}", "model.freeze_encoder=false"]
    made = Rebuilding(load_config(None, settings, job="inpaint"), "inpaint")
    made.fit([batch_of(32, 3)], keep_features=False)
    total, _ = made.step(made.prepare(batch_of(2), (0, 1), 0.0))
    total.backward()
    assert [name for name, p in made.step.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_light_of_points_and_its_gradient_are_those_of_their_formula() -> None:
    """Compiled against PyTorch's operations in 64 bits; some points are so close that a sensor sees half the sky."""
    torch.manual_seed(0)
    source = PointSource()
    u, v = 20 * torch.randn(5, 4), 40 * torch.randn(5, 4)
    points = cartesian(u, v, torch.tensor([0.01, 0.3, 4.0, 30.0]).expand(5, 4))
    shares, weights = torch.rand(5, 4), torch.randn(5, S)
    found = []
    for kind in (torch.float64, torch.float32):
        table = [x.to(kind) for x in (source.positions, source.normals, source.areas)]
        # transposed in memory, as a caller's may be
        p, s = points.to(kind).requires_grad_(), shares.T.contiguous().to(kind).requires_grad_()
        total = sum_of_solid_angles(p, s.T, *table)
        (total * weights.to(kind)).sum().backward()
        assert p.grad is not None
        assert s.grad is not None
        found.append((total.detach(), p.grad, s.grad))
    for exact, fast in zip(*found, strict=True):
        assert (fast - exact).abs().max() < 2e-5 * exact.abs().max()
    lost_point = points.detach().clone()
    lost_point[0, 0, 0] = float("nan")
    lost = sum_of_solid_angles(lost_point, shares, source.positions, source.normals, source.areas)
    assert lost.isnan().all(1).tolist() == [True, False, False, False, False]
