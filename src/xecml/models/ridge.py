"""Least-squares fits of targets by linear functions of an encoder's numbers and code."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# penalties of the numbers and of the codes, in units of a standardised number's variance
_NUMBERS = (1e-3, 1e-2, 1e-1)
_PENALTIES = tuple(10.0 ** (k / 2) for k in range(-8, 5))
# numbers in a matrix of codes: wide codes are fitted to fewer events
_MOST = 25_000_000
_ROUNDS = 6
"""Fits of a robust regression, each with weights from the residuals of the one before."""
_FULL_WEIGHT = 2.0
"""Widths within which a residual counts fully; beyond, in inverse proportion to its size (Huber 1964)."""
_LEFT_OUT = 4.0
"""Widths beyond which residuals are left out of the last fits."""
_MAD = 1.4826


class Path(NamedTuple):
    """A linear function of codes."""

    weight: Tensor
    """(out_width, size)"""
    bias: Tensor
    """(size,)"""


class Fit(NamedTuple):
    """What least squares found for a target of some size: offset + numbers @ slope + path(codes)."""

    slope: Tensor
    """(n_features, size)"""
    offset: Tensor
    """(size,)"""
    path: Path | None
    rest: Tensor
    """Residuals (N, size); with codes, what the fit to all other events leaves of each."""


class Ridges:
    """Linear functions of an encoder's numbers and, penalised, of its code.

    The fit of the numbers is robust, since a few events with a second photon would decide it otherwise, and its
    penalty is the one that does best on other detectors: fitted to one half of the runs, looked at on the other.

    Args:
        x: standardised numbers (N, n_features); those that must not be used are zero.
        codes: (N, out_width), or None to leave them out.
        run: run numbers (N,); events of a single run are parted in two by their order.
    """

    def __init__(self, x: Tensor, codes: Tensor | None, run: Tensor | None = None) -> None:
        if codes is not None:
            n = max(2, _MOST // codes.shape[1])
            x, codes = x[:n], codes[:n]
        self.n_events = len(x)
        self.x = x
        run = torch.zeros(len(x), dtype=torch.int64) if run is None else run[: len(x)].long()
        _, index = torch.unique(run, return_inverse=True)
        several = bool(index.any())
        self.half = index % 2 == 0 if several else torch.arange(len(x)) % 2 == 0
        self.has_codes = codes is not None
        if codes is not None:
            centre = x - x.mean(0)
            eye = _NUMBERS[0] * torch.eye(x.shape[1], dtype=x.dtype)
            inverse = torch.linalg.inv(centre.T @ centre / len(x) + eye)
            # how much an event's own target weighs in its answer
            self.own = ((centre @ inverse) * centre).sum(1, keepdim=True) / len(x) + 1 / len(x)
            c = codes.double()
            self.mean, self.width = c.mean(0), c.std(0).clamp_min(1e-6)
            c = (c - self.mean) / self.width
            # the numbers come first: codes explain what these leave (Frisch and Waugh 1933)
            self.of_codes = inverse @ (centre.T @ c) / len(x)
            self.left, self.singular, right = torch.linalg.svd(c - centre @ self.of_codes, full_matrices=False)
            self.right = right.T

    def fit(self, y: Tensor) -> Fit:
        """Fit targets (N, size); each chooses the penalties that do best on events left out."""
        y = y[: self.n_events]
        found = [self._robust(y[:, i]) for i in range(y.shape[1])]
        slope, offset = torch.stack([f[0] for f in found], 1), torch.stack([f[1] for f in found])
        rest = y - offset - self.x @ slope
        if not self.has_codes:
            return Fit(slope, offset, None, rest)
        middle = rest.mean(0)
        rest, offset = rest - middle, offset + middle
        projected = self.left.T @ rest  # (rank, size)
        left, weights = [], []
        for penalty in _PENALTIES:
            kept = self.singular.square() / (self.singular.square() + penalty * len(rest))
            own = self.own + self.left.square() @ kept[:, None]
            left.append((rest - self.left @ (kept[:, None] * projected)) / (1 - own).clamp_min(1e-3))
            weights.append(self.right @ ((kept / self.singular.clamp_min(1e-12))[:, None] * projected))
        best = torch.stack(left).abs().mean(1).argmin(0)  # (size,); outliers should not choose
        columns = torch.arange(y.shape[1])
        weight, rest = (torch.stack(parts)[best, :, columns].T for parts in (weights, left))
        back = self.of_codes @ weight
        slope, offset = slope - back, offset + self.x.mean(0) @ back
        weight = weight / self.width[:, None]
        return Fit(slope, offset, Path(weight, -(self.mean @ weight)), rest)

    def _robust(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Slope (n_features,) and offset of one target (N,)."""
        weight = torch.ones_like(y)
        for round_ in range(_ROUNDS):
            gram, moment, x_mean, y_mean = _moments(self.x, y, weight)
            slope = _solved(gram, moment, _NUMBERS[0])
            size = (y - y_mean - (self.x - x_mean) @ slope).abs()
            width = (_MAD * size.median()).clamp_min(1e-30)
            if round_ < _ROUNDS - 2:
                weight = (_FULL_WEIGHT * width / size.clamp_min(1e-30)).clamp_max(1.0)
            else:
                weight = (size <= _LEFT_OUT * width).to(y.dtype)
        gram, moment, x_mean, y_mean = _moments(self.x, y, weight)
        slope = _solved(gram, moment, self._best_penalty(y, weight))
        return slope, y_mean - x_mean @ slope

    def _best_penalty(self, y: Tensor, weight: Tensor) -> float:
        """The penalty with which a fit to one half of the runs leaves least of the other half."""
        left = torch.zeros(len(_NUMBERS), dtype=y.dtype)
        for half in (self.half, ~self.half):
            if not bool((weight * half).any()) or not bool((weight * ~half).any()):
                return _NUMBERS[0]
            gram, moment, x_mean, y_mean = _moments(self.x, y, weight * half)
            for k, penalty in enumerate(_NUMBERS):
                slope = _solved(gram, moment, penalty)
                rest = (y - y_mean - (self.x - x_mean) @ slope).abs()
                left[k] += (rest * weight * ~half).sum()
        return _NUMBERS[int(left.argmin())]


def _moments(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted covariance of x, covariance of x and y, and means."""
    total = weight.sum().clamp_min(1e-30)
    x_mean, y_mean = weight @ x / total, weight @ y / total
    weighted = (x - x_mean) * weight[:, None]
    return weighted.T @ (x - x_mean) / total, weighted.T @ (y - y_mean) / total, x_mean, y_mean


def _solved(gram: Tensor, moment: Tensor, penalty: float) -> Tensor:
    slope: Tensor = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), moment)
    return slope
