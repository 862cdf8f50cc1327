"""Standard deviations of single answers: half-widths that depend on depth, energy and how much the fits differ.

ln sigma is a linear function, fitted to ln |answer - truth| and scaled so that 68 % of the answers lie within sigma.
It stays within what the fit's events had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xecml.conventional.position import Light
from xecml.conventional.robust_fit import CONSTANT, Coefficients, evaluate, fit
from xecml.resolution import s68

Floats = NDArray[np.float64]

_SMALLEST = 0.05
"""Residuals below this share of their s68 count as so large: their logarithms would rule."""
_ENDS = (0.005, 0.995)


@dataclass(frozen=True)
class Width:
    """A standard deviation as a function of what an event looks like.

    Attributes:
        coefficients: of its logarithm.
        least: of its logarithm.
        most: of its logarithm.
    """

    coefficients: Coefficients
    least: float
    most: float


def columns(seen: Light, energy: Floats) -> dict[str, Floats]:
    """Columns (N,) by which answers are more or less sure; energy in GeV, NaN where it is not known."""
    s = seen.depth
    near, far = (np.log1p(np.linalg.norm(d, axis=1)) for d in (seen.near, seen.far))
    known = np.isfinite(energy) & (energy > 0)
    size = np.log(np.where(known, energy, 1.0) / 0.0528) * known
    u2, v2 = (seen.point[:, 0] / 24) ** 2, (seen.point[:, 1] / 68) ** 2
    deep = np.log1p(np.maximum(seen.point[:, 2] + seen.far[:, 2], 0.0))
    return {
        "s": s, "s2": s**2, "s3": s**3, "near": near, "far": far, "s x near": s * near, "energy": size, "u2": u2,
        "v2": v2, "deep": deep, "s x deep": s * deep,
    }  # fmt: skip


def widths(x: dict[str, Floats], width: Width) -> Floats:
    """Standard deviations (N,) in the unit of what was fitted."""
    return np.asarray(np.exp(np.clip(evaluate(width.coefficients, x), width.least, width.most)))


def calibrate(x: dict[str, Floats], residuals: Floats) -> Width:
    """A width from residuals (N,), answer minus truth."""
    size = np.abs(residuals - np.median(residuals))
    scale = max(s68(residuals), 1e-30)
    found = fit(x, np.log(np.maximum(size, _SMALLEST * scale)))
    logarithm = evaluate(found, x)
    least, most = (float(q) for q in np.quantile(logarithm, _ENDS))
    spread = s68(residuals / np.exp(np.clip(logarithm, least, most)))
    change = float(np.log(max(spread, 1e-30)))
    return Width(found | {CONSTANT: found[CONSTANT] + change}, least + change, most + change)
