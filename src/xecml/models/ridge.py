"""Least squares from an encoder's numbers and code: what a linear function of them already says of a target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# only against exact dependence: 1e-3 of the 33 cm that v spans already costs a millimetre
_RIDGE = 1e-6
# penalties among which codes choose, in units of a standardised number's variance
_PENALTIES = tuple(10.0 ** (k / 2) for k in range(-8, 5))
# numbers in a matrix of codes: wide codes are fitted to fewer events
_MOST = 25_000_000


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

    Args:
        x: standardised numbers (N, n_features).
        codes: (N, out_width), or None to leave them out.
    """

    def __init__(self, x: Tensor, codes: Tensor | None) -> None:
        if codes is not None:
            n = max(2, _MOST // codes.shape[1])
            x, codes = x[:n], codes[:n]
        self.n_events = len(x)
        self.centre = x.mean(0)
        self.x = x - self.centre
        gram = self.x.T @ self.x / len(x)
        self.inverse = torch.linalg.inv(gram + _RIDGE * torch.eye(x.shape[1], dtype=x.dtype))
        # how much an event's own target weighs in its answer
        self.own = ((self.x @ self.inverse) * self.x).sum(1, keepdim=True) / len(x) + 1 / len(x)
        self.has_codes = codes is not None
        if codes is not None:
            c = codes.double()
            self.mean, self.width = c.mean(0), c.std(0).clamp_min(1e-6)
            c = (c - self.mean) / self.width
            # the numbers come first: codes explain what these leave (Frisch and Waugh 1933)
            self.of_codes = self._slope(c)
            self.left, self.singular, right = torch.linalg.svd(c - self.x @ self.of_codes, full_matrices=False)
            self.right = right.T

    def _slope(self, y: Tensor) -> Tensor:
        slope: Tensor = self.inverse @ (self.x.T @ y) / len(self.x)
        return slope

    def fit(self, y: Tensor) -> Fit:
        """Fit targets (N, size); each chooses the penalty that does best on events left out."""
        y = y[: self.n_events]
        mean = y.mean(0)
        slope = self._slope(y - mean)
        rest = y - mean - self.x @ slope
        if not self.has_codes:
            return Fit(slope, mean - self.centre @ slope, None, rest)
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
        slope = slope - self.of_codes @ weight
        weight = weight / self.width[:, None]
        return Fit(slope, mean - self.centre @ slope, Path(weight, -(self.mean @ weight)), rest)
