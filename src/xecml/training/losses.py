"""Losses on standardised differences, event by event, and the balance of several tasks.

The losses that a task may have are functions of `Compared`, entries of `xecml.choices.LOSSES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml.errors import InputError

_STUDENT_DEGREES = 3.0
_STUDENT_68 = 1.1969
"""Half-width that holds 68.27 % of Student's t with three degrees of freedom, over its scale."""
DISTANCES = ("smooth_l1", "huber", "l1", "mse")


def distance(name: str, difference: Tensor, beta: float = 1.0) -> Tensor:
    """Mean over the components of standardised differences (B, size) -> (B,).

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
        raise InputError(f"Unknown loss '{name}'; choose {', '.join(DISTANCES)}.")
    return loss.mean(1)


def negative_log_likelihood(difference: Tensor, sigma: Tensor) -> Tensor:
    """Negative log likelihood of standardised differences (B, size) under widths (B, size) -> (B,), less a constant."""
    return (0.5 * (difference / sigma).square() + torch.log(sigma)).mean(1)


def angle_between(predicted: Tensor, true: Tensor) -> Tensor:
    """Angle in radians between vectors (B, 3) -> (B,), with a gradient at zero and at pi too.

    From the tangent of half the angle (Kahan 2006): the arc cosine of a dot product loses its digits at small angles.
    """
    a, b = F.normalize(predicted, dim=1), F.normalize(true, dim=1)
    # the square root has no derivative at zero
    difference = torch.sqrt((a - b).square().sum(1) + 1e-12)
    total = torch.sqrt((a + b).square().sum(1) + 1e-12)
    return 2 * torch.atan2(difference, total)


class Compared(NamedTuple):
    """Answers to B events and their truth, in physical units.

    Attributes:
        answer: (B, size); of classes the logarithms of their probabilities.
        truth: (B, size); of classes (B, 1).
        width: of the truth in training, (size,).
        sigma: widths that the model predicts, (B, size), where it does.
        beta: where a loss turns from square to linear, in widths.
    """

    answer: Tensor
    truth: Tensor
    width: Tensor
    sigma: Tensor | None = None
    beta: float = 1.0

    @property
    def difference(self) -> Tensor:
        """Standardised, (B, size)."""
        return (self.answer - self.truth) / self.width


def smooth_l1(compared: Compared) -> Tensor:
    """Losses (B,): square near zero, linear beyond `beta`."""
    return distance("smooth_l1", compared.difference, compared.beta)


def huber(compared: Compared) -> Tensor:
    """Losses (B,): `beta` times `smooth_l1`."""
    return distance("huber", compared.difference, compared.beta)


def l1(compared: Compared) -> Tensor:
    """Losses (B,): the absolute difference."""
    return distance("l1", compared.difference)


def mse(compared: Compared) -> Tensor:
    """Losses (B,): the squared difference."""
    return distance("mse", compared.difference)


def gaussian_nll(compared: Compared) -> Tensor:
    """Losses (B,): the negative log likelihood under the predicted widths."""
    assert compared.sigma is not None
    return negative_log_likelihood(compared.difference, compared.sigma / compared.width)


def student_nll(compared: Compared) -> Tensor:
    """Losses (B,): the negative log likelihood of Student's t with three degrees of freedom, less a constant.

    The predicted width is the half-width that holds 68 % of it. Far tails, as of events with a second photon, hardly
    count, and each event counts by its own width: whatever the first guess left of a target, it is learnt to the end.
    """
    assert compared.sigma is not None
    scale = compared.sigma / compared.width / _STUDENT_68
    square = (compared.difference / scale).square() / _STUDENT_DEGREES
    return (0.5 * (_STUDENT_DEGREES + 1) * torch.log1p(square) + torch.log(scale)).mean(1)


def opening_angle(compared: Compared) -> Tensor:
    """Losses (B,): the angle in radians between directions, given as angles in degrees or as vectors."""
    vectors = (_vectors(x) if x.shape[1] == 2 else x for x in (compared.answer, compared.truth))
    return angle_between(*vectors)


def cross_entropy(compared: Compared) -> Tensor:
    """Losses (B,) of classes."""
    return F.nll_loss(compared.answer, compared.truth.long().squeeze(1), reduction="none")


def _vectors(angles: Tensor) -> Tensor:
    """Unit vectors (B, 3) of theta, phi (B, 2) in degrees, as `xecml.geometry.direction_from_angles`."""
    theta, phi = (angles * (torch.pi / 180)).unbind(1)
    s = torch.sin(theta)
    return torch.stack([-s * torch.cos(phi), s * torch.sin(phi), torch.cos(theta)], 1)


class TaskBalance(nn.Module):
    """Sum of the tasks' losses: by given weights, or by learned ones.

    Learned: sum of 0.5 exp(-s) L + 0.5 s with one s a task (Kendall, Gal, Cipolla 2018).

    Args:
        weights: factor of each task.
        learned: whether the balance is learned, on top of the factors.
    """

    def __init__(self, weights: Mapping[str, float], *, learned: bool = False) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if learned else None

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Total of the losses by task."""
        each = torch.stack([weight * losses[task] for task, weight in self.weights.items()])
        if self.log_variance is None:
            return each.sum()
        return (0.5 * torch.exp(-self.log_variance) * each + 0.5 * self.log_variance).sum()
