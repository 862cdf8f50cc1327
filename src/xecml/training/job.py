"""The interface between the training loop and its jobs `regress`, `mae` and `inpaint`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lightning_fabric import Fabric
from torch import Tensor, nn

from xecml.data.batch import Batch
from xecml.data.stream import EventStream


class Step(Protocol):
    """Model and loss as one module, so that gradients of both are shared between processes."""

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and its parts by the names they are logged under."""


class Job(Protocol):
    """A kind of training."""

    kind: str
    """Its name on the command line and in checkpoints."""
    tasks: list[str]
    """Quantities whose truth is read; none for a job that needs no truth."""
    aim: str
    """What is learnt, for the first line."""
    hides: bool
    """Whether `prepare` hides sensors, for which it needs the batch on the CPU."""

    @property
    def model(self) -> nn.Module:
        """What is trained, averaged and saved."""

    @property
    def loss(self) -> nn.Module:
        """What it is trained by; a module, since weights in it may be learned."""

    @property
    def step(self) -> nn.Module:
        """A `Step` of both."""

    def fit(self, batches: Iterable[Batch], *, keep_features: bool, tasks: Sequence[str] | None = None) -> None:
        """Fit the model's constants on the training sample, and those of all tasks or of some.

        Those of an encoder that comes with its own are kept.
        """

    def remember(self, batches: Iterable[Batch]) -> None:
        """Store the distribution of the training events in the model, and keep all its other constants."""

    def bound(self, training: EventStream) -> None:
        """Store in the model where the truth of the training sample ends."""

    def prepare(self, batch: Batch, seed: tuple[int, ...], epoch: float, first: int = 0) -> Batch:
        """Apply to an augmented batch the random changes that every step needs.

        It is the same for the same seed and the same number `first` of the batch's first event among those of all
        processes.
        """

    def validate(self, model: nn.Module, batches: Iterable[Batch], fabric: Fabric) -> dict[str, float]:
        """Loss and metrics of a model over the batches of all processes, each event with the same weight."""

    def in_use(self, model: nn.Module, metrics: Mapping[str, float]) -> nn.Module:
        """The model as it is to be used, from one that was validated with these metrics; often the same."""

    def summary(self, metrics: Mapping[str, float]) -> str:
        """The physics of an epoch in one line."""

    def save_examples(self, model: nn.Module, batches: Iterable[Batch], folder: Path, epoch: int) -> Path | None:
        """Write a file with predictions for people to look at; None for a job without such a file."""
