"""Validation events that are training events are noticed, and others with the same numbers are not taken for them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import rootio
from xecml.data.convert import convert
from xecml.data.stream import EventStream
from xecml.training import overlap
from xecml.training.overlap import shared_events

Events = dict[str, Any]
DATA = ("npho", "time", "run", "event")
"""What real data have."""


def events(seed: int, n: int = 60, *, run: int = 1) -> Events:
    """As simulated ones: all runs are 1, and event numbers begin at 0, whatever the seed."""
    return point_sources(n, seed) | {"run": np.full(n, run, np.int32)}


def part(content: Events, start: int, stop: int, names: tuple[str, ...] | None = None) -> Events:
    return {name: values[start:stop] for name, values in content.items() if names is None or name in names}


def joined(*parts: Events) -> Events:
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def said(folder: Path, training: list[Events], validation: list[Events]) -> list[str]:
    for kind, contents in (("train", training), ("val", validation)):
        (folder / kind).mkdir()
        for i, content in enumerate(contents):
            rootio.write(folder / kind / f"{i}.root", content)
    return list(shared_events(stream(folder / "train"), stream(folder / "val")))


def stream(*paths: Path) -> EventStream:
    return EventStream([str(path) for path in paths], tasks=[], batch_size=8, buffer_events=64, shuffle=False)


@pytest.mark.parametrize("names", [None, DATA])
def test_other_events_with_the_same_numbers_are_no_matter(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    """Simulated files of other seeds."""
    training = [part(events(seed), 0, 60, names) for seed in (1, 2)]
    assert said(tmp_path, training, [part(events(3), 0, 60, names)]) == []


def test_shared_events_are_counted(tmp_path: Path) -> None:
    one, two, three = events(1), events(2), events(3)
    mixed = joined(part(one, 40, 60), part(three, 0, 30), part(two, 5, 10))
    assert said(tmp_path, [one, two], [three, mixed]) == [
        "25 of 115 validation events are training events too, so the validation will look better than it is; name "
        "other files in data.val_path."
    ]


def test_without_truth_counts_are_compared(tmp_path: Path) -> None:
    one, two = (part(events(seed, run=seed), 0, 60, DATA) for seed in (1, 2))
    (line,) = said(tmp_path, [one], [joined(part(one, 10, 40), two)])
    assert line.startswith("About 30 of 90 validation events are training events too")


def test_events_without_a_photon_are_not_taken_for_one_another(tmp_path: Path) -> None:
    """All of them have the truth 1e10."""
    one, two = events(1), events(2)
    for content in (one, two):
        content["uvwTruth"] = np.full((60, 3), 1e10, np.float32)
    assert said(tmp_path, [one], [two]) == []


def test_files_without_numbers_are_left_out(tmp_path: Path) -> None:
    one = part(events(1), 0, 60, ("npho", "time", "uvwTruth"))
    assert said(tmp_path, [one], [one]) == []


def test_the_same_file_is_noticed_by_its_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rootio.write(tmp_path / f"{name}.root", part(events(1), 0, 60, ("npho", "time")))
    (tmp_path / "link.root").symlink_to("a.root")
    a, b, link = (tmp_path / f"{name}.root" for name in ("a", "b", "link"))
    assert list(shared_events(stream(a), stream(b))) == []
    (line,) = shared_events(stream(a), stream(b, link))
    assert line.startswith("60 of 120 validation events are training events too")
    (line,) = shared_events(stream(a, link), stream(b))
    assert line == f"{a} is named 2 times in data.train_path, so its events count as often."


def test_shards_and_files(tmp_path: Path) -> None:
    rootio.write(tmp_path / "a.root", events(1))
    convert([str(tmp_path / "a.root")], tmp_path / "shards")
    (line,) = shared_events(stream(tmp_path / "shards"), stream(tmp_path / "a.root"))
    assert line.startswith("60 of 60 validation events")


def test_keys_tell_events_apart_and_cost_little() -> None:
    rng = np.random.default_rng(0)
    chunk = {
        "run": np.ones(300_000, np.int32),
        "event": np.arange(300_000, dtype=np.int32),
        "uvwTruth": rng.normal(size=(300_000, 3)).astype(np.float32),
    }
    started = time.process_time()
    keys = overlap._keys(chunk)
    assert len(np.unique(keys)) == 300_000
    assert time.process_time() - started < 2
