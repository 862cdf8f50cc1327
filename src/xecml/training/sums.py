"""Running means of a training epoch, its clock, and watching for losses that are no numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from xecml.data.batch import Batch


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

    def system(self) -> dict[str, float]:
        """Speed and efficiency of the epoch's training part."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        return {
            "system/epoch_duration_sec": seconds,
            "system/throughput_events_per_sec": self.events / seconds,
            "system/avg_data_load_sec": self._waited / max(self._batches, 1),
            "system/compute_efficiency": 100 * (1 - self._waited / seconds),
        }


class Watch:
    """Remember the last steps until their losses are known to be numbers.

    On a CPU every step is looked at; on a GPU every 25, since a look makes the processor wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._every = 1 if device.type == "cpu" else 25
        self._open: list[tuple[Tensor, Tensor, Tensor]] = []

    def step(self, norm: Tensor, batch: Batch) -> None:
        """Take a step's gradient norm and the numbers of its events.

        Raises:
            FloatingPointError: a loss or gradient was not finite; names the batch's run and event numbers.
        """
        self._open.append((norm.detach(), batch.run, batch.event))
        if len(self._open) >= self._every:
            self.look()

    def look(self) -> None:
        """Look at all steps not yet looked at."""
        norms = torch.stack([norm for norm, _, _ in self._open]) if self._open else torch.zeros(1)
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            _, run, event = self._open[int((~finite).int().argmax())]
            pairs = ", ".join(f"{int(r)}/{int(e)}" for r, e in zip(run[:8], event[:8], strict=True))
            raise FloatingPointError(f"The loss is not a finite number in a batch with run/event {pairs} ...")
        self._open.clear()
