"""Ends of spectra: found where they are, with errors that are right, and not found where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data_tables import EDGE, energies, responses
from xecml.inference.edge_fit import fit_edge
from xecml.inference.line_fit import fit_line


def draw_edge(rng: np.random.Generator, n: int, kind: str, tail: float = 1.2) -> np.ndarray:
    """A spectrum smeared by 1 MeV at its end, and 3 % of events at any energy."""
    true = energies(rng, n, kind)
    return np.concatenate([true + true / EDGE * responses(rng, n, tail), rng.uniform(30, 75, n // 33)])


@pytest.mark.parametrize(("step", "n", "bias"), [(1.0, 4000, 0.1), (0.45, 50_000, 0.06), (0.0, 20_000, 0.2)])
def test_an_edge_is_found_and_its_errors_are_right(step: float, n: int, bias: float) -> None:
    """Sixteen spectra with shares of a step: no more off than docs/real_data.md says and 3 errors of their mean."""
    rng = np.random.default_rng(6)
    parts = [("edge", round(n * step)), ("rising", round(n * (1 - step)))]
    found = [fit_edge(np.concatenate([draw_edge(rng, m, kind) for kind, m in parts]), EDGE) for _ in range(16)]
    assert all(edge is not None for edge in found)
    off = np.array([edge.position - EDGE for edge in found if edge])
    errors = np.array([edge.error for edge in found if edge])
    assert abs(off.mean()) < bias + 3 * off.std() / 4
    assert np.abs(off / errors).max() < 4
    assert 0.02 < np.median(errors) < 0.5
    assert off.std() < 1.5 * errors.mean()
    widths = np.array([(edge.sigma - 1) / edge.sigma_error for edge in found if edge])
    assert abs(widths.mean()) < 1.1
    assert np.mean([edge.chi2 for edge in found if edge]) == pytest.approx(1, abs=0.25)


def test_the_end_is_not_half_way_up() -> None:
    """With a tail the half of a step is lower by a quarter of the width."""
    rng = np.random.default_rng(7)
    spectrum = draw_edge(rng, 20_000, "edge", tail=0.9)
    edge = fit_edge(spectrum, EDGE)
    assert edge is not None
    counts, edges = np.histogram(spectrum, np.arange(42, 60, 0.25))
    half = edges[:-1][counts > counts[edges[:-1] < 46].mean() / 2].max()
    assert half + 0.25 < EDGE
    assert edge.position == pytest.approx(EDGE, abs=4 * edge.error)
    assert edge.error < 0.15


def test_the_fitted_curve_has_the_events_of_its_window() -> None:
    spectrum = draw_edge(np.random.default_rng(8), 3000, "edge")
    edge = fit_edge(spectrum, EDGE)
    assert edge is not None
    bins = np.linspace(*edge.window, 61)
    counts = np.histogram(spectrum, bins)[0]
    expected = edge.expected(bins)
    assert expected.sum() == pytest.approx(edge.events, rel=1e-6)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())
    line_like = fit_line(np.random.default_rng(1).normal(54.9, 1.0, 2000))
    assert line_like is not None
    bins = np.linspace(*line_like.window, 61)
    assert line_like.expected(bins).sum() == pytest.approx(line_like.events, rel=1e-6)
    assert line_like.sigma == pytest.approx(1.0, abs=4 * line_like.sigma_error)
    assert 0.01 < line_like.sigma_error < 0.06


def test_what_has_no_end_is_not_fitted() -> None:
    rng = np.random.default_rng(2)
    assert fit_edge(rng.uniform(20, 90, 3000), EDGE) is None
    assert fit_edge(draw_edge(rng, 100, "edge"), EDGE) is None
    assert fit_edge(np.array([]), EDGE) is None
    rising = 20 + 70 * np.sqrt(rng.random(3000))
    assert fit_edge(rising, EDGE) is None
