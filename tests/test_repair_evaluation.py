"""Damage patterns, and the comparison of repairs on events of known light."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.checks.dead_sensors import dead_sensors
from xecml.conventional.dead_sensor_estimates import ConventionalRepair
from xecml.data.damage import block_table, draw_damage
from xecml.errors import InputError
from xecml.evaluation.repair_errors import NO_REPAIR, FillErrors, RepairReport, compare_repairs
from xecml.events import INVALID, valid_counts
from xecml.figures import repair_pages

EVENTS = 60
FACE = geometry.face_codes()


# ------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.05, 0.1])
def test_scattered_damage_has_the_exact_number_on_all_faces(fraction: float) -> None:
    dead = draw_damage("scattered", fraction, 400, seed=1)
    assert (dead.sum(1) == round(4760 * fraction)).all()
    for face in range(6):
        share = dead[:, face == FACE].mean()
        # 73 sensors of 400 events at least: one standard deviation is below 0.002
        assert share == pytest.approx(fraction, abs=0.007)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1])
def test_damage_in_blocks_is_whole_blocks_to_the_fraction(fraction: float) -> None:
    dead = draw_damage("blocks", fraction, 50, seed=2)
    number = dead.sum(1)
    assert (number >= round(4760 * fraction)).all()
    assert (number < round(4760 * fraction) + 16).all()
    # every dead sensor of the inner face is in a dead square of 4 x 4
    inner = dead[:, : geometry.N_SIPM].reshape(-1, 93, 44)
    whole = sliding_window_view(inner, (4, 4), axis=(1, 2)).all((-1, -2))
    covered = np.zeros_like(inner)
    for i in range(4):
        for j in range(4):
            covered[:, i : i + 90, j : j + 41] |= whole
    assert np.array_equal(covered, inner)
    assert inner.any()


def test_blocks_of_hexagons_and_of_the_outer_centre_are_neighbourhoods() -> None:
    table = block_table()
    near = np.sort(geometry.hex_neighbours())
    top = np.concatenate(geometry.top_rows())
    for node in (0, 20, 72):
        block = table[top[node]]
        assert np.array_equal(np.sort(block[block < 4760]), top[near[node][near[node] >= 0]])
    assert set(table[4746][table[4746] < 4760]) == {4742, 4186, 4743, 4745, 4746, 4747, 4749, 4195, 4750}
    displaced = set(geometry.outer_centre_map().ravel().tolist())
    coarse = [s for s in range(4092, 4308) if s not in displaced]
    assert not displaced & set(table[coarse].ravel().tolist())
    assert (table == np.arange(4760)[:, None]).any(1).all()


@pytest.mark.parametrize("pattern", ["scattered", "blocks"])
def test_damage_of_an_event_depends_on_seed_and_number_alone(pattern: Any) -> None:
    dead = draw_damage(pattern, 0.05, 30, seed=3)
    assert np.array_equal(draw_damage(pattern, 0.05, 10, seed=3, first=20), dead[20:])
    assert not np.array_equal(draw_damage(pattern, 0.05, 30, seed=4), dead)
    assert not np.array_equal(dead[0], dead[1])
    less = draw_damage(pattern, 0.01, 30, seed=3)
    assert (dead | ~less).all()


def test_wrong_damage_is_refused() -> None:
    with pytest.raises(InputError, match="no damage pattern 'rows'; choose one of scattered, blocks"):
        draw_damage("rows", 0.1, 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="from 0 to below 1"):
        draw_damage("scattered", 1.5, 1)


# -------------------------------------------------------------------------------------------------- comparison


class Known:
    """Fills what it knows of all events in turn, plus an error."""

    def __init__(self, npho: NDArray[Any], time: NDArray[Any], error: float = 0.0, late: float = 0.0) -> None:
        self.npho, self.time, self.error, self.late = npho, time, error, late

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        n, t, where = np.array(npho), np.array(time), np.asarray(dead)
        # events are told apart by a sensor that lives
        event = [int(np.argmin(np.abs(self.npho - row).clip(0, 1e6).sum(1))) for row in np.where(where, 0, n)]
        n[where] = (self.npho[event] + self.error)[where]
        t[where] = (self.time[event] + self.late)[where]
        return n, t


class Nothing:
    """Fills nothing."""

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.array(npho), np.array(time)


class SumOfCounts:
    """Energy is the sum of all counts: every dead sensor costs it."""

    tasks = ("energy",)
    branches = ("npho", "time")
    names: dict[str, str] = {}  # noqa: RUF012 - the protocol's type
    truth_means = {"energy": 0.04}  # noqa: RUF012 - the protocol's type

    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        n = np.asarray(npho, np.float64)
        return {"energy": np.where(valid_counts(n), n, 0).sum(1) * 1e-6}


@pytest.fixture(scope="module")
def chunk() -> dict[str, NDArray[Any]]:
    events = point_sources(EVENTS, seed=11)
    events["npho"] = np.where(events["npho"] < 9e9, events["npho"], 0).astype(np.float32)
    events["npho_expected"] = (events["npho"] + np.float32(3)).astype(np.float32)
    events["energyTruth"] = (events["npho"].sum(1, dtype=np.float64) * 1e-6).astype(np.float32)
    return events


@pytest.fixture(scope="module")
def file(chunk: dict[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repair") / "events.root"
    rootio.write(path, chunk)
    return path


@pytest.fixture(scope="module")
def report(chunk: dict[str, NDArray[Any]], file: Path) -> RepairReport:
    repairs = {
        "perfect": Known(chunk["npho"], chunk["time"]),
        "biased": Known(chunk["npho"], chunk["time"], error=13.0, late=2e-9),
        "nothing": Nothing(),
    }
    model: Any = SumOfCounts()
    return compare_repairs(file, repairs, model=model, fractions=(0.05, 0.1), chunk_events=17)


def test_errors_are_those_of_the_repair(report: RepairReport) -> None:
    assert report.n_events == EVENTS
    for case, repairs in report.errors.items():
        for figures in (repairs["biased"]["expected"]["all"], repairs["biased"]["expected"]["inner"]):
            # the expected count is 3 photons above the drawn one
            assert (figures.bias, figures.mae, figures.rmse) == pytest.approx((10, 10, 10), rel=1e-4)
            assert figures.rmse_error < 1e-3
        assert repairs["biased"]["drawn"]["all"].bias == pytest.approx(13, rel=1e-4)
        assert repairs["biased"]["time"]["all"].bias == pytest.approx(2, rel=1e-3)
        assert repairs["perfect"]["drawn"]["all"].rmse == 0
        assert repairs["nothing"] == {}
        assert report.not_filled[case]["perfect"] == 0
        faces = sum(repairs["biased"]["expected"][face].n for face in geometry.FACES)
        assert report.not_filled[case]["nothing"] == faces == repairs["biased"]["expected"]["all"].n
        assert faces >= EVENTS * round(4760 * case[1])


def test_errors_by_light_and_face_add_up(report: RepairReport) -> None:
    figures = report.errors["scattered", 0.1]["biased"]["drawn"]
    light = [f for name, f in figures.items() if name[0] in "0123456789>"]
    assert sum(f.n for f in light) == figures["all"].n == EVENTS * 476
    assert sum(f.n * f.rmse**2 for f in light) == pytest.approx(figures["all"].n * figures["all"].rmse ** 2)


def test_resolutions_come_back_with_a_perfect_repair(report: RepairReport) -> None:
    assert report.undamaged is not None
    whole = report.undamaged.figures["energy"]["all"]
    for effects in report.effects.values():
        assert effects["perfect"].shift["energy"] == pytest.approx(0, abs=1e-9)
        assert effects["perfect"].recovered["energy"][0] == pytest.approx(1, abs=1e-6)
        assert effects["perfect"].evaluation.figures["energy"]["all"].s68 == pytest.approx(whole.s68, abs=1e-6)
        assert effects[NO_REPAIR].evaluation.figures["energy"]["all"].s68 > 10 * whole.s68 + 0.1
        assert effects["nothing"].recovered["energy"][0] == pytest.approx(0, abs=1e-9)


def test_statistical_error_of_the_rmse_is_that_of_independent_groups() -> None:
    from xecml.evaluation.repair_errors import ErrorSums

    rng = np.random.default_rng(0)
    found: list[FillErrors] = []
    for _ in range(200):
        sums = ErrorSums()
        error, event = rng.normal(0, 4, 2000), np.arange(2000)
        sums.add(0, error, event, np.zeros(2000, np.int64), np.full(2000, 50.0))
        found.append(sums.figures()["expected"]["all"])
    assert np.mean([f.rmse for f in found]) == pytest.approx(4, abs=0.02)
    # 4 / sqrt(2 x 2000) = 0.063; 200 spreads of 20 groups tell it to 1.2 %
    assert np.mean([f.rmse_error for f in found]) == pytest.approx(4 / np.sqrt(4000), rel=0.05)


@pytest.mark.slow
def test_the_result_does_not_depend_on_how_events_are_read(chunk: dict[str, NDArray[Any]], file: Path) -> None:
    repairs = {"mean": ConventionalRepair("neighbour_mean")}
    one, other = (compare_repairs(file, repairs, fractions=(0.05,), chunk_events=n, max_events=40) for n in (7, 40))
    assert one.n_events == 40
    for case in one.errors:
        a, b = one.errors[case]["mean"]["expected"]["all"], other.errors[case]["mean"]["expected"]["all"]
        assert (a.n, a.rmse, a.bias) == pytest.approx((b.n, b.rmse, b.bias), rel=1e-9)


def test_sensors_dead_from_the_start_take_no_part(chunk: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    events = {name: values[:5].copy() for name, values in chunk.items() if name != "npho_expected"}
    events["npho"][:, :4092] = INVALID
    rootio.write(tmp_path / "events.root", events)
    report = compare_repairs(
        tmp_path / "events.root",
        {"known": Known(chunk["npho"], chunk["time"])},
        fractions=(0.1,),
        patterns=("scattered",),
    )
    figures = report.errors["scattered", 0.1]["known"]
    assert "expected" not in figures
    assert "inner" not in figures["drawn"]
    assert figures["drawn"]["all"].n == (draw_damage("scattered", 0.1, 5)[:, 4092:]).sum()


def test_known_dead_sensors_are_no_truth(chunk: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    """Dead ones that read zero would be compared with, and would serve as neighbours."""
    gone = np.random.default_rng(3).random(4760) < 0.05
    events = {name: values.copy() for name, values in chunk.items()}
    events["npho"][:, gone] = 0
    rootio.write(tmp_path / "flags.root", events | {"dead": np.tile(gone, (EVENTS, 1))})
    (tmp_path / "dead.txt").write_text("\n".join(map(str, np.flatnonzero(gone))))
    rootio.write(tmp_path / "plain.root", events)
    repairs = {"mean": ConventionalRepair("neighbour_mean")}
    figures = []
    for name, listed in (("flags.root", None), ("plain.root", tmp_path / "dead.txt"), ("plain.root", None)):
        path = str(tmp_path / name)
        dead = dead_sensors([path], dead_list=listed, flagged=name == "flags.root") if len(figures) < 2 else None
        report = compare_repairs([path], repairs, dead=dead, fractions=(0.1,), patterns=("scattered",))
        figures.append(report.errors["scattered", 0.1]["mean"]["drawn"]["all"])
    assert figures[0] == figures[1]
    damaged = draw_damage("scattered", 0.1, EVENTS)
    assert figures[0].n == (damaged & ~gone).sum()
    assert figures[2].n == damaged.sum()


def test_a_model_needs_truth_and_says_so_before_the_work(chunk: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    bare = {name: values for name, values in chunk.items() if name in ("npho", "time")}
    rootio.write(tmp_path / "bare.root", bare)
    model: Any = SumOfCounts()
    with pytest.raises(InputError, match="no truth of what the model predicts; leave it out"):
        compare_repairs(tmp_path / "bare.root", {"nothing": Nothing()}, model=model)
    assert compare_repairs(tmp_path / "bare.root", {"nothing": Nothing()}, fractions=(0.1,)).undamaged is None


def test_report_is_readable_and_json(report: RepairReport) -> None:
    content = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert content["errors"]["blocks 10 %"]["biased"]["expected"]["all"]["bias"] == pytest.approx(10, rel=1e-4)
    assert content["effects"]["blocks 5 %"]["perfect"]["recovered"]["energy"]["value"] == pytest.approx(1, abs=1e-6)
    titles = [title for title, _, _ in report.tables()]
    assert titles[1] == "RMSE in photons against the expected count"
    for _, headers, rows in report.tables():
        assert all(len(row) == len(headers) for row in rows)
    overview = report.tables()[0][2]
    assert [row[:3] for row in overview[:3]] == [["scattered", "5 %", n] for n in ("perfect", "biased", "nothing")]


@pytest.mark.slow
def test_pictures_are_written_and_alike(report: RepairReport, chunk: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        repair_pages.save_repairs(report, tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    with pytest.raises(InputError, match=r"ends in \.pdf"):
        repair_pages.save_repairs(report, tmp_path / "a.gif")
    npho, dead = chunk["npho"][0], draw_damage("blocks", 0.05, 1)[0]
    figure = repair_pages.draw_repaired_event(npho, dead, {"perfect": npho})
    repair_pages.save_repaired_event(figure, tmp_path / "event.png")
    assert (tmp_path / "event.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="'perfect' has shape"):
        repair_pages.draw_repaired_event(npho, dead, {"perfect": npho[:5]})


def test_files_without_events_are_refused(chunk: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    rootio.write(tmp_path / "none.root", {name: values[:0] for name, values in chunk.items()})
    with pytest.raises(InputError, match="no events"):
        compare_repairs(tmp_path / "none.root", {"nothing": Nothing()})
