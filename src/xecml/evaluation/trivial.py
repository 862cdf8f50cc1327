"""Trivial predictors, to compare a network with: the mean of the truth, the centroid of the light."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from xecml.errors import InputError
from xecml.evaluation.tables import QUANTITIES, Columns, Table, find_column, n_events, truth_columns, with_predictions
from xecml.events import Chunk, number_of, valid_counts
from xecml.geometry import N_SIPM, positions, uvw_from_xyz
from xecml.resolution import Floats


def mean_truth(chunks: Iterable[Chunk]) -> dict[str, float]:
    """Mean over training events of each truth column (theta, phi, energy, timing, u, v, w), file units."""
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for chunk in chunks:
        # through the table's eyes: what is 1e10 there was not measured
        truth = {f"true_{name}": values for name, values in truth_columns(chunk).items()}
        for name in (what.column for what in QUANTITIES.values() if not what.relative):
            values = find_column(truth, f"true_{name}")
            if values is not None:
                total[name] = total.get(name, 0.0) + float(np.nansum(values))
                count[name] = count.get(name, 0) + int(np.isfinite(values).sum())
    return {name: total[name] / count[name] for name in total if count[name]}


def constant_table(table: Table, means: Mapping[str, float]) -> Columns:
    """Predict the mean of the training truth for every event of a table, whatever the detector saw."""
    return with_predictions(table, {name: np.full(n_events(table), value) for name, value in means.items()})


def light_centroid(npho: ArrayLike, power: int = 1) -> Floats:
    """Centroid (N, 2) of u and v in cm of the light on the inner face.

    Args:
        npho: counts (N, 4760), relative or not; sensors with an invalid count do not take part.
        power: of the counts in the weights: 1, or 2 as is commonly used to follow the brightest sensors.

    Returns:
        NaN for events without a valid inner sensor.
    """
    inner = np.asarray(npho)[:, :N_SIPM]
    # relative to the largest count first: squares of raw counts could overflow single precision
    counts = np.where(valid_counts(inner), inner, 0).astype(np.float32)
    largest = counts.max(axis=1, keepdims=True)
    weight = (counts / np.where(largest > 0, largest, 1)) ** power
    total = weight.sum(axis=1, keepdims=True, dtype=np.float64)
    uv = uvw_from_xyz(positions()[:N_SIPM])[:, :2].astype(np.float32)
    return np.asarray(weight @ uv / np.where(total > 0, total, np.nan), np.float64)


def fit_linear(centroid: ArrayLike, truth: ArrayLike) -> Floats:
    """Least-squares coefficients (3, 2) of true u, v as a linear function of 1 and the centroid's u, v.

    Fit on one sample and apply to another: on the sample of the fit the result is too good.

    Raises:
        InputError: fewer than ten events have both a centroid and a truth.
    """
    x, y = np.asarray(centroid, np.float64), np.asarray(truth, np.float64)[:, :2]
    good = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    if good.sum() < 10:
        raise InputError(
            f"Only {number_of(int(good.sum()))} have light and truth to calibrate the light centroid; give at least "
            "ten."
        )
    return np.asarray(np.linalg.lstsq(_with_one(x[good]), y[good], rcond=None)[0])


def apply_linear(coefficients: Floats, centroid: ArrayLike) -> Floats:
    """Corrected u, v (N, 2) in cm of centroids (N, 2)."""
    return np.asarray(_with_one(np.asarray(centroid, np.float64)) @ coefficients)


def _with_one(x: Floats) -> Floats:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def centroid_table(table: Table, uv: ArrayLike) -> Columns:
    """Table of the events with positions u, v (N, 2) in cm, such as corrected centroids, as predictions."""
    position = np.asarray(uv, np.float64)
    return with_predictions(table, {"u": position[:, 0], "v": position[:, 1]})
