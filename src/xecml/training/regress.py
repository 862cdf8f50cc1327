"""The regression job's own part: its model from a recipe, its loss, its validation metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from xecml import geometry, resolution
from xecml.config import Config, TaskConfig
from xecml.data.batch import Batch, full
from xecml.events import TASKS
from xecml.models.build import build_regressor
from xecml.models.regressor import Regressor
from xecml.training import losses
from xecml.training.losses import TaskBalance
from xecml.training.processes import gather_objects

_FIT_EVENTS = 20_000
"""Training events from which means, widths and anchors are fitted."""


class Regression:
    """The job that learns physical quantities from their truth; see `xecml.training.job.Job`."""

    kind = "regress"
    hides = False

    def __init__(self, config: Config) -> None:
        self.model = build_regressor(config)
        self.tasks = list(self.model.tasks)
        self.loss = RegressionLoss(config)
        self.step = TrainingStep(self.model, self.loss)
        self.aim = ", ".join(self.tasks)

    def fit(self, batches: Iterable[Batch], *, keep_features: bool) -> None:
        """Fit means, widths and anchors of the targets."""
        fit_targets(self.model, batches, keep_features=keep_features)

    def prepare(self, batch: Batch, seed: tuple[int, ...], epoch: float, first: int = 0) -> Batch:
        """Leave the batch as it is."""
        return batch

    def validate(self, model: nn.Module, batches: Iterable[Batch], fabric: Fabric) -> dict[str, float]:
        """Validation loss, biases and resolutions."""
        return validate(cast(Regressor, model), self.loss, batches, fabric)

    def summary(self, metrics: Mapping[str, float]) -> str:
        """The physics of an epoch in one line."""
        parts = []
        if "angle" in self.tasks:
            parts.append(f"opening angle {metrics['val_resolution_deg']:.2f} deg")
        if "uvwFI" in self.tasks:
            parts.append("u v w " + " ".join(f"{metrics[f'{c}_s68_mm']:.2f}" for c in "uvw") + " mm")
        if "energy" in self.tasks:
            parts.append(f"energy {metrics['energy_s68_MeV']:.3f} MeV")
        if "timing" in self.tasks:
            parts.append(f"time {metrics['timing_s68_ps']:.0f} ps")
        return ", ".join(parts)

    def save_examples(self, model: nn.Module, batches: Iterable[Batch], folder: Path, epoch: int) -> Path | None:
        """Write nothing: predictions come with the artifacts of the run."""
        return None


@torch.no_grad()
def fit_targets(model: Regressor, batches: Iterable[Batch], *, keep_features: bool = False) -> None:
    """Fit what the model keeps as buffers (means, widths, anchors) on the first training events."""
    features, light_times, truth, seen = [], [], [], 0
    codes: list[Tensor] = []
    model.eval()
    for batch in batches:
        # the code of an encoder that has learnt nothing is not worth a fit
        if model.linear_path and keep_features:
            code, look = model.encoder(*batch.inputs())
            codes.append(full(code))
        else:
            look = model.encoder.look(*batch.inputs())
        features.append(look.features)
        light_times.append(look.light_time)
        # buffers of the stream are used again: what stays is a copy
        truth.append({task: y.clone() for task, y in batch.truth.items()})
        seen += len(batch)
        if seen >= _FIT_EVENTS:
            break
    joined = {task: torch.cat([t[task] for t in truth]) for task in model.tasks}
    model.fit_targets(
        torch.cat(features),
        torch.cat(light_times),
        joined,
        codes=torch.cat(codes) if codes else None,
        keep_features=keep_features,
    )


class TrainingStep(nn.Module):
    """Model and loss as one module, so that gradients of both are shared between processes."""

    def __init__(self, model: Regressor, loss: RegressionLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and its parts by name."""
        answers = self.model(*batch.inputs())
        with torch.autocast(batch.npho.device.type, enabled=False):
            total, parts = self.loss(self.model, answers, batch)
        return total, {f"loss_{task}": value for task, value in parts.items()}


class RegressionLoss(nn.Module):
    """Weighted sum over tasks of losses on standardised differences; a module, since the weights may be learned.

    Args:
        config: names the loss, beta and weight of each task, and whether the balance is learned.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tasks = config.tasks.enabled()
        weights = {name: task.weight for name, task in self.tasks.items()}
        self.balance = TaskBalance(weights, learned=config.loss_balance == "auto")

    def forward(
        self, model: Regressor, answers: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and the loss of each task."""
        parts = {name: self._of(name, task, model, answers, batch) for name, task in self.tasks.items()}
        return self.balance(parts), parts

    def _of(self, name: str, task: TaskConfig, model: Regressor, answers: Mapping[str, Tensor], batch: Batch) -> Tensor:
        truth = batch.truth[name]
        if task.loss_fn == "cross_entropy":
            log_probability = _log_probabilities(answers)
            return _mean(functional.nll_loss(log_probability, truth.long().squeeze(1), reduction="none"), batch)
        answer = answers[name].reshape(len(batch), -1)
        if task.loss_fn == "opening_angle":
            pair = (answer, truth) if name == "angleVec" else (_vectors(answer), _vectors(truth))
            return _mean(losses.opening_angle(*pair), batch)
        width = model.get_buffer(f"{name}_width")
        difference = (answer - truth) / width
        if task.loss_fn == "gaussian_nll":
            sigma = answers[f"sigma_{name}"].reshape(len(batch), -1) / width
            return _mean(losses.gaussian_nll(difference, sigma), batch)
        return _mean(losses.distance(task.loss_fn, difference, task.loss_beta), batch)


def _mean(loss: Tensor, batch: Batch) -> Tensor:
    """Mean over the events of a batch with their weights, which have mean 1 over the whole sample."""
    return (loss * batch.weight).mean()


def _log_probabilities(answers: Mapping[str, Tensor]) -> Tensor:
    """Log probabilities of n_gamma, from logits in training and from probabilities otherwise."""
    if "logits_n_gamma" in answers:
        return functional.log_softmax(answers["logits_n_gamma"], 1)
    return answers["n_gamma"].clamp_min(1e-12).log()


def _vectors(angles: Tensor) -> Tensor:
    """Unit vectors (B, 3) of theta, phi (B, 2) in degrees, as `xecml.geometry.direction_from_angles`."""
    theta, phi = (angles * (torch.pi / 180)).unbind(1)
    s = torch.sin(theta)
    return torch.stack([-s * torch.cos(phi), s * torch.sin(phi), torch.cos(theta)], 1)


def resolution_metrics(answers: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Bias and resolution of every quantity, in the units physicists quote (deg, MeV, ps, mm).

    Args:
        answers: task to (N, size), physical units.
        truth: the same.
    """
    metrics: dict[str, float] = {}
    for task in (t for t in answers if t in truth):
        info = TASKS[task]
        if task == "n_gamma":
            metrics["n_gamma_accuracy"] = float((answers[task].argmax(1) == truth[task][:, 0]).mean())
            continue
        if task == "angleVec":
            opening = geometry.opening_angle(answers[task], truth[task])
            metrics["angleVec_opening_68_deg"] = resolution.containment(opening, replicas=0).q68
            continue
        difference = (answers[task].astype(np.float64) - truth[task]) * info.plot_scale
        if task == "angle":
            difference[:, 1] = (difference[:, 1] + 180) % 360 - 180
        for i, column in enumerate(info.columns):
            figures = resolution.figures_of_merit(difference[:, i], replicas=0, with_peak=False)
            unit = f"_{info.plot_unit}" if info.plot_unit and task != "angle" else ""
            metrics |= {f"{column}_bias{unit}": figures.bias, f"{column}_s68{unit}": figures.s68}
            if task == "angle":
                metrics |= {f"{column}_rms": figures.rms, f"{column}_skew": figures.skew}
    if "angle" in answers:
        opening = geometry.opening_angle(answers["angle"], truth["angle"])
        metrics["val_resolution_deg"] = resolution.containment(opening, replicas=0).q68
    return metrics


@torch.no_grad()
def validate(model: Regressor, loss: RegressionLoss, batches: Iterable[Batch], fabric: Fabric) -> dict[str, float]:
    """Validation loss and physics metrics over the batches of all processes, weighted by events."""
    model.eval()
    loss.eval()
    sums: dict[str, float] = {}
    answers: dict[str, list[NDArray[Any]]] = {task: [] for task in model.tasks}
    truth: dict[str, list[NDArray[Any]]] = {task: [] for task in model.tasks}
    events = 0
    for batch in batches:
        on_device = batch.to(fabric.device)
        predicted = model(*on_device.inputs())
        total, parts = loss(model, predicted, on_device)
        for name, value in {"loss": total, **{f"loss_{t}": v for t, v in parts.items()}}.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
        for task in model.tasks:
            answers[task].append(predicted[task].reshape(len(batch), -1).cpu().numpy())
            # buffers of the stream are used again: what stays is a copy
            truth[task].append(batch.truth[task].numpy().copy())
        events += len(batch)
    mine = (sums, events, *({t: np.concatenate(v) for t, v in part.items()} for part in (answers, truth)))
    shares = gather_objects(fabric, mine)
    total_events = sum(share[1] for share in shares)
    means = {name: sum(share[0][name] for share in shares) / total_events for name in sums}
    joined = [{t: np.concatenate([share[i][t] for share in shares]) for t in model.tasks} for i in (2, 3)]
    return means | resolution_metrics(joined[0], joined[1])
