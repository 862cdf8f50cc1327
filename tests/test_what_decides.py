"""Light moved between hot spots, integrated gradients that add up, permutations that find what a network reads."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import untrained
from tests.conftest import point_sources
from tests.runtimes import packages
from tests.test_saliency import Endless
from xecml.data.batch import Batch, validity
from xecml.errors import InputError
from xecml.evaluation import integrated_gradients as way
from xecml.evaluation.hot_spots import INNER, REACH, REGIONS, MovedLight
from xecml.evaluation.integrated_gradients import held_steps, integrated_gradients, parts_of
from xecml.evaluation.permutations import ALL, ALL_COUNTS, ALL_TIMES, GROUPS, permute
from xecml.evaluation.saliency import answers_in_widths, derivatives, look_of, outputs_of
from xecml.evaluation.what_decides import WhatDecides, what_decides
from xecml.events import INVALID, TASKS, relative_quantities
from xecml.figures.what_decides import draw_losses, draw_regions, save_what_decides
from xecml.geometry import N_SENSORS, face_sensors
from xecml.inference.prediction_columns import true_columns
from xecml.inference.trained_model import TorchModel, load_model
from xecml.models.build import build_regressor
from xecml.recipes import load_config
from xecml.recipes.shipped import shipped
from xecml.resolution import s68
from xecml.training.regression_job import fit_targets

CAPTUM = "captum==0.9.0"
N = 32


class OneFace(Endless):
    """energy = sum of a ln n over the sensors of one face; or b t over them."""

    tasks = ("energy",)
    training_distribution = SimpleNamespace(fitted=False)

    def __init__(self, face: str, of: str) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.of, self.sensors = of, torch.from_numpy(np.array(face_sensors(face)))
        self.a = torch.from_numpy(rng.uniform(0.5, 1.5, len(self.sensors))).float() / len(self.sensors)
        self.register_buffer("energy_width", torch.tensor([0.5]))
        self.register_buffer("energy_truth_mean", torch.zeros(1))

    def outputs(self) -> tuple[str, ...]:
        return ("energy",)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> dict[str, Tensor]:
        if self.of == "counts":
            read = torch.log(torch.where(valid, npho, 1.0))
        else:
            read = 1e9 * torch.where(timed, time, 0.0)
        return {"energy": 10 + read[:, self.sensors] @ self.a}


def as_model(network: Any) -> TorchModel:
    return TorchModel(network, {"config": {"data": {"npho_branch": "npho", "time_branch": "time"}}})


def truth_of(events: dict[str, Any], tasks: tuple[str, ...]) -> dict[str, Any]:
    return true_columns(events, tasks)


@pytest.fixture(scope="module")
def events() -> dict[str, Any]:
    return point_sources(N, seed=21, dead=0.02)


@pytest.fixture(scope="module")
def real() -> TorchModel:
    """A toy network with random weights and fitted anchors, of all that recipes predict."""
    torch.manual_seed(1)
    known = point_sources(160, seed=5)
    npho, time = torch.from_numpy(known["npho"]), torch.from_numpy(known["time"])
    config = load_config(shipped()["tiny"].path, [])
    network = build_regressor(config)
    truth = {t: torch.from_numpy(known[TASKS[t].truth]).reshape(160, -1) for t in network.tasks}
    numbers = torch.zeros(160, dtype=torch.int32)
    fit_targets(network, [Batch(npho, time, *validity(npho, time), truth, numbers, numbers)])
    for head in network.heads.values():  # which are silent before they are trained
        nn.init.normal_(head[-1].weight, std=0.3)  # type: ignore[index, arg-type]
    return as_model(network)


# ------------------------------------------------------------------------------------------------- light that moves


def test_regions_part_the_sensors(events: dict[str, Any]) -> None:
    light = MovedLight(events["npho"], events["time"])
    seen = light.see(slice(0, N))
    regions = seen.regions()
    numbers = np.stack([np.bincount(row, minlength=len(REGIONS)) for row in regions])
    assert (numbers[:, len(INNER) :] == [144, 144, 234, 73, 73]).all()
    assert (numbers[:, : len(INNER)].sum(1) == 4092).all()
    inside = (np.abs(seen.row - 46) < 37) & (np.abs(seen.column - 21.5) < 12)
    assert inside.sum() > 3
    assert (numbers[inside, :4] == [9, 16, 56, 208]).all()
    ids = np.broadcast_to(np.arange(N_SENSORS, dtype=float), (N, 1, N_SENSORS))
    windows = seen.windows(ids)[:, 0]
    assert (windows[:, REACH, REACH] == 44 * seen.row + seen.column).all()
    beyond = seen.column + 1 + REACH > 43
    assert (np.isnan(windows[:, REACH, -1]) == (seen.column + REACH > 43)).all()
    assert (windows[~beyond, REACH - 1, REACH + 1] == (44 * (seen.row - 1) + seen.column + 1)[~beyond]).all()


@pytest.mark.parametrize("relative", [False, True])
def test_the_light_of_an_event_moves_to_itself_unchanged(events: dict[str, Any], relative: bool) -> None:
    """Each event twice: the other one is most alike and about the same hot spot, so that nothing changes."""
    npho, time = (np.repeat(events[name][:6], 2, 0) for name in ("npho", "time"))
    if relative:
        valid = npho < 9e9
        npho = np.where(valid, npho / np.where(valid, npho, 0).max(1, keepdims=True), npho)
    light = MovedLight(npho, time)
    assert (light.alike == np.arange(12) ^ 1).all()
    moved = light.moved(slice(0, 12), light.see(slice(0, 12)))
    measured = light.see(slice(0, 12)).timed
    np.testing.assert_allclose(moved[0], npho, rtol=1e-4)
    assert np.abs(moved[1] - time)[measured].max() < 2e-12
    assert (moved[1][~measured] == time[~measured]).all()


def test_moved_light_keeps_the_light_and_what_is_measured(events: dict[str, Any]) -> None:
    light = MovedLight(events["npho"], events["time"])
    seen = light.see(slice(0, N))
    npho, time = light.moved(slice(0, N), seen)
    valid, timed = (mask.numpy() for mask in validity(torch.from_numpy(npho), torch.from_numpy(time)))
    assert (valid == seen.valid).all()
    assert (timed == seen.timed).all()
    np.testing.assert_allclose(np.where(valid, npho, 0).sum(1, dtype=float), seen.light, rtol=1e-5)
    again = MovedLight(npho, time).see(slice(0, N))
    away = np.maximum(np.abs(again.row - seen.row), np.abs(again.column - seen.column))
    assert np.mean(away <= 1) > 0.95
    assert np.median(np.abs(again.event_time - seen.event_time)) < 1e-10
    assert not np.allclose(npho[valid], events["npho"][valid], rtol=0.05)


def test_events_that_cannot_be_compared_are_refused(events: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least two"):
        MovedLight(events["npho"][:1], events["time"][:1])
    dark = np.full_like(events["npho"][:3], INVALID)
    with pytest.raises(InputError, match="have no hot spot"):
        MovedLight(dark, events["time"][:3])


# ------------------------------------------------------------------------------------------------- integrated gradients


def test_parts_of_a_known_network_are_its_own(events: dict[str, Any]) -> None:
    """Of each sensor of the face a (ln n - ln n0), or b (t - t0), over the width of 0.5."""
    light = MovedLight(events["npho"], events["time"])
    part = slice(0, 4)
    baseline = light.moved(part, light.see(part))
    for of, kind in (("counts", 0), ("times", 1)):
        network = OneFace("us", of)
        values, answers, zero = parts_of(as_model(network), (light.npho[part], light.time[part]), baseline, 24)
        sensors, measured = network.sensors.numpy(), light.see(part).timed
        change = np.log(light.npho[part]) - np.log(baseline[0]) if of == "counts" else light.time[part] - baseline[1]
        change = np.where(measured, change * (1 if of == "counts" else 1e9), 0.0)[:, sensors]
        np.testing.assert_allclose(values[kind, 0][:, sensors], change * network.a.numpy() / 0.5, rtol=2e-3, atol=1e-6)
        assert np.count_nonzero(values[1 - kind]) == 0
        assert np.count_nonzero(np.delete(values[kind, 0], sensors, 1)) == 0
        np.testing.assert_allclose(values.sum((0, 3)).T, answers - zero, atol=1e-4)


def test_parts_add_up_to_the_answers(real: TorchModel, events: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """For every output, to a few percent with few nodes, since the network's steps are held; else they do not."""
    light = MovedLight(events["npho"], events["time"], look_of(real))
    found = integrated_gradients(real, light, events=3)
    assert found.parts.outputs == ("theta", "phi", "energy", "timing", "u", "v", "w")
    assert found.units == ("deg", "deg", "MeV", "ps", "mm", "mm", "mm")
    differences = found.answers - found.baseline
    assert (np.abs(differences).mean(0) > 0.01).all()
    assert (np.abs(found.left).mean(0) < 0.05 * np.abs(differences).mean(0)).all()
    n, t = (torch.from_numpy(a[:3]) for a in (light.npho, light.time))
    with torch.no_grad():
        own = answers_in_widths(real, n, t, *validity(n, t))
    np.testing.assert_allclose(found.answers, own, atol=1e-3)
    monkeypatch.setattr(way, "held_steps", lambda *_: nullcontext())
    jumping = integrated_gradients(real, light, events=3)
    assert np.median(np.abs(jumping.left).mean(0) / np.abs(found.left).mean(0)) > 2


def test_steps_are_held_only_inside(real: TorchModel, events: dict[str, Any]) -> None:
    look = look_of(real)
    assert look is not None
    n, t = (torch.from_numpy(events[name][:3]) for name in ("npho", "time"))
    own = look(n, t, *validity(n, t))
    other = n.flip(0), t.flip(0)
    with pytest.raises(KeyError), held_steps(real, n, t):
        held = look(*other, *validity(*other))
        assert (held.row == own.row).all()
        assert (held.column == own.column).all()
        raise KeyError
    assert look.held is None
    assert (look(*other, *validity(*other)).row == own.row.flip(0)).all()


@pytest.fixture(scope="module")
def captum_attr(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Captum's methods, out of a package that is none of the project's own libraries."""
    assert request.config.cache is not None
    pytest.importorskip("tqdm", reason="captum needs tqdm, which is not installed; pip install tqdm")
    site = str(packages(request.config.cache, "captum-0.9.0", CAPTUM))
    sys.path.insert(0, site)
    try:
        yield importlib.import_module("captum.attr")
    finally:
        sys.path.remove(site)


@pytest.mark.slow
def test_derivatives_and_integrals_are_those_of_captum(
    real: TorchModel, events: dict[str, Any], captum_attr: Any
) -> None:
    light = MovedLight(events["npho"], events["time"], look_of(real))
    part = slice(0, 3)
    n, t = (torch.from_numpy(a[part]) for a in (light.npho, light.time))
    masks = validity(n, t)
    baseline = light.moved(part, light.see(part))
    zero = tuple(torch.where(m, torch.from_numpy(b), x) for m, b, x in zip(masks, baseline, (n, t), strict=True))
    ours = derivatives(real, light.npho[part], light.time[part])
    parts, _, _ = parts_of(real, (light.npho[part], light.time[part]), baseline, 8)
    for k in range(len(outputs_of(real))):

        def answer(a: Tensor, b: Tensor, *m: Tensor, k: int = k) -> Tensor:
            with held_steps(real, n, t, len(a) // 3):
                return answers_in_widths(real, a, b, *m)[:, k]

        inputs = tuple(x.clone().requires_grad_() for x in (n, t))
        slopes = captum_attr.Saliency(answer).attribute(inputs, abs=False, additional_forward_args=masks)
        steps = (torch.where(masks[0], n, 0.0), torch.where(masks[1], 1e-9, 0.0))
        for mine, slope, step in zip(ours[:, k], slopes, steps, strict=True):
            np.testing.assert_allclose(mine, slope * step, rtol=1e-3, atol=1e-5 * np.abs(mine).max())
        options = {"n_steps": 8, "method": "gausslegendre", "additional_forward_args": masks}
        integrals = captum_attr.IntegratedGradients(answer).attribute(inputs, baselines=zero, **options)
        for mine, integral, mask in zip(parts[:, k], integrals, masks, strict=True):
            theirs = torch.where(mask, integral, 0.0).detach().numpy()
            np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-5 * np.abs(mine).max())


# --------------------------------------------------------------------------------------------------------- permutations


@pytest.mark.parametrize("of", ["counts", "times"])
def test_a_network_that_reads_one_face_is_moved_by_that_face_alone(events: dict[str, Any], of: str) -> None:
    found = what_decides(as_model(OneFace("top", of)), events["npho"], events["time"], most_integrated=16)
    kind = ("counts", "times").index(of)
    for shown in (found.face_moves("energy"), found.face_parts("energy")):
        assert np.argwhere(shown > 0).tolist() == [[kind, 4]]
    p = found.permutations
    whole = p.size(ALL_COUNTS if of == "counts" else ALL_TIMES, "energy")[0]
    assert whole == p.size(ALL, "energy")[0] == found.face_moves("energy")[kind, 4]
    assert p.size(ALL_TIMES if of == "counts" else ALL_COUNTS, "energy")[0] == 0
    assert found.agreement("energy") == pytest.approx(1)
    # additive, so that both ways say the same
    first = np.arange(N) < 16
    assert found.face_parts("energy")[kind, 4] == pytest.approx(found.face_moves("energy", first)[kind, 4], rel=0.02)
    assert math.isnan(p.before("energy")[0])


def test_losses_are_those_of_the_answers(real: TorchModel, events: dict[str, Any]) -> None:
    light = MovedLight(events["npho"], events["time"], look_of(real))
    found = permute(real, light, truth_of(events, real.tasks))
    npho, time = light.moved(slice(0, N), light.see(slice(0, N)))
    for group, inputs in ((ALL_COUNTS, (npho, light.time)), (ALL_TIMES, (light.npho, time)), (ALL, (npho, time))):
        before, after = (real.predict(*x)["uvwFI"][:, 0] for x in ((light.npho, light.time), inputs))
        off = [10 * (np.asarray(x, float) - events["uvwTruth"][:, 0]) for x in (before, after)]
        assert found.before("u")[0] == pytest.approx(s68(off[0]), rel=1e-4)
        assert found.after(group, "u")[0] == pytest.approx(s68(off[1]), rel=1e-4)
        assert found.loss(group, "u")[0] == pytest.approx(s68(off[1]) - s68(off[0]), abs=1e-3)
        assert found.size(group, "u")[0] == pytest.approx(s68(10 * (after.astype(float) - before)), rel=1e-3)
        assert 0 < found.loss(group, "u")[1] < found.after(group, "u")[1] + found.before("u")[1]
    assert found.spread("v")[0] == pytest.approx(10 * s68(events["uvwTruth"][:, 1]), rel=1e-5)
    assert set(found.quantities) == {"theta", "phi", "energy", "energy_relative", "timing", "u", "v", "w"}


@pytest.mark.slow
def test_both_ways_agree_on_a_trained_network() -> None:
    """Over counts and times of the six faces; the shipped network on showers of a point."""
    events = point_sources(24, seed=23)
    found = what_decides(load_model("pretrained:signal"), events["npho"], events["time"], most_integrated=12)
    assert found.integrated is not None
    for output in found.integrated.parts.outputs:
        assert found.agreement(output) > 0.6, output
    left, differences = found.integrated.left, found.integrated.answers - found.integrated.baseline
    assert (np.abs(left).mean(0) < 0.1 * np.abs(differences).mean(0)).all()


@pytest.mark.slow
def test_relative_inputs_are_explained_too(tmp_path: Path) -> None:
    """They have no scale of their own, which the quick look at them needs."""
    branches = ("data.npho_branch=relative_npho", "data.time_branch=relative_time")
    path = untrained.regression(
        tmp_path / "c.pth", "model.preset=tiny", *branches, events=200, tasks=("angle", "uvwFI")
    )
    events = point_sources(24, seed=2)
    found = what_decides(
        load_model(path),
        *relative_quantities(events["npho"], events["time"]),
        truth_of(events, ("uvwFI",)),
        most_integrated=4,
    )
    assert found.integrated is not None
    differences = found.integrated.answers - found.integrated.baseline
    assert (np.abs(found.integrated.left).mean(0) < 0.1 * np.abs(differences).mean(0)).all()
    assert min(found.agreement(output) for output in ("theta", "phi", "u", "v", "w")) > 0.6
    assert found.permutations.before("u")[0] > 0
    assert math.isnan(found.permutations.before("theta")[0])


# ------------------------------------------------------------------------------------------------------------- together


class Exported:
    """A model of which only answers are known: u is that of the brightest column."""

    tasks = ("uvwFI",)

    def predict(self, npho: Any, time: Any) -> dict[str, Any]:
        light = np.where(np.asarray(npho) < 9e9, npho, 0)[:, :4092].reshape(-1, 93, 44).sum(1)
        u = 1.5098 * (light.argmax(1) - 21.5)
        return {"uvwFI": np.stack([u, 0 * u, 0 * u + 1], 1).astype(np.float32)}


@pytest.fixture(scope="module")
def decided(real: TorchModel, events: dict[str, Any]) -> WhatDecides:
    npho = events["npho"].copy()
    npho[7] = INVALID
    return what_decides(real, npho, events["time"], truth_of(events, real.tasks), most_integrated=8)


def test_events_without_light_are_left_out(decided: WhatDecides, events: dict[str, Any], real: TorchModel) -> None:
    assert (decided.events, decided.left_out) == (N - 1, 1)
    np.testing.assert_allclose(decided.depth, np.delete(events["uvwTruth"][:, 2], 7), rtol=1e-6)
    assert "left out: 1 event." in decided.sentences()[-1]
    with pytest.raises(InputError, match=r"1 of 3 events have a valid count .* at least two"):
        what_decides(real, np.concatenate([events["npho"][:1], np.full((2, N_SENSORS), INVALID)]), events["time"][:3])


def test_an_exported_model_has_permutations_alone(events: dict[str, Any], tmp_path: Path) -> None:
    found = what_decides(Exported(), events["npho"], events["time"])  # type: ignore[arg-type]
    assert found.gradient is None
    assert found.integrated is None
    assert math.isnan(found.agreement("u"))
    assert found.permutations.size(ALL_TIMES, "u") == (0, pytest.approx(0))
    assert set(found.as_dict()) == {"events", "left_out", "permutations"}
    assert [len(rows) for _, _, rows in found.tables()] == [len(GROUPS)]  # nothing of resolutions without truth
    assert save_what_decides(tmp_path / "saliency.pdf", found) == 1


def test_what_is_said_is_what_was_found(decided: WhatDecides) -> None:
    said = json.loads(json.dumps(decided.as_dict(), allow_nan=False))
    p = decided.permutations
    one = said["permutations"]["w"]["all"]
    assert one["s68"] == pytest.approx(list(p.before("w")))
    assert one["times"]["outer"]["moved"][0] == pytest.approx(p.size(GROUPS[17], "w")[0])
    assert (GROUPS[17].name, GROUPS[17].kind) == ("outer", "times")
    assert said["integrated_gradients"]["u"]["all"]["counts"]["3 x 3"] == pytest.approx(decided.parts("u")[0, 0])
    assert said["derivatives"]["events"] == 8
    assert decided.gradient is not None
    found = list(said["derivatives"]["phi"]["all"]["counts"].values())
    np.testing.assert_allclose(found, decided.gradient.by_face("counts")[1], rtol=1e-6)
    (_, headers, rows), (_, _, moves) = decided.tables()
    assert headers[2:4] == ["s68", "other times"]
    assert [row[0] for row in rows] == ["theta", "phi", "energy", "energy / truth", "time", "u", "v", "w"]
    assert len(moves) == len(GROUPS)
    assert len(decided.tables(depths=True)) == 2 * len(decided.bins())
    assert any(sentence.startswith("theta: s68 ") for sentence in decided.sentences())


def test_pictures_show_the_numbers(decided: WhatDecides, tmp_path: Path) -> None:
    p = decided.permutations
    losses = draw_losses(decided)
    drawn = losses.axes[0].containers[1].lines[0].get_xdata()
    assert drawn[0] == pytest.approx(p.after(ALL_COUNTS, "theta")[0] / p.before("theta")[0])
    left, right = draw_regions(decided).axes
    texts = [text.get_text() for text in left.texts]
    assert len(texts) == 20 * 7
    assert texts[0] == f"{p.size(GROUPS[0], 'theta')[0] / p.before('theta')[0]:.2g}"
    assert right.texts[0].get_text() == f"{decided.parts('theta')[0, 0] / p.before('theta')[0]:.2g}"
    for figure in (losses, left.figure):
        figure.draw_without_rendering()
        boxes = [t.get_window_extent() for axes in figure.axes for t in axes.get_yticklabels() if t.get_text()]
        assert min(box.x0 for box in boxes) >= 0
    # regions, losses, depths where there are enough events; the pages of derivatives are looked at elsewhere
    pages = 2 + (len(decided.bins()) > 1)
    assert save_what_decides(tmp_path / "saliency.pdf", replace(decided, gradient=None), title="a $ run") == pages
