"""The unfolded detector: every sensor at its place, light where it was made, marks where truth says."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.data.convert import convert
from xecml.errors import InputError
from xecml.evaluation.tables import truth_columns
from xecml.events import INVALID, relative_quantities
from xecml.figures import event_display, unfolded_detector
from xecml.figures.event_display import display_event
from xecml.figures.style import drawable

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def events() -> Columns:
    return point_sources(8, seed=11, dead=0.02)


@pytest.fixture(scope="module")
def figure(events: Columns) -> Figure:
    truth = unfolded_detector.values_of(truth_columns(events), 0)
    prediction = {"pred_u": truth["u"] + 1.0, "pred_v": truth["v"], "pred_w": truth["w"], "pred_energy": 0.05}
    return unfolded_detector.draw_event(
        events["npho"][0], events["time"][0], truth=truth, prediction=prediction, title="run 11, event 0"
    )


def drawn(figure: Figure, panel: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2) and values (n,) of the coloured sensors of a panel: SiPMs, then PMTs."""
    lit = [c for c in figure.axes[panel].collections if c.get_array() is not None]
    squares, circles = (c for c in lit if isinstance(c, unfolded_detector.Shapes))
    values = [np.asarray(c.get_array()) for c in (squares, circles)]
    return np.concatenate([c.get_offsets() for c in (squares, circles)]), np.concatenate(values)


def test_faces_are_placed_without_overlap() -> None:
    """Sensors of different faces are apart, those of a face as far apart as they really are."""
    places = {f: unfolded_detector.unfold(f, geometry.positions()[geometry.face_sensors(f)]) for f in geometry.FACES}
    everything = np.concatenate(list(places.values()))
    assert np.abs(everything[:, 1]).max() < 119
    for a, b in itertools.combinations(geometry.FACES, 2):
        gap = np.linalg.norm(places[a][:, None] - places[b], axis=-1)
        assert gap.min() > 6.0, (a, b)
    for face in ("us", "top", "outer"):
        xyz = geometry.positions()[geometry.face_sensors(face)]
        true = np.linalg.norm(xyz[0] - xyz[1])
        shown = np.linalg.norm(places[face][0] - places[face][1])
        assert shown == pytest.approx(true, rel=0.06)  # a slanted end face is seen along the beam


def test_orientation_is_as_the_axes_say() -> None:
    def place(face: str, u: float, v: float, w: float) -> np.ndarray:
        return unfolded_detector.unfold(face, geometry.xyz_from_uvw([u, v, w]))

    np.testing.assert_allclose(place("inner", 5.0, -20.0, 3.0), [5.0, -20.0])
    assert place("us", -34, 0, 5)[0] < -40
    assert place("ds", 34, 0, 5)[0] > 40
    assert place("us", 0, 20, 10)[1] > 15
    # deeper is further from the inner face, on every face around it
    assert place("us", 0, 0, 30)[0] < place("us", 0, 0, 5)[0]
    assert place("top", 0, 0, 30)[1] > place("top", 0, 0, 5)[1] > 71
    assert place("bottom", 0, 0, 30)[1] < -71
    assert place("outer", 5, 20, 40)[1] == pytest.approx(20 * geometry.OUTER_RADIUS / geometry.INNER_RADIUS)


def test_every_sensor_is_drawn_once(figure: Figure, events: Columns) -> None:
    valid = events["npho"][0] < 9e9
    centres, values = drawn(figure, 0)
    assert len(centres) == valid.sum()
    np.testing.assert_allclose(values, events["npho"][0][valid])
    # the others are one hatched outline, in which each begins with a move
    (others,) = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    path = others.get_path()
    assert path.codes is not None
    corners = np.split(np.asarray(path.vertices), np.flatnonzero(path.codes == path.MOVETO)[1:])
    # the last point of an outline only says that it is closed
    middles = [(c[:-1].min(0) + c[:-1].max(0)) / 2 for c in corners]
    np.testing.assert_allclose(middles, unfolded_detector.places()[~valid], atol=1e-9)


@pytest.mark.parametrize("event", range(8))
def test_the_hot_spot_is_at_the_true_position(events: Columns, event: int) -> None:
    """Of the inner face: the brightest sensor stands within two pitches of the true (u, v) in the picture."""
    picture = unfolded_detector.draw_event(events["npho"][event], events["time"][event])
    centres, values = drawn(picture, 0)
    inner = np.abs(centres[:, 0]) < 34
    inner &= np.abs(centres[:, 1]) < 72
    hottest = centres[inner][np.argmax(values[inner])]
    u, v, w = events["uvwTruth"][event]
    assert np.hypot(*(hottest - [u, v])) < 2.2 + 0.3 * w
    # and the earliest light of bright sensors is near, too
    places, times = drawn(picture, 1)
    assert times.min() > -10
    assert np.median(times[np.hypot(*(places - [u, v]).T) < 6]) < np.median(times)


def test_marks_are_at_truth_and_prediction(figure: Figure, events: Columns) -> None:
    u, v, _ = events["uvwTruth"][0]
    marks = [np.ravel(line.get_xydata()) for line in figure.axes[0].lines]
    assert len(marks) == 12  # on six faces, of truth and of prediction
    np.testing.assert_allclose(marks[0], [u, v], rtol=1e-5)
    np.testing.assert_allclose(marks[6], [u + 1.0, v], rtol=1e-5)


def test_the_header_tells_truth_prediction_and_difference(figure: Figure, events: Columns) -> None:
    header = figure.get_suptitle().splitlines()
    assert header[0] == "run 11, event 0"
    assert f"{(events['npho'][0] < 9e9).sum()} of 4760 sensors with light" in header[1]
    rows = {line.split()[0]: line for line in header[3:]}
    assert f"{1e3 * events['energyTruth'][0]:.3f}" in rows["true"]
    assert f"{events['emiAng'][0, 0]:.3f}" in rows["true"]
    assert "50.000" in rows["predicted"]
    assert "+10.00 mm" in rows["difference"]
    assert f"{50 - 1e3 * events['energyTruth'][0]:+.2f} MeV" in rows["difference"]


def test_phi_differences_wrap() -> None:
    header = unfolded_detector.draw_event(
        np.full(4760, 5.0), np.zeros(4760), truth={"phi": 179.0}, prediction={"phi": -179.5}
    ).get_suptitle()
    assert "+1.50 deg" in header


@pytest.mark.slow
def test_an_event_is_drawn_and_written_quickly(tmp_path: Path, events: Columns) -> None:
    start = time.process_time()
    picture = unfolded_detector.draw_event(events["npho"][1], events["time"][1])
    unfolded_detector.save_event(picture, tmp_path / "e.pdf")
    assert time.process_time() - start < 6  # of this process alone; measured 1 s
    unfolded_detector.save_event(picture, tmp_path / "e.png")
    assert (tmp_path / "e.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    again = unfolded_detector.draw_event(events["npho"][1], events["time"][1])
    unfolded_detector.save_event(again, tmp_path / "f.pdf")
    assert (tmp_path / "e.pdf").read_bytes() == (tmp_path / "f.pdf").read_bytes()


def test_other_formats_and_shapes_are_refused(tmp_path: Path, figure: Figure) -> None:
    with pytest.raises(InputError, match=r"ends in \.pdf or \.png"):
        unfolded_detector.save_event(figure, tmp_path / "e.gif")
    with pytest.raises(InputError, match="An event has 4760 counts and times"):
        unfolded_detector.draw_event(np.ones((2, 4760)), np.ones((2, 4760)))
    assert list(tmp_path.iterdir()) == []


def test_dark_and_relative_events_are_drawn() -> None:
    dark = unfolded_detector.draw_event(np.full(4760, INVALID), np.full(4760, INVALID))
    dark.draw_without_rendering()
    assert "0 of 4760 sensors with light" in dark.get_suptitle()
    npho = point_sources(1, seed=5)["npho"][0]
    relative = np.where(npho < 9e9, npho / npho[npho < 9e9].max(), INVALID)
    picture = unfolded_detector.draw_event(relative, np.where(npho < 9e9, 1e-9, INVALID))
    picture.draw_without_rendering()
    assert "relative to the largest" in picture.get_suptitle()


# ------------------------------------------------------------------------------------------- files, and their names


STRANGE = ("日本😀", "$x_{$", "$a$", "a\nb\tc", "_a", os.fsdecode(b"\xff\xfe"), r"a\b{c}^%&#~", "\x1b[31m")


@pytest.fixture
def no_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures without their sensors, which take the time."""
    monkeypatch.setattr(unfolded_detector, "draw_sensors", lambda *_: None)


@pytest.mark.usefixtures("no_sensors")
@pytest.mark.parametrize("name", STRANGE)
def test_files_of_any_name_are_drawn(events: Columns, name: str, tmp_path: Path) -> None:
    """Without a warning, which would be an error here."""
    path = tmp_path / f"{name}.root"
    rootio.write(path, {k: v[:2] for k, v in events.items()})
    for out in (tmp_path / f"{name}.pdf", tmp_path / f"{name}.png"):
        display_event(str(path), 1, out)
        assert out.read_bytes()[:4] in (b"%PDF", b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("日本", r"\u65e5\u672c"),
        ("😀", r"\U0001f600"),
        (os.fsdecode(b"\xff"), r"\udcff"),
        ("a\nb", r"a\nb"),
        ("_x", " _x"),
        ("é ü µ", "é ü µ"),
        ("x$y$", r"x\$y\$"),
        ("a" * 300 + "b" * 300, "a" * 100 + " ... " + "b" * 100),
    ],
)
def test_names_are_one_line_of_what_fonts_hold(name: str, shown: str) -> None:
    figure = unfolded_detector.draw_event(np.full(4760, 5.0), np.zeros(4760), title=name)
    assert drawable(figure).get_suptitle().splitlines()[0] == shown
    figure.draw_without_rendering()


def test_cells_of_tables_are_names_too() -> None:
    figure = Figure()
    figure.subplots().table([["$x_{$", "日"], ["a", "b"]])
    cells = [c.get_text().get_text() for c in drawable(figure).axes[0].tables[0].get_celld().values()]
    assert cells[:2] == ["$x_{$", r"\u65e5"]
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        (("npho", "run"), "no branch 'time' to draw an event from"),
        (("time",), "no branch 'npho' to draw"),
        (("relative_npho",), "no branch 'relative_time' to draw"),
        (("run", "event"), "neither npho and time nor relative_npho and relative_time to draw"),
    ],
)
def test_a_missing_branch_is_named(events: Columns, branches: tuple[str, ...], message: str, tmp_path: Path) -> None:
    every = events | dict(
        zip(("relative_npho", "relative_time"), relative_quantities(events["npho"], events["time"]), strict=True)
    )
    rootio.write(tmp_path / "a.root", {b: every[b] for b in branches})
    with pytest.raises(InputError, match=message):
        display_event(str(tmp_path / "a.root"), 0, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.usefixtures("no_sensors")
def test_relative_counts_serve_where_times_are_relative(events: Columns, tmp_path: Path) -> None:
    npho, time = relative_quantities(events["npho"], events["time"])
    rootio.write(tmp_path / "a.root", {"npho": events["npho"], "relative_npho": npho, "relative_time": time})
    display_event(str(tmp_path / "a.root"), 0, tmp_path / "a.png")


@pytest.mark.usefixtures("no_sensors")
def test_patterns_shards_and_entries_across_files(events: Columns, tmp_path: Path) -> None:
    for name in ("a1", "a2"):
        rootio.write(tmp_path / f"{name}.root", {k: v[:3] for k, v in events.items()})
    convert(tmp_path / "a1.root", tmp_path / "s.root")
    for name in ("a*.root", "s.root"):
        display_event(str(tmp_path / name), 2, tmp_path / "e.png")
    assert event_display.read_event(str(tmp_path / "a*.root"), 4, "tree")["event"].tolist() == [1]
    for name, entries in (("a*.root", 6), ("s.root", 3)):
        with pytest.raises(InputError, match=f"has no entry 6; its {entries} entries count from 0"):
            display_event(str(tmp_path / name), 6, tmp_path / "e.png")


def test_extreme_events_are_drawn(events: Columns, tmp_path: Path) -> None:
    """Counts and times at the ends of float32, truth far away."""
    one = {k: v[:1].copy() for k, v in events.items()}
    one["npho"][0, :8] = (1e-45, 8.9e9, np.inf, -np.inf, np.nan, -1, 0, 3e38)
    one["time"][0, 8:12] = (8.9e9, -8.9e9, np.inf, 3e38)
    one["uvwTruth"][:], one["emiAng"][:], one["energyTruth"][:] = 8e9, (np.nan, 1e10), np.inf
    rootio.write(tmp_path / "a.root", one)
    display_event(str(tmp_path / "a.root"), 0, tmp_path / "a.png")
