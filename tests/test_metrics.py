"""Prediction tables to numbers: units, wrapping, depth bins, matching, leaks, trivial predictors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.errors import InputError
from xecml.evaluation import metrics
from xecml.evaluation.tables import (
    QUANTITIES,
    opening_angles,
    quantities,
    read_table,
    residuals,
    same_events,
    truth_columns,
)
from xecml.events import INVALID
from xecml.resolution import Resolution

Columns = dict[str, np.ndarray]

WIDTHS = {"theta": 4.0, "phi": 1.5, "energy": 1e-3, "timing": 1e-10, "u": 0.3, "v": 0.2, "w": 0.4}
"""Gaussian widths of the toy predictions, in the units of files."""


def prediction_table(n: int = 3000, seed: int = 0, **widths: float) -> Columns:
    """Signal-like truth, and predictions that are off by known Gaussian widths."""
    rng = np.random.default_rng(seed)
    depth = np.minimum(rng.exponential(5, n), 40)
    uvw = np.stack([rng.uniform(-23, 23, n), rng.uniform(-66, 66, n), depth], 1)
    z = rng.normal(0, 4.1, n)
    vertex = np.stack([-0.268 * z, rng.normal(0, 1.1, n), z], 1)
    angles = geometry.angles_from_direction(geometry.xyz_from_uvw(uvw) - vertex)
    truth = dict(zip(("theta", "phi", "u", "v", "w"), [*angles.T, *uvw.T], strict=True))
    truth |= {"energy": rng.uniform(0.015, 0.06, n), "timing": rng.uniform(-1e-8, 1e-8, n)}
    off = {k: rng.normal(0, s, n) for k, s in (WIDTHS | widths).items()}
    columns = {f"true_{k}": v for k, v in truth.items()} | {f"pred_{k}": v + off[k] for k, v in truth.items()}
    ids = {"run": np.full(n, 3, np.int32), "event": np.arange(n, dtype=np.int32)}
    return ids | columns | {"xyzVTX": vertex}


@pytest.fixture(scope="module")
def table() -> Columns:
    return prediction_table()


# ----------------------------------------------------------------------------------- residuals and quantities


def test_residuals_are_in_the_units_of_quoted_resolutions(table: Columns) -> None:
    scales = {"theta": 1, "phi": 1, "energy": 1e3, "timing": 1e12, "u": 10, "v": 10, "w": 10}
    for name, scale in scales.items():
        expected = (table[f"pred_{name}"] - table[f"true_{name}"]) * scale
        np.testing.assert_allclose(residuals(table, name), expected, atol=1e-9)
    relative = 100 * (table["pred_energy"] / table["true_energy"] - 1)
    np.testing.assert_allclose(residuals(table, "energy_relative"), relative)
    units = {"theta": "deg", "energy": "MeV", "energy_relative": "%", "timing": "ps", "u": "mm"}
    assert {q: QUANTITIES[q].unit for q in units} == units


def test_phi_wraps() -> None:
    table = {"pred_phi": np.array([179.0, -179.0, 10.0]), "true_phi": np.array([-179.0, 179.0, 12.0])}
    np.testing.assert_allclose(residuals(table, "phi"), [-2.0, 2.0, -2.0])


def test_what_was_not_measured_takes_no_part() -> None:
    table = {"pred_u": np.array([1.0, np.nan, 3.0, 4.0]), "true_u": np.array([1.0, 1.0, INVALID, 3.0])}
    np.testing.assert_array_equal(np.isfinite(residuals(table, "u")), [True, False, False, True])
    r = metrics.evaluate(table).figures["u"]["all"]
    assert (r.n, r.n_not_finite, r.bias) == (2, 2, 5.0)


def test_only_quantities_with_both_sides_are_found(table: Columns) -> None:
    assert quantities(table) == list(QUANTITIES)
    real = {"pred_u": np.ones(5), "true_u": np.full(5, INVALID), "reco_u": np.zeros(5), "pred_theta": np.ones(5)}
    assert quantities(real) == []
    assert quantities(real, "reco") == ["u"]
    np.testing.assert_allclose(residuals(real, "u", "reco"), 10.0)
    with pytest.raises(InputError, match="no column 'true_energy'"):
        residuals(real, "energy")


def test_angles_come_from_direction_vectors_too(table: Columns) -> None:
    angles = np.stack([table["pred_theta"], table["pred_phi"]], 1)
    vectors = {k: v for k, v in table.items() if k not in ("pred_theta", "pred_phi")}
    vectors["pred_emiVec"] = 3 * geometry.direction_from_angles(angles)
    for name in ("theta", "phi"):
        np.testing.assert_allclose(residuals(vectors, name), residuals(table, name), atol=1e-8)
    one, two = opening_angles(vectors), opening_angles(table)
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_opening_angles(table: Columns) -> None:
    angles = opening_angles(table)
    assert angles is not None
    a = geometry.direction_from_angles(np.stack([table["pred_theta"], table["pred_phi"]], 1))
    b = geometry.direction_from_angles(np.stack([table["true_theta"], table["true_phi"]], 1))
    np.testing.assert_allclose(np.cos(np.radians(angles)), np.sum(a * b, axis=1), atol=1e-9)
    assert opening_angles({"pred_theta": np.ones(3)}) is None


# ----------------------------------------------------------------------------------------------- resolutions


def test_evaluation_finds_the_widths_that_were_put_in(table: Columns) -> None:
    e = metrics.evaluate(table, "toy")
    for name, width in WIDTHS.items():
        r = e.figures[name]["all"]
        expected = width * QUANTITIES[name].scale
        assert r.s68 == pytest.approx(expected, abs=5 * r.s68_error)
        assert r.fwhm == pytest.approx(expected, abs=5 * r.fwhm_error)
        assert r.n == 3000
    # sqrt of the quadratic mean over a flat energy spectrum is wider than at its mean
    assert 2.5 < e.figures["energy_relative"]["all"].s68 < 4.0
    assert e.opening["all"].q68 == pytest.approx(4.2, abs=0.4)
    assert (e.name, e.n_events, e.reference) == ("toy", 3000, "truth")


def test_depth_bins_partition_the_sample(table: Columns) -> None:
    e = metrics.evaluate(table)
    w = table["true_w"]
    between = ((w >= 2) & (w < 10)).sum()
    expected = {"all": 3000, "w < 2 cm": (w < 2).sum(), "w 2-10 cm": between, "w > 10 cm": (w >= 10).sum()}
    assert {name: r.n for name, r in e.figures["u"].items()} == expected
    assert {name: c.n for name, c in e.opening.items()} == expected
    without_depth = {k: v for k, v in table.items() if not k.endswith("_w")}
    assert list(metrics.evaluate(without_depth).figures["u"]) == ["all"]


def test_heads_of_tables_carry_the_events_in_their_bin(table: Columns) -> None:
    e = metrics.evaluate(table)
    deep = int((table["true_w"] >= 10).sum())
    assert e.events == {b: r.n for b, r in e.figures["u"].items()}
    assert [e.title(b) for b in ("all", "w > 10 cm")] == ["3000 events, all depths", f"{deep} events, w > 10 cm"]
    one = metrics.evaluate({"pred_u": np.ones(1), "true_u": np.zeros(1)})
    assert one.title("all") == "1 event"


def test_what_was_not_answered_is_counted_and_left_out(table: Columns) -> None:
    lost = {k: v.copy() for k, v in table.items()}
    for name in [k for k in lost if k.startswith("pred_")]:
        lost[name][: 90 if name == "pred_timing" else 60] = np.nan
    results = metrics.compare({"net": lost, "mean": metrics.constant_table(lost, {"u": 0.0})})
    whole = metrics.evaluate({k: v[60:] for k, v in table.items()})
    e = results[0]
    assert (e.n_events, e.events["all"], e.figures["timing"]["all"].n_not_finite) == (3000, 3000, 90)
    assert e.figures["u"]["all"].s68 == whole.figures["u"]["all"].s68
    assert e.opening["all"].q68 == whole.opening["all"].q68
    headers, rows = metrics.summary(results)
    assert headers[5:] == ["tail [%]", "left out", "s68 mean"]
    assert {row[0]: row[6] for row in rows} == dict.fromkeys((r[0] for r in rows), "60") | {"time": "90"}
    assert {len(row) for row in rows} == {len(headers)}
    assert "left out" not in metrics.summary([whole])[0]
    nothing = metrics.evaluate(table | {"pred_theta": np.full(3000, np.nan)})
    assert "theta" not in nothing.figures
    assert nothing.opening == {}


def test_truth_that_cannot_be_is_named_and_left_out(table: Columns) -> None:
    odd = {k: v.copy() for k, v in table.items()}
    odd["true_energy"][:4], odd["true_theta"][:3], odd["true_energy"][4] = -0.01, -20.0, INVALID
    e = metrics.evaluate(odd)
    assert [e.figures[q]["all"].n_not_finite for q in ("energy", "energy_relative", "theta", "phi")] == [5, 5, 3, 0]
    assert e.warnings == (
        "true_energy is not above 0 in 4 of 3000 events; these are left out.",
        "true_theta is not within 0 and 180 degrees in 3 of 3000 events; these are left out.",
    )
    assert (
        e.figures["energy"]["all"].s68
        == metrics.evaluate({k: v[5:] for k, v in table.items()}).figures["energy"]["all"].s68
    )
    none = metrics.evaluate(table | {"true_energy": -table["true_energy"]})
    assert "energy" not in none.figures
    assert "in 3000 of 3000 events" in none.warnings[0]


def test_another_model_beside_shows_its_errors(table: Columns) -> None:
    rng = np.random.default_rng(8)
    other = table | {"pred_u": table["true_u"] + rng.normal(0, 0.5, 3000)}
    results = metrics.compare({"net": table, "other": other, "mean": metrics.constant_table(table, {"u": 0.0})})
    results[1] = replace(results[1], rival=True)
    by_name = {row[0]: row for row in metrics.summary(results)[1]}
    r = results[1].figures["u"]["all"]
    assert by_name["u"][6] == metrics.with_error(r.s68, r.s68_error)
    assert by_name["opening angle"][6].count("\N{PLUS-MINUS SIGN}") == 1
    assert "\N{PLUS-MINUS SIGN}" not in by_name["u"][7]


def test_classes(table: Columns) -> None:
    more = table | {"true_n_gamma": np.arange(3000) % 5}
    right = np.arange(3000) % 4 != 0
    more["pred_n_gamma"] = np.eye(5)[np.where(right, more["true_n_gamma"], (more["true_n_gamma"] + 1) % 5)]
    assert metrics.evaluate(more).n_gamma_accuracy == 0.75
    # neither an event without an answer, whose largest probability is the first, nor one without truth counts
    more["pred_n_gamma"][:8], more["true_n_gamma"] = np.nan, np.where(np.arange(3000) < 12, -1, more["true_n_gamma"])
    assert metrics.evaluate(more).n_gamma_accuracy == 0.75


def test_nothing_to_evaluate_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"'net' has no quantity with both pred_ and true_ columns; it has pred_u\."):
        metrics.evaluate({"pred_u": np.ones(3)}, "net")


def test_the_dictionary_is_json(table: Columns) -> None:
    e = metrics.evaluate({k: v[:20] for k, v in table.items()})
    back = json.loads(json.dumps(e.as_dict(), allow_nan=False))
    assert back["figures"]["timing"]["unit"] == "ps"
    assert back["figures"]["timing"]["all"]["s68"] == e.figures["timing"]["all"].s68
    assert back["figures"]["u"]["all"]["fwhm"] is None
    assert back["figures"]["opening_angle"]["all"]["q68"] == e.opening["all"].q68


# ---------------------------------------------------------------------------------------------- physics guard


@pytest.mark.parametrize(("theta", "phi", "found"), [(3.3, 1.0, 0), (3.18, 0.89, 0), (2.5, 1.0, 2), (2.5, 0.3, 4)])
def test_directions_below_the_vertex_spread_are_a_leak(theta: float, phi: float, found: int) -> None:
    """Two warnings a quantity: over all depths, and beyond 10 cm, where the limit is lower."""
    e = metrics.evaluate(prediction_table(20000, theta=theta, phi=phi))
    assert len(e.warnings) == found
    assert all("below the limit of the vertex spread" in w and "look for a leak" in w for w in e.warnings)


def test_the_limit_needs_five_errors_and_signal_vertices() -> None:
    few = Resolution(40, 0, s68=2.9, s68_error=0.4)
    assert metrics.leak_warnings({"theta": {"all": few}}) == ()
    three = Resolution(3, 0, s68=0.58, s68_error=0.32)  # what the bootstrap of three events gives
    assert metrics.leak_warnings({"phi": {"all": replace(three, s68=0.1, s68_error=0.1)}}) == ()
    many = Resolution(4000, 0, s68=2.9, s68_error=0.04)
    (warning,) = metrics.leak_warnings({"theta": {"all": many}})
    assert "theta s68 2.90 \N{PLUS-MINUS SIGN} 0.04 deg (all)" in warning
    perfect = prediction_table(2000, theta=0.1, phi=0.1)
    assert len(metrics.evaluate(perfect).warnings) == 4
    elsewhere = perfect | {"xyzVTX": perfect["xyzVTX"] + [30.0, 0, 0]}
    assert metrics.evaluate(elsewhere).warnings == ()
    assert not metrics.has_signal_vertices({"pred_u": np.ones(2)})


# --------------------------------------------------------------------------------------------------- profiles


def test_profiles_find_a_bias_and_a_width_that_vary(table: Columns) -> None:
    rng = np.random.default_rng(1)
    width = 0.1 + 0.02 * table["true_w"]
    bent = table | {"pred_u": table["true_u"] * 1.02 + rng.normal(0, width)}
    p = metrics.profile(bent, "u", "u")
    assert p is not None
    assert p.n.sum() == 3000
    assert np.ptp(p.n) <= 1
    np.testing.assert_array_less(np.abs(p.bias - 0.2 * p.centre), 5 * p.bias_error)
    assert p.edges[0] == table["true_u"].min()
    deep = metrics.profile(table | {"pred_u": table["true_u"] + rng.normal(0, width)}, "u", "w")
    assert deep is not None
    np.testing.assert_array_less(np.abs(deep.s68 - 10 * (0.1 + 0.02 * deep.centre)), 6 * deep.s68_error)
    inside = (table["true_w"] >= deep.edges[3]) & (table["true_w"] < deep.edges[4])
    assert deep.n[3] == inside.sum()
    assert deep.centre[3] == pytest.approx(table["true_w"][inside].mean())


def test_profiles_need_spread_and_events(table: Columns) -> None:
    single = table | {"true_energy": np.full(3000, 0.0528, np.float32)}
    assert metrics.profile(single, "energy", "energy") is None
    assert metrics.profile({k: v for k, v in table.items() if k != "true_w"}, "u", "w") is None
    few = metrics.profile({k: v[:50] for k, v in table.items()}, "u", "v")
    assert few is not None
    assert np.isnan(few.s68).all()
    assert few.n.sum() == 50


@pytest.mark.parametrize(("a", "b"), [(0.4, 1.0), (0.4, 0.0), (0.0, 1.5)])
def test_the_energy_fit_finds_both_terms(a: float, b: float) -> None:
    """Terms in % sqrt(GeV) and %."""
    table = prediction_table(40000)
    e = table["true_energy"]
    sigma = np.hypot(a / np.sqrt(e), b) / 100
    smeared = table | {"pred_energy": e * (1 + np.random.default_rng(2).normal(0, sigma))}
    p = metrics.profile(smeared, "energy_relative", "energy")
    assert p is not None
    fit = metrics.energy_resolution_fit(p)
    assert fit is not None
    assert fit[0] == pytest.approx(a, abs=0.06)
    assert fit[1] == pytest.approx(b, abs=0.35)
    shape = np.hypot(fit[0] / np.sqrt(p.centre), fit[1])
    np.testing.assert_allclose(shape, p.s68, rtol=0.06)


# ------------------------------------------------------------------------------------ comparison and printing


def test_tables_are_compared_on_common_events_whatever_their_order(table: Columns) -> None:
    rng = np.random.default_rng(3)
    order = rng.permutation(3000)[:2000]
    other = {k: v[order] for k, v in table.items()}
    both = same_events({"a": table, "b": other})
    assert len(both["a"]["event"]) == 2000
    for name in table:
        np.testing.assert_array_equal(both["a"][name], both["b"][name])
    assert np.all(np.diff(both["b"]["event"]) > 0)


def test_tables_without_common_or_unique_events_are_refused(table: Columns) -> None:
    with pytest.raises(InputError, match="a and b have no event in common"):
        same_events({"a": table, "b": table | {"run": table["run"] + 1}})
    repeated = {k: np.concatenate([v, v]) for k, v in table.items()}
    with pytest.raises(InputError, match="'b' repeats run and event numbers"):
        same_events({"a": table, "b": repeated})
    # equal numbers event by event settle it by order
    assert len(same_events({"a": repeated, "b": repeated})["b"]["event"]) == 6000


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.0634, 0.0812, "2.06 \N{PLUS-MINUS SIGN} 0.08"),
        (2.0634, 0.0212, "2.063 \N{PLUS-MINUS SIGN} 0.021"),
        (-0.0001, 0.0212, "0.000 \N{PLUS-MINUS SIGN} 0.021"),
        (6836.2, 120.0, "6836 \N{PLUS-MINUS SIGN} 120"),
        (20.284, math.nan, "20.3"),
        (0.0, 0.0, "0"),
        (1.9043, 3e-7, "1.90"),
        (2.4e-6, 2e-10, "0"),
        (math.nan, 0.1, "-"),
    ],
)
def test_numbers_are_written_to_the_digits_of_their_error(value: float, error: float, text: str) -> None:
    assert metrics.with_error(value, error) == text


def test_the_summary_shows_baselines_beside(table: Columns) -> None:
    constant = metrics.constant_table(table, {"energy": 0.03, "theta": 90.0, "phi": 0.0})
    results = metrics.compare({"net": table, "mean": constant})
    headers, rows = metrics.summary(results)
    assert headers == ["quantity", "unit", "bias", "s68", "FWHM/2.355", "tail [%]", "s68 mean"]
    by_name = {row[0]: row for row in rows}
    assert list(by_name) == [w.label for w in QUANTITIES.values()] + ["opening angle"]
    assert by_name["u"][1] == "mm"
    assert by_name["u"][6] == "-"
    assert float(by_name["theta"][6]) == pytest.approx(results[1].figures["theta"]["all"].s68, rel=0.01)
    assert float(by_name["u"][3].split()[0]) == pytest.approx(3.0, abs=0.3)
    assert float(by_name["opening angle"][3].split()[0]) == pytest.approx(4.2, abs=0.4)
    deep = metrics.summary(results, "w > 10 cm")[1]
    assert deep[5][3] != rows[5][3]


def test_a_narrow_but_biased_baseline_shows_its_bias(table: Columns) -> None:
    """On a sample of one energy a constant has no width at all; printed alone it would look perfect."""
    single = table | {"true_energy": np.full(3000, 0.0528)}
    results = metrics.compare({"net": single, "mean": metrics.constant_table(single, {"energy": 0.0375})})
    row = metrics.summary(results)[1][2]
    assert row[0] == "energy"
    assert row[6] == "0 (bias -15.3)"


# ------------------------------------------------------------------------------------------- files and truth


def test_prediction_files_are_read_as_one_table(tmp_path: Path, table: Columns) -> None:
    halves = [{k: v[s] for k, v in table.items()} for s in (slice(0, 1000), slice(1000, None))]
    for i, half in enumerate(halves):
        rootio.write(tmp_path / f"{i}.root", half, tree="predictions")
    back = read_table(tmp_path)
    assert back.keys() == table.keys()
    np.testing.assert_array_equal(back["pred_u"], table["pred_u"])
    np.testing.assert_array_equal(back["xyzVTX"], table["xyzVTX"].astype("f4"))
    rootio.write(tmp_path / "2.root", {"pred_u": table["pred_u"]}, tree="predictions")
    with pytest.raises(InputError, match=r"2\.root differs from the first prediction file in event, "):
        read_table(tmp_path)


def test_truth_columns_split_branches() -> None:
    events = point_sources(4, seed=1)
    columns = truth_columns(events)
    np.testing.assert_array_equal(columns["phi"], events["emiAng"][:, 1])
    np.testing.assert_array_equal(columns["w"], events["uvwTruth"][:, 2])
    np.testing.assert_array_equal(columns["energy"], events["energyTruth"])
    assert columns["emiVec"].shape == (4, 3)
