"""The mean of two trainings, of which a shipped model is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmark_modules import modules


@pytest.fixture(scope="module")
def make() -> Iterator[Any]:
    with modules(("make_pretrained",)) as found:
        yield found["make_pretrained"]


def weights(value: float) -> dict[str, Tensor]:
    names = ("heads.timing.weight", "timing_sigma_factor", "training_distribution.mean", "corrections.energy_factor")
    return {name: torch.full((2,), value) for name in names} | {
        "training_distribution.events": torch.tensor(int(value))
    }


def test_a_mean_has_the_sample_of_the_other_and_the_factors_of_its_own(make: Any) -> None:
    found = make.mean_weights(weights(2.0), weights(6.0), share=0.25)
    assert found["heads.timing.weight"].tolist() == [3.0, 3.0]
    assert found["timing_sigma_factor"].tolist() == [2.0, 2.0]
    assert found["corrections.energy_factor"].tolist() == [2.0, 2.0]
    assert found["training_distribution.mean"].tolist() == [6.0, 6.0]
    assert found["training_distribution.events"] == 6


def test_weights_of_sixteen_bits_do_not_decide_the_type(make: Any) -> None:
    other = {name: w.half() if w.is_floating_point() else w for name, w in weights(6.0).items()}
    assert make.mean_weights(weights(2.0), other, share=0.5)["heads.timing.weight"].dtype == torch.float32


def test_networks_that_differ_have_no_mean(make: Any) -> None:
    other = weights(6.0) | {"heads.timing.weight": torch.zeros(3)}
    with pytest.raises(SystemExit, match="same network"):
        make.mean_weights(weights(2.0), other, share=0.5)
