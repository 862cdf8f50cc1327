"""The position of an energy line in a spectrum that has a tail to low energies.

A photon of fixed energy leaves less light where its shower leaks out or where it lost energy before the xenon, so its
line is a Gaussian whose low side goes over into an exponential, with the same value and slope where they meet:

    f(E) ~ exp(-(E - m)^2 / (2 s^2))        E > m - t
    f(E) ~ exp(t (t / 2 + E - m) / s^2)     E < m - t

m is the peak, s the width of the core, t > 0 where the tail begins (Das 2016, arXiv:1603.08591). Its likelihood in the
bins of a window about the peak is maximised. The errors hold where the spectrum is not quite of this form, too
("sandwich", White 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from xecml.resolution import Floats, peak

WIDEST = 0.2
"""A peak whose FWHM / 2.355 is more than this share of its energy is no line."""
_BELOW, _ABOVE = 3.0, 2.5
"""Window about the mode, in FWHM / 2.355: further out answers are no Gaussian on the high side either."""
_BINS = 110
_START = 1.0
"""Where the tail is first looked for, in widths below the peak."""
_STEP = 1e-4
"""For derivatives, in units of widths and logarithms."""
_LEAST_CURVATURE = 1e-6
"""An event's, of a parameter that the window tells something of."""
_SEARCH = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000, "maxfev": 4000}


@dataclass(frozen=True)
class Line:
    """A fitted line, in the unit of the spectrum.

    Attributes:
        peak: its most likely energy.
        error: of the peak.
        sigma: of its core, which is that of the upper edge.
        tail: where the exponential begins, below the peak.
        events: in the window of the fit.
        chi2: of the fit per degree of freedom, over bins with at least five expected events.
        sigma_error: of `sigma`; NaN where the window does not tell it.
        edges: of the bins (B + 1,) that were fitted.
        counts: in these bins (B,).
    """

    peak: float
    error: float
    sigma: float
    tail: float
    events: int
    chi2: float
    sigma_error: float = math.nan
    edges: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    counts: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @property
    def window(self) -> tuple[float, float]:
        """Lowest and highest energy that were fitted."""
        return float(self.edges[0]), float(self.edges[-1])

    def expected(self, edges: Floats) -> Floats:
        """Events (B,) that the fitted line has in bins between edges (B + 1,), as many in all as in its window."""
        tail = self.tail / self.sigma
        low, high = (float(integral(np.array([x]), self.peak, self.sigma, tail)[0]) for x in self.window)
        inside: Floats = np.diff(integral(edges, self.peak, self.sigma, tail)) * self.events / (high - low)
        return inside


def fit_line(energies: Floats) -> Line | None:
    """Fit the highest peak of a spectrum; None if there is no peak, or only one wider than `WIDEST`.

    Args:
        energies: finite numbers (N,).
    """
    from scipy.optimize import minimize

    mode, width, _ = peak(energies)
    if not (math.isfinite(mode) and 0 < width <= WIDEST * mode):
        return None
    edges = np.linspace(mode - _BELOW * width, mode + _ABOVE * width, _BINS + 1)
    counts = np.histogram(energies, edges)[0].astype(np.float64)
    x = (edges - mode) / width  # the fit works in widths about the mode, with logarithms of what is above zero

    def cost(p: Floats) -> float:
        return -float(counts @ _log_shares(p, x))

    start = np.array([0.0, 0.0, math.log(_START)])
    # twice: the second simplex is large again, where the first may have collapsed
    for _ in range(2):
        start = minimize(cost, start, method="Nelder-Mead", options=_SEARCH).x
    error, error_of_width = _errors(start, x, counts)
    centre, sigma, tail = float(start[0]), math.exp(start[1]), math.exp(start[2])
    found = Line(
        mode + centre * width,
        error * width,
        sigma * width,
        tail * sigma * width,
        int(counts.sum()),
        _chi2(start, x, counts),
        error_of_width * sigma * width,
        edges,
        counts,
    )
    good = math.isfinite(error) and error > 0 and abs(centre) < _ABOVE and found.sigma < WIDEST * found.peak
    return found if good else None


def _log_shares(p: Floats, edges: Floats) -> Floats:
    """Logarithms of the shares of bins (B,) between edges (B + 1,); p is peak, log width, log tail in widths."""
    shares = np.maximum(np.diff(integral(edges, p[0], math.exp(p[1]), math.exp(min(p[2], 5.0)))), 1e-300)
    logs: Floats = np.log(shares / shares.sum())
    return logs


def integral(x: Floats, centre: float, sigma: float, tail: float) -> Floats:
    """Integral of the density from minus infinity to each x, up to a factor; `tail` is in widths."""
    from scipy.special import ndtr

    z = (x - centre) / sigma
    below = np.exp(tail * (tail / 2 + np.minimum(z, -tail))) / tail
    core = math.sqrt(2 * math.pi) * (ndtr(np.maximum(z, -tail)) - ndtr(-tail))
    total: Floats = sigma * (below + core)
    return total


def _errors(p: Floats, edges: Floats, counts: Floats) -> tuple[float, float]:
    """Standard errors of the peak and of the logarithm of the width; NaN where there are none.

    They are from the scores of bins and the curvature of the likelihood.
    """
    steps = _STEP * np.eye(3)
    up, down = ([_log_shares(p + sign * step, edges) for step in steps] for sign in (1, -1))
    scores = np.stack([(a - b) / (2 * _STEP) for a, b in zip(up, down, strict=True)])  # (3, B)
    curvature = np.empty((3, 3))
    for i, one in enumerate(steps):
        for j, two in enumerate(steps):
            corners = [s * t * _log_shares(p + s * one + t * two, edges) for s in (1, -1) for t in (1, -1)]
            curvature[i, j] = -float(counts @ np.sum(corners, axis=0)) / (4 * _STEP**2)
    spread = (scores * counts) @ scores.T
    # a tail that begins far below the window has no say, and no curvature
    free = [i for i in range(3) if curvature[i, i] > _LEAST_CURVATURE * counts.sum()]
    if 0 not in free:
        return math.nan, math.nan
    part = np.ix_(free, free)
    try:
        inverse = np.linalg.inv(curvature[part])
    except np.linalg.LinAlgError:
        return math.nan, math.nan
    variances = dict(zip(free, np.diag(inverse @ spread[part] @ inverse), strict=True))
    peak_error, width_error = (math.sqrt(v) if (v := variances.get(i, 0.0)) > 0 else math.nan for i in (0, 1))
    return peak_error, width_error


def _chi2(p: Floats, edges: Floats, counts: Floats) -> float:
    expected = np.exp(_log_shares(p, edges)) * counts.sum()
    kept = expected >= 5
    if kept.sum() <= 4:
        return math.nan
    return float((((counts - expected) ** 2 / np.maximum(expected, 1))[kept]).sum() / (kept.sum() - 4))
