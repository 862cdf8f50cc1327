"""The exponential moving average of weights, one step at a time."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """An average over the steps so far; the first step's weights are taken as they are.

    `torch.optim.swa_utils.AveragedModel` does the same in two and a half times the time: it groups the weights and
    copies all buffers at every step, which here are constants.

    Args:
        model: whose weights are averaged; its buffers are taken now.
        decay: share of the average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.updates = 0
        self._mix = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._own = list(self.module.parameters())
        self._of_model = list(model.parameters())
        self._buffers = list(zip(self.module.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def take_buffers(self) -> None:
        """Take the model's buffers, which a checkpoint of the best epoch has otherwise in its average."""
        for own, other in self._buffers:
            own.copy_(other)

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average."""
        if self.updates:
            self._mix(self._own, self._of_model, None)
        else:
            for own, other in zip(self._own, self._of_model, strict=True):
                own.copy_(other)
        self.updates += 1
