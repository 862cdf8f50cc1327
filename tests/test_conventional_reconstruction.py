"""The conventional reconstruction of arrays: robust fits, energy, time, direction, calibration and its constants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import point_sources
from xecml import geometry
from xecml.conventional import calibration, constants, direction, energy, robust_fit, timing
from xecml.conventional.constants import Constants, read_constants, write_constants
from xecml.conventional.reconstruction import Reconstruction
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.resolution import s68

Arrays = dict[str, NDArray[Any]]
EVENTS = 1500


def read_everywhere(events: Arrays) -> Arrays:
    """Dark sensors count zero, as the simulation writes them; none is dead."""
    events["npho"] = np.where(events["npho"] > 9e9, 0, events["npho"]).astype(np.float32)
    return events


def chunks_of(events: Arrays, size: int = 500) -> Any:
    def read() -> Iterator[tuple[Arrays, None]]:
        for start in range(0, len(events["npho"]), size):
            yield {name: values[start : start + size] for name, values in events.items()}, None

    return read


@pytest.fixture(scope="module")
def known() -> Constants:
    return calibration.Calibration(chunks_of(read_everywhere(point_sources(EVENTS, 5)))).constants(["points.root"])


@pytest.fixture(scope="module")
def events() -> Arrays:
    """Others than those of the calibration."""
    return read_everywhere(point_sources(800, 6))


@pytest.fixture(scope="module")
def answers(known: Constants, events: Arrays) -> dict[str, NDArray[Any]]:
    return Reconstruction(known).answers(events["npho"], events["time"])[0]


# ------------------------------------------------------------------------------------------------- robust fits


def test_a_robust_fit_is_not_pulled_by_a_tail() -> None:
    rng = np.random.default_rng(2)
    x = {
        "a": rng.normal(3, 2, 4000),
        "b": rng.normal(0, 5, 4000),
        "none": np.ones(4000),
        "rounding": 1e-17 * rng.normal(0, 1, 4000),
    }
    y = 1.5 + 2 * x["a"] - 0.3 * x["b"] + rng.normal(0, 0.1, 4000)
    y[:400] += rng.uniform(5, 50, 400)
    found = robust_fit.fit(x, y)
    assert found["a"] == pytest.approx(2, abs=0.01)
    assert found["b"] == pytest.approx(-0.3, abs=0.005)
    assert found["none"] == found["rounding"] == 0
    # a tenth of the events on one side moves the constant by a fraction of the width
    assert found["constant"] == pytest.approx(1.5, abs=0.05)
    np.testing.assert_allclose(robust_fit.evaluate(found, x)[400:], y[400:], atol=0.6)


# ---------------------------------------------------------------------------------------- what it answers


def spread(found: NDArray[Any], truth: NDArray[Any]) -> Any:
    return [s68(found[:, k] - truth[:, k]) for k in range(truth.shape[1])]


def test_it_finds_position_energy_time_and_direction(answers: dict[str, NDArray[Any]], events: Arrays) -> None:
    """The truth of these events lies 2 mm and 30 ps about the light."""
    assert max(spread(answers["uvwFI"], events["uvwTruth"])) < 0.25
    assert s68(answers["energy"] / events["energyTruth"]) < 0.008
    assert s68(answers["timing"] - events["timeTruth"]) < 40e-12
    assert max(spread(answers["angle"], events["emiAng"])) < 0.25
    assert abs(np.median(answers["energy"] / events["energyTruth"]) - 1) < 0.002


def test_its_standard_deviations_are_those_of_its_errors(answers: dict[str, NDArray[Any]], events: Arrays) -> None:
    truths = {"uvwFI": "uvwTruth", "angle": "emiAng", "energy": "energyTruth", "timing": "timeTruth"}
    for task, truth in truths.items():
        pulls = (answers[task] - events[truth]) / answers[f"sigma_{task}"]
        for values in pulls.reshape(len(pulls), -1).T:
            # 800 events give a half-width to 4 %
            assert s68(values) == pytest.approx(1, abs=0.15), task


def test_a_constant_added_to_all_times_is_added_to_the_answer(known: Constants, events: Arrays) -> None:
    method = Reconstruction(known, ("timing",))
    later = method.answers(events["npho"][:50], events["time"][:50] + np.float32(5e-9))[0]["timing"]
    before = method.answers(events["npho"][:50], events["time"][:50])[0]["timing"]
    np.testing.assert_allclose(later - before, 5e-9, atol=2e-14)


def test_a_tenth_more_light_is_a_tenth_more_energy(known: Constants, events: Arrays) -> None:
    method = Reconstruction(known, ("energy",))
    npho, time = events["npho"][:50], events["time"][:50]
    ratio = method.answers(1.1 * npho, time)[0]["energy"] / method.answers(npho, time)[0]["energy"]
    np.testing.assert_allclose(ratio, 1.1, rtol=2e-3)


def test_dead_sensors_hardly_move_the_answers(
    known: Constants, answers: dict[str, NDArray[Any]], events: Arrays
) -> None:
    """3 % of the sensors are dead: not read, or by a mask whatever stands there."""
    dead = np.random.default_rng(8).random(geometry.N_SENSORS) < 0.03
    unread = {name: np.where(dead, np.float32(INVALID), events[name]) for name in ("npho", "time")}
    method = Reconstruction(known)
    found = method.answers(unread["npho"], unread["time"])[0]
    masked = method.answers(np.where(dead, np.float32(7e4), events["npho"]), events["time"], dead)[0]
    for task, values in found.items():
        np.testing.assert_array_equal(values, masked[task], err_msg=task)
    for task in ("uvwFI", "angle", "energy", "timing"):
        change = np.abs(found[task] - answers[task]) / answers[f"sigma_{task}"]
        assert np.median(change) < 0.4, task
    # without the estimates of dead sensors it would be 3 % lower
    assert abs(np.median(found["energy"] / answers["energy"]) - 1) < 0.003


def test_threads_and_blocks_do_not_change_the_answers(known: Constants, events: Arrays) -> None:
    npho, time = events["npho"][:150], events["time"][:150]
    whole = Reconstruction(known, threads=2).answers(npho, time)[0]
    one = Reconstruction(known).answers(npho[7:8], time[7:8])[0]
    for task, values in whole.items():
        np.testing.assert_allclose(values[7], one[task][0], rtol=1e-9, err_msg=task)


def test_events_without_light_have_no_answer(known: Constants, events: Arrays) -> None:
    npho, time = events["npho"][:6].copy(), events["time"][:6].copy()
    npho[0], npho[1], npho[2], time[3] = INVALID, 0, np.nan, INVALID
    found = Reconstruction(known).answers(npho, time)[0]
    for task, values in found.items():
        answered = np.isfinite(values).reshape(6, -1).all(1)
        expected = [False, False, False, "timing" not in task, True, True]
        assert answered.tolist() == expected, task


# ------------------------------------------------------------------------------------------- parts of it


def test_faces_are_summed_and_dead_sensors_estimated(events: Arrays) -> None:
    npho = events["npho"][:40].astype(np.float64)
    live = np.ones(npho.shape, bool)
    sums = energy.face_sums(npho, live)
    for code in range(6):
        np.testing.assert_allclose(sums[:, code], npho[:, geometry.face_codes() == code].sum(1))
    dead = np.random.default_rng(3).random(npho.shape) < 0.05
    np.testing.assert_allclose(energy.face_sums(npho, ~dead)[:, 0], sums[:, 0], rtol=0.06)
    assert np.median(energy.face_sums(npho, ~dead).sum(1) / sums.sum(1)) == pytest.approx(1, abs=0.005)
    # where files do not tell dark sensors from dead ones, dim ones stay empty
    untold = npho > 0
    assert (energy.face_sums(npho, untold).sum(1) / sums.sum(1) < 1.02).all()


def test_the_mean_time_is_that_of_the_sensors(events: Arrays) -> None:
    """Times that are travel at 8 cm/ns and nothing else come out as zero, a few wild ones are dropped."""
    uvw = events["uvwTruth"][:20].astype(np.float64)
    distance = np.linalg.norm(geometry.xyz_from_uvw(uvw)[:, None] - geometry.positions(), axis=2)
    time, live = 1e-9 * distance / 8, np.ones((20, geometry.N_SENSORS), bool)
    time[:, ::100] += 30e-9
    means = timing.mean_times(events["npho"][:20], time, live, uvw, 8.0, np.zeros((2, timing.KNOTS)))
    np.testing.assert_allclose(means[:, 0], 0, atol=2e-3)
    bright = (events["npho"][:20] * np.where(geometry.face_codes() == 0, 0.12, 0.16) > 50).sum(1)
    assert (means[:, 2] < bright).all()
    assert (means[:, 2] > 0.9 * bright).all()


def test_local_axes_are_those_of_the_frame() -> None:
    uvw, step = np.array([[3.0, -40.0, 5.0]]), 1e-4
    axes = direction.local_axes(uvw[:, 1])[0]
    for k, length in enumerate((1.0, (geometry.INNER_RADIUS + 5) / geometry.INNER_RADIUS, 1.0)):
        moved = uvw.copy()
        moved[0, k] += step
        np.testing.assert_allclose(
            (geometry.xyz_from_uvw(moved) - geometry.xyz_from_uvw(uvw))[0] / step, length * axes[k], atol=1e-5
        )


# -------------------------------------------------------------------------------------------- constants


def test_constants_are_kept_in_a_file(known: Constants, events: Arrays, tmp_path: Path) -> None:
    write_constants(tmp_path / "c.json", known)
    again = read_constants(tmp_path / "c.json")
    assert again.tasks == ("angle", "energy", "timing", "uvwFI")
    assert again.sample.files == ["points.root"]
    assert again.sample.energy_mev == pytest.approx([15, 60], abs=0.2)
    one, two = (Reconstruction(c).answers(events["npho"][:20], events["time"][:20])[0] for c in (known, again))
    for task, values in one.items():
        np.testing.assert_allclose(two[task], values, rtol=1e-6, atol=1e-15, err_msg=task)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, "its format is not 'xecml-conventional'"),
        ({"version": 99}, "is of version 99, not 1"),
        ({"geometry_hash": "0" * 16}, "another geometry"),
        ({"position": {"windows": [0] * 6, "u": {}, "v": {}, "w": {}}}, r"position.u has no coefficient"),
        ({"widths": {}}, "there is no width of"),
        ({"sample": None}, "'sample'"),
    ],
)
def test_other_files_are_no_constants(known: Constants, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "c.json"
    write_constants(path, known)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=said):
        read_constants(path)


def test_an_unknown_coefficient_and_a_number_that_is_none_are_refused(known: Constants, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_constants(path, known)
    content = json.loads(path.read_text())
    content["timing"]["correction"]["mystery"] = 1.0
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="unknown coefficient 'mystery'"):
        read_constants(path)
    path.write_text(path.read_text().replace('"mystery": 1.0', '"s": NaN'))
    with pytest.raises(InputError, match="no JSON"):
        read_constants(path)


def test_constants_that_are_not_there_are_named() -> None:
    with pytest.raises(InputError, match=r"no constants 'lithium'; choose decoupled or signal"):
        read_constants("lithium")
    with pytest.raises(InputError, match="No such file of constants"):
        read_constants("nowhere/c.json")


@pytest.mark.parametrize("name", ["signal", "decoupled"])
def test_shipped_constants_are_complete(name: str) -> None:
    found = read_constants(name)
    assert found.tasks == constants.RECONSTRUCTED_TASKS
    assert found.sample.events >= 2000
    assert found.timing is not None
    assert 4 <= found.timing.velocity <= 9


def test_a_calibration_needs_events_and_answers_what_they_tell(events: Arrays) -> None:
    with pytest.raises(InputError, match="Only 20 events have truth and light; give 500 or more"):
        calibration.Calibration(chunks_of({name: values[:20] for name, values in events.items()}))
    with pytest.raises(InputError, match="There are no events"):
        calibration.Calibration(lambda: iter(()))
    less = {name: events[name] for name in ("npho", "time", "uvwTruth", "energyTruth")}
    found = calibration.Calibration(chunks_of(less), with_direction=False).constants()
    assert found.tasks == ("energy", "uvwFI")
    with pytest.raises(InputError, match=r"were not calibrated for timing; .* choose among energy, uvwFI"):
        Reconstruction(found, ("timing",))
