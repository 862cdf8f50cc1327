"""The position and the smearing of the upper end of a spectrum, such as that of background photons at 52.83 MeV.

Photons of radiative muon decay and of positrons that annihilate in flight reach up to half of the muon's mass. Below
that end E0 their density is taken as a step and a slope, above it are few photons of other origin, at any energy:

    n(E) = a [E < E0] + b (E0 - E) [E < E0], smeared by the response, + c        a, b, c >= 0

The response is that of a line (`xecml.inference.line_fit`): a Gaussian of width s with an exponential tail to low
energies that begins t below its peak. A spectrum hardly tells of t / s, which a slope resembles: it is held near what
lines of networks show, with a width of its own that enters the errors. E0 is thus the end itself, and not a point half
way up, which lies lower. Where a spectrum that rises from nothing is as likely, no step is taken. The likelihood in
the bins of a window is maximised; errors are from its curvature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xecml.inference.line_fit import WIDEST, integral
from xecml.resolution import Floats

LEAST_EVENTS = 200
"""In the window; fewer do not tell where a spectrum ends."""
_SEARCHED, _WINDOW = 0.1, 0.15
"""How far from where it should be the end is looked for, and the spectrum is fitted, as shares of its energy."""
_LEAST_KNOWN = 0.03
"""An end that is known no better, as a share of its energy, is none."""
_BINS = 100
_BEGIN = np.linspace(-0.08, 0.08, 17)
"""Ends at which the fit may begin."""
_NO_STEP, _WORSE = (0, 1, 2, 4), 2.0
"""Parameters of a spectrum that rises from nothing, and by how much its logarithm of the likelihood may be worse."""
_TAIL, _TAIL_SPREAD = math.log(1.2), 0.35
"""Logarithm of t / s, and how well it is known: lines of networks have 0.8 to 1.7."""
_WIDTHS, _WALL = (math.log(1e-3), math.log(0.3)), 1e6
"""Logarithms of the narrowest and the widest response, and the steepness of the wall beyond."""
_STEP = 1e-4
_FARTHEST = 8.0
"""Logarithm of a ratio of components, beyond which one of them is not there."""
_LEAST_CURVATURE = 1e-6
_LEAST_FALL, _BESIDE = 4.0, 0.06
"""Standard errors by which there must be more events below the end than above it, so far on both sides."""
_SEARCH = {"xatol": 1e-5, "fatol": 1e-7, "maxiter": 4000, "maxfev": 4000}


@dataclass(frozen=True)
class Edge:
    """A fitted end of a spectrum, in the unit of the spectrum.

    Attributes:
        position: where the spectrum ends before it is smeared.
        error: of the position.
        sigma: of the response's core.
        sigma_error: of it.
        tail: where the response's exponential begins, below its peak.
        events: in the window.
        chi2: of the fit per degree of freedom, over bins with at least five expected events.
        window: lowest and highest energy that were fitted.
        ratios: logarithms of slope and flat part over the step, of events in the window.
    """

    position: float
    error: float
    sigma: float
    sigma_error: float
    tail: float
    events: int
    chi2: float
    window: tuple[float, float]
    ratios: tuple[float, float]

    def expected(self, edges: Floats) -> Floats:
        """Events (B,) that the fitted spectrum has in equal bins between edges (B + 1,) that span the window."""
        p = np.array([0.0, math.log(self.sigma / self.position), math.log(self.tail / self.sigma), *self.ratios])
        counts: Floats = np.exp(_log_shares(p, edges / self.position - 1)) * self.events
        return counts


def fit_edge(energies: Floats, energy: float) -> Edge | None:
    """Fit the end of a spectrum; None if there is no end near `energy`, or too few events.

    Args:
        energies: finite numbers (N,).
        energy: where the end should be, in their unit.
    """
    from scipy.optimize import minimize

    edges = energy * np.linspace(1 - _WINDOW, 1 + _WINDOW, _BINS + 1)
    counts = np.histogram(energies, edges)[0].astype(np.float64)
    if counts.sum() < LEAST_EVENTS:
        return None
    x = edges / energy - 1  # the fit works in shares of the energy

    def cost(p: Floats) -> float:
        prior = 0.5 * ((p[2] - _TAIL) / _TAIL_SPREAD) ** 2 + 0.5 * (np.maximum(np.abs(p[3:]) - _FARTHEST, 0) ** 2).sum()
        outside = np.maximum([abs(p[0]) - _WINDOW, p[1] - _WIDTHS[1], _WIDTHS[0] - p[1]], 0.0)
        return -float(counts @ _log_shares(p, x)) + float(prior) + _WALL * float((outside**2).sum())

    def fitted(slope: float, free: Sequence[int]) -> tuple[float, Floats]:
        starts = [np.array([end, math.log(0.02), _TAIL, slope, -2.0]) for end in _BEGIN]
        p = min(starts, key=cost)

        def of_free(q: Floats) -> float:
            p[list(free)] = q
            return cost(p)

        # twice: the second simplex is large again, where the first may have collapsed
        q = p[list(free)]
        for _ in range(2):
            q = minimize(of_free, q, method="Nelder-Mead", options=_SEARCH).x
        return of_free(q), p

    # what rises from nothing needs no step, and with one its end would hardly be known
    (rising, p), (step, other) = fitted(_FARTHEST, _NO_STEP), fitted(0.0, range(5))
    free = list(_NO_STEP)
    if rising > step + _WORSE:
        p, free = other, list(range(5))
    errors, sigma, position = _errors(p, x, counts, free), math.exp(p[1]), energy * (1 + p[0])
    found = Edge(
        position,
        errors[0] * energy,
        sigma * energy,
        errors[1] * sigma * energy,
        math.exp(p[2]) * sigma * energy,
        int(counts.sum()),
        _chi2(p, x, counts),
        (float(edges[0]), float(edges[-1])),
        (float(p[3]), float(p[4])),
    )
    good = 0 < errors[0] < _LEAST_KNOWN and sigma < WIDEST and abs(p[0]) <= _SEARCHED
    return found if good and _falls(energies, position, energy) else None


def _falls(energies: Floats, position: float, energy: float) -> bool:
    """Whether there are clearly more events below the end than above it."""
    below, above = (
        float(((energies > low * energy + position) & (energies <= (low + _BESIDE) * energy + position)).sum())
        for low in (-_BESIDE, 0.0)
    )
    return below - above > _LEAST_FALL * math.sqrt(below + above)


def _log_shares(p: Floats, edges: Floats) -> Floats:
    """Logarithms of the shares of equal bins (B,) between edges (B + 1,), in shares of an energy, from it.

    p is end and log width in these, log tail in widths, and logarithms of slope and flat part over the step.
    """
    step = edges[1] - edges[0]
    # the search may look far outside
    end, log_sigma, log_tail = np.clip(p[:3], [-1.0, -9.0, -3.0], [1.0, 0.0, 3.0])
    sigma, tail = math.exp(log_sigma), math.exp(log_tail)
    # on to where nothing of the response is left, from where what lies above is summed
    more = max(math.ceil((end + 6 * sigma - edges[-1]) / step), 1)
    grid = (edges[0] + step / 2) + step * np.arange(len(edges) - 1 + min(more, 10 * _BINS))
    whole = float(integral(np.array([end + 40 * sigma]), end, sigma, tail)[0])
    # a photon of the end's energy is answered above E as often as one of E0 + x is above E0
    above = 1 - integral(grid, end, sigma, tail) / whole
    slope = (np.cumsum(above[::-1])[::-1] - above / 2) * step  # from the middle of a bin on
    n = len(edges) - 1
    parts = np.stack([above[:n], slope[:n], np.ones(n)])
    parts = parts / np.maximum(parts.sum(1, keepdims=True), 1e-300)
    weights = np.exp(np.clip([0.0, p[3], p[4]], -_FARTHEST - 4, _FARTHEST + 4))
    logs: Floats = np.log(np.maximum(weights @ parts / weights.sum(), 1e-300))
    return logs


def _errors(p: Floats, edges: Floats, counts: Floats, free: Sequence[int]) -> tuple[float, float]:
    """Standard errors of the end and of the logarithm of the width; NaN where there are none."""
    steps = _STEP * np.diag([0.02, 1.0, 1.0, 1.0, 1.0])
    scores = np.stack([(_log_shares(p + s, edges) - _log_shares(p - s, edges)) / (2 * s.sum()) for s in steps])
    information = (scores * (np.exp(_log_shares(p, edges)) * counts.sum())) @ scores.T
    information[2, 2] += 1 / _TAIL_SPREAD**2
    free = [i for i in free if information[i, i] > _LEAST_CURVATURE * counts.sum()]
    if 0 not in free or 1 not in free:
        return math.nan, math.nan
    try:
        variances = np.diag(np.linalg.inv(information[np.ix_(free, free)]))
    except np.linalg.LinAlgError:
        return math.nan, math.nan
    end, width = (math.sqrt(v) if v > 0 else math.nan for v in variances[:2])
    return end, width


def _chi2(p: Floats, edges: Floats, counts: Floats) -> float:
    expected = np.exp(_log_shares(p, edges)) * counts.sum()
    kept = expected >= 5
    if kept.sum() <= 6:
        return math.nan
    return float((((counts - expected) ** 2 / np.maximum(expected, 1))[kept]).sum() / (kept.sum() - 6))
