"""What the training loop costs over the bare forward, backward and step on the same batches.

    python benchmarks/loop.py [TRAIN.root] --preset compact --batch 128 --steps 200

Both sides train the same network on the same batches with the same arithmetic, and take turns step by step, so that a
machine that is slower for a while is slower for both. The bare side does forward, backward, clipping, AdamW and nothing
else; the loop also chooses the rate, sums losses, looks for numbers that are none, averages the weights and logs. What
reading takes is measured beside: it happens between the steps here, where all of it shows, and not in the background as
in a training. Of the loop the second epoch counts: the first one gets its memory from the system.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xecml import rootio
from xecml.config import Config
from xecml.data.batch import Batch
from xecml.data.convert import convert
from xecml.models import cpu
from xecml.recipes import load_config
from xecml.rootio.treewriter import TreeWriter
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_settings
from xecml.training import loop, setup
from xecml.training.processes import devices
from xecml.training.regression_job import Regression

RECIPE = "regress"
COUNTED_EPOCH = 2


def main() -> None:
    """Train once, with a bare step beside each of the loop's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", nargs="?", help="events; simulated if none are given")
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shards", action="store_true", help="read shards, as 'xec convert' writes them")
    options = parser.parse_args()
    cpu.keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        config = recipe(options, Path(folder))
        turns = Turns(config)
        setup.streams = turns.streams
        loop.train(config, name="loop", quiet=True)
    bare, whole = np.array(turns.bare), np.array(turns.loop)
    ms, events = 1e3 * float(np.median(bare)), options.batch
    source = f"{'shards' if options.shards else 'ROOT'}, {torch.get_num_threads()} threads"
    print(f"{options.preset}, batches of {events} from {source}, {len(bare)} steps of each side in turn")
    print(f"bare forward, backward, step   {ms:8.1f} ms   {1e3 * events / ms:6.0f} events/s")
    cost, error = median_and_error(whole / bare - 1)
    print(f"the loop costs                 {100 * cost:8.1f} +- {100 * error:.1f} %  (median of the pairs)")
    reading = 1e3 * turns.reading / len(bare)
    print(f"reading, all of it             {reading:8.1f} ms   {100 * reading / ms:6.1f} % of a step on one core")


def median_and_error(values: np.ndarray) -> tuple[float, float]:
    """The median and its standard error by resampling."""
    medians = np.median(np.random.default_rng(0).choice(values, (1000, len(values))), axis=1)
    return float(np.median(values)), float(medians.std())


class Turns:
    """Streams whose training batches are given to a bare step too, and what each side took in seconds."""

    def __init__(self, config: Config) -> None:
        self.bare: list[float] = []
        self.loop: list[float] = []
        self.reading = 0.0
        self._step = BareStep(config)
        self._streams = setup.streams

    def streams(self, *given: Any, **named: Any) -> Any:
        """In place of `xecml.training.setup.streams`."""
        training, validation = self._streams(*given, **named)
        batches = training.epoch
        training.epoch = lambda epoch, first=0: self._in_turn(batches(epoch, first), epoch)
        return training, validation

    def _in_turn(self, batches: Iterator[Batch], epoch: int) -> Iterator[Batch]:
        if epoch == 0:  # the constants of the model are fitted
            yield from batches
            return
        counts = epoch == COUNTED_EPOCH
        asked = time.perf_counter()
        for i, batch in enumerate(batches):
            read = time.perf_counter() - asked
            # each side has the batch first in half of the steps: the second finds it in the cache
            bare = self._step(batch) if i % 2 == 0 else 0.0
            given = time.perf_counter()
            yield batch
            whole = time.perf_counter() - given
            bare = bare or self._step(batch)
            if counts:
                self.bare.append(bare)
                self.loop.append(whole)
                self.reading += read
            asked = time.perf_counter()


class BareStep:
    """Nothing but forward, backward, clipping and step."""

    def __init__(self, config: Config) -> None:
        torch.manual_seed(0)
        self.config = config
        self._job = Regression(config)
        training, _ = setup.streams(config, None, None, tasks=list(config.tasks.enabled()))
        self._job.fit(training.epoch(0), keep_features=False)
        self._optimizer = torch.optim.AdamW(self._job.step.parameters(), lr=config.training.lr, fused=True)
        self._half = devices.precision(config.training.amp, "cpu") == "bf16-mixed"
        self._job.step.train()

    def __call__(self, batch: Batch) -> float:
        """Make a step; returns the seconds it took."""
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            total, _ = self._job.step(batch)
        total.backward()
        nn.utils.clip_grad_norm_(self._job.step.parameters(), self.config.training.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return time.perf_counter() - started


def recipe(options: argparse.Namespace, folder: Path) -> Config:
    """A recipe of two epochs on as many events as asked for."""
    events = options.steps * options.batch
    if options.train is None:
        options.train = str(folder / "simulated.root")
        simulate(options.train, events, settings=load_settings(None, {"energy_mev": (15.0, 60.0)}), jobs=2)
    with rootio.open_tree(options.train, "tree") as reader:
        names = ["npho", "time", "emiAng", "energyTruth", "timeTruth", "uvwTruth"]
        # in clusters as the simulation writes them, not in one
        with TreeWriter(folder / "train.root") as writer:
            for first in range(0, events, 512):
                writer.extend(reader.arrays(names, first, min(first + 512, events)))
        rootio.write(folder / "val.root", reader.arrays(names, 0, 64))
    if options.shards:
        convert([str(folder / "train.root")], folder / "shards")
    flags = {
        "data.train_path": str(folder / ("shards" if options.shards else "train.root")),
        "data.val_path": str(folder / "val.root"),
        "data.batch_size": options.batch, "model.preset": options.preset, "checkpoint.save_dir": str(folder),
        "training.epochs": COUNTED_EPOCH, "training.warmup_epochs": 0.1, "training.channel_dropout_rate": 0.0,
        # one thread that reads before the first step of each buffer: none of it hides
        "data.num_workers": 0, "data.buffer_mb": 100, "mlflow.enabled": False,
    }  # fmt: skip
    return load_config(RECIPE, ["mlflow.tensorboard=null"], flags)


if __name__ == "__main__":
    main()
