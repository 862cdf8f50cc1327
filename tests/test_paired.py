"""Predictors on the same events: errors of differences are right, and other events are refused by name."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.test_metrics import prediction_table
from xecml.errors import InputError
from xecml.evaluation.background import POWERS, REFERENCE, background
from xecml.evaluation.event_identity import aligned, refuse_lacking
from xecml.evaluation.influence import contained, error_of, half_width, size_of_bias
from xecml.evaluation.paired import Difference, compare_paired
from xecml.evaluation.tables import residuals
from xecml.resolution import QUANTILES, s68

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def table() -> Columns:
    return prediction_table(2000)


def shifted(table: Columns, seed: int, **widths: float) -> Columns:
    """Another model's answers: those of the first, off by so much more, in the units of files."""
    rng = np.random.default_rng(seed)
    return table | {f"pred_{k}": table[f"pred_{k}"] + rng.normal(0, s, len(table["run"])) for k, s in widths.items()}


# ------------------------------------------------------------------------------------------------- influences


@pytest.mark.parametrize("figure", [half_width, contained, size_of_bias])
def test_errors_by_influence_are_those_of_drawing_events_again(figure: object) -> None:
    """Within 25 %: 400 samples tell a width to 3.5 %, and a density is known to some percent."""
    assert callable(figure)
    rng = np.random.default_rng(1)
    x = np.where(rng.random(2000) < 0.9, rng.normal(0.4, 1, 2000), rng.normal(0, 4, 2000))
    x = np.abs(x) if figure is contained else x
    value, influence = figure(x)
    drawn = [figure(rng.choice(x, len(x)))[0] for _ in range(400)]
    assert error_of(influence) == pytest.approx(np.std(drawn), rel=0.25)
    assert abs(influence.mean()) < 0.05 * influence.std()
    assert value == pytest.approx({half_width: s68(x), contained: np.quantile(x, 0.68)}.get(figure, abs(x.mean())))


def test_figures_of_equal_and_of_few_values() -> None:
    value, influence = half_width(np.full(50, 3.0))
    assert (value, error_of(influence)) == (0.0, 0.0)
    assert np.isnan(error_of(half_width(np.arange(10.0))[1]))
    assert QUANTILES[0] + QUANTILES[1] == 1


# ------------------------------------------------------------------------------------------------ differences


def test_chance_alone_is_called_chance() -> None:
    """Two models of equal width on 150 samples: differences over their errors have mean 0 and width 1.

    Limits are 3.7 errors of a mean of 150 (0.3), and of a width (0.22).
    """
    rng = np.random.default_rng(2)
    found: dict[str, list[float]] = {}
    for _ in range(150):
        common, truth = rng.normal(0, 1, 600), rng.uniform(-20, 20, 600)
        one, other = ({"true_u": truth, "pred_u": truth + common + rng.normal(0, 0.7, 600)} for _ in range(2))
        (pair,) = compare_paired({"a": one, "b": other})
        for d in pair.differences:
            found.setdefault(d.figure, []).append(d.sigmas)
    assert set(found) == {"s68", "|bias|"}
    sigmas = np.array(found["s68"])
    assert abs(sigmas.mean()) < 0.3
    assert sigmas.std() == pytest.approx(1, abs=0.22)


def test_what_differs_by_more_than_chance_is_found_by_pairs(table: Columns) -> None:
    """Answers of a second model that are those of the first and some more: the error is below that of two samples."""
    worse = shifted(table, 3, u=0.15, theta=2.5)
    (pair,) = compare_paired({"net": table, "old": worse})
    by_name = {(d.label, d.figure): d for d in pair.differences}
    d = by_name["u", "s68"]
    assert d.first == s68(residuals(table, "u"))
    assert d.second == s68(residuals(worse, "u"))
    assert d.n == 2000
    alone = error_of(half_width(residuals(table, "u"))[1])
    assert d.error < 0.8 * np.sqrt(2) * alone
    assert d.sigmas < -3
    sentence = d.sentence("net", "old")
    assert re.search(
        r"^u, s68: net is better than old by 0\.\d+ .* mm \([\d.]+ %, .* against .* mm\), \d+\.\d stand", sentence
    )
    assert by_name["phi", "s68"].sigmas == 0
    assert "are equal" in by_name["phi", "s68"].sentence("net", "old")
    assert by_name["direction", "68 % opening angle"].sigmas < -2
    assert (
        by_name["accidental background", "photon's part"].first
        < by_name["accidental background", "photon's part"].second
    )
    assert pair.in_short()[0].startswith("theta, s68: net is better")
    assert re.search(r"^net and old, equal: phi s68; phi \|bias\|; ", pair.in_short()[-1])
    assert json.loads(json.dumps(pair.as_dict(), allow_nan=False))["second"] == "old"


def test_sentences_say_what_is_chance_and_what_is_too_few() -> None:
    d = Difference("u", "s68", "mm", 2.0, 2.1, 0.08, 500)
    assert d.sentence("a", "b").startswith("u, s68: the difference may be chance: a is lower by 0.10")
    almost_all = Difference("phi", "|bias|", "deg", 0.0003, 0.339, 0.23, 400)
    assert "(100 %, " in almost_all.sentence("a", "b")
    assert d.ratio == pytest.approx((0.05, 0.04))
    few = Difference("u", "s68", "mm", 2.0, 2.1, float("nan"), 9)
    assert few.sentence("a", "b").endswith("9 events are too few to say which is better.")
    assert few.as_dict()["sigmas"] is None


def test_only_events_that_both_answer_are_compared(table: Columns) -> None:
    silent = shifted(table, 4, u=0.3)
    silent["pred_u"][:700] = np.nan
    (pair,) = compare_paired({"net": table, "silent": silent})
    assert {(d.label, d.n) for d in pair.differences if d.label in ("u", "v")} == {("u", 1300), ("v", 2000)}
    # the products are of other events, and no pairs
    assert "accidental background" not in {d.label for d in pair.differences}


# ------------------------------------------------------------------------------------------------- same events


def test_order_does_not_matter(table: Columns) -> None:
    order = np.random.default_rng(5).permutation(2000)
    found = aligned({"a": table, "b": {k: v[order] for k, v in table.items()}})
    assert set(found["b"]) == set(table)
    for name in ("event", "pred_u", "xyzVTX"):
        np.testing.assert_array_equal(found["b"][name], table[name])


def test_events_that_are_not_the_same_are_refused_by_name(table: Columns) -> None:
    fewer = {k: v[7:] for k, v in table.items()}
    with pytest.raises(InputError, match=r"'b' lacks 7 events of 'a' \(run 3 event 0, .*event 4 and 2 more\)"):
        aligned({"a": table, "b": fewer})
    with pytest.raises(InputError, match=r"'a' lacks 7 events of 'b'"):
        aligned({"a": fewer, "b": table})
    refuse_lacking("a", fewer, "b", table)
    with pytest.raises(InputError, match=r"'b' lacks 7 events of 'a' \(run 3 event 0"):
        refuse_lacking("a", table, "b", fewer)
    other = table | {"true_w": np.where(np.arange(2000) == 1500, 3.21, table["true_w"])}
    with pytest.raises(InputError, match=r"true_w of 'b' differs .* in 1 of 2000 events \(run 3 event 1500\)"):
        aligned({"a": table, "b": other})
    twice = {k: np.concatenate([v[:3], v]) for k, v in table.items()}
    with pytest.raises(InputError, match=r"'b' has run 3 event 0, .* more than once"):
        aligned({"a": table, "b": twice})
    bare = {k: v for k, v in table.items() if k not in ("run", "event")}
    with pytest.raises(InputError, match="without run and event numbers|lacks"):
        aligned({"a": bare, "b": {k: v[:5] for k, v in bare.items()}})


def test_truth_that_went_through_other_types_is_the_same(table: Columns) -> None:
    aligned({"a": table, "b": {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in table.items()}})


# -------------------------------------------------------------------------------------------------- background


def test_the_background_is_the_product_and_its_error_that_of_drawing_again(table: Columns) -> None:
    """The error within 35 %: 100 samples tell it to 7 %, densities of 2000 events to 15 %."""
    found = background(table)
    assert found is not None
    by_hand = np.prod([(s68(residuals(table, q)) / REFERENCE[q]) ** power for q, power in POWERS.items()])
    assert found.value == pytest.approx(by_hand)
    assert (found.missing, found.n) == ((), 2000)
    rng = np.random.default_rng(6)
    values = []
    for _ in range(100):
        rows = rng.integers(0, 2000, 2000)
        again = background({k: v[rows] for k, v in table.items()})
        assert again is not None
        values.append(again.value)
    assert found.error == pytest.approx(np.std(values), rel=0.35)


def test_a_background_says_what_it_lacks(table: Columns) -> None:
    without = {k: v for k, v in table.items() if k not in ("pred_timing", "pred_theta")}
    found = background(without)
    assert found is not None
    assert found.missing == ("theta", "timing")
    assert found.line().endswith("without theta, time, which is not predicted")
    assert background({k: v for k, v in table.items() if k != "pred_energy"}) is None
    assert background({k: v[:10] for k, v in table.items()}) is None
