"""What an inpainter's heads are given, and what they answer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Asked(NamedTuple):
    """Sensors to rebuild in B events, and what is known."""

    hidden: Tensor
    """(n,): their flat positions in (B, 4760)."""
    maps: Tensor
    """(B, 4760, 5), standardised: count residual, time residual, its trust (0 to 1), expected count by the point,
    transformed count; the first three 0 where not read."""
    read: Tensor
    """(B, 4760): sensors that may be looked at."""
    tokens: Tensor
    """(B, T, width) of the encoder."""
    about: Tensor
    """(B, m): the quick look's numbers, and where the shower's points stand."""
    spot_distance: Tensor
    """(B, 4760) cm: of each sensor to the hot spot."""


class Head(Protocol):
    """A part of the answer; those of all heads add."""

    def __call__(self, asked: Asked) -> Tensor:
        """Standardised residuals (n, 2) of counts and times."""
