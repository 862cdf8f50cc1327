"""Least squares from an encoder's numbers and code: what a linear function of them already says of a target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# only against exact dependence: 1e-3 of the 33 cm that v spans already costs a millimetre
_RIDGE = 1e-6
# penalties among which codes choose, in units of a standardised number's variance
_PENALTIES = tuple(10.0 ** (k / 2) for k in range(-8, 5))


class Path(NamedTuple):
    """A linear function of codes."""

    weight: Tensor
    """(out_width, size)"""
    bias: Tensor
    """(size,)"""


class Ridges:
    """Linear functions of an encoder's numbers and, penalised, of its code, by least squares.

    Args:
        x: standardised numbers (N, n_features).
        codes: (N, out_width), or None to leave them out.
    """

    def __init__(self, x: Tensor, codes: Tensor | None) -> None:
        self.n_features = x.shape[1]
        self.both = x
        penalties = torch.full((1, x.shape[1]), _RIDGE, dtype=torch.float64)
        if codes is not None:
            c = codes.double()
            self.mean, self.width = c.mean(0), c.std(0).clamp_min(1e-6)
            self.both = torch.cat([x, (c - self.mean) / self.width], 1)
            of_codes = torch.tensor(_PENALTIES, dtype=torch.float64)[:, None].expand(-1, c.shape[1])
            penalties = torch.cat([penalties.expand(len(_PENALTIES), -1), of_codes], 1)
        self.penalties = penalties
        gram = self.both.T @ self.both / len(x)
        self.inverses = [torch.linalg.inv(gram + torch.diag(p)) for p in penalties]
        # how much an event's own target weighs in its answer
        self.own = [((self.both @ i) * self.both).sum(1, keepdim=True) / len(x) for i in self.inverses]
        self.has_codes = codes is not None

    def fit(self, y: Tensor) -> tuple[Tensor, Path | None, Tensor]:
        """Fit centred targets (N, size).

        Returns:
            Slope of the numbers (n_features, size), path of the codes, and residuals (N, size); those with codes are
            what the others' fit leaves of each event, and the penalty of a target is the one of the smallest.
        """
        weights = [i @ (self.both.T @ y) / len(y) for i in self.inverses]
        if not self.has_codes:
            return weights[0], None, y - self.both @ weights[0]
        left = torch.stack(
            [(y - self.both @ w) / (1 - own).clamp_min(1e-3) for w, own in zip(weights, self.own, strict=True)]
        )
        best = left.abs().mean(1).argmin(0)  # (size,); outliers should not choose
        columns = torch.arange(y.shape[1])
        chosen, rest = torch.stack(weights)[best, :, columns].T, left[best, :, columns].T
        slope, of_codes = chosen[: self.n_features], chosen[self.n_features :] / self.width[:, None]
        return slope, Path(of_codes, -(self.mean @ of_codes)), rest
