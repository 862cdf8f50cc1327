"""What unlabelled events of another detector are worth: an autoencoder as the start, and alignment of codes.

    python benchmarks/unlabelled.py [--labels 1024 10240 102400] [--steps 800] [--out artifacts/unlabelled]

A network learns from labelled photons of the nominal detector. Two other detectors differ from it, in the definition of
a sensor's time and in their optics; of each there are unlabelled events. Four ways are measured on test events of the
nominal detector and of the two others, at few labels and many:

- `labels`: the labelled events alone;
- `autoencoder`: the encoder starts as that of an autoencoder, trained on the unlabelled events and on as many nominal;
- `alignment`: each step adds the maximum mean discrepancy (Gretton 2012) between the codes of labelled and unlabelled
  events, with Gaussian kernels of half, one, two and four times their mean square distance;
- `varied`: labelled events of detectors that vary, without any unlabelled event.

All make the same steps with the same recipe. What was made stays in the folder and is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whole_training import train_whole
from xecml import rootio
from xecml.config import Config
from xecml.data.batch import Batch
from xecml.data.stream import EventStream, buffer_events
from xecml.errors import InputError
from xecml.evaluation.tables import read_table, residuals
from xecml.files import atomic_path
from xecml.inference.predict import predict_files
from xecml.inference.trained_model import load_model
from xecml.recipes import load_config
from xecml.resolution import figures_of_merit
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_vary, make_settings
from xecml.training import setup
from xecml.training.regression_job import Regression

SEED = 301_801
UNLABELLED = 51_200
TEST = 4096
DETECTORS: dict[str, dict[str, Any]] = {
    "nominal": {},
    "times of first photoelectrons": {"response": {"time_model": "first", "time_walk_ns": 1.5}},
    "other optics": {
        "optical": {"absorption_length_cm": 200.0, "rayleigh_length_cm": 36.0, "wall_reflectivity": 0.3},
    },
}  # fmt: skip
ARMS = ("labels", "autoencoder", "alignment", "varied")
FIGURES = ("u", "v", "w", "energy_relative", "timing")
_KERNELS = (0.5, 1.0, 2.0, 4.0)
_BATCH = 128


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--labels", type=int, nargs="+", default=[1024, 10_240, 102_400], help="labelled events")
    found.add_argument("--steps", type=int, default=800, help=f"of {_BATCH} labelled events")
    found.add_argument("--weight", type=float, default=1.0, help="of the discrepancy in the loss")
    found.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    found.add_argument("--unlabelled", type=int, default=UNLABELLED, help="events of each other detector")
    found.add_argument("--preset", default="compact")
    found.add_argument("--test", type=int, default=TEST, help="test events of each detector")
    found.add_argument("--out", type=Path, default=Path("artifacts/unlabelled"), help="folder of all that is made")
    found.add_argument("--jobs", type=int, default=2)
    return found


def events(options: argparse.Namespace, what: str, number: int, seed: int, **values: Any) -> Path:
    """A file of simulated signal photons of 15 to 60 MeV."""
    path: Path = options.out / "events" / f"{what.replace(' ', '_')}_{number}.root"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = make_settings({"energy_mev": (15.0, 60.0), "relative_branches": False} | values)
        simulate(path, number, settings=settings, seed=seed, jobs=options.jobs)
    return path


def discrepancy(one: Tensor, other: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples (N, K) and (M, K), without bias."""
    both = torch.cat([one, other]).float()
    distance = torch.cdist(both, both).square()
    # the diagonal is no distance
    mean = distance.detach().sum() / (len(both) * (len(both) - 1))
    kernel = torch.stack([torch.exp(-distance / (k * mean)) for k in _KERNELS]).mean(0)
    n, m = len(one), len(other)
    own, others, across = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    return (
        (own.sum() - own.diagonal().sum()) / (n * (n - 1))
        + (others.sum() - others.diagonal().sum()) / (m * (m - 1))
        - 2 * across.mean()
    )


class AlignedStep(nn.Module):
    """A regression's step, with the discrepancy between the codes of its batch and of an unlabelled one."""

    def __init__(self, job: Regression, unlabelled: Iterator[Batch], weight: float) -> None:
        super().__init__()
        self.plain, self.encoder, self.weight = job.step, job.model.encoder, weight
        self._unlabelled, self._codes = unlabelled, list[Tensor]()
        codes = self._codes

        # a function and no method, since models are copied with their hooks; copies answer in validations, too
        def keep(encoder: nn.Module, _inputs: object, found: tuple[Tensor, object]) -> None:
            if encoder.training:
                codes.append(found[0])

        self.encoder.register_forward_hook(keep)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and its parts by name."""
        self._codes.clear()
        total, parts = self.plain(batch)
        self.encoder(*next(self._unlabelled).inputs())
        apart = discrepancy(*self._codes)
        self._codes.clear()
        return total + self.weight * apart, parts | {"loss_discrepancy": apart.detach()}


def endless(files: list[Path]) -> Iterator[Batch]:
    """Batches of unlabelled files, again and again."""
    stream = EventStream(
        [str(path) for path in files], tasks=[], batch_size=_BATCH, seed=1, tree="tree", names={},
        buffer_events=buffer_events(256_000, 500.0, _BATCH), npho_branch="npho", time_branch="time",
    )  # fmt: skip
    epoch = 0
    while True:
        yield from stream.epoch(epoch)
        epoch += 1


@contextmanager
def aligned(files: list[Path], weight: float) -> Iterator[None]:
    """Trainings inside are aligned with unlabelled files."""
    plain = setup.make_job

    def make(config: Config, kind: str) -> Any:
        job = plain(config, kind)
        if isinstance(job, Regression):
            job.step = AlignedStep(job, endless(files), weight)  # type: ignore[assignment]
        return job

    setup.make_job = make
    try:
        yield
    finally:
        setup.make_job = plain


def recipe(options: argparse.Namespace, name: str, train: list[Path], val: Path, steps: int, **more: Any) -> Config:
    """The recipe of a training of so many steps."""
    labelled = sum(rootio.count_events(path) for path in train)
    epochs = max(math.ceil(steps / max(labelled // _BATCH, 1)), 1)
    flags = {
        "data.train_path": [str(path) for path in train], "data.val_path": str(val), "data.batch_size": _BATCH,
        "model.preset": options.preset, "training.epochs": epochs, "training.warmup_epochs": 0.1 * epochs,
        "training.validate_every": max(epochs // 5, 1), "checkpoint.save_dir": str(options.out / "trainings"),
        "mlflow.enabled": False,
    } | more  # fmt: skip
    return load_config(name, ["mlflow.tensorboard=null", "checkpoint.save_interval=100000"], flags)


def train(options: argparse.Namespace, arm: str, labels: int) -> Path:
    """The checkpoint of a training; made where it is not there."""
    folder, of = options.out / "trainings", f"{options.steps}_{options.preset}_{options.unlabelled}"
    name = f"{arm}_{labels}_{of}" + (f"_{options.weight:g}" if arm == "alignment" else "")
    checkpoint, done = folder / name / "checkpoint_best.pth", folder / f"{name}.done"
    if done.exists():
        return Path(checkpoint)
    vary = {"vary": load_vary("varied") | {"events_per_detector": 64}} if arm == "varied" else {}
    train_file = events(options, f"training_{'varied' if vary else 'nominal'}", labels, SEED, **vary)
    val = events(options, f"validation_{'varied' if vary else 'nominal'}", 2048, SEED + 1, **vary)
    others = [
        events(options, f"unlabelled_{which}", options.unlabelled, SEED + 2 + k, **values)
        for k, (which, values) in enumerate(DETECTORS.items())
    ]
    more: dict[str, Any] = {}
    if arm == "autoencoder":
        if not (folder / f"mae_{of}.done").exists():
            train_whole(recipe(options, "mae", others, val, 2 * options.steps), f"mae_{of}", kind="mae")
            (folder / f"mae_{of}.done").touch()
        more["training.mae_checkpoint"] = str(folder / f"mae_{of}" / "checkpoint_best.pth")
    config = recipe(options, "robust", [train_file], val, options.steps, **more)
    if arm == "alignment":
        with aligned(others[1:], options.weight):
            train_whole(config, name)
    else:
        train_whole(config, name)
    done.touch()
    return Path(checkpoint)


def measured(options: argparse.Namespace, checkpoint: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Bias and half-width of each quantity on each detector."""
    model, found = load_model(checkpoint), {}
    for k, (which, values) in enumerate(DETECTORS.items()):
        test = events(options, f"test_{which}", options.test, SEED + 10 + k, **values)
        out = options.out / "predictions" / f"{checkpoint.parent.name}__{test.stem}.root"
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            predict_files(model, [test], out, jobs=options.jobs)
        table = read_table(out)
        merits = {name: figures_of_merit(residuals(table, name), replicas=0, with_peak=False) for name in FIGURES}
        found[which] = {name: (merit.median, merit.s68) for name, merit in merits.items()}
    return found


def table(result: Mapping[str, Any]) -> str:
    """All figures in Markdown: median, s68."""
    lines = [
        "| test events | labels | way | u [mm] | v [mm] | w [mm] | energy [%] | time [ps] |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for which in DETECTORS:
        for key, found in result.items():
            labels, arm = key.split(" ")
            cells = [
                f"{found[which][n][0]:+.{d}f}, {found[which][n][1]:.{d}f}"
                for n, d in zip(FIGURES, (2, 2, 2, 2, 0), strict=True)
            ]
            lines.append(f"| {' | '.join([which, f'{int(labels):,}', arm, *cells])} |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure everything; writes `unlabelled.json` and `unlabelled.md` in the folder."""
    if min(options.labels) < 4 * _BATCH:
        raise InputError(f"--labels takes numbers of {4 * _BATCH} events or more.")
    result: dict[str, Any] = {}
    for labels in options.labels:
        for arm in options.arms:
            started = time.monotonic()
            result[f"{labels} {arm}"] = measured(options, train(options, arm, labels))
            print(f"{labels} {arm}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            for suffix, text in ((".json", json.dumps(result, indent=1)), (".md", table(result) + "\n")):
                with atomic_path(options.out / f"unlabelled{suffix}") as temporary:
                    temporary.write_text(text, encoding="utf-8")
    return result


def main() -> None:
    try:
        print(table(run(parser().parse_args())))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
