"""What the numbers of the quick look say of a task without any fit: where anchors begin."""

from __future__ import annotations

import torch
from torch import Tensor

from xecml.models.networks.quick_look import SUMS


def local_spot(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Local u, v, w (B,) in cm of the hot spot, from the first three numbers of the quick look."""
    return features[:, 0] * 10, features[:, 1] * 30, features[:, 2] * 5


def first_guess(task: str, features: Tensor) -> Tensor | None:
    """What the numbers say of a task without any fit (B, size): the hot spot, its direction, the sum of the light.

    In the task's units, but for the energy, which is proportional to the light: 1e5 photons. None where there is none.
    """
    theta, phi = features[:, 3] * 30 + 90, features[:, 4] * 30
    if task == "uvwFI":
        return torch.stack(local_spot(features), 1)
    if task == "angle":
        return torch.stack([theta, phi], 1)
    if task == "angleVec":
        polar, azimuth = theta * (torch.pi / 180), phi * (torch.pi / 180)
        across = torch.sin(polar)
        return torch.stack([-across * torch.cos(azimuth), across * torch.sin(azimuth), torch.cos(polar)], 1)
    if task == "energy":
        return features[:, SUMS].sum(1, keepdim=True).clamp_min(1e-6)
    return None
