"""A step of a training runs wholly on its device: seen without a GPU on the device of shapes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.fx.experimental import _config

from tests.conftest import point_sources
from xecml.data.batch import Batch, validity
from xecml.events import TASKS
from xecml.recipes import load_config
from xecml.training import setup


def batch_of(events: int) -> Batch:
    arrays = {name: torch.from_numpy(x) for name, x in point_sources(events, seed=1, dead=0.01).items()}
    truth = {task: arrays[info.truth].reshape(events, -1) for task, info in TASKS.items() if info.truth in arrays}
    npho, time = arrays["npho"], arrays["time"]
    return Batch(npho, time, *validity(npho, time), truth, arrays["run"], arrays["event"])


@pytest.fixture
def shapes_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let networks run on `meta`, whose tensors have a shape and no numbers, and refuse those of other devices."""
    autocast = torch.autocast

    def of_device(kind: str, *given: Any, **named: Any) -> Any:
        return contextlib.nullcontext() if kind == "meta" else autocast(kind, *given, **named)

    monkeypatch.setattr(torch, "autocast", of_device)
    with _config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@pytest.mark.parametrize("job", ["regress", "mae", "inpaint"])
@pytest.mark.parametrize("preset", ["tiny", pytest.param("reference", marks=pytest.mark.slow)])
def test_nothing_of_a_step_stays_on_the_processor(shapes_only: None, preset: str, job: str) -> None:
    config = load_config(job, [f"model.preset={preset}"], job=job)
    made = setup.make_job(config, job)
    made.fit([batch_of(16)], keep_features=False)
    augmented = setup.augmentation_of(config)(batch_of(4), torch.Generator().manual_seed(1))
    ready = made.prepare(augmented, (0, 1, 0), 1.0)
    names = ("npho", "time", "valid", "timed", "weight", "hidden")
    moved = replace(ready, **{name: getattr(ready, name).to("meta") for name in names})
    moved = replace(moved, truth={task: y.to("meta") for task, y in ready.truth.items()})
    step = made.step.train().to("meta")
    total, parts = step(moved)
    total.backward()
    assert {value.device.type for value in (total, *parts.values())} == {"meta"}
    learnt = [parameter for parameter in step.parameters() if parameter.requires_grad]
    reached = [parameter.grad for parameter in learnt if parameter.grad is not None]
    assert len(reached) > 0.9 * len(learnt)
    assert {gradient.device.type for gradient in reached} == {"meta"}
    with pytest.raises((RuntimeError, NotImplementedError)):  # the device does refuse what is elsewhere
        step(replace(moved, npho=ready.npho))
