"""The input of a network: events as tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xecml.events import INVALID_ABOVE
from xecml.geometry import N_SENSORS


@dataclass
class Batch:
    """B events as tensors: raw counts and times, their masks, truth in physical units, numbers of the events.

    Attributes:
        npho: counts (B, 4760), photons or relative.
        time: times (B, 4760), seconds.
        valid: whether a count was measured, (B, 4760).
        timed: whether a time was measured, (B, 4760).
        truth: task to (B, size).
        run: run numbers (B,).
        event: event numbers (B,).
        weight: of the event in a loss, (B,); 1 unless the sample is reweighted.
        hidden: flat positions in (B, 4760) of sensors that a network does not see and rebuilds, (n,).
        position: place of the first event in the order of the epoch.
    """

    npho: Tensor
    time: Tensor
    valid: Tensor
    timed: Tensor
    truth: dict[str, Tensor]
    run: Tensor
    event: Tensor
    weight: Tensor = field(default_factory=lambda: torch.empty(0))
    hidden: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    position: int = 0

    def __post_init__(self) -> None:
        if len(self.weight) != len(self.run):
            self.weight = torch.ones(len(self.run), device=self.npho.device)

    def __len__(self) -> int:
        return len(self.run)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts, times and masks, in the order that models take them."""
        return self.npho, self.time, self.valid, self.timed

    def only(self, i: int) -> Batch:
        """Event number `i` of the batch, as a batch."""
        npho, time, valid, timed, run, event, weight = (
            x[i : i + 1] for x in (*self.inputs(), self.run, self.event, self.weight)
        )
        truth = {task: y[i : i + 1] for task, y in self.truth.items()}
        row, sensor = event_and_sensor(self.hidden)
        hidden = sensor[row == i]
        return Batch(npho, time, valid, timed, truth, run, event, weight, hidden, self.position + i)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; numbers of events stay where they are."""
        npho, time, valid, timed, weight, hidden = (
            x.to(device, non_blocking=True) for x in (*self.inputs(), self.weight, self.hidden)
        )
        truth = {task: y.to(device, non_blocking=True) for task, y in self.truth.items()}
        return replace(self, npho=npho, time=time, valid=valid, timed=timed, truth=truth, weight=weight, hidden=hidden)


def full(x: Tensor) -> Tensor:
    """Values in float32 at least: 16-bit numbers are widened, 64-bit ones stay."""
    return x if x.dtype == torch.float64 else x.float()


def event_and_sensor(places: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, each (n,), of flat positions (n,) in (B, 4760)."""
    return torch.div(places, N_SENSORS, rounding_mode="floor"), places % N_SENSORS


def was_read(npho: Tensor, valid: Tensor) -> Tensor:
    """Which sensors were read, dark ones among them; see `xecml.events.read_counts`. Raw counts and mask of one shape.

    Encoders take dark sensors for missing.
    """
    return valid | dark(npho)


def dark(npho: Tensor) -> Tensor:
    """Which sensors were read and saw nothing: zero, or noise below it."""
    return (npho <= 0) & (npho > -INVALID_ABOVE)


def validity(npho: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of measured counts and of measured times, from raw values: the rule of `xecml.events` in torch.

    For callers that hold raw values alone, such as an exported model; training carries the reader's masks.
    """
    valid = (npho > 0) & (npho < INVALID_ABOVE)
    return valid, valid & (time.abs() < INVALID_ABOVE)
