"""The regression job's own part: its model from a recipe, its loss, its validation metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from xecml import cpu_load, geometry, resolution
from xecml.choices import LOSSES
from xecml.config import Config, TaskConfig
from xecml.data.batch import Batch, full
from xecml.data.coverage import Coverage, coverage, usual
from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.models.answerable import answerable, any_of
from xecml.models.build import build_regressor
from xecml.models.regressor import ENDED, SCALED, SENSORS_SEEN, Regressor
from xecml.models.training_distribution import Gathered, remember
from xecml.training import losses
from xecml.training.losses import TaskBalance
from xecml.training.processes.devices import gather_objects
from xecml.training.validated_answers import Widths, fitted_widths, peaks, pull_names, pull_widths

_MOST_OFF = 5.0
"""Percent by which a peak is believed to be off; a network that has hardly learnt has none."""
_WIDEST = 3.0
"""Factor by which the widths of a network may be wrong; one that has hardly learnt knows none."""
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
        self._widths: dict[str, Widths] = {}

    def fit(self, batches: Iterable[Batch], *, keep_features: bool, tasks: Sequence[str] | None = None) -> None:
        """Fit means, widths and anchors of the targets, of all tasks or of some."""
        fit_targets(self.model, batches, keep_features=keep_features, tasks=tasks)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Fit which sensors are usual, mean truths, and the distribution of the training sample."""
        found: list[Coverage] = []
        means: dict[str, list[Tensor]] = {task: [] for task in self.tasks}

        def counted() -> Iterator[Batch]:
            for batch in batches:
                found.append(coverage(batch.npho.numpy(), batch.time.numpy()))
                for task, of_batches in means.items():
                    of_batches.append(batch.truth[task].double().mean(0))
                yield batch

        self.model.eval()
        remember(self.model.training_distribution, self.model.encoder.look, counted())
        self.model.get_buffer(SENSORS_SEEN).copy_(torch.from_numpy(usual(found)))
        for task, of_batches in means.items():
            if not TASKS[task].is_class:
                self.model.get_buffer(f"{task}_truth_mean").copy_(torch.stack(of_batches).mean(0))

    def bound(self, training: EventStream) -> None:
        """Store the ends of the truth, beyond which answers saturate."""
        self.model.set_truth_ends(training.truth_ends([task for task in self.tasks if task in ENDED]))

    def prepare(self, batch: Batch, seed: tuple[int, ...], epoch: float, first: int = 0) -> Batch:
        """Leave the batch as it is."""
        return batch

    def validate(self, model: nn.Module, batches: Iterable[Batch], fabric: Fabric) -> dict[str, float]:
        """Validation loss, biases and resolutions; what it says of the widths is kept for `in_use`."""
        metrics, self._widths = validate(cast(Regressor, model), self.loss, batches, fabric)
        return metrics

    def in_use(self, model: nn.Module, metrics: Mapping[str, float]) -> nn.Module:
        """A copy whose energies have their peak at the truth, and its pulls a width of 1, as the validation tells."""
        used = cast(Regressor, copy.deepcopy(model))
        for task in SCALED:
            peak = metrics.get(f"{task}_peak_percent", math.nan)
            if abs(peak) < _MOST_OFF:
                used.scale(task, 1 / (1 + peak / 100))
        for task in used.with_sigma:
            widths = [metrics.get(name, math.nan) for name in pull_names(task)]
            if all(1 / _WIDEST < width < _WIDEST for width in widths) and task in self._widths:
                used.widen(task, self._widths[task].factors, torch.from_numpy(self._widths[task].shape))
            else:
                used.widen(task, [width if 1 / _WIDEST < width < _WIDEST else 1.0 for width in widths])
        return used

    def summary(self, metrics: Mapping[str, float]) -> str:
        """The physics of an epoch in one line."""

        def said(name: str, digits: int) -> str:
            value = metrics[name]
            return f"{value:.{digits}f}" if math.isfinite(value) else "-"  # of a single event there is no width

        parts = []
        if "angle" in self.tasks:
            parts.append(f"opening angle {said('val_resolution_deg', 2)} deg")
        if "uvwFI" in self.tasks:
            parts.append("u v w " + " ".join(said(f"{c}_s68_mm", 2) for c in "uvw") + " mm")
        if "energy" in self.tasks:
            peak = metrics.get("energy_peak_percent")
            off = "" if peak is None else f" (peak {peak:+.1f} %)"
            parts.append(f"energy {said('energy_s68_MeV', 3)} MeV{off}")
        if "timing" in self.tasks:
            parts.append(f"time {said('timing_s68_ps', 0)} ps")
        return ", ".join(parts)

    def save_examples(self, model: nn.Module, batches: Iterable[Batch], folder: Path, epoch: int) -> Path | None:
        """Write nothing: predictions come with the artifacts of the run."""
        return None


@torch.no_grad()
def fit_targets(
    model: Regressor, batches: Iterable[Batch], *, keep_features: bool = False, tasks: Sequence[str] | None = None
) -> None:
    """Fit what the model keeps as buffers on the first training events.

    These are means, widths and anchors (of all tasks, or of those named), and what the events were like: usual sensors,
    distribution.

    Raises:
        InputError: nothing was measured that a task can be learnt from, or a target has zero width.
    """
    features, event_times, truth, seen = [], [], [], 0
    codes: list[Tensor] = []
    counted: list[Tensor] = []
    clocked: list[Tensor] = []
    found: list[Coverage] = []
    runs: list[Tensor] = []
    gathered = Gathered(model.training_distribution)
    model.eval()
    for batch in batches:
        counted.append(any_of(batch.valid))
        clocked.append(any_of(batch.timed))
        found.append(coverage(batch.npho.numpy(), batch.time.numpy()))
        # the code of an encoder that has learnt nothing is not worth a fit
        if model.linear_path and keep_features:
            code, look = model.encoder(*batch.inputs())
            codes.append(full(code))
        else:
            look = model.encoder.look(*batch.inputs())
        features.append(look.features)
        event_times.append(look.event_time)
        gathered.add(batch, look)
        # buffers of the stream are used again: what stays is a copy
        runs.append(batch.run.clone())
        truth.append({task: y.clone() for task, y in batch.truth.items()})
        seen += len(batch)
        if seen >= _FIT_EVENTS:
            break
    some, timed = torch.cat(counted), torch.cat(clocked)
    for task in model.tasks:
        if not bool((timed if TASKS[task].needs == "time" else some).any()):
            raise InputError(f"No training event has {_needed(task)}, so that '{task}' cannot be learnt; {_MEND}.")
    if int(some.sum()) < 2:
        raise InputError("There is only one training event, which is too few to learn from; name files with more.")
    model.get_buffer(SENSORS_SEEN).copy_(torch.from_numpy(usual(found)))
    gathered.fit()
    model.fit_targets(
        torch.cat(features)[some],
        torch.cat(event_times)[some],
        {task: torch.cat([t[task] for t in truth])[some] for task in model.tasks},
        codes=torch.cat(codes)[some] if codes else None,
        keep_features=keep_features,
        timed=timed[some],
        run=torch.cat(runs)[some],
        tasks=tasks,
    )


class TrainingStep(nn.Module):
    """Model and loss as one module, so that gradients of both are shared between processes."""

    def __init__(self, model: Regressor, loss: RegressionLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and its parts by name."""
        answers = self.model(*batch.inputs())
        known = known_events(self.model.tasks, batch)
        with torch.autocast(batch.npho.device.type, enabled=False):
            total, parts = self.loss(self.model, answers | known, batch)
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
        self.losses = {name: LOSSES[task.loss_fn].does for name, task in self.tasks.items()}

    def forward(
        self, model: Regressor, answers: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and the loss of each task: means over its events with their weights.

        Args:
            model: whose target widths count.
            answers: of the model; where `known_<task>` (B,) stands beside them, all other events weigh nothing.
            batch: the events; their weights have mean 1 over the whole sample.
        """
        parts = {}
        for name, task in self.tasks.items():
            loss = self._of(name, task, model, answers, batch)
            known = answers.get(f"known_{name}")
            if known is not None:  # not a weight of zero: in use such an answer is NaN
                loss = torch.where(known, loss, 0.0)
            parts[name] = (loss * batch.weight).mean()
        return self.balance(parts), parts

    def _of(self, name: str, task: TaskConfig, model: Regressor, answers: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Losses (B,) of a task's events."""
        answer = _log_probabilities(answers, name) if TASKS[name].is_class else answers[name]
        sigma = answers.get(f"sigma_{name}")
        compared = losses.Compared(
            answer.reshape(len(batch), -1),
            batch.truth[name],
            model.get_buffer(f"{name}_width"),
            sigma if sigma is None else sigma.reshape(len(batch), -1),
            task.loss_beta,
        )
        loss: Tensor = self.losses[name](compared)
        return loss


def known_events(tasks: Sequence[str], batch: Batch) -> dict[str, Tensor]:
    """For `RegressionLoss`: `known_<task>`, events (B,) in which something was measured for a task."""
    return {f"known_{t}": mask for t, mask in answerable(tasks, batch.valid, batch.timed).items()}


def _log_probabilities(answers: Mapping[str, Tensor], task: str) -> Tensor:
    """Log probabilities of classes, from logits in training and from probabilities otherwise."""
    if f"logits_{task}" in answers:
        return functional.log_softmax(answers[f"logits_{task}"], 1)
    return answers[task].clamp_min(1e-12).log()


def resolution_metrics(answers: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Bias and resolution of every quantity, in the units physicists quote (deg, MeV, ps, mm).

    Names end in the unit, but for the biases and rms of theta and phi, which are in degrees.

    Args:
        answers: task to (N, size), physical units; NaN is left out.
        truth: the same.
    """
    metrics: dict[str, float] = {}
    for task in (t for t in answers if t in truth):
        info = TASKS[task]
        if info.is_class:
            told = np.isfinite(answers[task]).all(1)
            right = answers[task][told].argmax(1) == truth[task][told, 0]
            metrics[f"{task}_accuracy"] = float(right.mean()) if len(right) else math.nan
            continue
        if info.kind == "vector":
            opening = geometry.opening_angle(answers[task], truth[task])
            metrics[f"{task}_opening_68_deg"] = resolution.containment(opening, replicas=0).q68
            continue
        difference = (answers[task].astype(np.float64) - truth[task]) * info.plot_scale
        if info.kind == "angles":
            difference[:, 1] = (difference[:, 1] + 180) % 360 - 180
        for i, column in enumerate(info.columns):
            f = resolution.figures_of_merit(difference[:, i], replicas=0, with_peak=False)
            unit = f"_{info.plot_unit}" if info.plot_unit else ""
            if info.kind == "angles":  # these three under the names that they have always had
                metrics |= {f"{column}_bias": f.bias, f"{column}_rms": f.rms, f"{column}_skew": f.skew}
            else:
                metrics[f"{column}_bias{unit}"] = f.bias
            metrics[f"{column}_s68{unit}"] = f.s68
    if "angle" in answers:
        opening = geometry.opening_angle(answers["angle"], truth["angle"])
        metrics["val_resolution_deg"] = resolution.containment(opening, replicas=0).q68
    return metrics


@torch.no_grad()
def validate(
    model: Regressor, loss: RegressionLoss, batches: Iterable[Batch], fabric: Fabric
) -> tuple[dict[str, float], dict[str, Widths]]:
    """Validation loss and physics metrics over the batches of all processes, each event with the same weight.

    Beside them what the pulls say of the widths of each task, where there are enough events to know it.

    Events in which nothing was measured take no part, nor in the time those without any time.

    Raises:
        InputError: no event is left for a task.
    """
    model.eval()
    loss.eval()
    sums, numbers = dict.fromkeys(model.tasks, 0.0), dict.fromkeys(model.tasks, 0)
    answers: dict[str, list[NDArray[Any]]] = {name: [] for name in model.outputs()}
    truth: dict[str, list[NDArray[Any]]] = {task: [] for task in model.tasks}
    for batch in batches:
        cpu_load.look()
        on_device = batch.to(fabric.device)
        predicted = model(*on_device.inputs())
        known = known_events(model.tasks, on_device)
        _, parts = loss(model, predicted | known, on_device)
        for task in model.tasks:
            sums[task] += float(parts[task]) * len(batch)
            numbers[task] += int(known[f"known_{task}"].sum())
            # buffers of the stream are used again: what stays is a copy
            truth[task].append(batch.truth[task].numpy().copy())
        for name, of_batches in answers.items():
            of_batches.append(predicted[name].reshape(len(batch), -1).cpu().numpy())
    mine = (sums, numbers, *({t: np.concatenate(v) for t, v in part.items()} for part in (answers, truth)))
    shares = gather_objects(fabric, mine)
    means = {}
    for task in model.tasks:
        if not (number := sum(share[1][task] for share in shares)):
            raise InputError(f"No validation event has {_needed(task)}, so that '{task}' cannot be judged; {_MEND}.")
        means[task] = sum(share[0][task] for share in shares) / number
    # it is linear in the losses of the tasks, so that it may be taken of their means
    total = loss.balance({task: torch.tensor(mean, device=fabric.device) for task, mean in means.items()})
    joined = [{name: np.concatenate([share[i][name] for share in shares]) for name in shares[0][i]} for i in (2, 3)]
    values = {"loss": float(total)} | {f"loss_{task}": mean for task, mean in means.items()}
    return values | resolution_metrics(*joined) | peaks(*joined) | pull_widths(*joined), fitted_widths(*joined)


_MEND = "name files that have some, or switch the task off"


def _needed(task: str) -> str:
    """What an event must have for a task to be learnt from it."""
    return "a valid time" if TASKS[task].needs == "time" else "a valid count"
