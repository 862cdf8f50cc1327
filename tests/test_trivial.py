"""Predictors that know next to nothing: the mean of the truth, the centroid of the light and its correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.conftest import point_sources
from tests.test_metrics import WIDTHS, prediction_table
from xecml import geometry
from xecml.errors import InputError
from xecml.evaluation import metrics, trivial
from xecml.evaluation.tables import with_predictions
from xecml.events import INVALID

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def table() -> Columns:
    return prediction_table()


def test_mean_truth_is_the_mean_over_all_chunks() -> None:
    chunks = [point_sources(n, seed=n) for n in (5, 9)]
    means = trivial.mean_truth(chunks)
    for name, branch, column in (("theta", "emiAng", 0), ("v", "uvwTruth", 1)):
        every = np.concatenate([c[branch][:, column] for c in chunks])
        assert means[name] == pytest.approx(every.mean(), rel=1e-6)
    energies = np.concatenate([c["energyTruth"] for c in chunks])
    assert means["energy"] == pytest.approx(energies.mean())
    assert set(means) == set(WIDTHS)
    chunks[0]["energyTruth"][:2] = INVALID
    kept = np.concatenate([chunks[0]["energyTruth"][2:], chunks[1]["energyTruth"]])
    assert trivial.mean_truth(chunks)["energy"] == pytest.approx(kept.mean())


def test_a_constant_has_the_width_of_the_truth(table: Columns) -> None:
    constant = trivial.constant_table(table, {"u": 1.5, "energy": 0.04})
    assert np.all(constant["pred_u"] == 1.5)
    assert "pred_theta" not in constant
    r = metrics.evaluate(constant).figures["u"]["all"]
    assert r.bias == pytest.approx(10 * (1.5 - table["true_u"].mean()))
    assert r.s68 == pytest.approx(10 * 0.683 * 23, rel=0.05)  # of a flat distribution within +-23 cm


@pytest.mark.parametrize("power", [1, 2])
def test_the_centroid_is_the_weighted_mean_of_valid_inner_sensors(power: int) -> None:
    npho = point_sources(6, seed=2, dead=0.1)["npho"]
    npho[3, :4092] = INVALID
    npho[4, 10:20] = np.nan
    found = trivial.light_centroid(npho, power)
    uv = geometry.uvw_from_xyz(geometry.positions()[:4092])[:, :2]
    for i in (0, 1, 2, 4, 5):
        ok = np.isfinite(npho[i, :4092]) & (npho[i, :4092] < 9e9)
        expected = np.average(uv[ok], axis=0, weights=npho[i, :4092][ok].astype(float) ** power)
        np.testing.assert_allclose(found[i], expected, atol=2e-4)
    assert np.isnan(found[3]).all()
    for scale in (1e-5, 1e4):
        scaled = np.where(npho < 9e9, npho * scale, npho)
        np.testing.assert_allclose(trivial.light_centroid(scaled, power)[0], found[0], atol=1e-4)


def test_the_linear_correction_is_found_and_helps_on_other_events() -> None:
    events = point_sources(600, seed=5)
    truth = events["uvwTruth"]
    raw = trivial.light_centroid(events["npho"])
    coefficients = trivial.fit_linear(raw[:300], truth[:300])
    corrected = trivial.apply_linear(coefficients, raw[300:])
    before, after = (np.std(x - truth[300:, :2], axis=0) for x in (raw[300:], corrected))
    assert np.all(after < 0.7 * before)
    exact = trivial.fit_linear(raw, 0.5 + raw @ np.array([[2.0, 0.1], [0.0, 3.0]]))
    np.testing.assert_allclose(exact, [[0.5, 0.5], [2.0, 0.1], [0.0, 3.0]], atol=1e-9)
    with pytest.raises(InputError, match="Only 0 events have light and truth"):
        trivial.fit_linear(np.full((20, 2), np.nan), truth[:20])


def test_the_centroid_as_a_table(table: Columns) -> None:
    uv = np.stack([table["true_u"] + 0.1, table["true_v"]], 1)
    centroid = trivial.centroid_table(table, uv)
    e: Any = metrics.evaluate(centroid)
    assert list(e.figures) == ["u", "v"]
    assert e.figures["u"]["all"].bias == pytest.approx(1.0)
    assert "sigma_u" not in with_predictions(table | {"sigma_u": uv}, {"u": uv[:, 0]})
