"""What a regressor needs of an encoder, and what an encoder sees of an event at a glance."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from xecml.models.normalise import Normaliser


class Glance(Protocol):
    """What targets refer to, for B events."""

    @property
    def features(self) -> Tensor:
        """(B, n_features): numbers for the linear anchor."""

    @property
    def light_time(self) -> Tensor:
        """(B,) seconds: light-weighted mean time of the event."""

    @property
    def event_time(self) -> Tensor:
        """(B,) seconds: rough time of the event; a constant added to all times is added to it."""


class Encoder(Protocol):
    """What a regressor needs of its encoder."""

    out_width: int
    n_features: int
    from_times: Tensor
    """(n_features,) which of the anchor's numbers need times"""

    @property
    def normaliser(self) -> Normaliser:
        """The transform of inputs."""

    def __call__(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, Glance]:
        """Code (B, out_width) of events, and what their targets refer to."""

    def look(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Glance:
        """Only what targets refer to."""

    def fit_features(self, features: Tensor) -> None:
        """Fit the standardisation of the anchor's numbers."""

    def standard_features(self, features: Tensor) -> Tensor:
        """Standardise the anchor's numbers."""

    def first_guess(self, task: str, features: Tensor) -> Tensor | None:
        """A first guess of a task from the anchor's numbers without any fit (B, size); None if there is none.

        In the task's units; of a `ratio` task proportional to it.
        """

    def head(self, size: int, *, hidden_dim: int, dropout: float) -> nn.Module:
        """A head from codes to `size` answers."""
