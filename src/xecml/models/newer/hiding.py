"""What the newest version hides from its encoder: asked sensors, and those that are invalid already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xecml.models.newer.inputs import NewerNormaliser


class Seen(NamedTuple):
    """What the encoder gets of B events."""

    x: Tensor
    """(B, 4760, 2): normalised; hidden sensors have the two sentinels."""
    mask: Tensor
    """(B, 4760): 1 where hidden or invalid already."""


def hide_normalised(normaliser: NewerNormaliser, x: Tensor, hidden: Tensor, channels: Sequence[str]) -> Seen:
    """Hide sensors of normalised events (B, 4760, 2) where `hidden` (B, 4760) is true.

    Invalid already is a sensor without a time where `channels`, those that are predicted, have it; else a dead one.
    """
    sentinels = torch.stack([normaliser.sentinel_npho, normaliser.sentinel])
    channel = 1 if "time" in channels else 0
    invalid = x[..., channel] == sentinels[channel]
    return Seen(torch.where(hidden[..., None], sentinels, x), (hidden | invalid).to(x.dtype))
