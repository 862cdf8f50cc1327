"""The benchmark of a second photon's light: removal by hand, the loss, and a tiny run of every way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmark_modules import modules
from tests.points_of_light import light_of_a_point
from xecml.errors import InputError
from xecml.events import INVALID


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with modules(("pileup",)) as found:
        yield found["pileup"]


def test_by_hand_takes_away_sensors_that_are_late(bench: Any) -> None:
    npho, times = light_of_a_point((0.0, 0.0, 6.0))
    times[0, 100:110] += 40e-9
    said = {"uvwFI": np.array([[0.0, 0.0, 6.0]]), "timing": np.zeros(1)}
    left, when = bench.by_hand(npho, times, said)
    for values in (left, when):
        assert np.flatnonzero(values[0] == np.float32(INVALID)).tolist() == list(range(100, 110))


def test_medians_are_of_what_is_there(bench: Any) -> None:
    values = np.array([[3.0, 1.0, 2.0, 100.0], [5.0, 6.0, 7.0, 8.0]])
    there = np.array([[True, True, True, False], [False] * 4])
    assert bench.medians(values, there).tolist() == [[2.0], [0.0]]


def test_the_loss_is_least_at_the_true_shares(bench: Any) -> None:
    share = torch.rand(2, 4760, generator=torch.Generator().manual_seed(3)).clamp(0.05, 0.95)
    npho, valid = torch.ones(2, 4760), torch.ones(2, 4760, dtype=torch.bool)
    logits = torch.logit(share).requires_grad_()
    (gradient,) = torch.autograd.grad(bench.loss_of(logits, share, npho, valid), logits)
    assert float(gradient.abs().max()) < 1e-6


def test_the_rate_rises_and_falls(bench: Any) -> None:
    rates = [bench.rate_at(share) for share in (0.0, 0.03, 0.5, 1.0)]
    assert 0 < rates[0] < 0.1 < 0.9 < rates[1] <= 1.0
    assert rates[2:] == pytest.approx([0.5, 0.0])


def test_few_events_are_refused(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2048 events or more"):
        bench.run(bench.parser().parse_args(["--events", "100", "--out", str(tmp_path)]))


@pytest.mark.long
@pytest.mark.slow
def test_every_way_is_measured_with_and_without_a_second_photon(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "pileup.pt"
    monkeypatch.setattr(bench, "WEIGHTS", weights)
    flags = ["--events", "2048", "--epochs", "1", "--test", "64", "--out", str(tmp_path), "--ship"]
    result = bench.run(bench.parser().parse_args(flags))
    assert len(result) == 6
    assert all(set(bench.WAYS) < set(found) for found in result.values())
    two, one = result["signal, two photons"], result["signal, one photon"]
    assert two["light"] > 0.05 > one["light"] == 0.0
    # with the true shares removed a photon is where it is without a second one
    assert two["truth"]["s68"][0] < two["as they are"]["s68"][0]
    assert len((tmp_path / "pileup.md").read_text().splitlines()) == 2 + 6 * len(bench.WAYS)
    assert weights.stat().st_size < 1e6
