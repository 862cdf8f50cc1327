"""Test events of the physics benchmark: what they are, their seeds, and that no model has been trained on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xecml import rootio
from xecml.data import source
from xecml.errors import InputError
from xecml.files import atomic_path
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_vary, make_settings

SIGNAL, DECOUPLED = "signal", "decoupled"
FIRST_SEED = 271_801
"""Of the samples, one each; those of trainings, calibrations and other benchmarks are below 10,000 or 271,828."""
EVENTS_PER_DETECTOR = 64
"""Of varied detectors."""
_COMPARED = 64
"""Events whose truth tells whether two files hold the same ones."""


@dataclass(frozen=True)
class Sample:
    """Simulated test events.

    Attributes:
        name: of the file, and in tables of numbers.
        label: for people.
        kind: of photons, `signal` or `decoupled`; methods are of a kind, too.
        seed: of the simulation.
        settings: of the simulation, besides the default ones.
        line: energy of a line, MeV.
        varied: whether every 64 events are of another detector.
    """

    name: str
    label: str
    kind: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    line: float | None = None
    varied: bool = False


def _samples() -> tuple[Sample, ...]:
    wide = {"energy_mev": (15.0, 60.0)}
    found = [
        ("signal", "signal photons, 52.8 MeV", SIGNAL, {"energy_mev": 52.8}, 52.8, False),
        ("decoupled", "decoupled photons, 15 to 60 MeV", DECOUPLED, wide, None, False),
        ("line17", "line of 17.6 MeV", SIGNAL, {"energy_mev": 17.6}, 17.6, False),
        ("line54", "line of 54.9 MeV", SIGNAL, {"energy_mev": 54.9}, 54.9, False),
        ("line82", "line of 82.9 MeV", SIGNAL, {"energy_mev": 82.9}, 82.9, False),
        ("varied_signal", "signal photons, 52.8 MeV, varied detectors", SIGNAL, {"energy_mev": 52.8}, 52.8, True),
        ("varied_decoupled", "decoupled photons, varied detectors", DECOUPLED, wide, None, True),
    ]  # fmt: skip
    return tuple(
        Sample(name, label, kind, FIRST_SEED + k, {"vertex": kind} | settings, line, varied)
        for k, (name, label, kind, settings, line, varied) in enumerate(found)
    )


SAMPLES = _samples()


def make(sample: Sample, events: int, folder: Path, *, jobs: int = 1) -> Path:
    """The file of a sample, simulated where it is not there.

    Args:
        sample: which one.
        events: so many.
        folder: for samples.
        jobs: threads.
    """
    settings: dict[str, Any] = sample.settings | {"relative_branches": False}
    if sample.varied:
        settings["vary"] = load_vary("varied") | {"events_per_detector": EVENTS_PER_DETECTOR}
    chosen = make_settings(settings)
    path = folder / f"physics_{sample.name}_{events}.root"
    record = path.with_suffix(".json")
    said = {"seed": sample.seed, "events": events, "settings": json.loads(chosen.model_dump_json())}
    if path.exists() and record.exists():
        if json.loads(record.read_text(encoding="utf-8")) == said:
            return path
        raise InputError(f"{path} is of other settings; name another folder by --out, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    simulate(path, events, settings=chosen, seed=sample.seed, jobs=jobs)
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps(said), encoding="utf-8")
    return path


def refuse_trained_on(sample: Path, method: str, trained_on: Iterable[str | Path]) -> None:
    """Make sure that a method was not trained on a sample.

    Args:
        sample: file of test events.
        method: what it is called.
        trained_on: files of its training and of its validation, as its recipe names them; those that are no more here
            are known by their path alone.

    Raises:
        InputError: one of them is the sample, or holds its events.
    """
    own = _truth(sample)
    for given in trained_on:
        for path in _found(given):
            same = Path(path).resolve() == sample.resolve()
            if same or (Path(path).exists() and _same(own, _truth(path))):
                raise InputError(
                    f"{method} was trained on {path}, which holds the test events of {sample}; it cannot be measured "
                    "on them."
                )


def _found(given: str | Path) -> Sequence[str]:
    try:
        return source.expand(given)
    except InputError:  # moved away, or on another machine
        return [str(given)]


def _truth(path: str | Path) -> np.ndarray | None:
    """True first interactions of the first events; none of a file that has none."""
    try:
        with source.open_events(path) as reader:
            if not reader.has("uvwTruth"):
                return None
            return reader.arrays(["uvwTruth"], 0, min(_COMPARED, reader.n_events))["uvwTruth"]
    except InputError:
        return None


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None or not len(one) or not len(other):
        return False
    n = min(len(one), len(other))
    return bool(np.array_equal(one[:n], other[:n]))


def events_of(path: Path) -> int:
    """Number of events of a file."""
    return rootio.count_events(path)
