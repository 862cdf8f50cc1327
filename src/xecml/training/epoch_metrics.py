"""Running means of a training epoch, its clock, and watching for losses and gradients that are no numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from xecml.data.batch import Batch

_MOST_EVENTS = 8


class Sums:
    """Means of step quantities over events, kept on the device: nothing is read back inside a step."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._sums: dict[str, Tensor] = dict(state["sums"]) if state else {}
        self._counts: dict[str, int] = dict(state["counts"]) if state else {}

    def add(self, values: Mapping[str, Tensor], events: int = 1) -> None:
        """Add one step's values, which are means over so many events."""
        for key, value in values.items():
            before = self._sums.get(key)
            share = value.detach().double() * events
            self._sums[key] = share if before is None else before + share
            self._counts[key] = self._counts.get(key, 0) + events

    def means(self) -> dict[str, float]:
        """Mean of every quantity over the events so far; reads back."""
        return {key: float(value) / self._counts[key] for key, value in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint in the middle of an epoch."""
        return {"sums": {k: v.cpu().clone() for k, v in self._sums.items()}, "counts": dict(self._counts)}

    def all_reduced(self, reduce: Any) -> Sums:
        """Mean over processes, which all make the same number of steps."""
        return Sums({"sums": {k: reduce(v) for k, v in self._sums.items()}, "counts": self._counts})


class Clock:
    """Time of an epoch, and how much of it went into waiting for data."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0
        self._batches = 0
        self.events = 0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, with the time they were waited for."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            self._batches += 1
            self.events += len(batch)
            yield batch

    def system(self, processes: int = 1) -> dict[str, float]:
        """Speed of all processes, and efficiency of this one, in the epoch's training part."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        return {
            "system/epoch_duration_sec": seconds,
            "system/throughput_events_per_sec": processes * self.events / seconds,
            "system/avg_data_load_sec": self._waited / max(self._batches, 1),
            "system/compute_efficiency": 100 * (1 - self._waited / seconds),
        }


class Watch:
    """Remember losses and gradients of the last steps until they are known to be numbers.

    On a CPU every step is looked at; on a GPU every 25, since a look makes the processor wait.

    Args:
        fabric: of the training.
        step: model and loss, which are asked event by event where a batch's loss is no number.
    """

    def __init__(self, fabric: Fabric, step: nn.Module) -> None:
        self.saved: Path | None = None
        """The last checkpoint that this run wrote."""
        self.note = ""
        """The last loss looked at, for the progress bar, which is not to read back by itself."""
        self._every = 1 if fabric.device.type == "cpu" else 25
        self._several = fabric.world_size > 1
        self._step = step
        self._batch: Batch | None = None
        self._group: list[_Numbers] = []
        self._steps: list[tuple[Tensor, list[_Numbers]]] = []

    def loss(self, total: Tensor, batch: Batch) -> None:
        """Take a batch's loss; the numbers of its events are copied, since the memory of batches is used again."""
        self._group.append(_Numbers(total.detach(), batch.run.clone(), batch.event.clone()))
        self._batch = batch

    def step(self, norm: Tensor) -> None:
        """Take the norm of the gradient of the batches since the last step.

        Raises:
            FloatingPointError: a loss or gradient was not finite; names run and event numbers.
        """
        self._steps.append((norm.detach(), self._group))
        self._group = []
        if len(self._steps) >= self._every:
            self.look()

    def look(self) -> None:
        """Look at all steps not yet looked at; raises as `step` does."""
        if not self._steps:
            return
        values = [value for norm, group in self._steps for value in (norm, *(numbers.loss for numbers in group))]
        read = torch.stack([value.double() for value in values]).tolist()  # one read-back
        self.note = f"loss {read[-1]:.4g}"
        for step, (_, group) in enumerate(self._steps):
            norm, *losses = read[: len(group) + 1]
            del read[: len(group) + 1]
            wrong = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
            if wrong or not math.isfinite(norm):
                raise FloatingPointError(f"{self._what(step, wrong)}; {self._where_to_go_on()}.")
        self._steps.clear()

    def validation(self, loss: float, epoch: int) -> None:
        """Take a validation loss.

        Raises:
            FloatingPointError: it is not finite.
        """
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The validation loss of epoch {epoch} is not a finite number; {self._where_to_go_on()}."
            )

    def _what(self, step: int, wrong: list[int]) -> str:
        """What is not finite in a step: losses of the batches `wrong` of its group, or only the gradient."""
        group = self._steps[step][1]
        if not wrong:
            # of one batch after the other, or of processes, only the sum is known
            where = ", here or in another process; this one had events" if self._several else " for events"
            return f"The gradient is not finite{where} with run/event {_pairs(group)}"
        is_last = step == len(self._steps) - 1 and wrong[0] == len(group) - 1
        guilty = self._guilty() if is_last else []
        batch = group[wrong[0]]
        if guilty:
            return f"The loss is not finite for run/event {_pairs([batch.only(guilty)])}"
        return f"The loss is not finite for a batch with run/event {_pairs([batch])}"

    def _guilty(self) -> list[int]:
        """Events of the last batch with such a loss alone; none where all have, or where other processes would wait."""
        if self._batch is None or self._several:
            return []
        with torch.no_grad():
            alone = [float(self._step(self._batch.only(i))[0]) for i in range(len(self._batch))]
        guilty = [i for i, loss in enumerate(alone) if not math.isfinite(loss)]
        return guilty if len(guilty) < len(alone) else []

    def _where_to_go_on(self) -> str:
        if self.saved is None:
            return "look at these events with 'xec check', or lower training.lr"
        return f"the last good weights are in {self.saved}: look at these events, or lower training.lr"


class _Numbers(NamedTuple):
    """Of a batch: its loss, and the run and event numbers (B,) of its events."""

    loss: Tensor
    run: Tensor
    event: Tensor

    def only(self, which: list[int]) -> _Numbers:
        """Some of its events."""
        return self._replace(run=self.run[which], event=self.event[which])


def _pairs(group: list[_Numbers]) -> str:
    """Run and event numbers of batches, the first few written out."""
    pairs = [pair for numbers in group for pair in zip(numbers.run.tolist(), numbers.event.tolist(), strict=True)]
    more = f" and {len(pairs) - _MOST_EVENTS} more" if len(pairs) > _MOST_EVENTS else ""
    return ", ".join(f"{run}/{event}" for run, event in pairs[:_MOST_EVENTS]) + more
