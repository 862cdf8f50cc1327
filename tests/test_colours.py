"""Colours of figures and pages: told apart in grey print and with a colour vision deficiency, texts with contrast."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

import xecml
from tests.colour_vision import DEFICIENCIES, contrast, distances, lab, linear, rgb, seen
from xecml.figures.interactive.page_files import detector
from xecml.figures.style import COLOURS, DIVERGING, LINES, MAP, MARKS, ink
from xecml.figures.unfolded_detector import COUNTS_MAP, TIMES_MAP
from xecml.tuning.report import _STYLE as TUNING

SOURCE = Path(xecml.__file__).parent
FAR = 15.0
"""Distance in CIELAB of colours that are told apart as lines and marks: six times what is just noticed of areas."""
READABLE, VISIBLE = 4.5, 3.0
"""Contrast of text and of marks, as the Web Content Accessibility Guidelines 2.2 ask (1.4.3 and 1.4.11, AA)."""


# ------------------------------------------------------------------------------------------------ how colours look


def test_distances_are_those_of_cielab() -> None:
    np.testing.assert_allclose(lab(rgb(["w", "k"])), [[100, 0, 0], [0, 0, 0]], atol=0.01)
    # sRGB red, of published tables
    np.testing.assert_allclose(lab(rgb(["#ff0000"]))[0], [53.24, 80.09, 67.20], atol=0.02)
    assert distances(rgb(["w", "k"]))["none"][0, 1] == pytest.approx(100, abs=0.01)


def test_deficiencies_are_those_of_the_eye() -> None:
    for name, matrix in DEFICIENCIES.items():
        # grey stays grey, and what is seen of what is seen is the same
        np.testing.assert_allclose(matrix.sum(1), 1, atol=2e-6)
        np.testing.assert_allclose(seen(rgb(["0.5"]), name), rgb(["0.5"]), atol=1e-5)
    red_and_green = {name: d[0, 1] for name, d in distances(rgb(["#c00000", "#507000"])).items()}
    assert red_and_green["none"] > 70
    assert red_and_green["deuteranopia"] < 25
    blue_and_green = {name: d[0, 1] for name, d in distances(rgb(["#0090c0", "#00a080"])).items()}
    assert blue_and_green["tritanopia"] < 0.4 * blue_and_green["none"]


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("w", "k") == pytest.approx(21)
    assert contrast("#767676", "w") == pytest.approx(4.54, abs=0.005)
    assert contrast("k", "w") == contrast("w", "k")


# --------------------------------------------------------------------------------------------------------- palette


def nearest(colours: list[str]) -> dict[str, float]:
    """Distance of the two nearest colours, without and with each deficiency."""
    return {name: float(d[np.triu_indices(len(colours), 1)].min()) for name, d in distances(rgb(colours)).items()}


def test_colours_of_the_palette_are_told_apart_by_everyone() -> None:
    assert min(nearest(list(COLOURS)).values()) >= FAR
    # the same with a palette that fails: red and green of equal lightness
    assert nearest(["#c00000", "#507000"])["deuteranopia"] < FAR + 10 < nearest(["#c00000", "#507000"])["none"]


def test_in_grey_there_is_a_line_and_a_mark_for_each_colour() -> None:
    lightness = np.sort(lab(rgb(COLOURS))[:, 0])
    assert np.diff(lightness).min() < 5, "if colours differ in grey, dashes and marks are for the eye alone"
    for cues in (LINES, MARKS):
        assert len(set(map(str, cues))) == len(cues) >= len(COLOURS)


def test_the_palette_as_text_can_be_read() -> None:
    assert min(contrast(ink(colour), "w") for colour in COLOURS) >= READABLE
    # and is still told apart from its neighbours
    assert min(nearest([mpl.colors.to_hex(ink(colour)) for colour in COLOURS]).values()) > FAR / 2


@pytest.mark.parametrize("name", [MAP, COUNTS_MAP, TIMES_MAP, "plasma_r"])
def test_maps_of_sizes_grow_lighter_or_darker_all_the_way(name: str) -> None:
    colours = rgb(mpl.colormaps[name](np.arange(256) / 255)[:, :3].tolist())
    for kind in ("none", *DEFICIENCIES):
        lightness = lab(colours if kind == "none" else seen(colours, kind))[:, 0]
        steps = np.diff(lightness)
        assert (steps > 0).all() or (steps < 0).all()
        assert np.ptp(lightness) > 65
    assert not (np.diff(lab(rgb(mpl.colormaps["jet"](np.arange(256) / 255)[:, :3].tolist()))[:, 0]) > 0).all()


@pytest.mark.parametrize(("name", "grey"), [(DIVERGING, 20.0), ("berlin", 5.0)])
def test_maps_of_differences_have_two_ends_and_a_middle(name: str, grey: float) -> None:
    """`berlin`, black in the middle, is for dark screens alone, which have colours."""
    colours = rgb(mpl.colormaps[name](np.arange(256) / 255)[:, :3].tolist())
    lightness = lab(colours)[:, 0]
    for half in (lightness[:128], lightness[:127:-1]):
        steps = np.diff(half)
        # to a hundredth of the range, of numbers that come from tables
        assert (steps > -0.7).all() or (steps < 0.7).all()
        assert abs(half[-1] - half[0]) > 60
    assert min(nearest([mpl.colors.to_hex(c) for c in colours[[0, 255]]]).values()) > 2 * FAR
    assert min(nearest([mpl.colors.to_hex(c) for c in colours[[48, 207]]]).values()) > 2 * FAR
    assert abs(lightness[0] - lightness[-1]) > grey
    assert detector()["colours"]["differences"][0] == mpl.colors.to_hex(mpl.colormaps[DIVERGING](0.0))


# --------------------------------------------------------------------------------------------------- pages for browsers


def looks(path: str) -> dict[str, dict[str, str]]:
    """Colours of a style sheet by name, in light, dark and print as far as it has them."""
    text = (SOURCE / path).read_text(encoding="utf-8")
    found = {}
    for selector, body in re.findall(r"([^{}]*)\{([^{}]*)\}", text):
        if colours := dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})\b", body)):
            found[re.sub(r"\s+", " ", selector.rpartition("*/")[2]).strip()] = colours
    return found


REPORT, EVENTS = looks("reports/page/report.css"), looks("figures/interactive/event_page.css")


def test_pages_have_a_light_and_a_dark_look() -> None:
    for page, ground in ((REPORT, "paper"), (EVENTS, "ground")):
        lights = sorted(float(linear(rgb([look[ground]])).mean()) for look in page.values())
        assert lights[0] < 0.05
        assert lights[-1] == 1
        names = [set(look) for look in page.values()]
        assert all(one == names[0] for one in names), "a colour that one look lacks is that of another"


@pytest.mark.parametrize("look", list(REPORT))
def test_texts_of_the_report_can_be_read(look: str) -> None:
    colours = REPORT[look]
    for text, ground in itertools.product(("ink", "faint", "accent", "warn"), ("paper", "panel", "warn-panel")):
        assert contrast(colours[text], colours[ground]) >= READABLE, (text, ground)
    assert contrast(colours["first"], colours["paper"]) >= VISIBLE
    # series of its figures keep their colours on dark paper, but for the first
    if contrast(colours["paper"], "k") < 2:
        assert min(contrast(c, colours["paper"]) for c in COLOURS[1:]) >= VISIBLE
    assert min(nearest([colours["first"], *COLOURS[1:]]).values()) >= FAR


@pytest.mark.parametrize("look", list(EVENTS))
def test_texts_and_marks_of_the_page_of_events_can_be_seen(look: str) -> None:
    colours = EVENTS[look]
    for text, ground in itertools.product(("text", "faint", "accent"), ("ground", "panel", "canvas")):
        assert contrast(colours[text], colours[ground]) >= READABLE, (text, ground)
    marks = [colours[name] for name in ("true", "model", "conventional", "filled")]
    assert min(contrast(mark, colours["canvas"]) for mark in marks) >= VISIBLE
    assert min(nearest(marks).values()) >= FAR
    assert contrast(colours["unread"], colours["canvas"]) >= VISIBLE


def test_texts_of_the_page_of_a_search_can_be_read() -> None:
    texts = re.findall(r"[^-]color: (#\w+)", TUNING)
    grounds = re.findall(r"background: (#\w+)", TUNING)
    assert len(texts) >= 2
    assert len(grounds) >= 3
    assert min(contrast(text, ground) for text in texts for ground in grounds) >= READABLE
