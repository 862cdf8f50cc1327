"""The benchmark of a second photon's light: what the network sees, what is removed, and a tiny run of every way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmark_modules import modules
from xecml import geometry
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.models.networks.quick_look import GROUP_VELOCITY


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with modules(("pileup",)) as found:
        yield found["pileup"]


def event(spot_cm: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """Light that leaves a point at zero: counts, times, the point and the time, of one event."""
    x = geometry.xyz_from_uvw(np.array(spot_cm))
    distance = np.linalg.norm(geometry.positions() - x, axis=1)
    counts = 1e6 / (distance**2 + 1)
    return counts[None].astype(np.float32), (distance[None] / GROUP_VELOCITY * 1e-9).astype(np.float32)


def test_times_are_seen_from_where_the_light_began(bench: Any) -> None:
    npho, times = event((5.0, -10.0, 4.0))
    times[0, 7] += 5e-9
    said = {"uvwFI": np.array([[5.0, -10.0, 4.0]]), "timing": np.zeros(1)}
    numbers = bench.Separator().numbers(*bench.inputs(npho, times, said))
    assert numbers.shape == (1, bench.N_NUMBERS, geometry.N_SENSORS)
    late = 15 * torch.atanh(numbers[0, 7])
    assert float(late[7]) == pytest.approx(5.0, abs=0.01)
    assert float(late[torch.arange(len(late)) != 7].abs().max()) < 0.01


def test_sensors_that_measured_nothing_change_no_number_of_others(bench: Any) -> None:
    npho, times = event((0.0, 0.0, 3.0))
    said = {"uvwFI": np.array([[0.0, 0.0, 3.0]]), "timing": np.zeros(1)}
    dim = npho.copy()
    dim[0, 4700] = INVALID
    times[0, 4700] = INVALID
    numbers = bench.Separator().numbers(*bench.inputs(dim, times, said))
    assert torch.isfinite(numbers).all()
    assert numbers[0, :3, 4700].tolist() == [0.0, 0.0, 0.0]


def test_shares_are_removed_and_what_is_mostly_of_others_has_no_time(bench: Any) -> None:
    npho, times = np.full((1, 4760), 100.0, np.float32), np.zeros((1, 4760), np.float32)
    npho[0, 2] = INVALID
    share = np.zeros((1, 4760), np.float32)
    share[0, :3] = 0.4, 0.75, 0.75
    left, when = bench.removed(npho, times, share)
    assert left[0, :4].tolist() == pytest.approx([60.0, 25.0, INVALID, 100.0])
    assert when[0, :4].tolist() == pytest.approx([0.0, INVALID, INVALID, 0.0])


def test_by_hand_takes_away_sensors_that_are_late(bench: Any) -> None:
    npho, times = event((0.0, 0.0, 6.0))
    times[0, 100:110] += 40e-9
    said = {"uvwFI": np.array([[0.0, 0.0, 6.0]]), "timing": np.zeros(1)}
    left, when = bench.by_hand(npho, times, said)
    assert np.flatnonzero(left[0] == np.float32(INVALID)).tolist() == list(range(100, 110))
    assert np.flatnonzero(when[0] == np.float32(INVALID)).tolist() == list(range(100, 110))


def test_the_loss_is_least_at_the_true_shares(bench: Any) -> None:
    share = torch.rand(2, 4760, generator=torch.Generator().manual_seed(3)).clamp(0.05, 0.95)
    npho, valid = torch.ones(2, 4760), torch.ones(2, 4760, dtype=torch.bool)
    logits = torch.logit(share).requires_grad_()
    (gradient,) = torch.autograd.grad(bench.loss_of(logits, share, npho, valid), logits)
    assert float(gradient.abs().max()) < 1e-6


def test_few_events_are_refused(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2048 events or more"):
        bench.run(bench.parser().parse_args(["--events", "100", "--out", str(tmp_path)]))


@pytest.mark.long
@pytest.mark.slow
def test_every_way_is_measured_with_and_without_a_second_photon(bench: Any, tmp_path: Path) -> None:
    options = bench.parser().parse_args(["--events", "2048", "--epochs", "1", "--test", "64", "--out", str(tmp_path)])
    result = bench.run(options)
    assert len(result) == 4
    assert all(set(bench.WAYS) < set(found) for found in result.values())
    two, one = result["nominal, two photons"], result["nominal, one photon"]
    assert two["light"][1] > 0.05 > one["light"][1] == 0.0
    # with the true shares removed a photon is where it is without a second one
    assert two["truth"]["s68"][0] < two["as they are"]["s68"][0]
    assert len((tmp_path / "pileup.md").read_text().splitlines()) == 2 + 4 * len(bench.WAYS)
