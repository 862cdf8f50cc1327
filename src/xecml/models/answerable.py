"""Which events can be answered: where something was measured, and how far beyond the training's truth an answer is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from xecml.events import TASKS

_BEYOND_SIGMAS, _BEYOND_SHARE = 3.0, 0.05


def beyond_ends(answer: Tensor, sigma: Tensor | None, lowest: Tensor, highest: Tensor) -> Tensor:
    """How far answers (B,) lie beyond the ends of the training's truth, over what a photon inside could have by chance.

    That is three of its own widths (B,), or a twentieth of the range where there are none. 0 of an answer within the
    ends, or of none; above 1 where it is certain.
    """
    past = torch.relu(lowest - answer) + torch.relu(answer - highest)
    chance = _BEYOND_SHARE * (highest - lowest) if sigma is None else _BEYOND_SIGMAS * sigma
    return torch.where(past > 0, past / chance, 0.0)


def any_of(mask: Tensor) -> Tensor:
    """Events (B,) in which a mask of sensors (B, 4760) is true anywhere."""
    # over bytes this is sixty times as fast as `any` over truth values; old runtimes compare no bytes
    return mask.to(torch.uint8).amax(1).to(torch.bool)


def answerable(names: Iterable[str], valid: Tensor, timed: Tensor) -> dict[str, Tensor]:
    """Events (B,) that an answer has something to go by in: a valid count; for the time, a valid time.

    Args:
        names: of tasks, or of their widths.
        valid: mask of counts (B, 4760).
        timed: mask of times (B, 4760).
    """
    counted, clocked = any_of(valid), any_of(timed)
    return {name: clocked if TASKS[name.removeprefix("sigma_")].needs == "time" else counted for name in names}
