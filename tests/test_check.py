"""Checking files: a healthy file passes, and each illness is found, named and weighed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.checks.event_files import CheckReport, check_files
from xecml.data.convert import convert
from xecml.errors import InputError
from xecml.events import INVALID, relative_quantities
from xecml.figures import unfolded_detector
from xecml.figures.check_page import draw_check, save_check
from xecml.figures.style import drawable

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def healthy() -> Columns:
    return point_sources(200, seed=21)


@pytest.fixture(scope="module")
def few() -> Columns:
    return point_sources(12, seed=22)


def check(path: Path, columns: Columns) -> CheckReport:
    rootio.write(path / "f.root", columns)
    return check_files(path / "f.root", chunk_events=64)


def messages(report: CheckReport, severity: str) -> list[str]:
    return [f.message for f in report.findings if f.severity == severity]


def test_a_healthy_file_is_usable_without_remarks(tmp_path: Path, healthy: Columns) -> None:
    report = check(tmp_path, healthy)
    assert report.findings == ()
    assert report.usable
    assert report.n_events == 200
    assert set(report.present) == set(healthy)
    assert "energyReco" in report.absent
    assert report.rows()[-1] == ("verdict", "ok", "Nothing to remark.")


def test_the_statistics_of_sensors_are_those_of_the_events(tmp_path: Path, healthy: Columns) -> None:
    s = check(tmp_path, healthy).sensors
    assert s is not None
    n = healthy["npho"].astype(float)
    valid = n < 9e9
    np.testing.assert_allclose(s.occupancy, valid.mean(axis=0))
    np.testing.assert_allclose(s.timed, valid.mean(axis=0))
    np.testing.assert_allclose(s.mean_count, np.where(valid, n, 0).sum(0) / valid.sum(0), rtol=1e-6)
    logs = np.where(valid, np.log(np.where(valid, n, 1)), 0).sum(0) / valid.sum(0)
    np.testing.assert_allclose(s.geometric_mean, np.exp(logs), rtol=1e-6)
    inner = 1 - valid[:, :4092].mean()
    assert s.invalid_fraction()["inner"] == pytest.approx(inner)


# ------------------------------------------------------------------------------------------ units and ranges

Illness = Callable[[Columns], Columns]


def dark(ids: np.ndarray | list[int]) -> Illness:
    def apply(c: Columns) -> Columns:
        npho, time = c["npho"].copy(), c["time"].copy()
        npho[:, ids] = INVALID
        time[:, ids] = INVALID
        return c | {"npho": npho, "time": time}

    return apply


def scaled(branch: str, factor: float) -> Illness:
    def apply(c: Columns) -> Columns:
        values = np.where(c[branch] < 9e9, c[branch] * factor, c[branch]).astype("f4")
        return c | {branch: values}

    return apply


def changed(branch: str, event: int | list[int], value: float | list[float]) -> Illness:
    def apply(c: Columns) -> Columns:
        values = c[branch].copy()
        values[event] = value
        return c | {branch: values}

    return apply


def without(*branches: str) -> Illness:
    return lambda c: {k: v for k, v in c.items() if k not in branches}


def relative(c: Columns) -> Columns:
    npho, time = relative_quantities(c["npho"], c["time"])
    return c | {"relative_npho": npho, "relative_time": time}


ERRORS: list[tuple[str, Illness, str]] = [
    ("times in ns", scaled("time", 1e9), "time is typically above 1e-3, which looks like nanoseconds"),
    ("truth time in ns", scaled("timeTruth", 1e9), "timeTruth is typically above 1e-3"),
    ("energy in MeV", scaled("energyTruth", 1e3), "energyTruth is typically above 1, which looks like MeV"),
    ("negative energy", changed("energyTruth", 3, -0.05), "energyTruth is not positive in 8.33 % of events"),
    ("radians", scaled("emiAng", np.pi / 180), "emiAng looks like radians"),
    ("impossible angle", changed("emiAng", 0, [200.0, 0.0]), "emiAng leaves 0..180 (theta)"),
    ("mm", scaled("uvwTruth", 10), "uvwTruth looks like mm"),
    ("mm in xyz", scaled("xyzTruth", 10), "xyzTruth looks like mm"),
    ("metres", scaled("uvwTruth", 0.01), "uvwTruth looks like metres"),
    ("metres in xyz", scaled("xyzTruth", 0.01), "xyzTruth looks like metres"),
    ("mirrored frame", scaled("xyzTruth", -1), "xyzTruth lies outside the active xenon in 100 % of events"),
    ("vector too long", scaled("emiVec", 1.1), "emiVec is not of unit length in 100 % of events"),
    ("null vector", changed("emiVec", 0, 0.0), "emiVec is not of unit length in 8.33 % of events"),
    ("turned vector", scaled("emiVec", -1), "emiAng and emiVec differ by more than 0.1 degrees"),
    ("photon number", changed("nGamma", 2, 7), "nGamma leaves 0..4"),
    ("relative as npho", lambda c: c | {"npho": relative(c)["relative_npho"]}, "npho never exceeds 1"),
    ("relative above 1", lambda c: scaled("relative_npho", 2)(relative(c)), "relative_npho exceeds 1 in"),
    ("NaN truth", changed("energyTruth", 1, np.nan), "energyTruth holds 1 NaN or infinite values"),
    ("no times", without("time"), "There is no pair of npho and time"),
    ("no inputs", without("npho", "time"), "There is no pair of npho and time"),
    ("wrong shape", lambda c: c | {"emiVec": np.ones((12, 2), "f4")}, "'emiVec' has shape (2,)"),
    (
        "times never valid",
        lambda c: c | {"time": np.full_like(c["time"], INVALID)},
        "Only 0 % of the sensors",
    ),
]


@pytest.mark.parametrize(("illness", "sentence"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors_are_found_and_named(tmp_path: Path, few: Columns, illness: Illness, sentence: str) -> None:
    report = check(tmp_path, illness(few))
    assert not report.usable
    assert any(sentence in m for m in messages(report, "error")), report.findings
    assert report.findings[0].severity == "error"


WARNINGS: list[tuple[str, Illness, str]] = [
    (
        "NaN count",
        changed("npho", 0, np.nan),
        "npho holds 4760 NaN or infinite values; they count as not measured",
    ),
    (
        "no truth here",
        changed("energyTruth", 0, INVALID),
        "energyTruth is not measured (1e10 or not finite) in 1 of 12",
    ),
    ("outside", changed("uvwTruth", 0, [0.0, 0.0, 50.0]), "uvwTruth lies outside the active xenon in 8.33 %"),
    (
        "late times",
        lambda c: c | {"time": c["time"] + 3e-6 * (c["time"] < 1)},
        "time leaves the range -1 to 3",
    ),
    ("no count", changed("npho", 2, 1e10), "1 of 12 events without any valid count: a model answers NaN."),
    ("no time", changed("time", [0, 3], np.nan), "2 of 12 events without any valid time: a model answers no time."),
    ("no numbers", without("run"), "The events have no run and event numbers"),
    ("repeated", changed("event", 3, 4), "1 event repeats the run and event number of another"),
    (
        "relative only",
        lambda c: without("npho", "time")(relative(c)),
        "energy and absolute time cannot be learnt",
    ),
    ("vertex", scaled("xyzVTX", 1), ""),
]


@pytest.mark.parametrize(("illness", "sentence"), [w[1:] for w in WARNINGS], ids=[w[0] for w in WARNINGS])
def test_warnings_leave_a_file_usable(tmp_path: Path, few: Columns, illness: Illness, sentence: str) -> None:
    columns = illness(few)
    if sentence.startswith("uvwTruth"):
        columns = without("xyzTruth")(columns)
    report = check(tmp_path, columns)
    assert report.usable, report.findings
    found = messages(report, "warning")
    assert any(sentence in m for m in found) if sentence else found == []


@pytest.mark.parametrize(
    ("missing", "jobs", "verdict"),
    [
        ((), "yes (angle, energy, timing, uvwFI, angleVec, n_gamma)", ("ok", "Nothing to remark.")),
        (("emiAng", "emiVec", "uvwTruth", "nGamma"), "yes (energy, timing)", ("ok", "Nothing to remark.")),
        (
            ("emiAng", "emiVec", "uvwTruth", "nGamma", "energyTruth", "timeTruth", "xyzTruth"),
            "no, there is no truth",
            ("ok", "No truth: predict yes, train regress and evaluate no."),
        ),
    ],
)
def test_the_verdict_is_by_job(
    tmp_path: Path, few: Columns, missing: tuple[str, ...], jobs: str, verdict: tuple[str, str]
) -> None:
    report = check(tmp_path, without(*missing)(few))
    rows = {subject: (severity, text) for subject, severity, text in report.rows()}
    assert rows["jobs"][1] == f"predict, inpaint, train mae and inpaint: yes; train regress and evaluate: {jobs}"
    assert rows["verdict"] == verdict
    assert draw_check(report).get_suptitle().splitlines()[1] == verdict[1]


def test_what_relative_quantities_cannot_teach_is_no_job_of_theirs(tmp_path: Path, few: Columns) -> None:
    report = check(tmp_path, without("npho", "time")(relative(few)))
    assert report.tasks == ("angle", "uvwFI", "angleVec", "n_gamma")
    assert report.verdict() == ("ok", "Can be used, with 1 warning.")
    assert check(tmp_path, without("time")(few)).rows()[3] == ("jobs", "", "none: there are no counts and times")
    assert check(tmp_path, scaled("time", 1e9)(few)).verdict() == ("error", "Should not be used as it is.")
    unmeasured = few | {"energyTruth": np.full(12, INVALID, np.float32)}
    assert "energy" not in check(tmp_path, unmeasured).tasks


def test_a_wrong_unit_is_said_once(tmp_path: Path, few: Columns) -> None:
    report = check(tmp_path, scaled("uvwTruth", 10)(few))
    assert [f.where for f in report.findings] == ["uvwTruth"]


# ------------------------------------------------------------------------------------------- files and reports


def test_an_empty_tree_is_an_error(tmp_path: Path, few: Columns) -> None:
    report = check(tmp_path, {k: v[:0] for k, v in few.items()})
    assert messages(report, "error") == ["The tree 'tree' has no events."]
    assert report.n_events == 0
    assert report.rows()[3] == ("jobs", "", "none: there are no events")


def test_several_files_are_judged_together(tmp_path: Path, few: Columns) -> None:
    rootio.write(tmp_path / "a.root", few)
    rootio.write(tmp_path / "b.root", without("emiVec")(few))
    rootio.write(tmp_path / "c.root", {k: v[:0] for k, v in few.items()})
    report = check_files(tmp_path)
    assert report.n_events == 24
    assert len(report.files) == 3
    found = messages(report, "warning")
    assert found == [
        f"{tmp_path / 'c.root'} has no events.",
        "Only some of the files have emiVec.",
        "12 events repeat the run and event number of another; are files or seeds used twice?",
    ]


def test_chunks_do_not_change_the_report(tmp_path: Path, few: Columns) -> None:
    rootio.write(tmp_path / "a.root", scaled("time", 1e9)(few))
    one, many = (check_files(tmp_path / "a.root", chunk_events=n) for n in (1000, 5))
    assert one.as_dict() == many.as_dict()


def test_what_cannot_be_read_is_an_input_error(tmp_path: Path, few: Columns) -> None:
    with pytest.raises(InputError, match="No such file"):
        check_files(tmp_path / "none.root")
    (tmp_path / "text.root").write_text("not a ROOT file")
    with pytest.raises(InputError, match="cannot be read as a ROOT file"):
        check_files(tmp_path / "text.root")
    rootio.write(tmp_path / "a.root", few)
    with pytest.raises(InputError, match="no tree 'rec'"):
        check_files(tmp_path / "a.root", "rec")
    whole = (tmp_path / "a.root").read_bytes()
    (tmp_path / "cut.root").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged or incomplete"):
        check_files(tmp_path / "cut.root")


def test_the_report_is_json_and_a_table(tmp_path: Path, few: Columns) -> None:
    report = check(tmp_path, scaled("time", 1e9)(few))
    back = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert back["usable"] is False
    assert back["n_events"] == 12
    assert back["findings"][0]["severity"] == "error"
    assert back["findings"][0]["where"] == "time"
    assert set(back["invalid_fraction"]) == set(geometry.FACES)
    rows = {subject: (verdict, text) for subject, verdict, text in report.rows()}
    assert rows["events"][1].startswith("12 in 1 file(s)")
    assert rows["time"][0] == "error"
    assert "dead and 0 hot sensors" in rows["face us"][1]
    lines = report.text().splitlines()
    assert len(lines) == len(report.rows())
    assert any(line.split()[:2] == ["time", "error"] for line in lines)


# ---------------------------------------------------------------------------------------- distributions, page, shards


def test_distributions_are_those_of_the_file(tmp_path: Path, healthy: Columns) -> None:
    shown = {(d.name, d.part): d for d in check(tmp_path, healthy).distributions}
    energy = shown["energyTruth [MeV]", ""]
    expected, _ = np.histogram(healthy["energyTruth"] * 1e3, energy.edges)
    np.testing.assert_array_equal(energy.contents, expected)
    counts = healthy["npho"][:, : geometry.N_SIPM].astype(float)
    normalised = np.log1p(counts[counts < 9e9] / 1000) / 4.08
    sipm = shown["normalised npho", "SiPM"]
    np.testing.assert_array_equal(sipm.contents, np.histogram(normalised.astype("f4"), sipm.edges)[0])
    assert shown["sensors with light", ""].contents.sum() == 200
    assert ("normalised relative_npho", "PMT") not in shown


def test_what_lies_beyond_is_in_the_outermost_bins(tmp_path: Path, few: Columns) -> None:
    shown = {d.name: d for d in check(tmp_path, scaled("energyTruth", 1e3)(few)).distributions}
    assert shown["energyTruth [MeV]"].contents[-1] == 12


@pytest.mark.slow
def test_the_page_shows_occupancy_findings_and_distributions(tmp_path: Path, healthy: Columns) -> None:
    dead = [7, 2000, 4100]
    report = check(tmp_path, scaled("time", 1e9)(dark(dead)(healthy)))
    figure = draw_check(report)
    title = figure.get_suptitle()
    assert title.startswith("200 events, tree 'tree': should NOT be used as they are. Files: f.root")
    assert "error: time is typically above 1e-3" in title
    squares, circles = figure.subfigs[0].axes[0].collections[:2]
    assert report.sensors is not None
    lit = np.flatnonzero(report.sensors.occupancy > 0)
    np.testing.assert_allclose(squares.get_array(), report.sensors.occupancy[lit[lit < 4092]])
    np.testing.assert_allclose(circles.get_array(), report.sensors.occupancy[lit[lit >= 4092]])
    crosses = figure.subfigs[0].axes[0].lines[0].get_xydata()
    np.testing.assert_allclose(crosses, unfolded_detector.places()[dead])
    titles = [axes.get_title() for axes in figure.subfigs[1].axes]
    assert titles[:2] == ["normalised npho", "normalised time"]
    assert "uvwTruth w [cm]" in titles
    for name in ("one.pdf", "two.pdf"):
        save_check(report, tmp_path / name)
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    assert (tmp_path / "one.pdf").read_bytes().count(b"/Type /Page\n") + (tmp_path / "one.pdf").read_bytes().count(
        b"/Type /Page "
    ) == 1


def test_the_page_of_files_of_any_name(few: Columns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfolded_detector, "draw_sensors", lambda *_: None)
    names = [f"{name}.root" for name in ("$x_{$", "日本", "a\nb", os.fsdecode(b"\xff"))]
    for name in names:
        rootio.write(tmp_path / name, few, tree="$t_{$")
    report = check_files([tmp_path / name for name in names], "$t_{$")
    save_check(report, tmp_path / "p.pdf")
    first = drawable(draw_check(report)).get_suptitle().splitlines()[0]
    assert first.endswith(r"Files: \$x_{\$.root, \u65e5\u672c.root, a\nb.root, \udcff.root")


def test_an_empty_file_has_a_page_too(tmp_path: Path, few: Columns) -> None:
    save_check(check(tmp_path, {k: v[:0] for k, v in few.items()}), tmp_path / "empty.pdf")
    assert (tmp_path / "empty.pdf").stat().st_size > 0


def test_shards_are_checked_like_files(tmp_path: Path, healthy: Columns) -> None:
    whole = check(tmp_path, healthy)
    convert(tmp_path / "f.root", tmp_path / "shards")
    report = check_files(tmp_path / "shards")
    assert report.usable
    assert report.n_events == 200
    assert report.sensors is not None
    assert whole.sensors is not None
    np.testing.assert_array_equal(report.sensors.occupancy, whole.sensors.occupancy)
