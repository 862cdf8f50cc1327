"""Make a shipped model of a finished training: its averaged weights, its recipe, the record of its training.

Run: python benchmarks/make_pretrained.py NAME RUN_FOLDER
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from xecml.files import atomic_path
from xecml.inference.checkpoint_reading import averaged_weights
from xecml.inference.checkpoint_schema import understood
from xecml.models.weight_files import read
from xecml.pretrained import FOLDER

_KEPT = (
    "format", "format_version", "xecml", "torch", "revision", "geometry_hash", "kind", "tasks", "epoch", "run_name",
    "metrics", "data_fingerprint",
)  # fmt: skip
_LARGE = 1024
"""Numbers of a tensor from which 16 bits are worth it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the shipped model: signal, decoupled")
    parser.add_argument("folder", type=Path, help="of the finished training")
    options = parser.parse_args()
    source = options.folder / "checkpoint_best.pth"
    content = understood(read(source), source)
    small = {key: content[key] for key in _KEPT if key in content}
    small["config"] = without_paths(content["config"])
    small["ema_state"] = {name: thinned(name, w) for name, w in averaged_weights(content).items()}
    with atomic_path(FOLDER / f"{options.name}.pth") as temporary:
        torch.save(small, temporary)
    recipe = FOLDER / f"{options.name}.yaml"
    text = yaml.safe_dump(small["config"], sort_keys=False)
    recipe.write_text(f"# What the shipped model '{options.name}' was trained with.\n{text}")
    shutil.copyfile(options.folder / "metrics.jsonl", FOLDER / f"{options.name}.jsonl")
    sizes = {p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in sorted(FOLDER.glob(f"{options.name}.*"))}
    print(f"wrote {sizes}")


def thinned(name: str, weight: Tensor) -> Tensor:
    """A weight matrix in 16 bits; anything else as it is."""
    matrix = weight.ndim >= 2 and weight.numel() >= _LARGE and name.endswith("weight")
    return weight.to(torch.float16) if matrix else weight


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the places of this machine's files."""
    kept = {name: dict(values) if isinstance(values, dict) else values for name, values in config.items()}
    for path in ("train_path", "val_path"):
        kept["data"][path] = ""
    kept["checkpoint"]["resume_from"] = None
    kept["checkpoint"]["save_dir"] = "artifacts"
    kept["training"]["mae_checkpoint"] = None
    return kept


if __name__ == "__main__":
    main()
