"""What was measured of an event: numbers of sensors, and faces that are short of them, in dim and in bright events."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import geometry
from xecml.data.coverage import Coverage, coverage, short_faces, short_times, usual
from xecml.events import INVALID, relative_quantities, valid_counts, valid_times
from xecml.inference.answer_counts import Answered

Columns = dict[str, np.ndarray]


def dark_as_zero(events: Columns) -> Columns:
    """The same events of a file that writes dark sensors as zero; dead ones would be 1e10."""
    return events | {"npho": np.where(events["npho"] == INVALID, 0, events["npho"]).astype(np.float32)}


def without(npho: np.ndarray, sensors: np.ndarray) -> np.ndarray:
    """Counts with dead sensors."""
    return np.where(np.isin(np.arange(geometry.N_SENSORS), sensors), np.float32(INVALID), npho)


@pytest.fixture(scope="module")
def sample() -> Columns:
    return point_sources(400, seed=51)


@pytest.fixture(scope="module")
def lowest(sample: Columns) -> np.ndarray:
    return usual([coverage(sample["npho"][i : i + 150], sample["time"][i : i + 150]) for i in (0, 150, 300)])


def test_sensors_are_counted_by_face(sample: Columns) -> None:
    npho, time = sample["npho"][:150].copy(), sample["time"][:150].copy()
    npho[3], time[5, :100], npho[7, 50] = np.nan, 1e10, -3.0
    found = coverage(npho, time)
    for i, face in enumerate(geometry.FACES):
        ids = geometry.face_sensors(face)
        np.testing.assert_array_equal(found.n_valid[:, i], valid_counts(npho)[:, ids].sum(1))
        np.testing.assert_array_equal(found.n_timed[:, i], valid_times(npho, time)[:, ids].sum(1))
    assert found.counted().tolist() == [i != 3 for i in range(150)]
    assert [len(part) for part in coverage(npho[:0], time[:0])] == [0, 0, 0, 0]


def test_sensors_between_bright_ones_are_those_of_a_row_or_a_column() -> None:
    npho = np.full((1, geometry.N_SENSORS), INVALID, np.float32)
    ids = geometry.inner_map()
    npho[0, [ids[10, 5], ids[10, 9], ids[20, 5], ids[50, 20]]] = 84.0  # a little over ten photoelectrons
    npho[0, [ids[10, 6], ids[15, 5]]] = 1.0  # seen, and dim
    npho[0, [ids[60, 0], ids[60, 4]]] = 83.0  # not bright
    top = geometry.top_rows()[2]
    npho[0, [top[2], top[4]]] = 63.0
    found = coverage(npho, np.zeros_like(npho))
    assert found.between[0].tolist() == [5 + 11 - 1 + 1, 0, 0, 0, 3, 0]
    assert found.seen[0].tolist() == [6, 0, 0, 0, 2, 0]


def test_the_sample_itself_is_not_short_of_sensors(sample: Columns, lowest: np.ndarray) -> None:
    found = coverage(sample["npho"], sample["time"])
    assert not short_faces(found, lowest).any()
    assert not short_times(found, lowest).any()
    assert (lowest[0] > 0.99).all()
    np.testing.assert_allclose(
        lowest[1], np.quantile(found.n_valid, 0.01, axis=0) / [4092, 144, 144, 234, 73, 73], atol=1e-4
    )
    nothing = np.zeros_like(lowest)  # of a model that does not say
    dead = coverage(without(sample["npho"], np.arange(4700)), sample["time"])
    assert not short_faces(dead, nothing).any()


DEAD: dict[str, tuple[Callable[[], np.ndarray], set[str]]] = {
    "a fifth of all": (lambda: np.flatnonzero(np.random.default_rng(1).random(4760) < 0.2), set(geometry.FACES)),
    "a fifth of the SiPMs": (lambda: np.flatnonzero(np.random.default_rng(2).random(4092) < 0.2), {"inner"}),
    "every fifth row": (lambda: geometry.inner_map()[::5].ravel(), {"inner"}),
    "all PMTs": (lambda: np.arange(4092, 4760), set(geometry.FACES[1:])),
    "the upstream face": (lambda: geometry.face_sensors("us"), {"us"}),
    "half of it": (lambda: geometry.us_map()[:12].ravel(), {"us"}),
    "the top face": (lambda: geometry.face_sensors("top"), {"top"}),
}


@pytest.mark.parametrize("what", DEAD)
@pytest.mark.parametrize("form", ["dark is 1e10", "dark is 0", "relative"])
def test_dead_sensors_are_missed_however_the_file_writes_dark_ones(
    what: str, form: str, sample: Columns, lowest: np.ndarray
) -> None:
    """In nearly every event, on these faces and no others."""
    dead, faces = DEAD[what]
    events = dark_as_zero(sample) if form == "dark is 0" else sample
    npho, time = without(events["npho"], dead()), events["time"]
    if form == "relative":
        npho, time = relative_quantities(npho, time)
    short = short_faces(coverage(npho, time), lowest)
    assert short.any(1).mean() > 0.97
    others = [face not in faces for face in geometry.FACES]
    assert short[:, others].sum() <= 0.01 * len(short)


@pytest.mark.parametrize("form", ["dark is 1e10", "dark is 0"])
def test_dim_events_are_not_short_of_sensors(form: str, sample: Columns, lowest: np.ndarray) -> None:
    """Half of the light of the same events: fewer sensors are lit, and none is missed."""
    rng = np.random.default_rng(3)
    efficiency = np.where(geometry.face_codes() == 0, 0.12, 0.16)
    seen = rng.binomial(np.rint(np.where(sample["npho"] < 9e9, sample["npho"], 0) * efficiency).astype(int), 0.5)
    npho = np.where(seen > 0, seen / efficiency, INVALID if form == "dark is 1e10" else 0).astype(np.float32)
    found = coverage(npho, sample["time"])
    assert found.n_valid.sum() < 0.8 * coverage(sample["npho"], sample["time"]).n_valid.sum()
    assert short_faces(found, lowest).any(1).mean() < 0.05


def test_events_without_a_count_are_not_answered_and_so_not_short(sample: Columns, lowest: np.ndarray) -> None:
    class Model:
        tasks = ("energy", "timing")
        usual_sensors = lowest
        truth_ends: ClassVar[dict[str, tuple[float, float]]] = {}

    npho, time = sample["npho"][:20].copy(), sample["time"][:20].copy()
    npho[:2], npho[2], time[3:6], npho[6, geometry.face_sensors("ds")], time[7, ::2] = 1e10, 0, np.nan, 1e10, 1e10
    answered = Answered()
    for start in (0, 5):
        answered.add(
            coverage(npho[start : start + 5 if not start else 20], time[start : start + 5 if not start else 20]),
            Model(),
        )
    assert answered.as_dict() == {
        "no_valid_count": 3, "no_valid_time": 3, "few_sensors": {"events": 1, "faces": {"ds": 1}}, "few_times": 4,
        "beyond_training": {},
    }  # fmt: skip
    assert answered.line() == (
        "Of 20 events: 3 not answered (no valid count); 3 without an answer for the time (no valid time); "
        "1 answered on fewer sensors than the training had (ds 1); 4 answered on fewer times than the training had."
    )


def test_nothing_is_said_where_all_is_well_and_of_models_that_do_not_know(sample: Columns, lowest: np.ndarray) -> None:
    class Model:
        tasks = ("energy",)
        usual_sensors = lowest
        truth_ends: ClassVar[dict[str, tuple[float, float]]] = {}

    answered, unknown = Answered(), Answered()
    found: Coverage = coverage(sample["npho"], sample["time"])
    answered.add(found, Model())
    assert answered.line() == ""
    old = Model()
    old.usual_sensors = np.zeros_like(lowest)
    unknown.add(coverage(without(sample["npho"], np.arange(4700)), np.full_like(sample["time"], np.nan)), old)
    assert unknown.line() == ""  # it has no task of time
    assert unknown.as_dict() == {
        "no_valid_count": 0, "no_valid_time": 400, "few_sensors": None, "few_times": None, "beyond_training": {},
    }  # fmt: skip
