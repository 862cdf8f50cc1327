"""The position and the smearing of the upper end of a spectrum, such as that of background photons at 52.83 MeV.

Photons of radiative muon decay and of positrons that annihilate in flight reach up to half of the muon's mass. Below
that end E0 their density is taken as a step and a slope, above it are few photons of other origin, at any energy:

    n(E) = a [E < E0] + b (E0 - E) [E < E0], smeared by the response, + c        a, b, c >= 0

The response is that of a line (`xecml.inference.line_fit`): a Gaussian of width s with an exponential tail to low
energies that begins t below its peak, both in proportion to the photon's energy. (With one response for all energies,
the end of a spectrum that rises from nothing would come out lower, as a share by twice the response's mean square.)
A spectrum hardly tells of t / s, which a slope resembles: it is held near what lines of networks show, with a width of
its own that enters the errors. E0 is thus the end itself, and not a point half way up, which lies lower.

The likelihood in the bins of a window is maximised; errors are from its curvature. A small step is hard to tell from
none, and the end is lower with one. That there is none, as in the background of photons, is taken to be ten times as
likely beforehand as that there is one, whose share of the events may be anything. The result is the mean over these
possibilities, by how likely each is with all else fitted, and its error contains by how much they differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
_NODES = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Shares of a step that the mean is taken over, in standard errors from the likeliest."""
_NO_STEP = 10.0
"""How many times as likely as a step no step is, before the events are looked at."""
_APART = 0.02
"""Shares of the step that are closer are one."""
_TAIL, _TAIL_SPREAD = math.log(1.2), 0.35
"""Logarithm of t / s, and how well it is known: lines of networks have 0.8 to 1.7."""
_WIDTHS = (math.log(1e-3), math.log(0.3))
"""Logarithms of the narrowest and the widest response."""
_FLAT = (-12.0, 6.0)
"""Logarithms of the least and the largest flat part over what is below the end."""
_END, _WIDTH, _RATIO, _SHARE, _REST = range(5)
"""Parameters of the fit: the end as a share of the energy that was asked for, less 1; logarithms of the response's
width, as a share of the photon's energy, and of its tail over its width; share of the step in what is below the end;
logarithm of the flat part over what is below the end."""
_SCALES = np.array([0.01, 0.3, 0.3, 0.3, 0.5])
"""Sizes of the parameters' differences that matter."""
_STEP = 1e-3
"""For derivatives, in these scales."""
_LEAST_CURVATURE = 1e-6
_LEAST_FALL, _BESIDE = 4.0, 0.06
"""Standard errors by which there must be more events below the end than above it, so far on both sides."""
_SEARCH = {"eps": 1e-5, "ftol": 1e-12, "gtol": 1e-4, "maxiter": 500, "maxfun": 6000}


@dataclass(frozen=True)
class Edge:
    """A fitted end of a spectrum, in the unit of the spectrum.

    Attributes:
        position: where the spectrum ends before it is smeared: mean over shares of the step.
        error: of the position.
        sigma: of the response's core, to a photon of the end's energy.
        sigma_error: of it.
        tail: where the response's exponential begins, below its peak.
        events: in the window.
        chi2: of the likeliest fit per degree of freedom, over bins with at least five expected events.
        window: lowest and highest energy that were fitted.
        likeliest: parameters (5,) of that fit, see `_END`.
    """

    position: float
    error: float
    sigma: float
    sigma_error: float
    tail: float
    events: int
    chi2: float
    window: tuple[float, float]
    likeliest: tuple[float, ...]

    def expected(self, edges: Floats) -> Floats:
        """Events (B,) that the likeliest spectrum has in equal bins between edges (B + 1,) that span the window."""
        energy = sum(self.window) / 2  # which the window is about
        counts: Floats = np.exp(_log_shares(np.array(self.likeliest), edges / energy - 1)) * self.events
        return counts


def fit_edge(energies: Floats, energy: float) -> Edge | None:
    """Fit the end of a spectrum; None if there is no end near `energy`, or too few events.

    Args:
        energies: finite numbers (N,).
        energy: where the end should be, in their unit.
    """
    edges = energy * np.linspace(1 - _WINDOW, 1 + _WINDOW, _BINS + 1)
    counts = np.histogram(energies, edges)[0].astype(np.float64)
    if counts.sum() < LEAST_EVENTS:
        return None
    x = edges / energy - 1  # the fit works in shares of the energy
    starts = [np.array([end, math.log(0.02), _TAIL, share, -2.0]) for end in _BEGIN for share in (0.0, 0.5, 1.0)]
    best = _fitted(counts, x, starts)
    # without a step, and for shares from 0 to 1, all else being fitted
    spread = _error(best, x, counts, _SHARE, range(5))
    wanted = np.clip(best.p[_SHARE] + (spread if spread < 0.5 else 0.5) * np.array(_NODES), 0.0, 1.0)
    shares = sorted({float(best.p[_SHARE]), *(float(w) for w in wanted if abs(w - best.p[_SHARE]) > _APART)})
    fits = [_fitted(counts, x, [best.p, *starts], share) for share in (0.0, *shares)]
    weights = np.append(_NO_STEP, _stretches(shares)) * np.exp([best.cost - fit.cost for fit in fits])
    end, end_error = _mean(weights, [(fit.p[_END], _error(fit, x, counts, _END)) for fit in fits])
    width, width_error = _mean(weights, [(fit.p[_WIDTH], _error(fit, x, counts, _WIDTH)) for fit in fits])
    sigma, position = math.exp(width), energy * (1 + end)
    found = Edge(
        position,
        end_error * energy,
        sigma * position,
        width_error * sigma * position,
        math.exp(best.p[_RATIO]) * sigma * position,
        int(counts.sum()),
        _chi2(best.p, x, counts),
        (float(edges[0]), float(edges[-1])),
        tuple(float(value) for value in best.p),
    )
    good = 0 < end_error < _LEAST_KNOWN and sigma < WIDEST and abs(end) <= _SEARCHED
    return found if good and _falls(energies, position, energy) else None


class _Fit(NamedTuple):
    """A spectrum that was fitted: minus the logarithm of its likelihood, and parameters (5,)."""

    cost: float
    p: Floats


def _fitted(counts: Floats, x: Floats, starts: Sequence[Floats], share: float | None = None) -> _Fit:
    """The likeliest spectrum of counts (B,) in bins between shares x (B + 1,) of an energy.

    Args:
        counts: of events.
        x: edges of the bins, less 1.
        starts: parameters (5,) to begin from; the likeliest are taken.
        share: of the step, if it is not to be fitted.
    """
    from scipy.optimize import minimize

    most = float(counts @ np.log(np.maximum(counts, 1) / counts.sum()))  # of any spectrum

    def cost(p: Floats) -> float:
        return 0.5 * ((float(p[_RATIO]) - _TAIL) / _TAIL_SPREAD) ** 2 + most - float(counts @ _log_shares(p, x))

    if share is not None:
        starts = [np.where(np.arange(5) == _SHARE, share, start) for start in starts]
    limits = [
        (-_WINDOW, _WINDOW),
        _WIDTHS,
        (_TAIL - 2, _TAIL + 2),
        (0.0, 1.0) if share is None else (share, share),
        _FLAT,
    ]
    found = minimize(
        lambda q: cost(q * _SCALES),
        min(starts, key=cost) / _SCALES,
        method="L-BFGS-B",
        bounds=[(low / scale, high / scale) for (low, high), scale in zip(limits, _SCALES, strict=True)],
        options=_SEARCH,
    )
    return _Fit(float(found.fun), found.x * _SCALES)


def _stretches(places: Sequence[float]) -> Floats:
    """Lengths (N,) of what lies nearest to each of N places in order."""
    if len(places) == 1:
        return np.ones(1)
    between = np.diff(places)
    lengths: Floats = (np.append(between, 0.0) + np.append(0.0, between)) / 2
    return lengths


def _mean(weights: Floats, parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean of values with errors by weights (N,), and its error, to which the values' differences add."""
    values, errors = np.array(parts).T
    known = np.isfinite(errors)
    if not known.any():
        return float(values[np.argmax(weights)]), math.nan
    weights, values, errors = (part[known] for part in (weights, values, errors))
    mean = float(weights @ values / weights.sum())
    return mean, math.sqrt(float(weights @ (errors**2 + (values - mean) ** 2) / weights.sum()))


def _falls(energies: Floats, position: float, energy: float) -> bool:
    """Whether there are clearly more events below the end than above it."""
    below, above = (
        float(((energies > low * energy + position) & (energies <= (low + _BESIDE) * energy + position)).sum())
        for low in (-_BESIDE, 0.0)
    )
    return below - above > _LEAST_FALL * math.sqrt(below + above)


def _log_shares(p: Floats, edges: Floats) -> Floats:
    """Logarithms of the shares of equal bins (B,) between edges (B + 1,), in shares of an energy, from it.

    Of parameters p, see `_END`.
    """
    step = edges[1] - edges[0]
    end, sigma, tail = float(p[_END]), math.exp(p[_WIDTH]), math.exp(p[_RATIO])
    # middles of bins, on to where nothing of the response is left: what lies above is summed from there
    more = max(math.ceil(((1 + end) * (1 + 6 * sigma) - 1 - edges[-1]) / step), 1)
    grid = (edges[0] + step / 2) + step * np.arange(len(edges) - 1 + min(more, 10 * _BINS))
    # answer over the end's energy: a photon of energy E is answered at e as often as one of the end's at e E0 / E
    ratio = (1 + grid) / (1 + end)
    whole = float(integral(np.array([1 + 40 * sigma]), 1.0, sigma, tail)[0])
    answered = np.diff(integral(ratio, 1.0, sigma, tail)) / whole
    between = (ratio[1:] + ratio[:-1]) / 2
    above, slope = (np.cumsum((answered / between**k)[::-1])[::-1] for k in (1, 2))
    slope = np.maximum((1 + end) * above - (1 + grid[:-1]) * slope, 0.0)
    n = len(edges) - 1
    parts = np.stack([above[:n], slope[:n], np.ones(n)])
    parts = parts / np.maximum(parts.sum(1, keepdims=True), 1e-300)
    rest = math.exp(p[_REST])
    weights = np.array([p[_SHARE], 1 - p[_SHARE], rest]) / (1 + rest)
    logs: Floats = np.log(np.maximum(weights @ parts, 1e-300))
    return logs


def _error(fit: _Fit, edges: Floats, counts: Floats, which: int, free: Sequence[int] = (0, 1, 2, 4)) -> float:
    """Standard error of a parameter of a fit in which some were free; NaN where there is none."""
    p, steps = fit.p, np.diag(_STEP * _SCALES)
    scores = np.stack([(_log_shares(p + s, edges) - _log_shares(p - s, edges)) / (2 * _STEP) for s in steps])
    information = (scores * (np.exp(_log_shares(p, edges)) * counts.sum())) @ scores.T
    information[_RATIO, _RATIO] += (_SCALES[_RATIO] / _TAIL_SPREAD) ** 2
    # what has no say has no curvature: a flat part that is not there
    free = [i for i in free if information[i, i] > _LEAST_CURVATURE * counts.sum()]
    if which not in free:
        return math.nan
    try:
        variance = np.linalg.inv(information[np.ix_(free, free)])[free.index(which), free.index(which)]
    except np.linalg.LinAlgError:
        return math.nan
    return math.sqrt(variance) * float(_SCALES[which]) if variance > 0 else math.nan


def _chi2(p: Floats, edges: Floats, counts: Floats) -> float:
    expected = np.exp(_log_shares(p, edges)) * counts.sum()
    kept = expected >= 5
    if kept.sum() <= 6:
        return math.nan
    return float((((counts - expected) ** 2 / np.maximum(expected, 1))[kept]).sum() / (kept.sum() - 6))
