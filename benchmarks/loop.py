"""What the training loop costs over the bare forward, backward and step on the same batches.

    python benchmarks/loop.py [TRAIN.root] --preset compact --batch 256 --rounds 5

Both sides train the same network on the same events with the same arithmetic. The bare side has its batches in memory
and does forward, backward, clipping, AdamW and nothing else; the loop reads them from the file, averages the weights,
logs and keeps the schedule. Of the loop the second epoch counts: the first one gets its memory from the system. Buffers
are small, so that the wait for the first is as small a part of the epoch as with a large sample. Rounds alternate; the
table has medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from xecml import rootio
from xecml.config import Config
from xecml.data.batch import Batch
from xecml.data.convert import convert
from xecml.models import cpu
from xecml.recipes import load_config
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_settings
from xecml.training import loop, processes
from xecml.training.regress import Regression
from xecml.treewriter import TreeWriter

RECIPE = Path(__file__).parents[1] / "configs" / "regress.yaml"


def main() -> None:
    """Measure both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", nargs="?", help="events; simulated if none are given")
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", action="store_true", help="read shards, as 'xec convert' writes them")
    options = parser.parse_args()
    cpu.keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        config = recipe(options, Path(folder))
        batches = copies(config)
        bare, whole, waits = [], [], []
        for _ in range(options.rounds):
            bare.append(run_bare(config, batches))
            result = loop.train(config, name="loop", quiet=True)
            whole.append(result.metrics["system/throughput_events_per_sec"])
            waits.append(100 - result.metrics["system/compute_efficiency"])
    ratios = [1 - w / b for b, w in zip(bare, whole, strict=True)]
    source = f"{'shards' if options.shards else 'ROOT'}, {torch.get_num_threads()} threads"
    print(f"{options.preset}, batches of {options.batch} from {source}, {options.rounds} rounds")
    print(f"bare forward, backward, step   {statistics.median(bare):8.0f} events/s")
    print(f"the training loop              {statistics.median(whole):8.0f} events/s")
    print(f"the loop costs                 {100 * statistics.median(ratios):8.1f} % (median of the rounds)")
    print(f"of the loop, waiting for data  {statistics.median(waits):8.1f} %")


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
        "training.epochs": 2, "training.warmup_epochs": 0.1, "training.channel_dropout_rate": 0.0,
        "data.buffer_mb": 100, "mlflow.enabled": False,
    }  # fmt: skip
    return load_config(RECIPE, ["mlflow.tensorboard=null"], flags)


def copies(config: Config) -> list[Batch]:
    """The batches of the epoch, in memory."""
    training, _ = loop.streams(config, None, None, tasks=list(config.tasks.enabled()))
    kept = []
    for batch in training.epoch(1):
        npho, time_, valid, timed = (x.clone() for x in batch.inputs())
        truth = {task: y.clone() for task, y in batch.truth.items()}
        kept.append(Batch(npho, time_, valid, timed, truth, batch.run.clone(), batch.event.clone()))
    return kept


def run_bare(config: Config, batches: list[Batch]) -> float:
    """Events a second of nothing but forward, backward, clipping and step."""
    torch.manual_seed(0)
    job = Regression(config)
    job.fit(batches, keep_features=False)
    optimizer = torch.optim.AdamW(job.step.parameters(), lr=config.training.lr, fused=True)
    half = processes.precision(config.training.amp, "cpu") == "bf16-mixed"
    job.step.train()
    started = 0.0
    for i, batch in enumerate(batches):
        if i == 2:  # the first steps allocate
            started = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            total, _ = job.step(batch)
        total.backward()
        nn.utils.clip_grad_norm_(job.step.parameters(), config.training.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    return sum(len(batch) for batch in batches[2:]) / (time.monotonic() - started)


if __name__ == "__main__":
    main()
