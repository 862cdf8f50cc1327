"""The influence of each event on a figure of merit: standard errors, and errors of differences on the same events.

A figure of n events changes by about influence / n when one more such event comes, so that its variance is that of the
influences over n; figures of the same events share their fluctuations, and so do the influences (Hampel 1974). That of
a quantile q of the share p is (p - [x < q]) / f(q); the density f(q) is taken from quantiles to both sides of q as far
as Bofinger 1975 advises.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from xecml.resolution import QUANTILES, Floats

MIN_EVENTS = 20
"""With fewer events the density at a quantile is not known well enough for an error."""
_WIDEST = 0.1
"""Of the shares of events about a quantile that its density is taken from."""


def half_width(values: ArrayLike) -> tuple[float, Floats]:
    """s68 of finite values (N,), and the influence (N,) of each."""
    x = np.asarray(values, np.float64)
    (low, below), (high, above) = (_quantile(x, p) for p in QUANTILES)
    return (high - low) / 2, (above - below) / 2


def contained(values: ArrayLike, share: float = 0.68) -> tuple[float, Floats]:
    """The value below which a share of finite values (N,) lies, and the influence (N,) of each."""
    return _quantile(np.asarray(values, np.float64), share)


def size_of_bias(values: ArrayLike) -> tuple[float, Floats]:
    """Absolute value of the mean of finite values (N,), and the influence (N,) of each."""
    x = np.asarray(values, np.float64)
    mean = float(x.mean())
    return abs(mean), math.copysign(1.0, mean) * (x - mean)


def error_of(influence: Floats) -> float:
    """Standard error of a figure from the influences (N,) of its events; NaN for few of them."""
    return float(influence.std()) / math.sqrt(len(influence)) if len(influence) >= MIN_EVENTS else math.nan


def _quantile(x: Floats, p: float) -> tuple[float, Floats]:
    reach = min(_bofinger(p, len(x)), _WIDEST, 0.9 * min(p, 1 - p))
    below, at, above = (float(q) for q in np.quantile(x, (p - reach, p, p + reach)))
    # equal values have no density: nothing moves their quantile
    slope = (above - below) / (2 * reach)
    return at, np.asarray((p - (x < at)) * slope, np.float64)


def _bofinger(p: float, n: int) -> float:
    from scipy.special import ndtri

    z = float(ndtri(p))
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return float((4.5 * density**4 / (2 * z * z + 1) ** 2 / max(n, 1)) ** 0.2)
