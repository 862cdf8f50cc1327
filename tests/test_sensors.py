"""Judging sensors: dark faces, dead and hot sensors, events without a count or a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import point_sources
from tests.test_check import Columns, check, dark, messages
from xecml import geometry
from xecml.checks.sensor_occupancy import SensorStatistics
from xecml.events import INVALID


@pytest.fixture(scope="module")
def healthy() -> Columns:
    return point_sources(200, seed=21)


@pytest.fixture(scope="module")
def few() -> Columns:
    return point_sources(12, seed=22)


@pytest.mark.parametrize("face", geometry.FACES)
def test_a_dead_face_is_an_error(tmp_path: Path, few: Columns, face: str) -> None:
    report = check(tmp_path, dark(geometry.face_sensors(face))(few))
    assert messages(report, "error") == [f"The face {face} has no light in any of 12 events."]
    assert report.sensors is not None
    assert report.sensors.invalid_fraction()[face] == 1


def test_dead_sensors_are_counted_with_enough_events(tmp_path: Path, healthy: Columns, few: Columns) -> None:
    dead = [7, 2000, 2001, 2044, 4100, 4400, 4600, 4759]
    report = check(tmp_path, dark(dead)(healthy))
    assert report.sensors is not None
    assert report.sensors.dead().tolist() == dead
    assert report.usable
    (message,) = messages(report, "warning")
    assert message == "8 sensors are dead, never lit in 200 events: 7, 2000, 2001, 2044, 4100, 4400, 4600, 4759."
    # of a dozen events many sensors see nothing
    assert check(tmp_path, dark(dead)(few)).findings == ()


def test_a_mostly_dead_face_is_an_error(tmp_path: Path, healthy: Columns) -> None:
    report = check(tmp_path, dark(geometry.face_sensors("top")[:50])(healthy))
    assert messages(report, "error") == ["68.5 % of the sensors of face top are dead."]


def test_dim_sensors_are_not_dead() -> None:
    """Light of one place for a long time: the far side is dark, and nobody's fault."""
    occupancy = np.where(np.arange(4760) < 2000, 0.0, 0.02)
    for events, dead in ((200, 0), (5000, 2000)):
        s = SensorStatistics("npho", events, occupancy, occupancy, np.ones(4760), np.ones(4760))
        assert len(s.dead()) == dead


def test_neighbours_of_dead_sensors_are_not_hot() -> None:
    """Lit in every event, as all that live around: dead ones must not make a sensor look strange."""
    occupancy, count = np.ones(4760), np.full(4760, 100.0)
    rng = np.random.default_rng(0)
    occupancy[rng.choice(4760, 1400, replace=False)] = 0.0
    count[occupancy == 0] = np.nan
    assert SensorStatistics("npho", 1000, occupancy, occupancy, count, count).hot().size == 0
    # one that is always lit among some that are mostly is hot, whatever its count
    mostly = np.where(np.arange(4760) == 2000, 1.0, 0.85)
    s = SensorStatistics("npho", 1000, mostly, mostly, np.full(4760, 100.0), np.full(4760, 100.0))
    assert s.hot().tolist() == [2000]


def test_hot_sensors_stand_out_of_their_neighbours(tmp_path: Path, healthy: Columns) -> None:
    npho, time = healthy["npho"].copy(), healthy["time"].copy()
    for bright in (1500, 4300):
        npho[:, bright] = np.where(npho[:, bright] < 9e9, 9 * npho[:, bright], INVALID)
    corner = 43  # seldom lit, but for noise in every event
    npho[:, corner], time[:, corner] = 9.0, 1e-8
    report = check(tmp_path, healthy | {"npho": npho, "time": time})
    assert report.sensors is not None
    assert report.sensors.hot().tolist() == [corner, 1500, 4300]
    assert messages(report, "warning")[0].startswith("3 sensors are hot")
    gain = np.random.default_rng(1).uniform(0.6, 1.6, 4760)
    moderate = np.where(healthy["npho"] < 9e9, healthy["npho"] * gain, INVALID)
    assert check(tmp_path, healthy | {"npho": moderate.astype("f4")}).findings == ()


def test_events_that_cannot_be_answered_are_counted(tmp_path: Path, healthy: Columns) -> None:
    npho, time = healthy["npho"].copy(), healthy["time"].copy()
    npho[:3], npho[3], time[4:9] = INVALID, 0, np.nan
    npho[:, geometry.us_map()[:8].ravel()] = INVALID
    report = check(tmp_path, healthy | {"npho": npho, "time": time})
    back = report.as_dict()
    assert (back["events_without_count"], back["events_without_time"]) == (4, 5)
    assert back["dead_fraction"] == dict.fromkeys(geometry.FACES, 0.0) | {"us": pytest.approx(1 / 3)}
    rows = {subject: text for subject, _, text in report.rows()}
    assert rows["events"].endswith("; 4 without any valid count, 5 more without any valid time")
    assert rows["face us"].endswith("48 dead and 0 hot sensors (33.3 % dead)")
    assert "sensors" not in {subject for subject, _, text in report.rows() if "below 100" in text}
