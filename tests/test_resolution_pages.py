"""Resolution plots: every page is drawn, with the numbers of the evaluation on it, in reproducible bytes."""

from __future__ import annotations

import re
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from tests.test_metrics import WIDTHS, prediction_table
from xecml.errors import InputError
from xecml.evaluation import metrics
from xecml.figures import resolution_pages
from xecml.figures.style import drawable

Columns = dict[str, np.ndarray]


def only(table: Columns, *quantities: str) -> Columns:
    """The table with predictions of some quantities, for quick pictures."""
    kept = {f"pred_{q}" for q in quantities}
    return {k: v for k, v in table.items() if not k.startswith("pred_") or k in kept}


def texts(figure: Figure) -> str:
    """All that is written on a figure."""
    words = [t.get_text() for t in figure.texts] + [figure.get_suptitle()]
    for axes in figure.axes:
        words += [axes.get_title(loc=where) for where in ("left", "center")] + [
            axes.get_xlabel(),
            axes.get_ylabel(),
        ]
        words += [t.get_text() for t in axes.texts]
        words += [cell.get_text().get_text() for t in axes.tables for cell in t.get_celld().values()]
        legend = axes.get_legend()
        words += [t.get_text() for t in legend.get_texts()] if legend else []
    return "\n".join(words)


@pytest.fixture(scope="module")
def tables() -> dict[str, Columns]:
    model = prediction_table(800, seed=1)
    return {"net": model, "mean": metrics.constant_table(model, {"u": 0.0, "theta": 90.0, "phi": 0.0})}


@pytest.fixture(scope="module")
def pages(tables: dict[str, Columns]) -> dict[str, Figure]:
    model = only(tables["net"], "u", "energy", "theta", "phi")
    figures = resolution_pages.resolution_figures({"net": model, "mean": tables["mean"]}, title="toy")
    return {f.get_suptitle().split(":")[0]: f for f in figures}


def test_there_is_a_page_for_every_quantity(pages: dict[str, Figure]) -> None:
    assert list(pages) == [
        "Resolution of net, 800 events, against truth",
        "Resolution of theta",
        "Resolution of phi",
        "Resolution of energy",
        "Resolution of energy / truth",
        "Resolution of u",
        "Energy resolution and opening angle",
    ]
    assert all(f.get_suptitle().endswith(": toy") for f in pages.values())


def test_the_numbers_of_the_evaluation_are_written(pages: dict[str, Figure], tables: dict[str, Columns]) -> None:
    r = metrics.evaluate(tables["net"]).figures["u"]["all"]
    page = texts(pages["Resolution of u"])
    assert f"s68 {metrics.with_error(r.s68, r.s68_error)} mm" in page
    assert f"FWHM/2.355 {metrics.with_error(r.fwhm, r.fwhm_error)} mm" in page
    assert f"beyond 3 s68 (dotted): {metrics.with_error(r.tail, r.tail_error, 100)} %" in page
    first = texts(next(iter(pages.values())))
    assert metrics.with_error(r.s68, r.s68_error) in first
    assert "s68 mean" in first


def test_axes_carry_units(pages: dict[str, Figure]) -> None:
    page = texts(pages["Resolution of u"])
    for label in (
        r"true $\theta$ [deg]",
        "true $E$ [MeV]",
        "true $w$ [cm]",
        "predicted $u$ [cm]",
        "s68, bias [mm]",
    ):
        assert label in page
    assert r"$\sigma_E / E$ (s68) [%]" in texts(pages["Energy resolution and opening angle"])


def test_the_histogram_and_its_gaussian_describe_the_sample(
    pages: dict[str, Figure], tables: dict[str, Columns]
) -> None:
    core = pages["Resolution of u"].axes[0]
    residual = 10 * (tables["net"]["pred_u"] - tables["net"]["true_u"])
    ((counts, edges, _),) = (p.get_data() for p in core.patches if isinstance(p, StepPatch) and p.get_fill())
    np.testing.assert_array_equal(counts, np.histogram(residual, edges)[0])
    gaussian = next(line for line in core.lines if line.get_label() == "Gaussian of this FWHM")
    x, y = (np.asarray(v, float) for v in gaussian.get_data())
    above = x[y > y.max() / 2]
    fwhm = metrics.evaluate(tables["net"]).figures["u"]["all"].fwhm
    assert np.ptp(above) / 2.3548 == pytest.approx(fwhm, rel=0.05)
    assert y.sum() * (x[1] - x[0]) / (edges[1] - edges[0]) == pytest.approx(800, rel=0.1)


def test_profiles_are_drawn_as_computed(pages: dict[str, Figure], tables: dict[str, Columns]) -> None:
    against_w = next(a for a in pages["Resolution of u"].axes if a.get_xlabel() == "true $w$ [cm]")
    expected = metrics.profile(tables["net"], "u", "w")
    assert expected is not None
    points = next(c for c in against_w.containers if c.get_label() == "s68")
    np.testing.assert_allclose(points[0].get_data(), [expected.centre, expected.s68])


def test_opening_angle_marks_its_68_percent(pages: dict[str, Figure], tables: dict[str, Columns]) -> None:
    q68 = metrics.evaluate(tables["net"]).opening["all"].q68
    page = pages["Energy resolution and opening angle"]
    assert f"net: 68 % below {q68:.3g} deg" in texts(page)
    lines = [np.asarray(line.get_xdata(), float) for line in page.axes[1].lines]
    assert any(np.allclose(x, q68) for x in lines)


# ------------------------------------------------------------------------------------------------------- pulls

# sigmas that are right, half of what they should be, and twice that: width of the pulls, fractions within 1 and 1.96
PULLS = {"theta": (1.0, 1.0, 0.683, 0.950), "u": (0.5, 2.0, 0.383, 0.673), "w": (2.0, 0.5, 0.954, 0.9999)}


@pytest.fixture(scope="module")
def sure() -> Columns:
    """Predictions with sigmas of known calibration, one without, and a vector with sigmas of its components."""
    table = only(prediction_table(4000, seed=2), *PULLS, "v")
    table |= {f"sigma_{q}": np.full(4000, factor * WIDTHS[q]) for q, (factor, *_) in PULLS.items()}
    rng = np.random.default_rng(3)
    vector = rng.normal(size=(4000, 3))
    sigma = np.tile([0.1, 0.2, 0.3], (4000, 1))
    return table | {"true_emiVec": vector, "pred_emiVec": vector + rng.normal(0, sigma), "sigma_emiVec": sigma}


def test_pulls_have_the_width_and_coverage_that_were_put_in(sure: Columns) -> None:
    found = metrics.evaluate(sure).pulls
    assert sorted(found) == ["emiVec x", "emiVec y", "emiVec z", "theta", "u", "w"]
    expected = PULLS | dict.fromkeys(("emiVec x", "emiVec y", "emiVec z"), PULLS["theta"])
    for output, (_, width, one, two) in expected.items():
        p = found[output]["all"]
        assert p.figures.s68 == pytest.approx(width, abs=5 * p.figures.s68_error)
        # four binomial errors
        assert p.coverage_68 == pytest.approx(one, abs=4 * np.sqrt(one * (1 - one) / 4000))
        assert p.coverage_95 == pytest.approx(two, abs=4 * np.sqrt(two * (1 - two) / 4000))
    deep = found["u"]["w > 10 cm"]
    assert deep.figures.n == (sure["true_w"] >= 10).sum()
    written = metrics.evaluate(sure).as_dict()["pulls"]["u"]["all"]
    assert written["coverage_68"] == found["u"]["all"].coverage_68
    assert written["coverage_68_error"] == pytest.approx(np.sqrt(0.383 * 0.617 / 4000), rel=0.05)


def test_a_sigma_of_nothing_is_left_out(sure: Columns) -> None:
    sigma = np.where(np.arange(4000) < 1000, 0.0, sure["sigma_u"])
    p = metrics.evaluate(sure | {"sigma_u": sigma}).pulls["u"]["all"]
    assert (p.figures.n, p.figures.n_not_finite) == (3000, 1000)
    assert p.coverage_68 == pytest.approx(0.383, abs=0.04)


def test_the_table_and_the_page_show_pulls(sure: Columns) -> None:
    results = metrics.compare({"net": sure, "mean": metrics.constant_table(sure, {"u": 0.0})})
    headers, rows = metrics.summary(results)
    assert headers[6:] == ["pull width", "in 1 sigma [%]", "in 1.96 sigma [%]", "s68 mean"]
    by_name = {row[0]: row for row in rows}
    p = results[0].pulls["u"]["all"]
    width = metrics.with_error(p.figures.s68, p.figures.s68_error)
    assert by_name["u"][6] == width
    assert float(by_name["u"][7].split()[0]) == pytest.approx(38.3, abs=3)
    assert by_name["v"][6:9] == by_name["opening angle"][6:9] == ["-"] * 3
    assert by_name["emiVec z"][2:6] == ["-"] * 4
    assert {len(row) for row in rows} == {len(headers)}
    *_, page = resolution_pages.resolution_figures({"net": sure}, evaluations=results[:1])
    page.draw_without_rendering()
    assert page.get_suptitle() == "Pulls of net and the unit Gaussian"
    panel = next(a for a in page.axes if a.get_xlabel() == "$u$ residual / sigma")
    assert f"width {width}" in panel.get_title(loc="left")
    ((counts, edges, _),) = (patch.get_data() for patch in panel.patches if isinstance(patch, StepPatch))
    pulls = (sure["pred_u"] - sure["true_u"]) / sure["sigma_u"]
    np.testing.assert_array_equal(counts[1:-1], np.histogram(pulls, edges)[0][1:-1])
    assert counts.sum() == 4000  # what lies beyond is in the outermost bins
    (line,) = panel.lines
    x, y = (np.asarray(v, float) for v in line.get_data())
    assert y.sum() * (x[1] - x[0]) / (edges[1] - edges[0]) == pytest.approx(4000, rel=0.01)


@pytest.mark.slow
def test_the_file_is_reproducible_and_whole(tmp_path: Path, tables: dict[str, Columns]) -> None:
    some = {"net": only(tables["net"], "u")}
    written = []
    for name in ("a.pdf", "b.pdf"):
        assert resolution_pages.save_resolution_plots(tmp_path / name, some) == 2
        written.append((tmp_path / name).read_bytes())
        time.sleep(1.1 if name == "a.pdf" else 0)  # dates have seconds
    assert written[0] == written[1]
    assert len(re.findall(rb"/Type /Page\b", written[0])) == 2
    assert b"CreationDate" not in written[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "b.pdf"]
    stream = re.search(rb"stream\r?\n(.*?)\r?\nendstream", written[0], re.DOTALL)
    assert stream is not None
    assert len(zlib.decompress(stream.group(1))) > 100


def test_models_of_any_name_are_drawn(tables: dict[str, Columns]) -> None:
    """Names are no mathematics, need no font, and stand in the legend whatever they begin with."""
    names = ("_$net_{$", "日本\n" + "x" * 200)
    few = dict(zip(names, (only(tables["net"], "u"), tables["mean"]), strict=True))
    pages = [drawable(page) for page in resolution_pages.resolution_figures(few, title="$x_{$ on 日本.root")]
    for page in pages:
        page.draw_without_rendering()
    assert r"Resolution of  _\$net_{\$, 800 events, against truth: \$x_{\$ on \u65e5\u672c.root" in texts(pages[0])
    assert r" _\$net_{\$ (800)" in texts(pages[1])
    assert r"\u65e5\u672c\nxxx" in texts(pages[1])
    assert "x" * 60 not in texts(pages[1])


def test_nothing_is_left_where_nothing_can_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no quantity"):
        resolution_pages.save_resolution_plots(tmp_path / "p.pdf", {"net": {"pred_u": np.ones(3)}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_awkward_samples_are_drawn_without_warnings(tables: dict[str, Columns]) -> None:
    """One energy, few events, values missing, a constant: warnings are errors here."""
    few = {k: v[:12] for k, v in only(tables["net"], "energy", "u").items()}
    few |= {"true_energy": np.full(12, 0.0528), "pred_u": np.where(np.arange(12) < 3, np.nan, 1.0)}
    few["true_u"] = np.ones(12)
    for figure in resolution_pages.resolution_figures({"net": few}):
        figure.draw_without_rendering()
    reco = {"pred_phi": np.linspace(-20, 20, 40), "reco_phi": np.linspace(-19, 20, 40)}
    labels = "".join(texts(f) for f in resolution_pages.resolution_figures({"net": reco}, reference="reco"))
    assert r"reconstructed $\phi$ [deg]" in labels
    one = {"pred_u": np.array([1.0]), "true_u": np.array([1.1])}
    for figure in resolution_pages.resolution_figures({"net": one}):
        figure.draw_without_rendering()
    same = {k: np.repeat(v[:1], 25, axis=0) for k, v in only(tables["net"], "u", "energy").items()}
    for figure in resolution_pages.resolution_figures({"net": same}):
        figure.draw_without_rendering()


@pytest.mark.slow
def test_events_without_an_answer_are_drawn_as_such(tables: dict[str, Columns]) -> None:
    """Some have no prediction at all, one model beside has none of the direction, and the truth of some cannot be."""
    holed = {k: v.copy() for k, v in only(tables["net"], "energy", "theta", "phi").items()}
    for name in ("pred_energy", "pred_theta", "pred_phi"):
        holed[name][:30] = np.nan
    holed["sigma_energy"] = np.where(np.arange(800) < 30, np.nan, 1e-3)
    holed["true_energy"][30:40] = -0.02
    blind = holed | {name: np.full(800, np.nan) for name in ("pred_theta", "pred_phi")}
    pages = list(resolution_pages.resolution_figures({"net": holed, "blind": blind}))
    for figure in pages:
        figure.draw_without_rendering()
    assert "40 events without value" in texts(pages[3])
    assert "left out" in texts(pages[0])
    assert "800 events, all depths" in texts(pages[0])
    (drawn,) = (p.get_data() for p in pages[-1].axes[0].patches if isinstance(p, StepPatch))
    assert drawn[0].sum() == 760
