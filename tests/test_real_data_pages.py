"""Pictures of data without truth: every page is there, with the numbers on it, and the curve where the fit is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.data_tables import FIRST_RUN, data_table
from tests.test_resolution_pages import texts
from xecml.conditions_file import load_conditions
from xecml.evaluation.metrics import with_error
from xecml.evaluation.periods import parse_periods
from xecml.evaluation.real_data import Asked, RealData, measure
from xecml.figures.real_data_pages import real_data_figures, save_real_data_plots


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RealData:
    table = tmp_path_factory.mktemp("conditions") / "conditions.yaml"
    table.write_text(
        "ranges:\n"
        f"  - {{runs: [{FIRST_RUN}, {FIRST_RUN + 2}], dead: [1, 2, 3], gains: {{sipm: 0.99}}}}\n"
        f"  - {{runs: [{FIRST_RUN + 3}, {FIRST_RUN + 9}], dead: [1], gains: {{sipm: 0.98}}}}\n"
    )
    periods = parse_periods("before=430000-430002 430003-430005")
    asked = Asked(edges=(52.83,), periods=periods, conditions=load_conditions(table))
    kept = ("run", "event", "energy", "w", "theta", "phi")
    tables = {
        name: {
            k: v
            for k, v in data_table(2500, seed=seed, drift=-0.003).items()
            if k.partition("_")[2] in kept or k in kept
        }
        for name, seed in (("net_1.pth", 1), ("$other", 1))
    }
    return measure(tables, asked, "reco")


@pytest.fixture(scope="module")
def pages(data: RealData) -> dict[str, Figure]:
    return {f.get_suptitle().split(":")[0]: f for f in real_data_figures(data, title="my $file.root")}


def test_every_page_is_there(pages: dict[str, Figure]) -> None:
    assert list(pages) == [
        "Predicted against reconstructed, net_1.pth",
        "Residuals by run",
        "Residuals by time, in the order of data-taking",
        "Drift and conditions by run",
        "Median residuals on the inner face",
        "Residuals by depth",
        "Residuals by period, net_1.pth",
        "Spectra",
        "Spectrum, edge at 52.83 MeV",
        "Spectrum by period, edge at 52.83 MeV",
    ]
    assert all(figure.get_suptitle().endswith(r"my \$file.root") for figure in pages.values())


def test_axes_and_numbers(pages: dict[str, Figure], data: RealData) -> None:
    run = texts(pages["Residuals by run"])
    t = data.by_run["energy_relative"]["net_1.pth"]
    assert f"chi2 / dof {t.chi2:.1f} / 5" in run
    assert "$w$: median [mm]" in run
    assert "run" in run.split("\n")
    assert "reconstructed $E$ [MeV]" in texts(pages["Predicted against reconstructed, net_1.pth"])
    one = data.spectra[0].whole
    page = texts(pages["Spectrum, edge at 52.83 MeV"])
    assert f"edge {with_error(float(one.energy), float(one.energy_error))} MeV" in page
    assert "reconstruction" in page
    period = data.by_period["w"]["net_1.pth"]["before"]
    assert with_error(period.s68, period.s68_error) in texts(pages["Residuals by period, net_1.pth"])


def test_points_are_where_the_numbers_say(pages: dict[str, Figure], data: RealData) -> None:
    axes = next(a for a in pages["Residuals by run"].axes if a.get_ylabel() == "$w$: s68 [mm]")
    first = next(c for c in axes.containers if c.get_label() == "net_1.pth")
    np.testing.assert_array_equal(first[0].get_ydata(), data.by_run["w"]["net_1.pth"].s68)
    np.testing.assert_allclose(first[0].get_xdata(), np.arange(FIRST_RUN, FIRST_RUN + 6), atol=0.1)


def test_conditions_stand_below_the_residuals(pages: dict[str, Figure]) -> None:
    by_label = {a.get_ylabel(): a for a in pages["Drift and conditions by run"].axes}
    assert list(by_label) == ["$E$: median [%]", "$w$: median [mm]", "dead sensors", "gain"]
    np.testing.assert_array_equal(by_label["dead sensors"].lines[0].get_ydata(), [3, 3, 3, 1, 1, 1])
    gains = {line.get_label(): line.get_ydata() for line in by_label["gain"].lines}
    np.testing.assert_allclose(gains["SiPMs"], [0.99] * 3 + [0.98] * 3, rtol=1e-6)
    np.testing.assert_allclose(gains["PMTs"], 1.0)


def test_the_curve_lies_on_the_spectrum(pages: dict[str, Figure], data: RealData) -> None:
    axes = pages["Spectrum, edge at 52.83 MeV"].axes[0]
    curve = next(line for line in axes.lines if line.get_label() == "fit")
    x, y = (np.asarray(v, float) for v in curve.get_data())
    step = x[1] - x[0]
    counts = np.histogram(data.spectra[0].energies, np.append(x - step / 2, x[-1] + step / 2))[0]
    assert ((counts - y) ** 2 / np.maximum(y, 5)).mean() < 1.6


def test_they_are_saved_as_one_file(tmp_path: Path) -> None:
    table = {k: v for k, v in data_table(150, seed=2).items() if k in ("run", "event", "pred_u", "reco_u")}
    pages = save_real_data_plots(tmp_path / "few.pdf", measure({"net": table}, Asked(), "reco"), title="few")
    assert pages == 4
    assert (tmp_path / "few.pdf").read_bytes().startswith(b"%PDF")
