"""Files of which some events are taken: streams, orders, counts, and that nothing else of them is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import point_sources
from xecml import rootio
from xecml.data import source
from xecml.data.convert import convert
from xecml.data.reweighting import Reweighting
from xecml.data.selected_events import (
    Chosen,
    Cut,
    look,
    look_at_files,
    open_selected,
    parse_share,
    read_selected,
)
from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.training.overlap import shared_events

TEXT = "energyTruth > 0.03 and abs(uvwTruth[:,0]) < 15"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of several clusters, of 300 and 200 events; the runs are 1 and 2."""
    place = tmp_path_factory.mktemp("selected")
    for seed, events in ((1, 300), (2, 200)):
        arrays = point_sources(events, seed)
        with rootio.TreeWriter(place / f"{seed}.root") as writer:
            for start in range(0, events, 70):
                writer.extend({name: values[start : start + 70] for name, values in arrays.items()})
    return place


def wanted(folder: Path, low: float = 0.0, high: float = 1.0) -> set[tuple[int, int]]:
    found = set()
    for path in sorted(folder.glob("*.root")):
        (chunk,) = rootio.read(path, ["run", "event", "energyTruth", "uvwTruth"])
        places = np.arange(len(chunk["run"])) / len(chunk["run"])
        keep = (chunk["energyTruth"] > 0.03) & (np.abs(chunk["uvwTruth"][:, 0]) < 15)
        keep &= (places >= low) & (places < high)
        found |= set(zip(chunk["run"][keep].tolist(), chunk["event"][keep].tolist(), strict=True))
    return found


def ids(batches: Any) -> list[tuple[int, int]]:
    return [pair for b in batches for pair in zip(b.run.tolist(), b.event.tolist(), strict=True)]


def stream(files: str | list[str], **changes: Any) -> EventStream:
    options: dict[str, Any] = {"tasks": ["energy"], "batch_size": 8, "buffer_events": 32, "shuffle": False}
    return EventStream(files, **options | changes)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shards", [False, True])
def test_a_stream_has_the_selected_events_and_no_others(
    folder: Path, tmp_path: Path, shards: bool, workers: int
) -> None:
    files = str(folder)
    if shards:
        convert([files], tmp_path / "shards")
        files = str(tmp_path / "shards")
    events = stream(files, cut=Cut.of(TEXT), workers=workers)
    seen = ids(events.epoch(0))
    assert set(seen) == wanted(folder)
    assert len(seen) == len(set(seen)) == events.n_events == events.left.last
    assert events.left.events == 500
    assert list(events.left.steps.values()) == sorted(events.left.steps.values(), reverse=True)
    assert [*events.left.steps] == ["energyTruth > 0.03", "abs(uvwTruth[:, 0]) < 15"]


def test_the_content_of_selected_events_is_that_of_the_file(folder: Path) -> None:
    whole = {(r, e): n for b in stream(str(folder)).epoch(0) for r, e, n in _counts(b)}
    for batch in stream(str(folder), cut=Cut.of(TEXT, (0.1, 0.9))).epoch(0):
        for run, event, counts in _counts(batch):
            np.testing.assert_array_equal(counts, whole[run, event])
        assert bool((batch.truth["energy"] > 0.03).all())


def _counts(batch: Any) -> list[tuple[int, int, NDArray[Any]]]:
    copied = batch.npho.numpy().copy()
    return list(zip(batch.run.tolist(), batch.event.tolist(), copied, strict=True))


def test_a_shuffled_selection_is_seeded_and_restarts_at_any_batch(folder: Path) -> None:
    options: dict[str, Any] = {"cut": Cut.of(TEXT), "shuffle": True, "seed": 5}
    one = ids(stream(str(folder), **options).epoch(3))
    assert one == ids(stream(str(folder), **options, workers=2).epoch(3))
    assert one[16:] == ids(stream(str(folder), **options).epoch(3, 2))
    assert one != ids(stream(str(folder), **options).epoch(4))
    assert set(one) <= wanted(folder)


def test_processes_share_the_selected_events(folder: Path) -> None:
    parts = [ids(stream(str(folder), cut=Cut.of(TEXT), rank=rank, world=2).epoch(0)) for rank in (0, 1)]
    assert not set(parts[0]) & set(parts[1])
    assert set(parts[0]) | set(parts[1]) == wanted(folder)


def test_shares_that_meet_make_up_the_file(folder: Path) -> None:
    first, rest = (stream(str(folder), cut=Cut(share=share)) for share in ((0.0, 0.7), (0.7, 1.0)))
    a, b = set(ids(first.epoch(0))), set(ids(rest.epoch(0)))
    assert (len(a), len(b), len(a | b)) == (350, 150, 500)
    assert first.left.line() == "350 of 500 events (70 %); share 0 to 0.7 of each file: 350"
    selected = stream(str(folder), cut=Cut.of(TEXT, (0.7, 1.0)))
    assert set(ids(selected.epoch(0))) == wanted(folder, 0.7)


def test_a_selection_changes_what_a_position_belongs_to(folder: Path) -> None:
    prints = {stream(str(folder), cut=Cut.of(text)).fingerprint for text in ("", "run > 0", "event >= 0")}
    assert len(prints) == 3


def test_sparse_selections_of_many_entries_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 9000
    arrays = {"npho": np.ones((n, 4760), np.float32), "time": np.zeros((n, 4760), np.float32)}
    numbers = np.arange(n, dtype=np.int32)
    rootio.write(tmp_path / "s.root", arrays | {"run": numbers * 0, "event": numbers})
    spans: list[int] = []
    raw = rootio.TreeReader.raw

    def spy(self: Any, branch: str, start: int, stop: int) -> Any:
        spans.append(stop - start)
        return raw(self, branch, start, stop)

    monkeypatch.setattr(rootio.TreeReader, "raw", spy)
    events = stream(str(tmp_path / "s.root"), tasks=[], cut=Cut.of("event % 500 == 7"))
    assert ids(events.epoch(0)) == [(0, i) for i in range(7, n, 500)]
    assert max(spans) <= 1024


@pytest.mark.parametrize("last", [1, 511, 512, 513, 5000])
def test_entries_and_ranks_of_chosen_events(last: int) -> None:
    rng = np.random.default_rng(last)
    mask = rng.uniform(size=last) < 0.2
    mask[-1] = True
    chosen = Chosen(100, 100 + last, np.packbits(mask))
    places = 100 + np.flatnonzero(mask)
    assert len(chosen) == len(places)
    np.testing.assert_array_equal(chosen.entries(0, len(places)), places)
    for start in range(0, len(places), max(1, len(places) // 7)):
        np.testing.assert_array_equal(chosen.entries(start, start + 3)[:3], places[start : start + 3])
    edges = [0, 100, *rng.integers(100, 100 + last + 1, 20).tolist(), 100 + last, 10**6]
    np.testing.assert_array_equal(chosen.ranks(edges), np.searchsorted(places, edges))
    other = Chosen(0, 150, None)
    assert chosen.in_common(other) == other.in_common(chosen) == int((places < 150).sum())


def test_reading_in_chunks_gives_entries_and_content(folder: Path) -> None:
    path = str(folder / "1.root")
    found, _ = look_at_files([path], Cut.of(TEXT))
    options: dict[str, Any] = {"optional": ["run", "nGamma", "nothing"], "chunk_events": 10}
    parts = list(read_selected(path, ["event", "npho"], found[path], **options))
    entries = np.concatenate([entries for entries, _ in parts])
    (whole,) = rootio.read(path, ["event", "npho"])
    assert all(len(e) <= 10 for e, _ in parts)
    assert parts[0][1].keys() == {"event", "npho", "run", "nGamma"}
    for branch in ("event", "npho"):
        np.testing.assert_array_equal(np.concatenate([c[branch] for _, c in parts]), whole[branch][entries])
    with open_selected(path, "tree", None, found[path]) as reader:
        assert reader.n_events == len(entries)
        assert reader.arrays(["event"], 0, 0)["event"].shape == (0,)


def test_a_selection_may_look_at_sensors_and_at_branches_of_other_names(tmp_path: Path) -> None:
    arrays = point_sources(40, 4)
    arrays["npho"][::4] = INVALID
    arrays["charge"] = np.arange(40, dtype=np.float64)
    rootio.write(tmp_path / "s.root", {("E" if n == "energyTruth" else n): v for n, v in arrays.items()})
    names = {"energyTruth": "E"}
    with source.open_events(tmp_path / "s.root", "tree", names) as reader:
        chosen, left = look(reader, Cut.of("count(npho > 0) > 100 and charge >= 20 and energyTruth > 0"))
        same, _ = look(reader, Cut.of("count(npho > 0) > 100 and charge >= 20 and E > 0"))
    assert chosen.entries(0, len(chosen)).tolist() == [i for i in range(20, 40) if i % 4]
    assert same.entries(0, len(same)).tolist() == chosen.entries(0, len(chosen)).tolist()
    assert [*left.steps.values()] == [30, 15, 15]


def test_truth_that_was_not_measured_can_be_selected_away(tmp_path: Path) -> None:
    arrays = point_sources(40, 4)
    arrays["energyTruth"][::3] = INVALID
    rootio.write(tmp_path / "s.root", arrays)
    with pytest.raises(InputError, match="not measured"):
        list(stream(str(tmp_path / "s.root")).epoch(0))
    events = ids(stream(str(tmp_path / "s.root"), cut=Cut.of("energyTruth > 0")).epoch(0))
    assert [event for _, event in events] == [i for i in range(40) if i % 3]


def test_weights_are_of_the_selected_sample(folder: Path) -> None:
    cut = Cut.of("energyTruth > 0.04")
    weights = Reweighting.fit(str(folder), {"energy": (5,)}, cut=cut)
    assert weights.tables["energy"].low[0] > 0.04
    batches = list(stream(str(folder), cut=cut, weights=weights).epoch(0))
    mean = np.concatenate([batch.weight.numpy().copy() for batch in batches]).mean()
    assert mean == pytest.approx(1, abs=1e-5)


def test_shares_of_one_file_are_not_called_shared_events(folder: Path) -> None:
    def both(first: tuple[float, float], second: tuple[float, float], text: str = "") -> list[str]:
        training, validation = (stream(str(folder), cut=Cut.of(text, share)) for share in (first, second))
        return list(shared_events(training, validation))

    assert both((0.0, 0.7), (0.7, 1.0)) == []
    assert both((0.0, 0.7), (0.7, 1.0), TEXT) == []
    assert "50 of 200 validation" in both((0.0, 0.7), (0.6, 1.0))[0]
    assert "500 of 500 validation" in both((0.0, 1.0), (0.0, 1.0))[0]


def test_what_leaves_nothing_or_too_little_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"No event of .* is left of 500 .*energyTruth > 9' 0.*widen"):
        stream(str(folder), cut=Cut.of("run > 0 and energyTruth > 9"))
    with pytest.raises(InputError, match="fewer than one batch of 8, after event < 2"):
        stream(str(folder), cut=Cut.of("event < 2"), shuffle=True)
    with pytest.raises(InputError, match="did you mean 'energyTruth'"):
        stream(str(folder), cut=Cut.of("energyTruht > 2"))
    with pytest.raises(InputError, match="3 answers"):
        stream(str(folder), cut=Cut.of("uvwTruth > 2"))
    with pytest.raises(InputError, match="No event"):
        look_at_files([str(folder / "1.root")], Cut(share=(0.0, 1e-6)))


@pytest.mark.parametrize(("text", "share"), [("0.8", (0.0, 0.8)), ("0.8:1", (0.8, 1.0)), ("0:0.25", (0.0, 0.25))])
def test_shares_by_text(text: str, share: tuple[float, float]) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "x", "0.9:0.1", "1:2", "-1", "0:0.5:1", "nan", "nan:1"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="no share of files"):
        parse_share(text)
