"""Does pre-training without labels pay? The same regression from scratch and from an autoencoder, at few labels.

    python benchmarks/pretraining.py MAE_CHECKPOINT TRAIN.root VAL.root --labels 500 2000 10000 --seeds 3

Both arms make the same steps on the same events with the same recipe (finetune), mirror images included; a
seed chooses events, weights and order. From scratch the encoder learns at the full rate, and there is no linear path,
which would have nothing to start from. The table gives 68 % resolutions on the validation file, mean and spread over
seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from xecml import rootio
from xecml.files import atomic_path
from xecml.recipes import load_config
from xecml.training import loop

RECIPE = "finetune"
SCRATCH = ("model.linear_path=false", "training.encoder_lr_scale=1")
BRANCHES = ("npho", "time", "emiAng", "energyTruth", "timeTruth", "uvwTruth", "run", "event")
FIGURES = {
    "val_resolution_deg": "opening angle [deg]", "u_s68_mm": "u [mm]", "v_s68_mm": "v [mm]", "w_s68_mm": "w [mm]",
    "energy_s68_MeV": "energy [MeV]", "timing_s68_ps": "time [ps]",
}  # fmt: skip


def main() -> None:
    """Train both arms at every number of labels and seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mae")
    parser.add_argument("train")
    parser.add_argument("val")
    parser.add_argument("--labels", type=int, nargs="+", default=[500, 2000, 10000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--arms", nargs="+", default=["scratch", "mae"])
    parser.add_argument("--out", default="artifacts/pretraining")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="settings of both arms")
    parser.add_argument("--mae-set", dest="mae_settings", action="append", default=[], help="of the MAE arm alone")
    options = parser.parse_args()
    out = Path(options.out)
    found: dict[str, list[dict[str, Any]]] = {}
    for labels in options.labels:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            name = f"{Path(options.train).stem}_{labels}_{seed}.root"
            events = write_subset(options.train, labels, seed, out / "data" / name)
            for arm in options.arms:
                settings = [*options.settings, *(options.mae_settings if arm == "mae" else SCRATCH)]
                found.setdefault(f"{labels} {arm}", []).append(run(options, events, labels, seed, arm, settings, out))
                with atomic_path(out / "pretraining.json") as temporary:
                    temporary.write_text(json.dumps(found, indent=1))
            print_table(found)


def write_subset(path: str, labels: int, seed: int, out: Path) -> Path:
    """Write events number seed x labels to (seed + 1) x labels of a file."""
    if not out.exists():
        first = seed * labels
        with rootio.open_tree(path, "tree") as reader:
            if reader.n_events < first + labels:
                raise SystemExit(
                    f"{path} has {reader.n_events} events; {labels} of seed {seed} end at {first + labels}."
                )
            rootio.write(out, reader.arrays(list(BRANCHES), first, first + labels))
    return out


def run(
    options: argparse.Namespace, events: Path, labels: int, seed: int, arm: str, settings: list[str], out: Path
) -> dict[str, Any]:
    """Train one arm; returns its best metrics."""
    epochs = math.ceil(options.steps / max(labels // options.batch, 1))
    flags = {
        "data.train_path": str(events), "data.val_path": options.val, "data.batch_size": options.batch,
        "training.epochs": epochs, "training.warmup_epochs": epochs * 0.05, "training.seed": seed,
        "training.ema_decay": 0.99, "training.mae_checkpoint": options.mae if arm == "mae" else None,
        "training.validate_every": max(epochs // 10, 1), "checkpoint.save_dir": str(out), "mlflow.enabled": False,
    }  # fmt: skip
    config = load_config(RECIPE, ["mlflow.tensorboard=null", "checkpoint.save_interval=100000", *settings], flags)
    started = time.monotonic()
    name = f"{labels}_{seed}_{arm}"
    # not gone on with: the name does not hold all settings
    loop.train(config, name=name, quiet=True).to_its_end()
    lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "val/loss" in line]
    best = min(lines, key=lambda line: float(line["val/loss"]))
    figures = {name: best[f"val/{name}"] for name in (*FIGURES, "loss")}
    return figures | {"epoch": best["epoch"], "seconds": time.monotonic() - started}


def print_table(found: dict[str, list[dict[str, Any]]]) -> None:
    """Mean and standard deviation over seeds of every figure."""
    print("".join(f"{h:>22}" for h in ("labels, start", "loss", *FIGURES.values())), flush=True)
    for arm, runs in found.items():
        cells = []
        for name in ("loss", *FIGURES):
            values = np.array([r[name] for r in runs])
            cells.append(f"{values.mean():.4g} +- {values.std(ddof=1) if len(values) > 1 else 0:.2g}")
        print(f"{arm:>22}" + "".join(f"{c:>22}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
