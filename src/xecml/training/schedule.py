"""The learning rate as a function of the fractional epoch."""

from __future__ import annotations

import math

_START = 0.01
"""The warm-up starts at this share of the largest rate."""


def learning_rate(
    epoch: float, *, epochs: float, lr_max: float, lr_min: float, warmup_epochs: float, cosine: bool = True
) -> float:
    """Learning rate at a fractional epoch: linear warm-up, then half a cosine down to `lr_min`.

    lr = lr_min + (lr_max - lr_min) / 2 (1 + cos(pi (epoch - warmup) / (epochs - warmup)))
    """
    if epoch < warmup_epochs:
        return lr_max * (_START + (1 - _START) * epoch / warmup_epochs)
    if not cosine or epochs <= warmup_epochs:
        return lr_max
    progress = min((epoch - warmup_epochs) / (epochs - warmup_epochs), 1.0)
    return lr_min + (lr_max - lr_min) / 2 * (1 + math.cos(math.pi * progress))
