"""The newest version of the replaced system: weights and inputs by fixed recipes lead to the numbers it gave."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.newer_files import CASES, WHOLE, Case, content, encoder_of, events, kind_of, shapes
from xecml.models.newer.checkpoints import load_newer
from xecml.models.newer.hiding import hide_normalised
from xecml.models.newer.inputs import NewerNormaliser
from xecml.models.newer.network import NewerModel, NewerRepair
from xecml.models.normalise import COUNT_SCHEMES, validity

NEAR = 1e-5


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def relative(got: torch.Tensor, wanted: Any) -> float:
    """Largest difference over the largest absolute value."""
    want = torch.as_tensor(wanted, dtype=torch.float64)
    assert got.numel() == want.numel()
    return float((got.double().reshape(want.shape) - want).abs().max() / want.abs().max())


def hidden(case: Case, network: NewerRepair, npho: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Sensors (B, 4760) that a case hides."""
    if "dead" in case:
        dead = torch.zeros(npho.shape, dtype=torch.bool)
        dead[:, case["dead"]] = True
        return dead
    q = np.random.RandomState(case["mask_seed"]).uniform(size=npho.shape) < case["config"]["mask_ratio"]
    x = network.encoder.normaliser.inputs(npho, time)
    return torch.from_numpy(q) & (x[..., 0] != case["config"]["sentinel_npho"])


def check(case: Case, network: NewerModel | NewerRepair, names: dict[str, tuple[str, int]]) -> None:
    """Hold inputs, grid, tokens and answers against a case; `names`: what it calls them, and its steps."""
    npho, time = events(case)
    encoder: Any = network.encoder
    x = encoder.normaliser.inputs(npho, time)
    key, step = names["input"]
    assert relative(x[0, ::step], case[key]) < NEAR
    key, step = names["grid"]
    if key in case:
        assert relative(encoder.views.grid_of(x)[0].reshape(-1, 2)[::step], case[key]) < NEAR
    masks = validity(npho, time)
    key, step = names["tokens"]
    assert relative(encoder.tokens(npho, time, *masks).flatten()[::step], case[key]) < NEAR
    if isinstance(network, NewerModel):
        raw = {task: network.heads[task](encoder(npho, time, *masks)[0]) for task in network.tasks}
        answers = network(npho, time, *masks)
        assert network.tasks == tuple(case["outputs"])
        for task, wanted in case["outputs"].items():
            assert relative(answers[task], wanted) < NEAR
        for task, wanted in case.get("log_variances", {}).items():
            assert relative(raw[task][:, len(wanted[0]) :], wanted) < NEAR
            assert relative(answers[f"sigma_{task}"], case["sigmas"][task]) < NEAR
        return
    dead = hidden(case, network, npho, time)
    seen, tokens = network.see(npho, time, dead)
    key, step = names["masked"]
    assert relative(tokens.flatten()[::step], case[key]) < NEAR
    if case["kind"] == "mae":
        maps = network.head.reconstructions(tokens)  # type: ignore[operator, union-attr]
        for face, wanted in case["reconstructions"].items():
            assert list(maps[face].shape) == wanted["shape"]
            assert relative(maps[face].flatten()[:: wanted["every"]], wanted["values"]) < NEAR
        assert int(seen.mask.sum()) > int(dead.sum())
        return
    filled, times = network(npho, time, dead)
    assert relative(filled[dead], case["predictions_npho"]) < NEAR
    # the file predicts no times
    assert bool((times[dead] == 1e10).all())
    assert torch.equal(filled[~dead].isnan(), npho[~dead].isnan())
    assert torch.equal(filled[~dead].nan_to_num(), npho[~dead].nan_to_num())


@pytest.mark.parametrize("name", CASES)
def test_the_case_is_met(name: str) -> None:
    case = CASES[name]
    names = {
        "input": ("input_every_485th", 485), "grid": ("outer_grid_every_164th", 164),
        "tokens": ("tokens_every_1024th", 1024), "masked": ("masked_tokens_every_1024th", 1024),
    }  # fmt: skip
    check(case, load_newer(f"{name}.pth", content(name)).eval(), names)


@pytest.mark.skipif(not WHOLE.exists(), reason=f"the whole reference, {WHOLE}, is not on this machine")
@pytest.mark.parametrize("name", CASES)
def test_names_shapes_and_all_numbers_of_the_table(name: str) -> None:
    table = {case["name"]: case for case in json.loads(WHOLE.read_text())["cases"]}
    case, config = table[name], table[name]["config"]
    full = config | {"dim_feedforward": config["dim_feedforward"] or 4 * config["encoder_dim"]}
    assert shapes(kind_of(case), full) == case["state_dict"]
    names = {
        "input": ("input_event0_every_97th", 97), "grid": ("outer_grid_event0_every_41st", 41),
        "tokens": ("tokens_every_128th", 128), "masked": ("masked_tokens_every_128th", 128),
    }  # fmt: skip
    check(case, load_newer(f"{name}.pth", content(name)).eval(), names)


# ------------------------------------------------------------------------------------------------------ the inputs


def normaliser(scheme: str, **changes: float) -> NewerNormaliser:
    constants = {"npho_scale": 1000.0, "npho_scale2": 4.08, "time_scale": 1e-7, "time_shift": 0.5} | changes
    return NewerNormaliser(**constants, scheme=scheme)


@pytest.mark.parametrize("scheme", COUNT_SCHEMES)
def test_what_is_dead_outside_or_untimed(scheme: str) -> None:
    transform = normaliser(scheme, sentinel_npho=-2.0, sentinel_time=-7.0, npho_threshold=10.0)
    nan = float("nan")
    npho = torch.tensor([nan, 1e10, -1e10, -0.3, 9.999, 10.0, 500.0, 500.0, 500.0])
    time = torch.tensor([1e-7, 1e-7, 1e-7, 1e-7, 1e-7, 1e-7, nan, -1e10, 2e-7])
    counts, times = transform.inputs(npho, time).unbind(-1)
    assert counts[:2].tolist() == [-2.0, -2.0]
    assert (counts[2] == 0) == (scheme != "linear")  # which has no limit
    assert (counts[3] == 0) == (scheme == "sqrt")
    assert times.tolist() == pytest.approx([-7.0] * 5 + [0.5] + [-7.0] * 2 + [1.5])
    torch.testing.assert_close(transform.photons(counts[4:]), npho[4:], rtol=1e-5, atol=1e-3)
    assert float(transform.counts(torch.tensor(1000.0), torch.tensor(True))) == pytest.approx(
        0.6931472 / 4.08 if scheme == "log1p" else 1.0, rel=1e-6
    )


def test_a_count_of_zero_is_timed_where_the_threshold_is_zero() -> None:
    inputs = [normaliser("sqrt", npho_threshold=n).inputs(torch.zeros(1), torch.tensor([1e-7])) for n in (0.0, 1e-9)]
    assert [float(x[0, 1]) for x in inputs] == pytest.approx([0.5, -1.0])


def test_gradients_are_numbers_whatever_the_input() -> None:
    npho = torch.tensor([float("nan"), 1e10, -5.0, 0.0, 7.0])
    for scheme in COUNT_SCHEMES:
        with torch.enable_grad():
            n = npho.clone().requires_grad_()
            normaliser(scheme).inputs(n, torch.zeros(5))[..., 0].sum().backward()
        assert n.grad is not None
        assert bool(torch.isfinite(n.grad[[0, 1, 4]]).all())


def test_already_invalid_is_by_the_predicted_channel() -> None:
    transform = normaliser("linear")
    x = torch.tensor([[[-1.0, 0.3], [0.5, -1.0], [0.5, 0.3]]])
    none = torch.zeros(1, 3, dtype=torch.bool)
    by_count, by_time = (hide_normalised(transform, x, none, c).mask for c in (("npho",), ("npho", "time")))
    assert by_count.tolist() == [[1, 0, 0]]
    assert by_time.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("pool", [None, [2, 2], [3, 3], [4, 5]])
def test_the_mask_of_the_fine_grid_comes_from_the_coarse_map(pool: list[int] | None) -> None:
    views = encoder_of(CASES["mae"]["config"] | {"outer_fine_pool": pool, "encoder_dim": 32}).views
    mask = torch.zeros(1, 4760)
    mask[0, 4742:] = 1  # sensors of the centre map alone play no part
    assert float(views.masks(mask).outer[0].sum()) == 0
    mask[0, 4092 + 24 * 4 + 11] = 1  # row 4, column 11: fine rows 20 to 24, columns 33 to 35, under the centre map
    rows, columns = views.masks(mask).outer[0][0].nonzero().unbind(1)
    p, q = pool or (1, 1)
    assert (int(rows.min()), int(rows.max())) == (20 // p, 24 // p)
    assert (int(columns.min()), int(columns.max())) == (33 // q, 35 // q)
    assert views.masks(mask).outer[0].shape[1:] == views.grid
