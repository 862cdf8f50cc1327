"""Validity and the derived relative quantities."""

from __future__ import annotations

import numpy as np

from xecml import events
from xecml.events import INVALID


def test_counts_are_valid_when_measured() -> None:
    npho = np.array([5.0, 0.0, -1.0, 1e10, 9.1e9, np.nan, np.inf, -np.inf, 8e9])
    assert events.valid_counts(npho).tolist() == [True] + [False] * 7 + [True]


def test_times_need_a_valid_count_and_a_finite_time() -> None:
    npho = np.array([5.0, 5, 5, 5, 5, 0])
    time = np.array([-1e-8, 1e10, -1e10, np.nan, np.inf, 1e-8])
    assert events.valid_times(npho, time).tolist() == [True] + [False] * 5


def _one_event(**sensors: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    npho, time = np.full((1, 4760), INVALID), np.full((1, 4760), INVALID)
    for name, (count, when) in sensors.items():
        npho[0, int(name[1:])], time[0, int(name[1:])] = count, when
    return npho, time


def test_relative_time_counts_from_the_earliest_bright_sensor() -> None:
    # 300 photons are 36 photoelectrons on a SiPM and 48 on a PMT; 320 on a PMT are just over 50
    npho, time = _one_event(s0=(300, 1e-9), s1=(600, 5e-9), s4500=(300, 2e-9), s4501=(320, 4e-9))
    relative_npho, relative_time = events.relative_quantities(npho, time)
    np.testing.assert_allclose(relative_npho[0, [0, 1, 4500]], [0.5, 1.0, 0.5])
    np.testing.assert_allclose(relative_time[0, [0, 1, 4500, 4501]], [-3e-9, 1e-9, -2e-9, 0], atol=1e-20)
    assert relative_npho[0, 2] == INVALID
    assert relative_time[0, 2] == INVALID


def test_measured_photoelectrons_stand_above_estimated_ones() -> None:
    npho, time = _one_event(s0=(300, 1e-9), s1=(600, 5e-9))
    nphe = np.zeros((1, 4760))
    nphe[0, 0] = 51
    assert events.relative_quantities(npho, time, nphe)[1][0, 1] == 4e-9


def test_events_without_bright_or_any_sensors() -> None:
    npho, time = _one_event(s0=(10, 3e-9), s1=(20, 5e-9))
    np.testing.assert_allclose(events.relative_quantities(npho, time)[1][0, :2], [0, 2e-9], atol=1e-20)
    dark, never = _one_event()
    relative_npho, relative_time = events.relative_quantities(dark, never)
    assert (relative_npho == INVALID).all()
    assert (relative_time == INVALID).all()


def test_a_dead_sensor_is_never_the_largest_or_earliest() -> None:
    npho, time = _one_event(s0=(1e10, -1.0), s1=(600, 5e-9), s2=(np.nan, 0.0))
    relative_npho, relative_time = events.relative_quantities(npho, time)
    assert relative_npho[0, 1] == 1
    assert relative_time[0, 1] == 0
    assert relative_npho[0, 2] == INVALID
