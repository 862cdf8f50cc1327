"""Losses on standardised differences, event by event."""

from __future__ import annotations

import torch
from torch import Tensor

from xecml.errors import InputError


def loss_per_event(name: str, difference: Tensor, beta: float = 1.0) -> Tensor:
    """Mean loss over the components of standardised differences (B, size) -> (B,).

    Args:
        name: `smooth_l1` (0.5 d^2 / beta below beta, |d| - beta/2 above), `huber` (beta times that), `l1`, `mse`.
        difference: (prediction - truth) / width.
        beta: where smooth_l1 and huber turn from square to linear.

    Raises:
        InputError: no such loss.
    """
    size = difference.abs()
    if name in ("smooth_l1", "huber"):
        square = 0.5 * difference.square() / beta
        loss = torch.where(size < beta, square, size - 0.5 * beta)
        loss = loss * beta if name == "huber" else loss
    elif name == "l1":
        loss = size
    elif name == "mse":
        loss = difference.square()
    else:
        raise InputError(f"Unknown loss '{name}'; choose smooth_l1, huber, l1 or mse.")
    return loss.mean(1)
