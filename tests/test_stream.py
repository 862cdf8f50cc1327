"""Batches from files: every event once, seeded, restartable, bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import rootio
from xecml.data import buffers
from xecml.data.order import Ranges, batch_edges
from xecml.data.stream import Batch, EventStream, buffer_events
from xecml.errors import InputError
from xecml.events import valid_counts, valid_times

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
    assert buffer_events(10**9, 47.6, 64) == 1000
    assert buffer_events(10, 1e-3, 64) == 64


def test_bad_inputs_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fewer than one batch"):
        stream(folder, batch_size=2000)
    with pytest.raises(InputError, match="fewer than one batch of 700 for each of 2 processes"):
        stream(folder, batch_size=700, world=2)
    with pytest.raises(InputError, match="holds 10 events, fewer than 16 processes"):
        stream(folder / "b.root", world=16, shuffle=False)
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


# ------------------------------------------------------------------------------------ masks, several processes, threads


def test_masks_are_those_of_the_vocabulary(tmp_path: Path) -> None:
    events = point_sources(8, seed=2, dead=0.1)
    for i, bad in enumerate((np.nan, np.inf, -np.inf, 0.0, -3.0, 9.1e9, 1e10)):
        events["npho"][i, i], events["time"][i, i + 100] = bad, bad
    rootio.write(tmp_path / "m.root", events)
    batch = next(EventStream(str(tmp_path / "m.root"), tasks=[], batch_size=8, buffer_events=8, shuffle=False).epoch(0))
    np.testing.assert_array_equal(batch.valid, valid_counts(events["npho"]))
    np.testing.assert_array_equal(batch.timed, valid_times(events["npho"], events["time"]))
    assert not batch.valid[0, 0]
    assert not batch.timed[0, 100]


@pytest.mark.parametrize(("rows", "batch", "world"), [(1300, 64, 2), (1300, 16, 16), (1300, 50, 3), (1300, 1, 7)])
def test_processes_share_an_epoch(folder: Path, rows: int, batch: int, world: int) -> None:
    """Each event goes to one process at most, and all have equally many full batches."""
    sources = [stream(folder, batch_size=batch, world=world, rank=rank) for rank in range(world)]
    seen = []
    for source in sources:
        batches = list(source.epoch(2))
        assert len(batches) == source.n_batches == rows // (batch * world)
        assert {len(b) for b in batches} == {batch}
        seen += numbers(batches)
    assert len(seen) == len(set(seen)) == rows // (batch * world) * batch * world


@pytest.mark.parametrize("world", [2, 3, 16])
def test_processes_share_all_events_in_order(folder: Path, world: int) -> None:
    sources = [stream(folder, world=world, rank=rank, shuffle=False) for rank in range(world)]
    parts = [list(source.epoch(0)) for source in sources]
    assert numbers([b for part in parts for b in part]) == list(range(1300))
    assert len({len(part) for part in parts}) == 1
    sizes = {len(b) for part in parts for b in part}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 64


def test_one_file_serves_sixteen_workers(folder: Path) -> None:
    options = {"batch_size": 20, "buffer_events": 400, "seed": 1}
    one = list(stream(folder / "a.root", **options).epoch(1))
    many = list(stream(folder / "a.root", workers=16, **options).epoch(1))
    assert len(one) == len(many) == 35
    for a, b in zip(one, many, strict=True):
        assert torch.equal(a.event, b.event)
        assert torch.equal(a.npho, b.npho)
        assert torch.equal(a.timed, b.timed)


def test_edges_of_batches_cover_the_epoch() -> None:
    assert batch_edges(10, 4, 0, 1, shuffle=True).tolist() == [0, 4, 8]
    assert batch_edges(10, 4, 0, 1, shuffle=False).tolist() == [0, 4, 8, 10]
    assert batch_edges(11, 2, 1, 2, shuffle=True).tolist() == [4, 6, 8]
    assert [batch_edges(11, 4, r, 2, shuffle=False).tolist() for r in (0, 1)] == [[0, 2, 5], [5, 8, 11]]
    assert [batch_edges(5, 1, r, 2, shuffle=False).tolist() for r in (0, 1)] == [[0, 1, 2], [2, 3, 5]]


# ---------------------------------------------------------------------------------------------- position and memory


@pytest.mark.parametrize("start", [3, 50, 77])
def test_the_next_fifty_batches_after_a_restart_are_equal(folder: Path, start: int) -> None:
    options = {"batch_size": 10, "buffer_events": 90, "seed": 11}
    whole = list(stream(folder, **options).epoch(4))[start : start + 50]
    again = stream(folder, **options).epoch(4, start)
    for before in whole:
        after = next(again)
        assert torch.equal(before.event, after.event)
        assert torch.equal(before.run, after.run)
        assert torch.equal(before.npho, after.npho)
        assert torch.equal(before.time, after.time)
        assert torch.equal(before.valid, after.valid)
        assert torch.equal(before.timed, after.timed)
        assert all(torch.equal(before.truth[task], after.truth[task]) for task in TASKS)
    assert len(whole) == 50


def test_a_position_belongs_to_a_sample_and_its_order(folder: Path, tmp_path: Path) -> None:
    assert stream(folder).fingerprint == stream(folder, workers=3, background=False).fingerprint
    for change in ({"seed": 5}, {"batch_size": 32}, {"buffer_events": 128}, {"world": 2}):
        assert stream(folder, **change).fingerprint != stream(folder).fingerprint
    assert stream(folder / "a.root").fingerprint != stream(folder).fingerprint
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert stream(moved).fingerprint == stream(folder).fingerprint


def test_batches_that_are_kept_stay_as_they_were(folder: Path) -> None:
    """Buffers are used again, but not while something refers to them."""
    kept, copies = [], []
    for i, batch in enumerate(stream(folder, buffer_events=128).epoch(1)):
        if i % 3 == 0:
            kept.append(batch.npho[5:7])
            copies.append(batch.npho[5:7].clone())
    assert len(kept) == 7
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_two_buffers_serve_an_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = buffers.Buffers._new

    def counted(self: buffers.Buffers) -> dict[str, np.ndarray]:
        made.append(1)
        return real(self)

    monkeypatch.setattr(buffers.Buffers, "_new", counted)
    seen = 0
    for batch in stream(folder, buffer_events=128).epoch(1):
        seen += len(batch)
    assert seen == 1280
    assert len(made) == 2


def test_a_million_events_are_planned_at_once(folder: Path) -> None:
    """A long list of files is opened once each, and any batch of it is read alone."""
    files = [str(folder / "a.root")] * 1429
    source = EventStream(files, tasks=["energy"], batch_size=100, buffer_events=400)
    assert source.n_events == 1_000_300
    assert source.n_batches == 10_003
    whole = [next(source.epoch(1, b)).event.tolist() for b in (9_000, 9_001, 9_002)]
    batches = source.epoch(1, 9_000)
    assert [next(batches).event.tolist() for _ in range(3)] == whole
    batches.close()  # type: ignore[attr-defined]


def test_ranges_mix_files_that_are_far_apart() -> None:
    """Of a hundred files, neighbours in an epoch come from all over the list, but few are open at a time."""
    order = Ranges.of([[(0, 10), (10, 20), (20, 30)] for _ in range(100)]).shuffled(1, 2)
    assert sorted(zip(order.file.tolist(), order.start.tolist(), strict=True)) == [
        (f, s) for f in range(100) for s in (0, 10, 20)
    ]
    first = order.file[:48]
    assert len(set(first.tolist())) == 16
    assert first.max() - first.min() > 50
    assert order.spans(5, 25)[0][2] - order.spans(5, 25)[0][1] == 5
    assert sum(b - a for _, a, b in order.spans(7, 1234)) == 1227
