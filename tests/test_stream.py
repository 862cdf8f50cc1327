"""Batches from files: every event once, seeded, restartable, bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import rootio
from xecml.data.stream import Batch, EventStream, buffer_events
from xecml.errors import InputError

TASKS = ("angle", "energy", "timing", "uvwFI")


def numbers(batches: list[Batch]) -> list[int]:
    return [int(e) for b in batches for e in b.event]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream")
    events = point_sources(1300, seed=4)
    for name, part in (("a", slice(0, 700)), ("b", slice(700, 710)), ("c", slice(710, 1300))):
        rootio.write(path / f"{name}.root", {k: v[part] for k, v in events.items()})
    return path


def stream(folder: Path, **options: object) -> EventStream:
    given: dict[str, object] = {"tasks": TASKS, "batch_size": 64, "buffer_events": 256} | options
    return EventStream(str(folder), **given)  # type: ignore[arg-type]


def test_unshuffled_batches_are_the_files(folder: Path) -> None:
    batches = list(stream(folder, shuffle=False).epoch(0))
    assert numbers(batches) == list(range(1300))
    assert [len(b) for b in batches] == [64] * 20 + [20]
    whole = point_sources(1300, seed=4)
    np.testing.assert_array_equal(torch.cat([b.npho for b in batches]), whole["npho"])
    np.testing.assert_array_equal(torch.cat([b.truth["uvwFI"] for b in batches]), whole["uvwTruth"])
    np.testing.assert_array_equal(torch.cat([b.valid for b in batches]), whole["npho"] < 9e9)
    assert batches[0].truth["energy"].shape == (64, 1)


def test_an_epoch_has_every_event_at_most_once(folder: Path) -> None:
    source = stream(folder)
    seen = numbers(list(source.epoch(1)))
    assert source.n_batches == 20
    assert len(seen) == len(set(seen)) == 20 * 64
    assert seen != sorted(seen)


def test_order_depends_on_seed_and_epoch_only(folder: Path) -> None:
    first = numbers(list(stream(folder, seed=3).epoch(1)))
    assert numbers(list(stream(folder, seed=3, background=False).epoch(1))) == first
    assert numbers(list(stream(folder, seed=3).epoch(2))) != first
    assert numbers(list(stream(folder, seed=4).epoch(1))) != first


@pytest.mark.parametrize("start", [0, 1, 4, 7, 19])
def test_an_epoch_can_start_at_any_batch(folder: Path, start: int) -> None:
    whole = [b.event.tolist() for b in stream(folder).epoch(5)]
    assert [b.event.tolist() for b in stream(folder).epoch(5, start)] == whole[start:]


def test_shuffling_crosses_ranges_and_files(folder: Path) -> None:
    """Within a buffer, a batch mixes events from far apart."""
    batch = next(iter(stream(folder, buffer_events=1280).epoch(1)))
    assert int(batch.event.max() - batch.event.min()) > 900


def test_buffer_is_bounded_by_events_and_by_memory() -> None:
    assert buffer_events(1000, 1e6, 64) == 1000
    assert buffer_events(10**9, 38.08, 64) == 1000
    assert buffer_events(10, 1e-3, 64) == 64


def test_bad_inputs_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fewer than one batch"):
        stream(folder, batch_size=2000)
    events = point_sources(5)
    events["energyTruth"][3] = np.nan
    rootio.write(tmp_path / "nan.root", events)
    with pytest.raises(InputError, match="'energyTruth' is not finite in run 0 event 3"):
        list(EventStream(str(tmp_path / "nan.root"), tasks=["energy"], batch_size=5, buffer_events=5).epoch(0))
    del events["energyTruth"]
    rootio.write(tmp_path / "none.root", events)
    with pytest.raises(InputError, match="no branch 'energyTruth'"):
        EventStream(str(tmp_path / "none.root"), tasks=["energy"], batch_size=5, buffer_events=5)
    rootio.write(tmp_path / "empty.root", {k: v[:0] for k, v in events.items()})
    with pytest.raises(InputError, match="holds no events"):
        EventStream(str(tmp_path / "empty.root"), tasks=["angle"], batch_size=5, buffer_events=5)
