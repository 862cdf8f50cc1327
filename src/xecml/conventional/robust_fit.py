"""Linear functions of named columns, fitted so that tails of a distribution do not pull them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from xecml.resolution import s68

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]
Coefficients = dict[str, float]

CONSTANT = "constant"
"""Name of the part that no column has."""
_ROUNDS = 30


def evaluate(coefficients: Mapping[str, float], columns: Columns) -> Floats:
    """The linear function (N,) of columns (N,); a column without a coefficient has none."""
    total: Floats = np.full(len(next(iter(columns.values()))), float(coefficients[CONSTANT]))
    for name, values in columns.items():
        if (factor := coefficients.get(name, 0.0)) != 0.0:
            total += factor * values
    return total


def products(by: Columns, columns: Columns) -> dict[str, Floats]:
    """Columns, and those times each of `by`, under names such as `depth x a`."""
    found = dict(columns)
    for factor, values in by.items():
        found |= {f"{factor} x {name}": values * column for name, column in columns.items()}
    return found


def weighted(x: Floats, y: Floats, weight: Floats, penalty: float) -> tuple[Floats, float]:
    """Penalised least squares: slopes (k,) and constant for y (N,) from x (N, k) with weights (N,).

    The penalty is on slopes of standardised columns, in units of the variance of one. Columns are of order 1; they
    have slope 0 where they are constant but for rounding.
    """
    share = weight / weight.sum()
    mean, middle = share @ x, float(share @ y)
    width = np.sqrt(share @ (x - mean) ** 2)
    known = width > 1e-9 * (np.abs(mean) + 1.0)
    standard = np.where(known, (x - mean) / np.where(known, width, 1.0), 0.0)
    matrix = (standard.T * share) @ standard + penalty * np.eye(x.shape[1])
    slopes = np.linalg.solve(matrix, (standard.T * share) @ (y - middle)) * known / np.where(known, width, 1.0)
    return slopes, middle - float(slopes @ mean)


def huber_weights(width_factor: float) -> Callable[[Floats], Floats]:
    """Weights that fall in inverse proportion to residuals beyond a factor times their s68 (Huber 1964)."""

    def weights(rest: Floats) -> Floats:
        limit = width_factor * max(s68(rest), 1e-12)
        return np.minimum(1.0, limit / np.maximum(np.abs(rest), 1e-300))

    return weights


def fit(columns: Columns, y: Floats, *, width_factor: float = 1.5, penalty: float = 1e-4) -> Coefficients:
    """Fit y (N,) by a linear function of columns (N,) with Huber's loss, by reweighted least squares."""
    x, weights = np.stack(list(columns.values()), 1), huber_weights(width_factor)
    weight = np.ones(len(y))
    for _ in range(_ROUNDS):
        slopes, constant = weighted(x, y, weight, penalty)
        weight = weights(y - x @ slopes - constant)
    return {CONSTANT: constant, **dict(zip(columns, slopes.tolist(), strict=True))}
