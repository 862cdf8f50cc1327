"""The energy: weighted sums of the faces, corrected for the position of the light.

E = exp(c + P(u, v, w)) sum over faces g of (W_g + W'_g s) N_g, with s = ln(1 + w) - 1.5 and P linear in powers of the
position. Fitted to ln E with Cauchy's weights, it is a fit of the peak: showers that leak do not pull it. In the
second form ("light centre") P also has the powers of the point of light in the largest window, and the shares of the
faces: how much of the light is seen depends on where it is, which the first interaction tells only in part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.conventional.dead_sensor_estimates import ENOUGH_LIGHT, point_source
from xecml.conventional.pointsource import fit_point_source
from xecml.conventional.position import centred_depth
from xecml.conventional.robust_fit import CONSTANT, Coefficients, evaluate, weighted
from xecml.geometry import FACES, face_codes
from xecml.resolution import MIN_FOR_PEAK, peak, s68

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

GROUPS = ("inner", "outer", "ends", "top and bottom")
_GROUPS = np.array([[face in group for face in FACES] for group in (
    ("inner",), ("outer",), ("us", "ds"), ("top", "bottom")
)], float)  # fmt: skip
_FACE_ORDER = np.argsort(face_codes(), kind="stable")
_FACE_STARTS = np.searchsorted(face_codes()[_FACE_ORDER], np.arange(len(FACES)))
_STEPS, _DAMPING, _PENALTY, _FLOOR = 25, 0.7, 1e-4, 0.004
_FIRST_WEIGHT = 1 / 1.61
_LEAST = 1e-3
"""Of a photon, in which weighted sums end that are none."""


def face_sums(npho: ArrayLike, live: Marks) -> Floats:
    """Photons (N, 6) by face, those of sensors that are not live estimated from the light of the event.

    Args:
        npho: photons (N, 4760).
        live: (N, 4760) sensors whose counts may serve.

    A sensor that was not read is dead where others say that they saw nothing. In files that do not tell dark sensors
    from dead ones it is taken for dead if it should have seen 50 photons or more.
    """
    counts = np.where(live, np.asarray(npho, np.float64), 0.0)
    damaged = np.flatnonzero(~live.all(1) & live.any(1))
    if len(damaged):
        some, alive = counts[damaged], live[damaged]
        estimates = point_source(some, ~alive, alive, fit_point_source(some, alive))
        event = np.nonzero(~alive)[0]
        tells = np.asarray((alive & (some <= 0)).any(1))[event]
        some[~alive] = np.where((estimates > np.where(tells, 0.0, ENOUGH_LIGHT)), estimates, 0.0)
        counts[damaged] = some
    return np.add.reduceat(counts[:, _FACE_ORDER], _FACE_STARTS, axis=1)


def powers(uvw: Floats, prefix: str = "") -> dict[str, Floats]:
    """The 18 powers of a position (N, 3) in cm that the light's collection is described by."""
    u, v, w = uvw[:, 0] / 24, uvw[:, 1] / 68, np.log1p(np.maximum(uvw[:, 2], 0.0)) / 3
    found = {
        "w": w, "w2": w**2, "w3": w**3, "w4": w**4, "u2": u**2, "u4": u**4, "v2": v**2, "v4": v**4, "u": u, "v": v,
        "uv": u * v, "u2w": u**2 * w, "v2w": v**2 * w, "uw": u * w, "vw": v * w, "u2w2": (u * w) ** 2,
        "v2w2": (v * w) ** 2, "u2v2": (u * v) ** 2,
    }  # fmt: skip
    return {prefix + name: values for name, values in found.items()}


def light_centre(sums: Floats, widest: Floats) -> dict[str, Floats]:
    """What the second form has besides: powers of the point of light in the largest window, and shares of faces."""
    return powers(widest, "light ") | face_shares(sums)


def face_shares(sums: Floats) -> dict[str, Floats]:
    """Shares of the light: o of the outer face, i of the inner one, a of ds less us, b of top less bottom; products."""
    inner, us, ds, outer, top, bottom = (sums / np.maximum(sums.sum(1, keepdims=True), 1e-9)).T
    shares = {"o": outer, "i": inner, "a": ds - us, "b": top - bottom}
    squares = {f"{name}2": values**2 for name, values in shares.items()}
    return shares | squares | {"oi": outer * inner}


def _weights(depth: Floats, coefficients: Mapping[str, float]) -> Floats:
    """Weights (N, 4) of the groups of faces; that of the inner face is 1."""
    found = [np.ones_like(depth)]
    found += [coefficients[g] + coefficients[f"s x {g}"] * depth for g in GROUPS[1:]]
    return np.stack(found, 1)


def _log_sum(groups: Floats, depth: Floats, coefficients: Mapping[str, float]) -> Floats:
    return np.asarray(np.log(np.maximum((_weights(depth, coefficients) * groups).sum(1), _LEAST)))


def energies(sums: Floats, uvw: Floats, columns: Mapping[str, Floats], coefficients: Mapping[str, float]) -> Floats:
    """Energies (N,) in GeV from sums (N, 6) of photons, positions (N, 3) in cm and the columns of P."""
    groups, depth = sums @ _GROUPS.T, centred_depth(uvw[:, 2])
    found = np.exp(np.clip(evaluate(coefficients, columns) + _log_sum(groups, depth, coefficients), -50.0, 50.0))
    return np.where(sums.sum(1) > 0, found, np.nan)


def calibrate(sums: Floats, uvw: Floats, columns: Mapping[str, Floats], energy: Floats) -> Coefficients:
    """Coefficients from true energies (N,) in GeV, by damped steps of linearised, penalised least squares."""
    groups, depth, goal = sums @ _GROUPS.T, centred_depth(uvw[:, 2]), np.log(energy)
    found = dict.fromkeys([CONSTANT, *columns], 0.0) | dict.fromkeys(GROUPS[1:], _FIRST_WEIGHT)
    found |= {f"s x {g}": 0.0 for g in GROUPS[1:]}
    found[CONSTANT] = float(np.median(goal - _log_sum(groups, depth, found)))
    for _ in range(_STEPS):
        rest = goal - evaluate(found, columns) - _log_sum(groups, depth, found)
        share = groups / np.exp(_log_sum(groups, depth, found))[:, None]
        jacobian = dict(columns) | {g: share[:, k] for k, g in enumerate(GROUPS) if k}
        jacobian |= {f"s x {g}": share[:, k] * depth for k, g in enumerate(GROUPS) if k}
        width = peak(rest)[1] if len(rest) >= MIN_FOR_PEAK else s68(rest)
        middle = float(np.median(rest))
        weight = 1 / (1 + ((rest - middle) / (1.5 * max(width, _FLOOR))) ** 2)
        slopes, constant = weighted(np.stack(list(jacobian.values()), 1), rest, weight, _PENALTY)
        for name, slope in zip(jacobian, slopes.tolist(), strict=True):
            found[name] += _DAMPING * slope
        found[CONSTANT] += _DAMPING * constant
    # the steps are damped, the scale is not: the peak comes out where it is
    rest = goal - evaluate(found, columns) - _log_sum(groups, depth, found)
    found[CONSTANT] += peak(rest)[0] if len(rest) >= MIN_FOR_PEAK else float(np.median(rest))
    return found
