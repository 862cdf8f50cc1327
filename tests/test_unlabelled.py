"""The benchmark of unlabelled events: the discrepancy of two samples, and a tiny run of every way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmark_modules import modules
from xecml.errors import InputError
from xecml.training import setup


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with modules(("whole_training", "unlabelled")) as found:
        yield found["unlabelled"]


def test_equal_samples_do_not_differ_and_others_do(bench: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    one, other, far = (torch.randn(256, 16, generator=generator) for _ in range(3))
    same = [float(bench.discrepancy(a, b)) for a, b in ((one, other), (other, far), (one, far))]
    assert max(map(abs, same)) < 0.01
    shifts = [float(bench.discrepancy(one, far + shift)) for shift in (0.3, 1.0, 3.0)]
    assert 0.01 < shifts[0] < shifts[1] < shifts[2]


def test_its_gradient_draws_two_samples_together(bench: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    one = torch.randn(128, 8, generator=generator)
    other = (torch.randn(128, 8, generator=generator) + 1.0).requires_grad_()
    apart = bench.discrepancy(one, other)
    (gradient,) = torch.autograd.grad(apart, other)
    assert (gradient.mean(0) > 0).all()
    assert float(bench.discrepancy(one, (other - 10 * gradient).detach())) < float(apart.detach())


def test_few_labels_are_refused(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="512 events or more"):
        bench.run(bench.parser().parse_args(["--labels", "100", "--out", str(tmp_path)]))


def test_only_trainings_inside_are_aligned(bench: Any) -> None:
    plain = setup.make_job
    with pytest.raises(KeyError), bench.aligned([], 1.0):
        assert setup.make_job is not plain
        raise KeyError
    assert setup.make_job is plain


@pytest.mark.long
@pytest.mark.slow
def test_every_way_is_measured_on_every_detector(bench: Any, tmp_path: Path) -> None:
    flags = ["--labels", "512", "--steps", "4", "--unlabelled", "256", "--test", "64", "--preset", "tiny"]
    options = bench.parser().parse_args([*flags, "--out", str(tmp_path)])
    result = bench.run(options)
    assert list(result) == [f"512 {arm}" for arm in bench.ARMS]
    assert all(list(found) == list(bench.DETECTORS) for found in result.values())
    assert len((tmp_path / "unlabelled.md").read_text().splitlines()) == 2 + 3 * 4
    logs = [
        json.loads(line)
        for line in (tmp_path / "trainings/alignment_512_4_tiny_256_1/metrics.jsonl").read_text().splitlines()
    ]
    assert any("train/loss_discrepancy" in line for line in logs)
