"""The page of many events: packed without loss that matters, and in a real browser everything does what it says."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.browser import Browser, browser
from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.events import INVALID, relative_quantities, valid_counts, valid_times
from xecml.figures.interactive import packing
from xecml.figures.interactive.event_page import write_event_page
from xecml.figures.interactive.expected_light import by_hiding, light_of_a_point
from xecml.figures.unfolded_detector import places

Columns = dict[str, np.ndarray]
EVENTS = 6


@pytest.fixture(scope="module")
def events() -> Columns:
    """Six events with dead sensors, some of which are filled, and a sensor that was read and saw nothing."""
    columns = point_sources(EVENTS, seed=11, dead=0.02)
    columns["npho"][:, 4500] = -1.0
    filled = np.zeros((EVENTS, geometry.N_SENSORS), bool)
    filled[:, (5, 4200)] = True
    columns["npho"][:, (5, 4200)], columns["time"][:, (5, 4200)] = 55.0, columns["timeTruth"][:, None] + 5e-9
    return columns | {"inpainted": filled}


@pytest.fixture(scope="module")
def page(events: Columns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of these events, whose name tries to be more than a name."""
    folder = tmp_path_factory.mktemp("page")
    rootio.write(folder / "<img src=x onerror=alert(1)>.root", events)
    write_event_page(str(folder / "<img src=x onerror=alert(1)>.root"), folder / "e.html", models=["solid_angle"])
    return folder / "e.html"


def content(page: Path) -> dict[str, Any]:
    found = re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read


def planes(text: str) -> list[np.ndarray]:
    """Flags, then 16-bit numbers, as a page unpacks them."""
    octets = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape(-1, geometry.N_SENSORS)
    words = octets[1::2].astype(np.int64) + 256 * octets[2::2].astype(np.int64)
    return [octets[0], *words]


# --------------------------------------------------------------------------------------------------- packing


def test_counts_and_times_are_packed_without_a_loss_that_matters(events: Columns, page: Path) -> None:
    for i, record in enumerate(content(page)["events"]):
        npho, time = events["npho"][i].astype(float), events["time"][i].astype(float)
        flags, counts, times, *_ = planes(record["data"])
        lit, timed = valid_counts(npho), valid_times(npho, time)
        unpacked = ((counts - 1) * record["count_step"]) ** 2
        np.testing.assert_allclose(unpacked[lit], npho[lit], rtol=0.005)
        assert set(counts[~lit]) == {packing.NOT_READ, packing.DARK}
        assert counts[4500] == packing.DARK
        expected = relative_quantities(npho, time)[1][timed] * 1e9
        np.testing.assert_allclose(record["time_first"] + (times[timed] - 1) * 0.01, expected, atol=0.0051)
        assert not times[~timed].any()
        assert np.flatnonzero(flags).tolist() == [5, 4200]


def test_events_at_the_ends_of_numbers_are_packed() -> None:
    npho, time = np.full(geometry.N_SENSORS, INVALID), np.full(geometry.N_SENSORS, INVALID)
    none = packing.pack_event(npho, time, np.zeros(len(npho), np.uint8), {})
    assert not np.any(planes(none["data"]))
    npho[:9] = (1e-45, 8.9e9, np.inf, -np.inf, np.nan, -1, 0, 3e38, 5)
    time[:9], time[1], time[8] = 0, 8.9e9, -8.9e9
    packed = packing.pack_event(npho, time, np.zeros(len(npho), np.uint8), {"npho": npho, "time": time})
    _, counts, times, *_ = planes(packed["data"])
    assert counts[:9].tolist() == [2, 60001, 0, 0, 0, 1, 1, 0, 2]
    assert np.ptp(times[[1, 8]]) * packed["time_step"] == pytest.approx(1.78e19, rel=1e-3)


def test_sensors_are_packed_where_they_are() -> None:
    octets = np.frombuffer(gzip.decompress(base64.b64decode(packing.sensors())), np.uint8)
    octets = octets.reshape(-1, geometry.N_SENSORS)
    words = (octets[:-1:2].astype(np.int32) + 256 * octets[1:-1:2].astype(np.int32)).astype(np.uint16).view(np.int16)
    np.testing.assert_allclose(words[:3].T / 100, geometry.positions(), atol=0.0051)
    np.testing.assert_allclose(words[3:5].T / 100, places(), atol=0.0051)
    np.testing.assert_allclose(words[5:].T / 1e4, geometry.normals(), atol=0.00006)
    assert (octets[-1] == geometry.face_codes()).all()


def test_light_of_a_point_is_what_a_point_would_give(events: Columns) -> None:
    npho = events["npho"]
    light, source = light_of_a_point(npho, (npho < 9e9) & ~events["inpainted"])
    assert np.abs(source.uvw - events["uvwTruth"])[:, :2].max() < 1.0
    bright = valid_counts(npho) & (npho > 2000) & ~events["inpainted"]
    assert np.median(light[bright] / npho[bright]) == pytest.approx(1.0, abs=0.15)


def test_what_is_predicted_by_hiding_does_not_know_the_answer() -> None:
    """A repair that gives what it sees elsewhere: wherever it is asked, the sensor itself is hidden."""

    class Mean:
        def fill(self, npho: Any, time: Any, dead: Any) -> tuple[np.ndarray, np.ndarray]:
            assert (dead.mean(1) < 0.06).all()
            mean = (npho * ~dead).sum(1, keepdims=True) / (~dead).sum(1, keepdims=True)
            return np.where(dead, mean, npho), np.where(dead, 0.0, time)

    npho = np.ones((2, geometry.N_SENSORS))
    npho[0, 77] = 1e7
    counts, times = by_hiding(Mean(), npho, npho, np.zeros(npho.shape, bool))
    assert counts[0, 77] == 1
    assert (counts[1] == 1).all()
    assert not times.any()


# ------------------------------------------------------------------------------------------------------ files


def test_the_page_asks_for_nothing_and_says_who_made_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|url\(|fetch\(|XMLHttpRequest|import\(""", text)
    assert "made by 'xec display'" in text[:1000]
    assert "<img" not in text
    assert "&lt;img src=x" in text
    scripts = re.findall(r"<script>\n(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 9
    assert all(script.startswith('"use strict";') for script in scripts)


def test_equal_events_give_equal_bytes(events: Columns, tmp_path: Path) -> None:
    rootio.write(tmp_path / "a.root", {name: values[:2] for name, values in events.items()})
    for name in ("1.html", "2.html"):
        assert write_event_page(str(tmp_path / "a.root"), tmp_path / name) == 2
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_examples_of_an_autoencoder_show_what_it_rebuilt(events: Columns, tmp_path: Path) -> None:
    hidden = np.zeros((2, geometry.N_SENSORS), bool)
    hidden[:, 7::9] = True
    columns: Columns = {"mask": hidden, "event_id": np.array([31, 32], np.int32)}
    for kind in ("truth", "masked", "pred", "err"):
        columns |= {f"{kind}_{name}": events[name][:2] for name in ("npho", "time")}
    columns["pred_npho"] = np.full_like(events["npho"][:2], 321.0)
    rootio.write(tmp_path / "m.root", columns)
    write_event_page(str(tmp_path / "m.root"), tmp_path / "e.html")
    shown = content(tmp_path / "e.html")
    assert shown["expected"] == "what the autoencoder rebuilds"
    assert shown["expected_times"]
    assert [record["event"] for record in shown["events"]] == [31, 32]
    flags, _, _, expected, _ = planes(shown["events"][1]["data"])
    assert (flags == np.where(hidden[1], packing.HIDDEN, 0)).all()
    np.testing.assert_allclose(((expected - 1) * shown["events"][1]["count_step"]) ** 2, 321.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}", "--out", "{f}/e.html", "--event", "99"], "has no entry 99; it has 6, counted from 0"),
        (["{a}", "--out", "{f}/e.html", "--events", "501"], "holds 1 to 500 events, not 501"),
        (["{a}", "--out", "{f}/e.html", "--model", "solid_angle", "--model", "neighbour_mean"], "a second repair"),
        (["{a}", "--out", "{f}/e.html", "--model", "{f}/none.pth"], "No such model"),
        (["{a}", "--out", "{f}/e.png"], "A picture is of one --event"),
        (["{a}", "--out", "{f}/e.txt"], "Cannot write events as e.txt; choose a name that ends in .pdf, .png or .html"),
        (["{a}", "--event", "1"], "what to write with --out"),
        (["{a}", "--geometry", "{f}/g.pdf"], "leave out FILE"),
        (["--geometry", "{f}/g.png"], r"ends in \.pdf or \.html"),
        (["{f}/b.root", "--out", "{f}/e.html"], "neither npho and time nor"),
        (["{f}/c.root", "--out", "{f}/e.html", "--model", "solid_angle"], "no branch 'npho', which solid_angle needs"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(events: Columns, words: list[str], message: str, tmp_path: Path) -> None:
    rootio.write(tmp_path / "a.root", events)
    rootio.write(tmp_path / "b.root", {name: events[name] for name in ("run", "event")})
    relative = dict(
        zip(("relative_npho", "relative_time"), relative_quantities(events["npho"], events["time"]), strict=True)
    )
    rootio.write(tmp_path / "c.root", relative)
    result = CliRunner().invoke(app, ["display", *(word.format(a=tmp_path / "a.root", f=tmp_path) for word in words)])
    assert isinstance(result.exception, InputError), result.output
    assert re.search(message, str(result.exception))
    assert not list(tmp_path.glob("*.[hp]*"))


# ---------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.size(1500, 1000)
        yield opened


@pytest.fixture
def shown(chromium: Browser, page: Path) -> Iterator[Browser]:
    """The page, opened; whatever a test does, nothing is said on the console and nothing is asked of a network."""
    chromium.open(page)
    chromium.until("window.page && page.views[1].pictures > 0")
    yield chromium
    assert chromium.run("1 + 1") == 2  # what was said until now has arrived
    assert chromium.said == []
    assert chromium.asked == []


def pixels(shown: Browser, canvas: str) -> str:
    """A canvas as it is seen when all that waits for the screen is drawn, by which two pictures are told apart."""
    shown.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return str(shown.run(f"byId('{canvas}').toDataURL()"))


def on_screen(shown: Browser, view: int, sensor: int) -> tuple[float, float]:
    """Place of a sensor in the window."""
    x, y = shown.run(
        f"(() => {{ const v = page.views[{view}], b = v.canvas.getBoundingClientRect(), [x, y] = v.place({sensor}); "
        "return [b.left + v.canvas.clientLeft + x, b.top + v.canvas.clientTop + y]; })()"
    )
    return x, y


def test_the_event_changes_by_button_key_and_list(shown: Browser, events: Columns) -> None:
    before = pixels(shown, "unfolded"), pixels(shown, "detector")
    assert shown.run("byId('which').textContent") == "run 11, event 0 (1 of 6)"
    shown.run("byId('next').click()")
    shown.until("byId('which').textContent === 'run 11, event 1 (2 of 6)'")
    assert pixels(shown, "unfolded") != before[0]
    assert pixels(shown, "detector") != before[1]
    assert shown.run("location.hash") == "#11,1"
    shown.key("p")
    shown.until("location.hash === '#11,0'")
    assert pixels(shown, "unfolded") == before[0]
    shown.key("ArrowLeft")  # round the beginning
    shown.until("location.hash === '#11,5'")
    shown.run("document.querySelector('#events tr[data-index=\"3\"] button').click()")
    shown.until("location.hash === '#11,3'")
    assert f"{1e3 * events['energyTruth'][3]:.2f}" in shown.run("byId('numbers').textContent")
    assert f"{events['uvwTruth'][3, 2]:.2f}" in shown.run("byId('numbers').textContent")


def test_an_address_opens_its_event(chromium: Browser, page: Path) -> None:
    chromium.open(page, "#11,4")
    chromium.until("window.page?.event?.record.event === 4")
    chromium.run("location.hash = '#11,2'")
    chromium.until("page.event.record.event === 2")
    chromium.run("location.hash = '#7,7'")
    chromium.until("byId('about').textContent.includes('no event 7,7')")
    assert chromium.said == []


def test_the_slider_shows_the_light_that_has_arrived(shown: Browser, events: Columns) -> None:
    npho, time = events["npho"][0].astype(float), events["time"][0].astype(float)
    relative = relative_quantities(npho, time)[1] * 1e9
    shown.run("(() => { const s = byId('until'); s.value = 5; s.dispatchEvent(new Event('input')); })()")
    later = shown.run("page.picture.codes.reduce((n, code) => n + (code === LATER), 0)")
    timed = valid_times(npho, time)
    assert later == pytest.approx((timed & (relative > 5)).sum(), abs=3)  # times are steps of 10 ps
    assert 0 < later < timed.sum()
    light = 100 * npho[timed & (relative <= 5)].sum() / npho[valid_counts(npho)].sum()
    assert f"{light:.0f} % of all light" in shown.run("byId('until_said').textContent")
    shown.key(" ")
    shown.until("page.until > 5.2 && page.until < Infinity")
    shown.key(" ")
    assert shown.run("page.playing") == 0


@pytest.mark.parametrize("view", [0, 1])
def test_pointing_at_a_sensor_tells_of_it_in_both_pictures(shown: Browser, events: Columns, view: int) -> None:
    shown.run("page.views[1].look('inner'); page.views[1].now()")
    npho, time = events["npho"][0].astype(float), events["time"][0].astype(float)
    relative = relative_quantities(npho, time)[1] * 1e9
    bright = int(np.argmax(np.where(valid_counts(npho), npho, 0)))
    for sensor in (bright, 2046, 4380, 4630):
        shown.mouse("moved", *on_screen(shown, view, sensor))
        said = shown.run("byId('readout').textContent")
        assert said.startswith(f"sensor {sensor} ({geometry.FACES[geometry.face_codes()[sensor]]}"), said
        assert [shown.run(f"page.views[{k}].picture.hovered") for k in (0, 1)] == [sensor, sensor]
        if valid_counts(npho)[sensor]:
            told = re.search(r"count ([\d.]+) photons .*time (-?[\d.]+) ns · expected ([\d.]+)", said)
            assert told
            assert float(told[1]) == pytest.approx(npho[sensor], rel=5e-3)
            assert float(told[2]) == pytest.approx(relative[sensor], abs=0.011)
        else:
            assert "not measured" in said
    shown.mouse("moved", 5, 5)
    assert shown.run("page.picture.hovered") == -1


def test_a_sensor_can_be_named_and_filled_ones_say_so(shown: Browser) -> None:
    shown.run("(() => { const s = byId('sensor'); s.value = 4200; s.dispatchEvent(new Event('input')); })()")
    assert re.search(r"^sensor 4200 \(outer.*count 5[45].*filled", shown.run("byId('readout').textContent"))
    assert shown.run("Array.from(page.picture.flags.keys()).filter((i) => page.picture.flags[i])") == [5, 4200]


def test_the_detector_turns(shown: Browser) -> None:
    before = pixels(shown, "detector")
    box = shown.run(
        "(() => { const b = byId('detector').getBoundingClientRect(); return [b.left + 20, b.top + 20]; })()"
    )
    shown.mouse("pressed", *box, button="left", buttons=1, clickCount=1)
    shown.mouse("moved", box[0] + 90, box[1] + 30, button="left", buttons=1)
    shown.mouse("released", box[0] + 90, box[1] + 30, button="left")
    assert shown.run("page.views[1].yaw") == pytest.approx(-0.45 + 90 / 150)
    turned = pixels(shown, "detector")
    assert turned != before
    shown.run("document.activeElement.blur()")
    shown.key("ArrowLeft", modifiers=8)
    assert shown.run("page.views[1].yaw") == pytest.approx(-0.55 + 90 / 150)
    shown.key("r")
    assert pixels(shown, "detector") == before
    shown.run("document.querySelector('[data-view=outer]').click()")
    assert pixels(shown, "detector") != before
    # from the target one sees the outer face, and no sensor of the inner one
    seen = shown.run("Array.from(page.views[1].order.slice(0, page.views[1].number), (i) => page.sensors.face[i])")
    assert 3 in seen
    assert 0 not in seen


def test_every_quantity_is_drawn_on_both_scales(shown: Browser) -> None:
    pictures = set()
    for key in "1234567":
        shown.key(key)
        for _ in range(2):
            shown.key("l")
            pictures.add(pixels(shown, "unfolded"))
    assert shown.run("page.quantity") == "time_difference"
    # counts, their expectation and difference look different on the two scales, the others do not
    assert len(pictures) == 10


def test_the_list_sorts_the_worst_first_and_filters(shown: Browser, events: Columns) -> None:
    def order() -> list[int]:
        return list(shown.run("page.list.shown.map((row) => row.i)"))

    shown.run("document.querySelector('[data-sort=energy]').click()")
    assert order() == np.argsort(events["energyTruth"]).tolist()
    shown.run("document.querySelector('[data-sort=energy]').click()")
    assert order() == np.argsort(-events["energyTruth"]).tolist()
    shown.run("document.querySelector('[data-sort=position]').click()")
    values = shown.run("page.list.shown.map((row) => row.position)")
    assert values == sorted(values, reverse=True)
    middle = float(np.median(1e3 * events["energyTruth"]))
    shown.run(
        f"(() => {{ const f = document.querySelector('[name=energy_from]'); f.value = {middle}; "
        "f.dispatchEvent(new Event('input')); })()"
    )
    assert sorted(order()) == np.flatnonzero(1e3 * events["energyTruth"] >= middle).tolist()
    assert shown.run("byId('listed').textContent").startswith("3 of 6 shown")
    shown.run("page.show(page.list.shown[2].i)")
    shown.until("page.event.record.entry === page.list.shown[2].entry")
    shown.key("n")  # goes through what is shown, in its order
    shown.until("page.event.record.entry === page.list.shown[0].entry")


def test_dark_and_narrow_screens_and_the_list_of_keys(chromium: Browser, shown: Browser) -> None:
    def ground() -> str:
        return str(shown.run("getComputedStyle(document.body).backgroundColor"))

    chromium.dark(on=False)
    light = ground()
    chromium.dark(on=True)
    chromium.until("page.dark")
    assert ground() != light
    assert shown.run("page.look.text") == "#eceff3"
    chromium.dark(on=False)
    try:
        chromium.size(360, 740, 2)
        shown.until("document.documentElement.clientWidth === 360")
        assert shown.run("document.documentElement.scrollWidth") == 360
        assert shown.run("byId('unfolded').width") > 600  # as sharp as the screen
    finally:
        chromium.size(1500, 1000)
    shown.key("?")
    assert shown.run("byId('keys').open")
    assert shown.run("byId('keys').querySelectorAll('tr').length") >= 10


def test_relative_and_dark_events_are_shown_without_a_word(chromium: Browser, events: Columns, tmp_path: Path) -> None:
    relative = relative_quantities(events["npho"][:3], events["time"][:3])
    relative[0][1], relative[1][1] = INVALID, INVALID
    rootio.write(tmp_path / "r.root", dict(zip(("relative_npho", "relative_time"), relative, strict=True)))
    write_event_page(str(tmp_path / "r.root"), tmp_path / "e.html")
    chromium.open(tmp_path / "e.html", "#0,1")
    chromium.until("window.page?.event?.record.event === 1")
    assert chromium.run("page.picture.codes.every((code) => code === NOT_READ)")
    for key in ("1", "2", "3", "4", "s", "l", "1", " "):
        chromium.key(key)
        pixels(chromium, "detector")
    chromium.key("n")
    chromium.until("page.event.record.event === 2")
    # the scale for all events ends at the largest of any, which is 1 where counts are relative
    assert chromium.run("page.largest") == pytest.approx(1.0, rel=0.5)
    assert "of the largest" in chromium.run(
        "page.describe(page.event, page.event.npho.indexOf(Math.max(...page.event.npho.filter((n) => n > 0))))"
    )
    assert "significance" not in chromium.run("page.quantities")
    assert chromium.said == []


@pytest.mark.slow
def test_fifty_events_fit_into_two_megabytes(tmp_path: Path) -> None:
    rootio.write(tmp_path / "a.root", point_sources(50, seed=1, dead=0.02))
    write_event_page(str(tmp_path / "a.root"), tmp_path / "e.html", models=["solid_angle"])
    assert (tmp_path / "e.html").stat().st_size < 2e6
