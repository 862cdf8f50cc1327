"""The learned yardstick: boosted trees on 222 numbers of the conventional reconstruction, to hold networks against.

    python benchmarks/yardstick.py train TREES.json FILE... --constants decoupled -n 10000 [--features FOLDER]
    python benchmarks/yardstick.py predict TREES.json FILE... --out predictions.root

Trees learn what the conventional answers miss the truth by: u, v, w and time with Huber's loss, the logarithm of the
energy too, the direction with squares. A sixth of the events says when to stop. What they were trained on stands in
their file. The prediction file has the columns of `xec predict`, so that every tool compares it; trees know no widths.

Needs lightgbm: pip install lightgbm
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import geometry, rootio
from xecml.conventional.constants import read_constants
from xecml.conventional.direction import local_axes
from xecml.conventional.features import FEATURES, Described, describe
from xecml.conventional.reconstruction import Reconstruction
from xecml.data import source
from xecml.data.coverage import coverage
from xecml.errors import InputError
from xecml.events import Chunk
from xecml.files import atomic_path, regular_file
from xecml.inference.event_parts import CARRIED
from xecml.inference.prediction_columns import PREDICTION_TREE, prediction_columns
from xecml.outputs import claim, making, mark
from xecml.resolution import s68
from yardstick_blocks import INPUTS, TARGETS, Sample, local_directions, sample

FORMAT, VERSION = "xecml-yardstick", 1
MANY = 30_000
"""Events from which trees are larger and more."""
HELD_BACK = 6
"""One event of so many says when to stop."""
_STOP_AFTER = 40
_CHUNK = 512
_WIDE = 1.5
"""Half-widths beyond which Huber's loss is linear."""


def parameters(events: int, threads: int) -> tuple[dict[str, Any], int]:
    """Settings of trees by the number of events, and the largest number of trees."""
    many = events >= MANY
    chosen = {
        "learning_rate": 0.04, "num_leaves": 31 if many else 15, "feature_fraction": 0.3, "bagging_fraction": 0.7,
        "bagging_freq": 1, "min_data_in_leaf": 20, "num_threads": threads, "seed": 1, "verbosity": -1,
        "deterministic": True, "force_row_wise": True,
    }  # fmt: skip
    return chosen, 2000 if many else 700


def lightgbm() -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise InputError("Trees need lightgbm, which is not installed; pip install lightgbm.") from error
    return lightgbm


@dataclass(frozen=True)
class Trees:
    """Trained trees.

    Attributes:
        constants: name or file of the conventional constants that their features are made with.
        events: trained on, those that say when to stop among them.
        files: that the events were of.
        scales: by target, what its trees answer in.
        models: by target, as lightgbm writes them.
        numbers: of trees by target.
        seconds: of processor time that the training took, without the features.
    """

    constants: str
    events: int
    files: tuple[str, ...]
    scales: dict[str, float]
    models: dict[str, str]
    numbers: dict[str, int]
    seconds: float


def train(given: Sample, constants: str, *, threads: int = 1, quiet: bool = False) -> Trees:
    """Train trees for all targets; events whose target is unknown are left out."""
    library, started = lightgbm(), time.process_time()
    rows = np.random.default_rng(1).permutation(len(given.targets))
    chosen, most = parameters(len(rows), threads)
    scales, models, numbers = dict[str, float](), dict[str, str](), dict[str, int]()
    for k, target in enumerate(TARGETS):
        goal = given.targets[:, k].astype(np.float64)
        known = rows[np.isfinite(goal[rows])]
        if len(known) < 2 * HELD_BACK * chosen["min_data_in_leaf"]:
            raise InputError(f"Only {len(known)} events tell {target}; give more training events.")
        scales[target] = s68(goal[known]) or 1.0
        goal /= scales[target]
        stop, learn = known[::HELD_BACK], np.delete(known, slice(None, None, HELD_BACK))
        loss = {"objective": "l2"} if target.startswith("direction") else {"objective": "huber", "alpha": _WIDE}
        data = library.Dataset(given.features[learn], goal[learn], free_raw_data=True)
        held = library.Dataset(given.features[stop], goal[stop], reference=data)
        model = library.train(
            chosen | loss, data, most, valid_sets=[held],
            callbacks=[library.early_stopping(_STOP_AFTER, verbose=False)],
        )  # fmt: skip
        numbers[target] = int(model.best_iteration)
        models[target] = model.model_to_string(num_iteration=model.best_iteration)
        if not quiet:
            print(f"{target}: {numbers[target]} trees", file=sys.stderr, flush=True)
    return Trees(constants, len(rows), given.files, scales, models, numbers, time.process_time() - started)


def save(trees: Trees, path: str | Path) -> None:
    """Write trees as JSON, atomically."""
    content = {"made_by": mark(), "format": FORMAT, "version": VERSION, "features": list(FEATURES)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content | trees.__dict__ | {"files": list(trees.files)}), encoding="utf-8")


def load(path: str | Path) -> Trees:
    """Read trees.

    Raises:
        InputError: the file is something else, or of other features.
    """
    advice = "make it anew with 'python benchmarks/yardstick.py train'"
    file = regular_file(path, "file of trees")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        known = (content["format"], content["version"], tuple(content["features"]))
        found = Trees(**{name: content[name] for name in Trees.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is no file of trees; {advice}.") from error
    if known != (FORMAT, VERSION, FEATURES):
        raise InputError(f"{path} is of other features than this version's; {advice}.")
    return found


class Predictor:
    """Trees at work.

    Args:
        trees: trained ones.
        threads: to work in.
    """

    def __init__(self, trees: Trees, threads: int = 1) -> None:
        library = lightgbm()
        self._threads = threads
        self._method = Reconstruction(read_constants(trees.constants), threads=threads)
        self._boosters = {name: library.Booster(model_str=text) for name, text in trees.models.items()}
        self._scales = trees.scales

    def predict(self, npho: NDArray[np.float32], time: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Answers by task, as `xecml.load_model(...).predict` gives them, without widths and `outlier`."""
        seen = describe(self._method, npho, time)
        missed = np.stack([self._of(name, seen) for name in TARGETS], 1)
        local = local_directions(seen) + missed[:, 5:8]
        vector = np.einsum("nak,na->nk", local_axes(seen.uvw[:, 1]), local)
        return {
            "angle": geometry.angles_from_direction(vector),
            "energy": seen.energy * np.exp(missed[:, 3]),
            "timing": seen.timing + 1e-9 * missed[:, 4],
            "uvwFI": seen.uvw + missed[:, :3],
        }

    def _of(self, target: str, seen: Described) -> NDArray[np.float64]:
        raw = self._boosters[target].predict(seen.features, num_threads=self._threads)
        return np.asarray(raw, np.float64) * self._scales[target]


@making("predict")
def predict_files(
    trees: Trees, files: Sequence[str | Path], out: str | Path, *, threads: int = 1, force: bool = False
) -> int:
    """Write a prediction tree, atomically; returns the number of events."""
    claim([out], inputs=files, force=force)
    model, before = Predictor(trees, threads), 0
    with rootio.TreeWriter(out, PREDICTION_TREE) as writer:
        for path in source.expand(files):
            optional = tuple(name for name in CARRIED if name not in INPUTS)
            chunk: Chunk
            for chunk in source.read(path, INPUTS, chunk_events=_CHUNK, optional=optional):
                npho, moments = chunk["npho"], chunk["time"]
                numbers = before + np.arange(len(npho))
                answers = model.predict(npho, moments)
                writer.extend(prediction_columns(chunk, answers, coverage(npho, moments), numbers=numbers))
                before += len(npho)
    return before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train on files that have truth")
    other = commands.add_parser("predict", help="write a prediction tree")
    for command in (one, other):
        command.add_argument("trees", type=Path, help="file of trees, JSON")
        command.add_argument("files", nargs="+", help="event files")
        command.add_argument("--jobs", type=int, default=2, help="threads")
    one.add_argument("-n", type=int, default=10_000, help="training events")
    one.add_argument("--constants", default="signal", help="conventional constants that suit the events")
    one.add_argument("--features", type=Path, default=Path("artifacts/yardstick"), help="folder of features, kept")
    other.add_argument("--out", type=Path, required=True, help="ROOT file to write")
    options = parser.parse_args()
    try:
        if options.command == "train":
            given = sample(options.files, options.constants, options.n, options.features, threads=options.jobs)
            save(train(given, options.constants, threads=options.jobs), options.trees)
        else:
            predict_files(load(options.trees), options.files, options.out, threads=options.jobs)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
