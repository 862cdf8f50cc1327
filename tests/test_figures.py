"""Figures look as they did, nothing that they have written is cut off or covered, and none is without a test."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from tests.colour_vision import contrast
from tests.legend_entries import alike, legends
from tests.sample_figures import CASES, FIGURES, figure
from tests.written_texts import Written, overlapping, written, wrong_places
from xecml import figures
from xecml.figures.style import COLOURS, DIVERGING, MAP, STYLE, page
from xecml.figures.unfolded_detector import COUNTS_MAP, TIMES_MAP

BASELINE = Path(__file__).parent / "baseline"
PIXELS = 440
"""Longer side of an image."""
TOLERANCE = 1.0
"""Root mean square of the differences of pixels, of 255. With numpy's vector instructions switched off, as on another
processor, images stay as they are to the last pixel; this leaves room for the edges of letters. A legend that is gone
gives 1.4 to 14, the label of an axis 1.9 to 9, one of 600 events that is moved 1.1 to 6."""
VERSIONS = dict(
    line.split("==")
    for line in (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line and not line.startswith("#")
)
MADE_WITH = VERSIONS["matplotlib"].rpartition(".")[0]
FAR, LIGHTER, READABLE = 15.0, 15.0, 4.5
"""Distance of colours in CIELAB and difference of lightness that tell entries of a legend apart; contrast of texts."""
SAME_LETTERS = mpl.__version__.rpartition(".")[0] == MADE_WITH

HELPERS = {"xecml.figures.style.page", "xecml.figures.style.drawable", "xecml.figures.style.laid_out",
           "xecml.figures.spectrum_pages.spectrum_figures",
           "xecml.figures.summary_page.summary_page", "xecml.figures.what_decides.summary_figures"}  # fmt: skip
"""Give figures and are no pictures of their own: what is drawn on them, or whoever calls them, is tested."""


_MARKS = {"geometry_inner_face": [pytest.mark.slow]}  # 4092 texts
every_case = pytest.mark.parametrize("case", [pytest.param(case, marks=_MARKS.get(case, [])) for case in CASES])


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


@cache
def texts_of(case: str) -> list[Written]:
    return written(figure(case))


@pytest.mark.skipif(not SAME_LETTERS, reason=f"images are of matplotlib {MADE_WITH}; another draws letters otherwise")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            marks=[
                *_MARKS.get(case, []),
                pytest.mark.mpl_image_compare(
                    baseline_dir="baseline", filename=f"{case}.png", tolerance=TOLERANCE, style=STYLE
                ),
            ],
        )
        for case in CASES
    ],
)
def test_it_looks_as_before(case: str) -> Figure:
    drawn = figure(case)
    # the settings of a test hold until its figure is written
    mpl.rcParams["savefig.dpi"] = PIXELS / max(drawn.get_size_inches())
    return drawn


@every_case
def test_nothing_written_is_cut_off_or_covered(case: str) -> None:
    assert wrong_places(figure(case), texts_of(case)) == []


@every_case
def test_colours_are_told_apart_by_everyone_and_in_grey(case: str) -> None:
    drawn = figure(case)
    for entries in legends(drawn):
        assert entries
        assert alike(entries, FAR, LIGHTER) == []
    known = {MAP, COUNTS_MAP, TIMES_MAP, f"{TIMES_MAP}_r", DIVERGING}
    coloured = drawn.findobj(lambda artist: isinstance(artist, ScalarMappable) and artist.get_array() is not None)
    assert {artist.get_cmap().name for artist in coloured} <= known  # type: ignore[attr-defined]


@every_case
def test_texts_have_contrast(case: str) -> None:
    """With the paper; white ones are written on dark areas, which choose it."""
    texts = [text for text in texts_of(case) if not (text.inside and text.colour[:3] == (1, 1, 1))]
    assert texts
    assert {text.text for text in texts if contrast(text.colour[:3], "w") < READABLE} == set()


def test_each_image_is_of_a_figure_and_small() -> None:
    images = {path.stem: path.stat().st_size for path in BASELINE.glob("*")}
    assert set(images) == set(CASES), "make them anew: see CONTRIBUTING.md"
    assert sum(images.values()) < 2.2e6


# ----------------------------------------------------------------------------------------------- none is forgotten


def _functions() -> dict[str, Callable[..., Any]]:
    """All public functions of the room that give figures, by name."""
    found = {}
    for module in pkgutil.walk_packages(figures.__path__, "xecml.figures."):
        content = importlib.import_module(module.name)
        for name, function in inspect.getmembers(content, inspect.isfunction):
            gives = str(function.__annotations__.get("return", ""))
            if function.__module__ == module.name and not name.startswith("_") and "Figure" in gives:
                found[f"{module.name}.{name}"] = function
    return found


def test_every_figure_has_an_image() -> None:
    tested = {f"{drawn.by.__module__}.{drawn.by.__name__}" for drawn in FIGURES.values()}
    lacking = set(_functions()) - tested - HELPERS
    assert not lacking, f"add an entry of FIGURES in tests/sample_figures.py, and an image, for {sorted(lacking)}"


# ------------------------------------------------------------------------------------- the tests themselves can fail


def test_entries_of_a_legend_that_look_alike_are_found() -> None:
    axes = _small().subplots()
    axes.plot([0, 1], color=COLOURS[0], label="one")
    axes.plot([1, 0], color=COLOURS[2], label="other")
    axes.plot([1, 1], color=COLOURS[2], ls="--", label="dashed")
    axes.errorbar([0], [0], [1], fmt="o", color=COLOURS[3], label="mark")
    axes.errorbar([0], [0], [1], fmt="o", color=COLOURS[3], mfc="w", label="open")
    axes.stairs([1, 2], color=COLOURS[1], label="steps")
    axes.stairs([1, 2], color=COLOURS[4], fill=True, label="area")
    axes.legend()
    (entries,) = legends(axes.get_figure(root=True))
    assert [entry.text for entry in entries] == ["one", "other", "dashed", "steps", "area", "mark", "open"]
    lines = ("'one' and 'other'", "'one' and 'steps'", "'other' and 'steps'")
    assert alike(entries, FAR, LIGHTER) == [f"{pair} (grey)" for pair in lines]
    assert "'one' and 'one' (protanopia)" in alike([entries[0], entries[0]], FAR, LIGHTER)


def _small() -> Figure:
    drawn = Figure(figsize=(3, 2), dpi=100, layout="none")
    drawn.subplots_adjust(0.2, 0.2, 0.8, 0.8)
    return drawn


def test_texts_over_one_another_are_found() -> None:
    drawn = _small()
    axes = drawn.subplots()
    axes.set_xticks([0.4, 0.45], ["first of them", "second of them"])
    assert overlapping(written(drawn)) == ["'first of them' over 'second of them'"]
    axes.set_xticks([0.0, 1.0], ["first", "second"])
    assert wrong_places(drawn) == []
    # boxes of slanted texts, too, are their own
    for where in (0.4, 0.55):
        axes.text(where, 0.5, "a long slanted text", rotation=45, ha="center", va="center", transform=axes.transAxes)
    assert wrong_places(drawn) == []
    axes.texts[1].set_x(0.42)
    assert len(overlapping(written(drawn))) == 1


def test_marks_that_leave_no_room_between_them_are_found() -> None:
    drawn = _small()
    axes = drawn.subplots()
    axes.set_xticks([0.0, 0.096], ["10", "20"])
    axes.set_xlim(0, 1)
    assert overlapping(written(drawn), 0.0) == []
    assert wrong_places(drawn) == ["no room between the marks '10' and '20'"]


def test_texts_out_of_the_figure_are_found() -> None:
    drawn = _small()
    drawn.text(0.9, 0.5, "too long for here")
    assert wrong_places(drawn) == ["'too long for here' leaves the figure"]
    drawn = _small()
    drawn.subplots().set_xlabel("below", labelpad=25)
    assert [text for text in wrong_places(drawn) if "'below' leaves" in text]


def test_texts_under_legends_and_in_other_axes_are_found() -> None:
    drawn = _small()
    axes = drawn.subplots()
    axes.plot([0, 1], label="line")
    axes.text(0.12, 0.94, ".", transform=axes.transAxes, fontsize=30)
    axes.legend(loc="upper left")
    assert any("under a legend" in text for text in wrong_places(drawn))
    drawn = _small()
    left, right = drawn.subplots(1, 2)
    right.set_ylabel("of the right", labelpad=8)
    assert "'of the right' in the area of axes ''" in wrong_places(drawn)
    left.set_visible(False)
    assert wrong_places(drawn) == []


def test_what_is_not_drawn_is_no_text() -> None:
    drawn = page("a sample", "what", 3.0)
    axes = drawn.subplots()
    axes.set_xticks([0.5, 7.0], ["in view", "out of view"])
    axes.set(xlim=(0, 1), yticks=[])
    axes.text(0.5, 0.5, "hidden").set_visible(False)
    assert sorted(text.text for text in written(drawn)) == ["in view", "what: a sample"]
