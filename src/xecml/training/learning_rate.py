"""The learning rate as a function of the fractional epoch, and which weights it and the decay are for."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

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


def parameter_groups(module: nn.Module, weight_decay: float, *, encoder_scale: float = 1.0) -> list[dict[str, Any]]:
    """Matrices, which decay, and everything else (biases, norms, GRN, positions), which does not.

    Where the encoder learns at another rate than the rest, its matrices and its others are groups of their own.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]

    def group(encoder: bool | None, decays: bool) -> dict[str, Any]:
        chosen = [
            p
            for name, p in named
            if (p.ndim >= 2 and name.endswith("weight")) == decays and encoder in (None, "encoder." in name)
        ]
        scale = encoder_scale if encoder else 1.0
        return {"params": chosen, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}

    parts = (None,) if encoder_scale == 1 else (False, True)
    return [group(encoder, decays) for encoder in parts for decays in (True, False)]
