"""What one width does not say: slopes, lines, slices, selections, limits; and tables that stay on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_metrics import prediction_table
from xecml import rootio
from xecml.errors import InputError
from xecml.evaluation import metrics, photostatistics, stored_tables
from xecml.evaluation.energy_line import energy_line
from xecml.evaluation.light_columns import light_columns
from xecml.evaluation.linearity import linearity
from xecml.evaluation.profiles import opening_slices
from xecml.evaluation.selection_efficiency import SHARES, selections
from xecml.evaluation.stored_tables import Reconstructed, StoredTable
from xecml.evaluation.tables import opening_angles, read_table, residuals
from xecml.events import INVALID
from xecml.resolution import s68

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def table() -> Columns:
    return prediction_table(6000, seed=9)


# ---------------------------------------------------------------------------------------------------- linearity


def test_answers_that_shrink_are_found_and_shift_the_edge(table: Columns) -> None:
    energy = table["true_energy"]
    noise = np.random.default_rng(1).normal(0, 2e-4 + 0.01 * energy)
    shrunk = table | {"pred_energy": 0.97 * energy + 0.03 * 0.0375 + noise}
    line = linearity(shrunk, "energy")
    assert line is not None
    assert line.slope == pytest.approx(0.97, abs=5 * line.slope_error)
    assert line.slope_error < 0.002
    assert line.verdict() == "no"
    assert line.at == 0.0528
    assert line.shift == pytest.approx(-0.03 * (52.8 - 37.5), abs=5 * line.shift_error)
    assert "at 52.8 MeV the mean is off by -0.4" in " ".join(metrics.further_lines(metrics.evaluate(shrunk)))


def test_errors_of_slopes_are_right_where_widths_vary() -> None:
    """Of 200 samples: slope over its error has width 1 within 0.18 (3.6 errors)."""
    rng = np.random.default_rng(2)
    away = []
    for _ in range(200):
        u = rng.uniform(-20, 20, 400)
        line = linearity({"true_u": u, "pred_u": u + rng.normal(0, 0.1 + 0.05 * np.abs(u))}, "u")
        assert line is not None
        away.append((line.slope - 1) / line.slope_error)
    assert np.std(away) == pytest.approx(1, abs=0.18)


def test_slopes_are_judged_by_their_errors_and_need_spread(table: Columns) -> None:
    u = table["true_u"]
    exact = linearity(table | {"pred_u": u * 1.0005}, "u")
    wide = linearity({"true_u": u[:60], "pred_u": u[:60] + np.random.default_rng(3).normal(0, 1, 60)}, "u")
    assert exact is not None
    assert wide is not None
    assert (exact.verdict(), wide.verdict()) == ("yes", "undecided")
    assert linearity(table | {"true_energy": np.full(6000, 0.0528)}, "energy") is None
    assert linearity({k: v[:40] for k, v in table.items()}, "u") is None
    turned = {"true_phi": np.linspace(-180, 180, 500), "pred_phi": np.linspace(-180, 180, 500) + 359.0}
    jumps = linearity(turned, "phi")
    assert jumps is not None
    assert jumps.slope == pytest.approx(1)


# --------------------------------------------------------------------------------------------------- energy line


def test_the_line_of_the_energy_is_found_beside_its_tail(table: Columns) -> None:
    rng = np.random.default_rng(4)
    z = rng.uniform(-12, 5, 200_000)  # in widths, a tail that begins at 0.9 of them
    density = np.where(z > -0.9, np.exp(-(z**2) / 2), np.exp(0.9 * (0.45 + z)))
    ratio = 1.002 + 0.011 * z[rng.random(len(z)) < density][:6000]
    found = energy_line(table | {"pred_energy": table["true_energy"] * ratio})
    assert found is not None
    assert found.line.sigma == pytest.approx(1.1, abs=5 * found.line.sigma_error)
    assert 0.005 < found.line.sigma_error < 0.06
    assert found.upper == pytest.approx(1.1, abs=4 * found.upper_error)
    assert 0.03 < found.upper_error < 0.25
    assert found.peak == pytest.approx(0.2, abs=0.15)
    assert found.line.expected(found.line.edges).sum() == pytest.approx(found.line.counts.sum())
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["upper"] == found.upper


def test_no_line_is_no_line(table: Columns) -> None:
    assert energy_line({k: v[:150] for k, v in table.items()}) is None
    flat = table | {"pred_energy": np.random.default_rng(5).uniform(0.01, 0.2, 6000)}
    assert energy_line(flat) is None
    assert metrics.evaluate(flat).line is None


# ------------------------------------------------------------------------------------------- slices, selections


def test_slices_partition_the_events_and_find_what_matters(table: Columns) -> None:
    dead = np.repeat([0, 3, 9], 2000)
    worse = table | {"n_dead": dead, "total_npho": table["true_energy"] * 1e7, "n_valid": np.full(6000, 4700)}
    worse["pred_theta"] = table["true_theta"] + np.random.default_rng(6).normal(0, 1.0 + dead)
    found = opening_slices(worse)
    assert set(found) == {"energy", "w", "u", "v", "n_dead", "light"}
    assert all(s.n.sum() == 6000 for s in found.values())
    angles = opening_angles(worse)
    assert angles is not None
    by_dead = found["n_dead"]
    last = dead >= by_dead.edges[-2]
    assert by_dead.q68[-1] == pytest.approx(np.quantile(angles[last], 0.68))
    assert (np.diff(by_dead.q68) > 3 * by_dead.q68_error[1:]).all()
    assert found["energy"].edges[[0, -1]] == pytest.approx([15, 60], abs=0.1)
    # what a table does not tell, or is the same for all events, is no condition
    assert set(opening_slices(table | {"n_valid": np.full(6000, 4760)})) == {"energy", "w", "u", "v"}
    assert set(opening_slices(table | {"n_valid": 4760 - dead})) == {"energy", "w", "u", "v", "n_without"}
    assert opening_slices({k: v for k, v in table.items() if "theta" not in k}) == {}


def test_light_and_dead_sensors_are_counted_of_counts() -> None:
    npho = np.array([[1.0, 2.0, -1.0, 0.0, INVALID, np.nan, np.inf]])
    found = light_columns(npho)
    assert (found["n_dead"].tolist(), found["total_npho"].tolist()) == ([3], [3.0])


def test_a_selection_by_right_widths_gains_and_by_chance_does_not(table: Columns) -> None:
    rng = np.random.default_rng(7)
    sigma = rng.uniform(0.1, 0.6, 6000)
    said = table | {"pred_u": table["true_u"] + sigma * rng.normal(size=6000), "sigma_u": sigma}
    said["outlier"] = rng.exponential(0.3, 6000)
    by_sigma, by_outlier = (
        next(c for c in selections(said, ["u", "v"]) if (c.quantity, c.by) == ("u", by)) for by in ("sigma", "outlier")
    )
    assert by_sigma.efficiency == pytest.approx(SHARES)
    assert by_sigma.s68[-1] == s68(residuals(said, "u"))
    half = sigma <= np.median(sigma)
    assert by_sigma.s68[3] == pytest.approx(s68(residuals(said, "u")[half]), rel=1e-3)
    assert by_sigma.cut[-1] == 10 * sigma.max()
    assert (np.diff(by_sigma.s68) > 0).all()
    assert np.abs(by_outlier.s68 / by_outlier.s68[-1] - 1).max() < 5 * (by_outlier.error / by_outlier.s68).max()
    assert not selections(table, ["u"])
    assert not selections({k: v[:50] for k, v in said.items()}, ["u"])


# ------------------------------------------------------------------------------------------------------- limits


def test_limits_go_with_depth_and_energy(table: Columns) -> None:
    one = {"true_w": np.full(3, 5.0), "true_energy": np.full(3, 0.0528)}
    assert photostatistics.photostatistics(one, ["u", "timing", "theta"]) == {"u": 0.25, "timing": 13.0}
    quarter = photostatistics.photostatistics(one | {"true_energy": np.full(3, 0.0132)}, ["u"])
    assert quarter["u"] == pytest.approx(0.5)
    assert photostatistics.photostatistics({"true_w": np.ones(2)}, ["u"]) == {}
    assert "Cramer-Rao" in " ".join(metrics.further_lines(metrics.evaluate(table)))


@pytest.mark.slow
def test_limits_are_those_of_the_simulation() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xecml.simulation.validation.cramer_rao"], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines() if "F=1.2" in line]
    assert [float(row[0]) for row in rows] == list(photostatistics.DEPTHS_CM)
    columns = {"u": 4, "v": 5, "w": 6, "energy_relative": 7}
    for name, place in columns.items():
        assert [float(row[place]) for row in rows] == pytest.approx(photostatistics.LIMITS[name], rel=0.06), name
    times = [line.split()[2] for line in done.stdout.splitlines() if " time: " in line]
    assert [float(t) for t in times] == pytest.approx(photostatistics.LIMITS["timing"], abs=0.6)


# ----------------------------------------------------------------------------------------------- tables on disk


def test_a_table_on_disk_is_the_table(table: Columns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, rows in enumerate((slice(0, 2500), slice(2500, 6000))):
        rootio.write(tmp_path / f"{i}.root", {k: v[rows] for k, v in table.items()}, tree="predictions")
    monkeypatch.setattr(stored_tables, "_KEPT_BYTES", 4 * 6000 * 3)
    stored, read = StoredTable(tmp_path / "*.root"), read_table(tmp_path / "*.root")
    assert set(stored) == set(read)
    for name in read:
        np.testing.assert_array_equal(stored[name], read[name])
        assert len(stored._kept) <= 3
    assert json.dumps(metrics.evaluate(stored).as_dict()) == json.dumps(metrics.evaluate(read).as_dict())
    with pytest.raises(KeyError):
        stored["pred_none"]


def test_a_reconstruction_takes_the_place_of_predictions(table: Columns) -> None:
    both = table | {"reco_u": table["true_u"] + 0.1, "sigma_u": table["true_u"], "outlier": table["true_u"]}
    found = Reconstructed(both)
    assert set(found) == {k for k in table if not k.startswith("pred_")} | {"reco_u", "pred_u"}
    np.testing.assert_allclose(residuals(found, "u"), 1.0)
    with pytest.raises(KeyError):
        found["pred_v"]


def test_files_of_other_columns_are_no_table(table: Columns, tmp_path: Path) -> None:
    rootio.write(tmp_path / "a.root", table, tree="predictions")
    rootio.write(tmp_path / "b.root", {k: v for k, v in table.items() if k != "pred_u"}, tree="predictions")
    with pytest.raises(InputError, match=r"b\.root differs from the first prediction file in pred_u"):
        StoredTable(tmp_path / "*.root")
