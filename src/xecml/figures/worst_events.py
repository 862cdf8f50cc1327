"""The events that a model does worst on: found by the configured loss while a sample streams by, and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xecml.config import Config
from xecml.data.batch import Batch, validity
from xecml.events import TASKS, Chunk
from xecml.figures.unfolded_detector import draw_event, save_event
from xecml.inference.trained_model import TorchModel
from xecml.models.regressor import Regressor
from xecml.training.regression_job import RegressionLoss, known_events


@dataclass(frozen=True)
class Event:
    """An event with its loss: the total, by task, raw counts and times (4760,), and its row of the predictions."""

    loss: float
    parts: dict[str, float]
    npho: NDArray[Any]
    time: NDArray[Any]
    columns: dict[str, Any]


class EventLosses:
    """The configured loss of single events.

    Args:
        model: a checkpoint's regression.
        config: names losses and weights of the tasks; learned weights come from the checkpoint.
    """

    def __init__(self, model: TorchModel, config: Config) -> None:
        self._network, self._loss = model.network, RegressionLoss(config)
        self._loss.load_state_dict(model.content["loss_state"])
        self._tasks = list(config.tasks.enabled())

    def __call__(
        self, chunk: Chunk, answers: Mapping[str, NDArray[Any]], branches: tuple[str, str]
    ) -> dict[str, NDArray[np.float64]]:
        """Losses (B,) of a chunk's events: `total`, and one by task; 0 where nothing was measured for it.

        Args:
            chunk: raw counts, times and truth.
            answers: by task, of `TorchModel.predict`.
            branches: names of counts and times in the chunk.
        """
        assert isinstance(self._network, Regressor)
        batch = _batch(chunk, self._tasks, branches)
        weight = torch.ones(len(batch), requires_grad=True)
        predicted = {name: torch.from_numpy(values) for name, values in answers.items()}
        predicted |= known_events(self._tasks, batch)
        total, parts = self._loss(self._network, predicted, replace(batch, weight=weight))
        # the loss of a batch is a mean over events of weight times loss: its derivative is the event's own
        return {
            name: torch.autograd.grad(value, weight, retain_graph=True)[0].double().numpy() * len(batch)
            for name, value in {"total": total, **parts}.items()
        }


def _batch(chunk: Chunk, tasks: list[str], branches: tuple[str, str]) -> Batch:
    npho, time = (torch.from_numpy(chunk[name]) for name in branches)
    truth = {task: torch.from_numpy(chunk[TASKS[task].truth].reshape(len(npho), -1)).float() for task in tasks}
    numbers = torch.zeros(len(npho), dtype=torch.int32)
    return Batch(npho, time, *validity(npho, time), truth, numbers, numbers)


class WorstEvents:
    """Keep the events of the highest total loss, the worst first; a loss that is no number is the worst of all."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.events: list[Event] = []

    def add(
        self, losses: Mapping[str, NDArray[np.float64]], npho: NDArray[Any], time: NDArray[Any], columns: Chunk
    ) -> None:
        """Look at a chunk's events: losses of `EventLosses`, counts, times and predictions, events first."""
        size = np.nan_to_num(losses["total"], nan=np.inf)
        for i in np.argsort(-size, kind="stable")[: self.most]:
            parts = {name: float(values[i]) for name, values in losses.items() if name != "total"}
            row = {name: values[i] for name, values in columns.items()}
            # copies, or each would hold its whole chunk
            self.events.append(Event(float(size[i]), parts, npho[i].copy(), time[i].copy(), row))
        self.events = sorted(self.events, key=lambda event: -event.loss)[: self.most]


def save_worst(path: str | Path, event: Event, *, place: int, title: str = "") -> None:
    """Draw an event unfolded, with truth, prediction, place among the worst (1 first) and losses, atomically.

    Raises:
        InputError: a suffix other than .pdf and .png, or the folder cannot be written.
    """
    save_event(draw_worst(event, place=place, title=title), path)


def draw_worst(event: Event, *, place: int, title: str = "") -> Figure:
    """The picture of `save_worst`; the arguments are the same."""
    numbers = f"run {event.columns['run']}, event {event.columns['event']}"
    parts = ", ".join(f"{task} {loss:.3g}" for task, loss in event.parts.items())
    head = f"{title}worst event {place}: {numbers}, loss {event.loss:.4g} ({parts})"
    truth = {name: v for name, v in event.columns.items() if name.startswith("true_")}
    prediction = {name: v for name, v in event.columns.items() if name.startswith("pred_")}
    return draw_event(event.npho, event.time, truth=truth, prediction=prediction, title=head)
