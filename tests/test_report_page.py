"""The report: one file that asks for nothing, in which every number, picture and table is there, for everyone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from tests import untrained
from tests.browser import Browser, browser
from tests.conftest import point_sources
from tests.test_metrics import WIDTHS, prediction_table
from xecml import rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.evaluation.metrics import evaluate, with_error
from xecml.evaluation.selection_efficiency import selections
from xecml.evaluation.tables import QUANTITIES, read_table
from xecml.figures.report_pages import draw_curves, draw_selections
from xecml.reports import model_evaluation
from xecml.reports.model_evaluation import evaluate_files
from xecml.reports.page.run_folder import read_epochs
from xecml.reports.page.shown_events import find_light, worst_rows
from xecml.reports.page.sources import report_on
from xecml.reports.page.vector_graphics import vector_picture

Columns = dict[str, np.ndarray]
EVENTS = 800


def said_table() -> Columns:
    """Predictions with widths, outlier values, sensors and another reconstruction."""
    rng = np.random.default_rng(3)
    table = prediction_table(EVENTS, seed=5)
    for name, width in WIDTHS.items():
        sigma = width * rng.uniform(0.5, 1.5, EVENTS)
        table |= {f"sigma_{name}": sigma, f"pred_{name}": table[f"true_{name}"] + sigma * rng.normal(size=EVENTS)}
    table |= {f"reco_{c}": table[f"true_{c}"] + rng.normal(0, 0.5, EVENTS) for c in "uvw"}
    table |= {"outlier": rng.exponential(0.3, EVENTS), "n_dead": rng.integers(0, 60, EVENTS)}
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in table.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prediction files, the first of a name that tries to be more than a name, and the page of both."""
    place = tmp_path_factory.mktemp("report")
    table = said_table()
    worse = table | {"pred_u": table["pred_u"] + np.random.default_rng(4).normal(0, 0.3, EVENTS).astype(np.float32)}
    rootio.write(place / "<img src=x onerror=alert(1)>.root", table, tree="predictions")
    rootio.write(place / "worse.root", worse, tree="predictions")
    report_on([place / "<img src=x onerror=alert(1)>.root", place / "worse.root"], place / "r.html")
    return place


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained.regression(tmp_path_factory.mktemp("model") / "c.pth", "model.preset=tiny", events=400)


@pytest.fixture(scope="module")
def evaluation(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an evaluation of a model on points of light."""
    place = tmp_path_factory.mktemp("evaluation")
    rootio.write(place / "points.root", point_sources(150, seed=31, dead=0.02))
    with pytest.MonkeyPatch.context() as patch:
        # pages of sensors, which are looked at elsewhere
        patch.setattr(model_evaluation, "save_what_decides", lambda *_, **__: 0)
        evaluate_files(model, [place / "points.root"], place / "out", saliency_events=24)
    return place / "out"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.size(1280, 900)
        yield opened


def names_of_sections(text: str) -> list[str]:
    return re.findall(r'<h2 id="(\w+)">', text)


# ----------------------------------------------------------------------------------------------------- content


def test_the_page_says_the_numbers(folder: Path) -> None:
    text = (folder / "r.html").read_text(encoding="utf-8")
    wanted = ["summary", "comparison", "model", "pages", "energy", "slices", "selections", "missing"]
    assert names_of_sections(text) == wanted
    table = read_table(folder / "worse.root")
    r = evaluate(table).figures["u"]["all"]
    cell = with_error(r.s68, r.s68_error)
    assert text.count(f"<td>{cell}</td>") >= 1
    assert re.search(r"u, s68: .*root is better than worse\.root by .* standard errors", text)
    assert "conventional reconstruction" in text
    assert "pull width" in text
    assert "<svg" in text
    assert len(text) < 10e6


def test_the_page_asks_for_nothing_and_names_are_no_more_than_names(folder: Path) -> None:
    text = (folder / "r.html").read_text(encoding="utf-8")
    assert "made by 'xec report'" in text[:1000]
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    plain = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|fetch\(|XMLHttpRequest|import\(""", plain)
    assert set(re.findall(r"url\(([^)]{1,2})", plain)) <= {"#p"}


def test_inner_names_of_pictures_differ_and_black_is_the_ink_of_the_page() -> None:
    pictures = []
    for number in (1, 2):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "o", color="#0072B2")
        axes.plot([0, 1], [1, 0], color="#D55E00")
        axes.grid(color="0.9")
        axes.set_title("a < b & c")
        figure.suptitle("of <both>")
        pictures.append(vector_picture(figure, number))
    ids = [re.findall(r'\bid="([^"]+)"', p.body) for p in pictures]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    one = pictures[0].body
    assert pictures[0].caption == "of <both>"
    assert 'aria-label="of &lt;both&gt;"' in one
    assert "a &lt; b &amp; c" in one
    assert "var(--first)" in one
    assert "#d55e00" in one
    assert {"var(--ink)", "var(--grid)"} <= set(re.findall(r"var\(--\w+\)", one))
    assert not re.search(r"#([0-9a-f]{2})\1\1\b|<style|<metadata", one)
    used = set(re.findall(r'(?:xlink:href="|url\()#([\w-]+)', one))
    assert used <= set(ids[0])


def test_curves_need_two_epochs(tmp_path: Path) -> None:
    rows = [
        {"epoch": i, "train/loss": 2.0 / i, "val/loss": 3.0 / i, "val/u_s68_mm": 4.0, "train/lr": 1e-3} for i in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + '\n{"epoch": 3, "tr')
    found = read_epochs(tmp_path)
    assert found == rows
    figure = draw_curves(found)
    assert figure is not None
    drawn = {line.get_label(): list(np.asarray(line.get_ydata())) for axes in figure.axes for line in axes.lines}
    assert drawn == {"train/loss": [2, 1], "val/loss": [3, 1.5], "val/u_s68_mm": [1, 1], "train/lr": [1e-3, 1e-3]}
    assert draw_curves(found[:1]) is None
    assert read_epochs(tmp_path / "none") == []


def test_the_legend_has_what_only_one_kind_of_cut_has() -> None:
    table = said_table()
    curves = selections(table, evaluate(table).figures)
    drawn = {QUANTITIES[curve.quantity].label for curve in curves}
    only = drawn - {QUANTITIES[curve.quantity].label for curve in curves if curve.by == "sigma"}
    assert only
    figure = draw_selections(curves)
    assert {text.get_text() for text in figure.legends[0].get_texts()} == drawn


def test_the_worst_events_are_found_again_in_their_files(tmp_path: Path) -> None:
    table = prediction_table(300, seed=8)
    table["pred_v"][[40, 7]] += 30.0, 90.0
    table["pred_u"][55] = np.nan  # not answered is not wrong
    assert [row for row, *_ in worst_rows(table, most=2)] == [7, 40]
    assert "v 30.0" in worst_rows(table, most=1)[0][2]
    events = point_sources(20, seed=3)
    for i, rows in enumerate((slice(0, 12), slice(12, 20))):
        rootio.write(tmp_path / f"{i}.root", {k: v[rows] for k, v in events.items()})
        bare = {k: events[k][rows] for k in ("npho", "time")}
        rootio.write(tmp_path / "bare" / f"{i}.root", bare)
    known = {"run": events["run"], "event": events["event"]}
    light = find_light(known, [15, 2], [str(tmp_path)], ("npho", "time"))
    assert set(light) == {15, 2}
    np.testing.assert_array_equal(light[15][0], events["npho"][15])
    np.testing.assert_array_equal(light[2][1], events["time"][2])
    numbered = {"run": np.zeros(20, np.int32), "event": np.arange(20, dtype=np.int32)}
    light = find_light(numbered, [15], [str(tmp_path / "bare")], ("npho", "time"))
    np.testing.assert_array_equal(light[15][0], events["npho"][15])
    assert find_light({"run": known["run"] + 1, "event": known["event"]}, [0], [str(tmp_path)], ("npho", "time")) == {}


# -------------------------------------------------------------------------------------------------- evaluations


@pytest.mark.slow
def test_an_evaluation_has_its_page_and_its_folder_makes_it_again(evaluation: Path, tmp_path: Path) -> None:
    text = (evaluation / "report.html").read_text(encoding="utf-8")
    found = names_of_sections(text)
    assert {"summary", "model", "pages", "slices", "saliency", "events"} <= set(found)
    assert text.count('<img src="data:image/png') >= 3  # events, and maps within pages
    assert "Recipe of its training" in text
    section = text[text.index('<h2 id="saliency">') : text.index('<h2 id="events">')]
    assert section.count("<svg") == 5  # losses, regions; shares and sums of faces, about the hot spot
    assert "when they are another event&#39;s about the same hot spot" in section
    assert "How far answers move (s68) when a region is another event&#39;s" in section
    assert "made by 'xec evaluate'" in text[:1000]
    table = read_table(evaluation / "predictions.root")
    assert {"n_dead", "total_npho"} <= table.keys()
    assert json.loads((evaluation / "evaluation.json").read_text())["inputs"]["tree"] == "tree"
    result = CliRunner().invoke(app, ["report", str(evaluation), "--out", str(tmp_path / "again.html")])
    assert result.exit_code == 0, result.output
    assert "open it in a browser" in result.output
    # once more over its own page
    result = CliRunner().invoke(app, ["report", str(evaluation), "--out", str(tmp_path / "again.html")])
    assert result.exit_code == 0, result.output
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert set(names_of_sections(again)) >= {"summary", "model", "pages", "saliency", "events"}
    assert re.findall(r"<dd>([0-9a-f]{64})</dd>", again) == re.findall(r"<dd>([0-9a-f]{64})</dd>", text)


@pytest.mark.slow
def test_a_page_is_made_without_what_is_gone(evaluation: Path, tmp_path: Path) -> None:
    for name in ("predictions.root", "evaluation.json"):
        (tmp_path / name).write_bytes((evaluation / name).read_bytes())
    said = json.loads((tmp_path / "evaluation.json").read_text())
    said["inputs"] |= {"model": str(tmp_path / "gone.pth"), "files": [str(tmp_path / "gone.root")]}
    (tmp_path / "evaluation.json").write_text(json.dumps(said))
    material = report_on([tmp_path], tmp_path / "r.html")
    assert len(material.missing) == 2
    assert all("No such" in line for line in material.missing)
    assert "What is not here" in (tmp_path / "r.html").read_text()
    (tmp_path / "evaluation.json").write_text("no JSON")
    assert "does not say which model made it" in report_on([tmp_path], tmp_path / "r.html").missing[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{f}/worse.root", "--out", "{t}/r.pdf"], r"ends in \.html"),
        (["{t}", "--out", "{t}/r.html"], "has no predictions: neither predictions.root"),
        (["{f}/worse.root", "{f}/worse.root", "--out", "{t}/r.html"], "named twice"),
        (["{f}/worse.root", "{t}/few.root", "--out", "{t}/r.html"], r"lacks 3 events of 'worse\.root' \(run 3 event 0"),
        (["{f}/worse.root", "--out", "{t}/r.html", "--reference", "reco", "--force"], None),
        (["{t}/bare.root", "--out", "{t}/r.html"], "bare.root has no quantity with both pred_ and true_ columns"),
        (["{t}/bare.root", "--out", "{t}/theirs.html"], "was not made by 'xec report'"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(
    folder: Path, words: list[str], message: str | None, tmp_path: Path
) -> None:
    table = read_table(folder / "worse.root")
    rootio.write(tmp_path / "few.root", {k: v[3:] for k, v in table.items()}, tree="predictions")
    rootio.write(tmp_path / "bare.root", {"run": table["run"], "pred_u": table["pred_u"]}, tree="predictions")
    (tmp_path / "theirs.html").write_text("<html>")
    result = CliRunner().invoke(app, ["report", *(word.format(f=folder, t=tmp_path) for word in words)])
    if message is None:
        assert result.exit_code == 0, result.output
        return
    assert isinstance(result.exception, InputError), result.output
    assert re.search(message, str(result.exception))
    assert not list(tmp_path.glob("r.*"))


def test_a_training_that_rebuilds_has_its_page(tmp_path: Path) -> None:
    untrained.rebuilding(tmp_path / "checkpoint_best.pth", "mae", "model.preset=tiny")
    rows = [{"epoch": i, "train/loss": 2.0 / i, "val/mae_npho": 0.5 / i} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "r.html")])
    assert result.exit_code == 0, result.output
    assert "Not in the page: Rebuilt events: none were kept" in result.output
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert names_of_sections(text) == ["summary", "model", "training", "missing"]
    assert '<th scope="row">mae_npho</th><td>0.25</td>' in text
    assert "preset: tiny" in text


# ------------------------------------------------------------------------------------------------------ browser


@pytest.mark.parametrize("which", ["predictions", "evaluation"])
def test_every_picture_is_there_and_nothing_is_said_or_asked(
    chromium: Browser, folder: Path, evaluation: Path, which: str
) -> None:
    chromium.open(folder / "r.html" if which == "predictions" else evaluation / "report.html")
    assert chromium.run("document.querySelectorAll('figure').length") >= 8
    assert chromium.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert chromium.run(
        "[...document.querySelectorAll('figure svg')].every((s) => s.getBBox().width > 100 && s.ariaLabel.length > 5)"
    )
    assert chromium.run("[...document.images].every((i) => i.alt.length > 5)")
    hrefs = "[...document.querySelectorAll('nav a')].every((a) => document.getElementById(a.hash.slice(1)))"
    assert chromium.run(hrefs)
    ids = chromium.run("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert chromium.run("1 + 1") == 2  # what was said until now has arrived
    assert chromium.said == []
    assert [url for url in chromium.asked if not url.startswith("data:")] == []  # what lies in the page itself


def test_tables_are_for_keyboards_and_readers_of_screens(chromium: Browser, folder: Path) -> None:
    chromium.open(folder / "r.html")
    assert chromium.run("document.querySelectorAll('table').length") >= 5
    assert chromium.run(
        "[...document.querySelectorAll('table')].every((t) => t.caption && t.caption.textContent.trim())"
    )
    assert chromium.run("[...document.querySelectorAll('thead th')].every((h) => h.scope === 'col')")
    assert chromium.run("[...document.querySelectorAll('tbody tr')].every((r) => r.cells[0].scope === 'row')")
    lengths = chromium.run("[...document.querySelectorAll('table')].map((t) => [...t.rows].map((r) => r.cells.length))")
    assert all(len(set(cells)) == 1 for cells in lengths)
    assert chromium.run("[...document.querySelectorAll('.scroll')].every((s) => s.tabIndex === 0 && s.ariaLabel)")
    levels = chromium.run("[...document.querySelectorAll('h1, h2')].map((h) => h.tagName).join()")
    assert re.fullmatch(r"H1(,H2)+", levels)
    chromium.key("Tab", code="Tab", windowsVirtualKeyCode=9)
    assert chromium.run("document.activeElement.className") == "skip"


def test_light_dark_narrow_and_print(chromium: Browser, folder: Path) -> None:
    def ground() -> str:
        return str(chromium.run("getComputedStyle(document.body).backgroundColor"))

    def ink() -> str:
        return str(chromium.run("getComputedStyle(document.querySelector('figure svg text')).fill"))

    chromium.dark(on=False)
    chromium.open(folder / "r.html")
    light = ground(), ink()
    assert light == ("rgb(255, 255, 255)", "rgb(22, 25, 29)")
    chromium.dark(on=True)
    chromium.until("getComputedStyle(document.body).backgroundColor !== 'rgb(255, 255, 255)'")
    dark = ground(), ink()
    assert dark == ("rgb(20, 23, 27)", "rgb(236, 239, 243)")
    chromium.run("document.getElementById('theme').click()")
    assert (ground(), ink()) == light
    chromium.run("document.getElementById('theme').click()")
    chromium.dark(on=False)
    assert (ground(), ink()) == dark
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert (ground(), chromium.run("getComputedStyle(document.querySelector('nav')).display")) == (light[0], "none")
    chromium.call("Emulation.setEmulatedMedia", media="")
    try:
        chromium.size(360, 740, 2)
        chromium.until("document.documentElement.clientWidth === 360")
        assert chromium.run("document.documentElement.scrollWidth") == 360
        # a page of nine parts stays legible, and moves within its frame
        assert chromium.run("document.querySelector('figure svg').getBoundingClientRect().width") > 800
    finally:
        chromium.size(1280, 900)
