"""How the width of pulls depends on an event's energy and depth, by which predicted widths are corrected.

A likelihood gives widths that are right for its own distribution. Those of residuals have tails that change with energy
and depth, so that the central 68 % of the pulls are wider than 1 at some energies and depths and narrower at others. A
smooth function of both, fitted to the validation events, makes them 1 at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

N_TERMS = 5
"""Terms of the function besides its constant: energy, depth, their squares and their product."""
LEAST = 3000
"""Events from which a function can be fitted."""
_ENERGY_GEV, _ENERGY_RANGE = 0.04, 1.3
"""Middle of the energies, and the largest logarithm of an energy over it."""
_DEPTH_CM, _DEPTH_RANGE = 5.0, 1.6
_AT_SURFACE_CM = 1.0
_MOST = 3.0
"""Largest and least width of a pull that is corrected for."""
_QUANTILES = (0.15865, 0.84135)
_SMOOTH = 0.05
"""Of a pull, within which the quantiles' loss is rounded."""

Floats = NDArray[np.float64]


def terms(answers: Mapping[str, Tensor]) -> Tensor | None:
    """Terms (B, N_TERMS) of the function from a network's own answers; None where it answers neither.

    Args:
        answers: of the network; `energy` (B,) or (B, 1) in GeV, `uvwFI` (B, 3) in cm.
    """
    energy, place = answers.get("energy"), answers.get("uvwFI")
    found = []
    if energy is not None:
        logarithm = torch.log((energy.reshape(-1) / _ENERGY_GEV).clamp_min(1e-3))
        found.append(logarithm.clamp(-_ENERGY_RANGE, _ENERGY_RANGE))
    if place is not None:
        logarithm = torch.log((place[:, 2].clamp_min(0.0) + _AT_SURFACE_CM) / _DEPTH_CM)
        found.append(logarithm.clamp(-_DEPTH_RANGE, _DEPTH_RANGE))
    if not found:
        return None
    e = found[0] if energy is not None else torch.zeros_like(found[0])
    d = found[-1] if place is not None else torch.zeros_like(found[0])
    return torch.stack([e, d, e * e, d * d, e * d], 1)


def factors(shape: Tensor, of: Tensor | None) -> Tensor:
    """Factors (B, size) on widths.

    Args:
        shape: coefficients (N_TERMS, size).
        of: terms (B, N_TERMS) of the events; None gives 1.
    """
    if of is None:
        return torch.ones_like(shape[:1])
    return (1 + of @ shape).clamp(1 / _MOST, _MOST)


def fit(pulls: Floats, of: Floats) -> tuple[Floats, Floats]:
    """Factor (size,) and shape (N_TERMS, size) by which widths become those of the residuals.

    Half of the difference of two quantiles that depend linearly on the terms (Koenker, Bassett 1978).

    Args:
        pulls: residuals over widths (N, size); rows that are not finite are left out.
        of: terms (N, N_TERMS) of the events.

    Raises:
        ValueError: there are fewer than `LEAST` events.
    """
    known = np.isfinite(pulls).all(1) & np.isfinite(of).all(1)
    if known.sum() < LEAST:
        raise ValueError(f"{known.sum()} events are too few; it takes {LEAST}.")
    x = np.concatenate([np.ones((int(known.sum()), 1)), of[known]], 1)
    # terms of one scale, for the search
    scale = np.maximum(x.std(0), 1e-3)
    scale[0] = 1.0
    columns = []
    for y in pulls[known].T:
        low, high = (_quantile(x / scale, y, level) for level in _QUANTILES)
        columns.append((high - low) / 2 / scale)
    found = np.stack(columns, 1)
    return found[0], found[1:] / found[0]


def _quantile(x: Floats, y: Floats, level: float) -> Floats:
    """Coefficients (K,) of the quantile of y (N,) that is linear in x (N, K), with a loss that is smooth at zero."""
    middle, width = np.median(y), max(float(np.quantile(y, 0.841) - np.quantile(y, 0.159)) / 2, 1e-12)
    soft = _SMOOTH * width

    def loss(c: Floats) -> tuple[float, Floats]:
        rest = y - x @ c
        root = np.sqrt(rest**2 + soft**2)
        value = (level - 0.5) * rest + 0.5 * root
        slope = (level - 0.5) + 0.5 * rest / root
        return float(value.mean()), -(slope[:, None] * x).mean(0)

    start = np.zeros(x.shape[1])
    start[0] = middle + (width if level > 0.5 else -width)
    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.asarray(found.x, np.float64)
