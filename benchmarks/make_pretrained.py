"""Make a shipped model of a finished training: its averaged weights, its recipe, the record of its training.

Run: python benchmarks/make_pretrained.py NAME RUN_FOLDER [--mean MODEL --share SHARE] [--nominal FILE]

With --mean, the weights are the mean of those of the training and of another model, which was its start: SHARE is that
of the other. What makes an event an outlier then stays that of the other model, whose training saw more.

A training validates on detectors that vary, and by these scales its energies to the peak of answer over truth, and its
sigmas to the width of the pulls. With --nominal, energies are scaled on events of the nominal detector instead, which
no training has seen, so that lines of the nominal detector come out at their true energies. Sigmas are then half way
between what both kinds of detectors want (in the logarithm).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from xecml import rootio
from xecml.events import TASKS
from xecml.files import atomic_path
from xecml.inference.checkpoint_reading import averaged_weights, restored
from xecml.inference.checkpoint_schema import understood
from xecml.inference.line_fit import fit_line
from xecml.inference.trained_model import TorchModel
from xecml.models.regressor import SIGMA_FACTOR, SIGMA_SHAPE, Regressor
from xecml.models.weight_files import read
from xecml.pretrained import FOLDER
from xecml.training.validated_answers import pull_names, pull_widths

_KEPT = (
    "format", "format_version", "xecml", "torch", "revision", "geometry_hash", "kind", "tasks", "epoch", "run_name",
    "metrics", "data_fingerprint",
)  # fmt: skip
_CHUNK = 1024
_KNOWN, _FAR = 1e-3, 0.05
"""Error of a peak that is known well enough, and a shift that no training leaves."""
_OF_SAMPLE, _CORRECTIONS = "training_distribution.", "corrections."
"""What a model keeps of its training sample, and of calibrations."""
_LARGE = 1024
"""Numbers of a tensor from which 16 bits are worth it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the shipped model: signal, decoupled")
    parser.add_argument("folder", type=Path, help="of the finished training")
    parser.add_argument(
        "--nominal", type=Path, help="events of the nominal detector by which energies and sigmas are scaled"
    )
    parser.add_argument("-n", type=int, default=20_480, help="events of it")
    parser.add_argument("--mean", type=Path, help="model with whose weights the mean is taken")
    parser.add_argument("--share", type=float, default=0.5, help="of it in the mean, 0 to 1")
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share {options.share} is not between 0 and 1")
    source = options.folder / "checkpoint_best.pth"
    content = understood(read(source), source)
    small = {key: content[key] for key in _KEPT if key in content}
    small["config"], small["run_name"] = without_paths(content["config"]), options.name
    small["config"]["mlflow"] = {**small["config"]["mlflow"], "run_name": options.name}
    weights = averaged_weights(content)
    if options.mean is not None:
        other = averaged_weights(understood(read(options.mean), options.mean))
        content["ema_state"] = weights = mean_weights(weights, other, options.share)
    if options.nominal is not None:
        weights = scaled(content, source, options.nominal, options.n)
    small["ema_state"] = {name: thinned(name, w) for name, w in weights.items()}
    with atomic_path(FOLDER / f"{options.name}.pth") as temporary:
        torch.save(small, temporary)
    recipe = FOLDER / f"{options.name}.yaml"
    text = yaml.safe_dump(small["config"], sort_keys=False)
    recipe.write_text(f"# What the shipped model '{options.name}' was trained with.\n{text}")
    shutil.copyfile(options.folder / "metrics.jsonl", FOLDER / f"{options.name}.jsonl")
    sizes = {p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in sorted(FOLDER.glob(f"{options.name}.*"))}
    print(f"wrote {sizes}")


def mean_weights(own: dict[str, Tensor], other: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights of which a share is that of another training of the same network.

    Factors on sigmas and corrections, which belong to a training's own answers, stay its own.

    Raises:
        SystemExit: the networks differ.
    """
    if {name: w.shape for name, w in own.items()} != {name: w.shape for name, w in other.items()}:
        raise SystemExit("The mean takes two models of the same network and the same answers; these two differ.")
    found = {}
    for name, weight in own.items():
        if name.startswith(_OF_SAMPLE):
            found[name] = other[name]
        elif (
            name.endswith((SIGMA_FACTOR, SIGMA_SHAPE))
            or name.startswith(_CORRECTIONS)
            or not weight.is_floating_point()
        ):
            found[name] = weight
        else:
            mean = share * other[name].double() + (1 - share) * weight.double()
            found[name] = mean.to(weight.dtype)
    return found


def scaled(content: dict[str, Any], source: Path, events: Path, n: int) -> dict[str, Tensor]:
    """Weights whose energies have their peak at the truth of the first n events of a file, and sigmas nearer to it."""
    network = restored(content, source)
    assert isinstance(network, Regressor)
    model = TorchModel(network, content)
    found: dict[str, list[np.ndarray]] = {}
    truth: dict[str, list[np.ndarray]] = {}
    with rootio.open_tree(events) as reader:
        names = {task: TASKS[task].truth for task in network.tasks}
        for start in range(0, min(n, reader.n_events), _CHUNK):
            chunk = reader.arrays((*model.branches, *names.values()), start, min(start + _CHUNK, n, reader.n_events))
            answers = model.predict(*(chunk[b] for b in model.branches))
            rows = len(chunk[model.branches[0]])
            for task, branch in names.items():
                truth.setdefault(task, []).append(chunk[branch].reshape(rows, -1))
            for name in network.outputs():
                found.setdefault(name, []).append(answers[name].reshape(rows, -1))
    answered, true = ({name: np.concatenate(parts) for name, parts in of.items()} for of in (found, truth))
    line = fit_line((answered["energy"] / true["energy"]).ravel())
    if line is None or line.error > _KNOWN or abs(line.peak - 1) > _FAR:
        raise SystemExit(f"{events} does not tell where the peak of the energies is: {line}")
    print(f"energies divided by {line.peak:.5f} +- {line.error:.5f}, the peak of {len(true['energy'])} events")
    network.scale("energy", 1 / line.peak)
    pulls = pull_widths(answered, true)
    for task in network.with_sigma:
        network.widen(task, [pulls[name] ** 0.5 for name in pull_names(task)])
    said = ", ".join(f"{name.removesuffix('_pull_width')} {width:.3f}" for name, width in pulls.items())
    print(f"sigmas multiplied by the roots of the widths of pulls: {said}")
    return network.state_dict()


def thinned(name: str, weight: Tensor) -> Tensor:
    """A weight matrix in 16 bits; anything else as it is."""
    matrix = weight.ndim >= 2 and weight.numel() >= _LARGE and name.endswith("weight")
    return weight.to(torch.float16) if matrix else weight


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the places of this machine's files."""
    kept = {name: dict(values) if isinstance(values, dict) else values for name, values in config.items()}
    for path in ("train_path", "val_path"):
        kept["data"][path] = ""
    kept["checkpoint"] |= {"resume_from": None, "heads_from_scratch": []}
    kept["checkpoint"]["save_dir"] = "artifacts"
    kept["training"]["mae_checkpoint"] = None
    return kept


if __name__ == "__main__":
    main()
