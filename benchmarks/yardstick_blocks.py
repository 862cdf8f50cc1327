"""What trees learn from: features and targets of training events, block by block, kept on disk and not made twice."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xecml.conventional.constants import read_constants
from xecml.conventional.direction import local_axes
from xecml.conventional.features import FEATURES, Described, describe
from xecml.conventional.reconstruction import Reconstruction
from xecml.data import source
from xecml.errors import InputError
from xecml.events import Chunk
from xecml.files import atomic_path
from xecml.geometry import direction_from_angles
from xecml.simulation.generate import simulate
from xecml.simulation.settings import SimulationSettings

Floats = NDArray[np.float64]

INPUTS = ("npho", "time")
TRUTHS = ("uvwTruth", "energyTruth", "timeTruth", "emiAng")
TARGETS = ("u", "v", "w", "log energy", "time", "direction u", "direction v", "direction w")
"""Truth less conventional answer: cm, logarithm, ns, components of the unit vector along local axes."""
BLOCK = 6400
SIMULATED = 25_600
"""Events of a block that is simulated for it, 550 MB while it is made."""
_SEEDS_APART = 10
"""Between blocks; those of other kinds of photons lie between."""
_CHUNK = 512


@dataclass(frozen=True)
class Sample:
    """Training events as trees see them.

    Attributes:
        features: (N, 222).
        targets: (N, 8), columns of `TARGETS`.
        files: that the events are of.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    files: tuple[str, ...]


def local_directions(seen: Described) -> Floats:
    """The conventional directions as components (N, 3) along the local axes u, v, w."""
    return np.einsum("nak,nk->na", local_axes(seen.uvw[:, 1]), direction_from_angles(seen.angles))


def targets(seen: Described, truth: Chunk) -> Floats:
    """What is to be learnt (N, 8)."""
    true = np.einsum("nak,nk->na", local_axes(seen.uvw[:, 1]), direction_from_angles(truth["emiAng"]))
    columns = [
        truth["uvwTruth"] - seen.uvw,
        np.log(truth["energyTruth"].astype(np.float64) / seen.energy)[:, None],
        1e9 * (truth["timeTruth"].astype(np.float64) - seen.timing)[:, None],
        true - local_directions(seen),
    ]
    return np.concatenate(columns, 1)


def sample(
    files: Sequence[str | Path], constants: str, events: int, folder: Path, *, threads: int = 1, quiet: bool = False
) -> Sample:
    """Features and targets of the first events of files that have truth.

    Args:
        files: event files.
        constants: name or file of the conventional constants.
        events: so many.
        folder: for what is made; blocks that are there are not made again.
        threads: to work in.
        quiet: say nothing.

    Raises:
        InputError: there are fewer events, or a file has no truth.
    """
    method = Reconstruction(read_constants(constants), threads=threads)
    blocks, used = list(_blocks(files, events)), list[str]()

    def kept() -> Iterator[Path]:
        for path, start, stop in blocks:
            out = folder / f"{Path(path).stem}_{start:06d}_{_key(constants, Path(path).resolve(), start, stop)}.npz"
            if not out.exists():
                _make(method, path, start, stop, out)
            if path not in used:
                used.append(path)
            yield out

    features, goals = _joined(kept(), events, None if quiet else constants)
    return Sample(features, goals, tuple(str(Path(path).resolve()) for path in used))


def simulated(
    settings: SimulationSettings, seed: int, constants: str, events: int, folder: Path,
    *, threads: int = 1, quiet: bool = False,
) -> Sample:  # fmt: skip
    """Features and targets of events that are simulated, described and thrown away, block by block.

    Args:
        settings: of the simulation.
        seed: of the first block; the others have every tenth after it.
        constants: name or file of the conventional constants.
        events: so many.
        folder: for what is made; blocks that are there are not made again.
        threads: to work in.
        quiet: say nothing.
    """
    method = Reconstruction(read_constants(constants), threads=threads)

    def kept() -> Iterator[Path]:
        for number in range(-(-events // SIMULATED)):
            own = seed + _SEEDS_APART * number
            out = folder / f"simulated_{own}_{_key(constants, settings.model_dump_json(), own, SIMULATED)}.npz"
            if not out.exists():
                with tempfile.TemporaryDirectory(dir=_made(folder)) as scratch:
                    path = Path(scratch) / "events.root"
                    simulate(path, SIMULATED, settings=settings, seed=own, jobs=threads)
                    _make(method, str(path), 0, SIMULATED, out)
            yield out

    features, goals = _joined(kept(), events, None if quiet else constants)
    return Sample(features, goals, ())


def _key(constants: str, *what: object) -> str:
    """What a block is of, for its name."""
    name = " ".join(map(str, (constants, *what, FEATURES)))
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _joined(blocks: Iterable[Path], events: int, said: str | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features and targets of the first events of blocks; progress is told unless `said` is None."""
    features, goals = np.empty((events, len(FEATURES)), np.float32), np.empty((events, len(TARGETS)), np.float32)
    done = 0
    for path in blocks:
        with np.load(path) as block:
            number = min(len(block["features"]), events - done)
            features[done : done + number] = block["features"][:number]
            goals[done : done + number] = block["targets"][:number]
        done += number
        if said is not None:
            print(f"features {said}: {done} of {events} events", file=sys.stderr, flush=True)
    return features, goals


def _blocks(files: Sequence[str | Path], events: int) -> Iterator[tuple[str, int, int]]:
    paths, left = source.expand(files), events
    total = sum(source.count_events(path) for path in paths)
    if total < events:
        raise InputError(f"{paths[0]} and the files after it hold {total} events, not {events}; give more of them.")
    for path in paths:
        here = min(source.count_events(path), left)
        for start in range(0, here, BLOCK):
            yield path, start, min(start + BLOCK, here)
        left -= here


def _make(method: Reconstruction, path: str, start: int, stop: int, out: Path) -> None:
    """Write a block."""
    parts: list[tuple[NDArray[np.float32], Floats]] = []
    with source.open_events(path) as reader:
        if missing := [name for name in (*INPUTS, *TRUTHS) if not reader.has(name)]:
            raise InputError(f"{path} has no {', '.join(missing)}; trees are trained on simulated events.")
        for first in range(start, stop, _CHUNK):
            chunk = reader.arrays([*INPUTS, *TRUTHS], first, min(first + _CHUNK, stop))
            seen = describe(method, chunk["npho"], chunk["time"])
            parts.append((seen.features, targets(seen, chunk)))
    _made(out.parent)
    features, goals = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features, targets=goals.astype(np.float32))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
