"""Layers that several networks share. Sizes are explicit; grids are channels last where it matters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W); in channels-last memory this needs no copy."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Drop a whole residual branch for a random share of the events (Huang et al. 2016)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop events of (B, ...) at the rate, and scale the others up."""
        if self.rate == 0.0 or not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * (torch.rand(shape, device=x.device) >= self.rate) / (1.0 - self.rate)


class ConvResidual(nn.Module):
    """x + conv3x3(GELU(conv3x3(norm(x)))) on (B, C, H, W)."""

    def __init__(self, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        branch: Tensor = self.drop_path(self.second(F.gelu(self.first(self.norm(x)))))
        return x + branch


class DenseResidual(nn.Module):
    """x + linear(GELU(linear(norm(x)))) on (B, D)."""

    def __init__(self, width: int, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D) to the same shape."""
        branch: Tensor = self.drop_path(self.second(F.gelu(self.first(self.norm(x)))))
        return x + branch


class WideLinear(nn.Linear):
    """A linear layer whose answer moves as slowly as that of one with 256 inputs.

    Adam moves every weight by about the learning rate, so a layer of many inputs moves its answer by as many times
    more. Weights are kept 1 / scale times larger with scale = 256 / inputs: the width scaling of Yang et al. 2021.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale = min(1.0, 256 / inputs)
        with torch.no_grad():
            self.weight /= self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return F.linear(x * self.scale, self.weight, self.bias)


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """Rows x[index] of (N, ...), as often as the index (...) names them.

    The gradient of x[index] is added by several threads at once, in whatever order; of this it is added in one order,
    so that a training can be repeated, and faster where many rows are named.
    """
    return x.index_select(0, index.flatten()).reshape(*index.shape, *x.shape[1:])
