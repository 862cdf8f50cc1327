"""The learned yardstick: its numbers against direct formulas, dead sensors among them, and trees that learn."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.benchmark_modules import modules
from tests.conftest import point_sources
from xecml import rootio
from xecml.conventional import feature_sums as sums
from xecml.conventional.constants import read_constants
from xecml.conventional.features import FEATURES, Described, describe
from xecml.conventional.reconstruction import Reconstruction, Seen, look
from xecml.conventional.two_points import U_1, U_2
from xecml.errors import InputError
from xecml.evaluation.tables import read_table, residuals
from xecml.events import INVALID, photoelectrons
from xecml.geometry import FACES, INNER_RADIUS, N_SENSORS, face_sensors, inner_map, positions, xyz_from_uvw
from xecml.resolution import s68
from xecml.simulation.generate import simulate
from xecml.simulation.settings import make_settings

NAMES = ("yardstick_blocks", "yardstick")
Arrays = dict[str, NDArray[Any]]
EVENTS = 6


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, Any]]:
    with modules(NAMES) as found:
        yield found


@pytest.fixture(scope="module")
def events() -> Arrays:
    """A handful; in the second half a fifth of the sensors is not read, the brightest SiPM among them."""
    found = point_sources(EVENTS, 3)
    dark = np.where(found["npho"] > 9e9, 0, found["npho"]).astype(np.float32)
    lost = np.random.default_rng(4).random(dark.shape) < 0.2
    lost[np.arange(EVENTS), dark[:, :4092].argmax(1)] = True
    lost[: EVENTS // 2] = False
    return {"npho": np.where(lost, np.float32(INVALID), dark), "time": np.where(lost, INVALID, found["time"])}


@pytest.fixture(scope="module")
def seen(events: Arrays) -> Seen:
    return look(events["npho"])


@pytest.fixture(scope="module")
def described(events: Arrays) -> Described:
    return describe(Reconstruction(read_constants("decoupled")), events["npho"], events["time"])


def value(described: Described, name: str) -> NDArray[np.float64]:
    return described.features[:, FEATURES.index(name)].astype(np.float64)


def test_there_are_222_numbers_with_names_of_their_own(described: Described) -> None:
    assert len(FEATURES) == len(set(FEATURES)) == 222
    assert described.features.shape == (EVENTS, 222)
    assert described.features.dtype == np.float32
    assert sum(name.startswith("patch") for name in FEATURES) == 49
    of_patch = np.array([name.startswith("patch") for name in FEATURES])
    # dead sensors have no share, and nothing else is unknown for them
    assert np.isfinite(described.features[:, ~of_patch]).all()
    assert np.isnan(described.features[EVENTS // 2 :, of_patch]).any()


def test_light_faces_windows_and_points_are_those_of_the_reconstruction(described: Described, seen: Seen) -> None:
    total = seen.sums.sum(1)
    np.testing.assert_allclose(value(described, "log light"), np.log(total), rtol=1e-6)
    np.testing.assert_allclose(value(described, "log energy"), np.log(described.energy), rtol=1e-6)
    for k, face in enumerate(FACES):
        np.testing.assert_allclose(value(described, f"share of {face}"), seen.sums[:, k] / total, rtol=1e-5)
    for axis, name in enumerate("uvw"):
        np.testing.assert_allclose(value(described, name), described.uvw[:, axis], rtol=1e-6)
        # the third of six windows is that of four sensors
        off = seen.fits[:, 2, axis] - described.uvw[:, axis]
        np.testing.assert_allclose(value(described, f"window 4 {name}"), off, rtol=1e-4, atol=1e-5)
    assert seen.pairs is not None
    ends = [xyz_from_uvw(seen.pairs[:, k : k + 3]) for k in (U_1, U_2)]
    length = np.linalg.norm(ends[1] - ends[0], axis=1)
    np.testing.assert_allclose(value(described, "axis length"), np.minimum(length, 40), rtol=1e-5)
    unit = sum(value(described, f"axis {axis}") ** 2 for axis in "uvw")
    np.testing.assert_allclose(unit, 1, rtol=1e-5)


def inner_light(events: Arrays, e: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Counts of the live SiPMs, where they are about nothing (u, v), and the light of all live sensors."""
    xyz = positions()[:4092]
    npho = events["npho"][e].astype(np.float64)
    live = npho < 9e9
    total = npho[live].sum()
    v = INNER_RADIUS * np.arctan2(xyz[:, 1], -xyz[:, 0])
    return np.where(live[:4092], npho[:4092], 0.0), xyz[:, 2], v, total


@pytest.mark.parametrize("e", range(EVENTS))
def test_moments_and_the_brightest_are_direct_sums(described: Described, events: Arrays, e: int) -> None:
    q, u, v, total = inner_light(events, e)
    for power in (1, 2):
        weights = q**power
        mean_u, mean_v = np.average(u, weights=weights), np.average(v, weights=weights)
        spread_u = np.sqrt(np.average((u - mean_u) ** 2, weights=weights))
        spread_v = np.sqrt(np.average((v - mean_v) ** 2, weights=weights))
        both = np.average((u - mean_u) * (v - mean_v), weights=weights)
        wanted = {
            "mean u": mean_u - described.uvw[e, 0], "mean v": mean_v - described.uvw[e, 1], "width u": spread_u,
            "width v": spread_v, "correlation": both / (spread_u * spread_v),
            "skewness u": np.average((u - mean_u) ** 3, weights=weights) / spread_u**3,
            "skewness v": np.average((v - mean_v) ** 3, weights=weights) / spread_v**3,
        }  # fmt: skip
        for name, number in wanted.items():
            assert value(described, f"light^{power} {name}")[e] == pytest.approx(number, rel=1e-4, abs=1e-4), name
    order = np.sort(q)[::-1]
    assert value(described, "brightest share")[e] == pytest.approx(order[0] / total, rel=1e-5)
    for number in (4, 9, 25, 100):
        assert value(described, f"brightest {number} share")[e] == pytest.approx(order[:number].sum() / total, rel=1e-5)


@pytest.mark.parametrize("e", [0, EVENTS - 1])
def test_rings_and_their_times_are_direct_sums(described: Described, events: Arrays, e: int) -> None:
    q, u, v, total = inner_light(events, e)
    du, dv = u - described.uvw[e, 0], v - described.uvw[e, 1]
    r, azimuth = np.hypot(du, dv), np.arctan2(dv, du)
    ring = np.digitize(r, sums.RING_EDGES) - 1
    nphe = photoelectrons(np.where(events["npho"][e] < 9e9, events["npho"][e], 0).astype(np.float64))[:4092]
    timed = (nphe > 30) & (np.abs(events["time"][e, :4092]) < 9e9)
    weight = np.where(timed, nphe / (6.25 + 0.04 * nphe), 0.0)
    travel = np.linalg.norm(positions()[:4092] - xyz_from_uvw(described.uvw[e]), axis=1) / 8.0
    late = np.where(timed, 1e9 * (events["time"][e, :4092] - described.timing[e]) - travel, 0.0)
    for k in range(sums.RINGS):
        here = ring == k
        light = q[here].sum()
        assert value(described, f"ring {k} share")[e] == pytest.approx(light / total, rel=1e-4)
        harmonics = {"cos": np.cos(azimuth), "sin": np.sin(azimuth), "cos 2": np.cos(2 * azimuth)}
        harmonics["sin 2"] = np.sin(2 * azimuth)
        for name, of in harmonics.items():
            number = (q[here] * of[here]).sum() / light
            assert value(described, f"ring {k} {name}")[e] == pytest.approx(number, abs=1e-4), (k, name)
        number = (weight * late)[here].sum() / (weight[here].sum() + 5)
        assert value(described, f"ring {k} time")[e] == pytest.approx(number, abs=1e-3)
        if k < sums.GRADIENTS:
            number = (weight * late * np.cos(azimuth))[here].sum() / (weight[here].sum() + 5)
            assert value(described, f"ring {k} time gradient u")[e] == pytest.approx(number, abs=1e-3)


@pytest.mark.parametrize("e", range(EVENTS))
def test_the_patch_is_about_the_point_and_lacks_what_is_not_there(described: Described, events: Arrays, e: int) -> None:
    q, u, v, total = inner_light(events, e)
    near = int(np.hypot(u - described.uvw[e, 0], v - described.uvw[e, 1]).argmin())
    row, column = divmod(near, 44)
    for a, b in ((3, 3), (0, 0), (2, 5), (6, 6)):
        i, j = row + a - 3, column + b - 3
        found = value(described, f"patch {a} {b}")[e]
        inside = 0 <= i < 93 and 0 <= j < 44
        if not inside or events["npho"][e, inner_map()[i, j]] > 9e9:
            assert np.isnan(found)
        else:
            assert found == pytest.approx(q[inner_map()[i, j]] / total, rel=1e-5)


@pytest.mark.parametrize("face", ["us", "outer", "top"])
def test_faces_of_pmts_and_times_are_direct_sums(described: Described, events: Arrays, face: str) -> None:
    ids, xyz = face_sensors(face), positions()[face_sensors(face)]
    coordinates = {
        "u": (xyz[:, 2], 0, 0.0), "v": (INNER_RADIUS * np.arctan2(xyz[:, 1], -xyz[:, 0]), 1, 0.0),
        "r": (np.hypot(xyz[:, 0], xyz[:, 1]), 2, INNER_RADIUS),
    }  # fmt: skip
    for e in range(EVENTS):
        q = np.where(events["npho"][e, ids] < 9e9, events["npho"][e, ids], 0).astype(np.float64)
        for axis in {"us": "vr", "outer": "uv", "top": "ur"}[face]:
            along, k, at = coordinates[axis]
            mean, there = np.average(along, weights=q), described.uvw[e, k] + at
            assert value(described, f"{face} mean {axis}")[e] == pytest.approx(mean - there, abs=1e-3)
            width = np.sqrt(np.average((along - mean) ** 2, weights=q))
            assert value(described, f"{face} width {axis}")[e] == pytest.approx(width, abs=1e-3)
            square = np.average(along, weights=q**2) - there
            assert value(described, f"{face} mean of squares {axis}")[e] == pytest.approx(square, abs=1e-3)
        assert value(described, f"{face} largest")[e] == pytest.approx(q.max() / q.sum(), rel=1e-5)
        nphe = photoelectrons(np.where(events["npho"][e] < 9e9, events["npho"][e], 0).astype(np.float64))
        timed = (nphe > 50) & (np.abs(events["time"][e]) < 9e9)
        t = 1e9 * (events["time"][e][timed] - described.timing[e])
        weight = nphe[timed] / (6.25 + 0.04 * nphe[timed])
        assert value(described, "sensors with a time")[e] == timed.sum()
        assert value(described, "mean time")[e] == pytest.approx(np.average(t, weights=weight), abs=1e-3)
        assert value(described, "earliest time")[e] == pytest.approx(t.min(), abs=1e-3)


def test_an_event_without_light_is_unknown(events: Arrays) -> None:
    npho = np.concatenate([events["npho"][:1], np.full((1, N_SENSORS), INVALID, np.float32)])
    time = np.concatenate([events["time"][:1], np.full((1, N_SENSORS), INVALID)])
    found = describe(Reconstruction(read_constants("signal")), npho, time)
    assert np.isfinite(found.features[0]).sum() > 200
    assert np.isnan(found.features[1, FEATURES.index("ring 0 share")])
    assert np.isnan(found.uvw[1]).all()


# -------------------------------------------------------------------------------------------------------------- trees


def test_bad_input_is_one_sentence(bench: dict[str, Any], tmp_path: Path) -> None:
    yardstick, blocks = bench["yardstick"], bench["yardstick_blocks"]
    other = tmp_path / "trees.json"
    with pytest.raises(InputError, match=re.escape("No such file of trees")):
        yardstick.load(other)
    other.write_text('{"format": "something"}')
    with pytest.raises(InputError, match=r"is no file of trees; make it anew"):
        yardstick.load(other)
    content = {"format": yardstick.FORMAT, "version": yardstick.VERSION, "features": ["one"]}
    rest = {"constants": "signal", "events": 1, "files": [], "scales": {}, "models": {}, "numbers": {}, "seconds": 0}
    other.write_text(json.dumps(content | rest))
    with pytest.raises(InputError, match="other features"):
        yardstick.load(other)
    few = point_sources(40, 1)
    rootio.write(tmp_path / "few.root", {name: few[name] for name in ("npho", "time")})
    with pytest.raises(InputError, match="hold 40 events, not 500"):
        blocks.sample([tmp_path / "few.root"], "signal", 500, tmp_path, quiet=True)
    with pytest.raises(InputError, match="has no uvwTruth"):
        blocks.sample([tmp_path / "few.root"], "signal", 40, tmp_path, quiet=True)


def test_without_lightgbm_one_is_told(bench: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match="pip install lightgbm"):
        bench["yardstick"].lightgbm()


def test_simulated_blocks_are_those_of_their_seeds_and_leave_no_events(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = bench["yardstick_blocks"]
    monkeypatch.setattr(blocks, "SIMULATED", 24)
    settings = make_settings({"vertex": "signal", "energy_mev": (15.0, 60.0), "map_quality": "quick"})
    found = blocks.simulated(settings, 5, "signal", 40, tmp_path / "features", quiet=True)
    assert sorted(path.suffix for path in (tmp_path / "features").iterdir()) == [".npz", ".npz"]
    for k, seed in enumerate((5, 15)):
        simulate(tmp_path / f"{seed}.root", 24, settings=settings, seed=seed)
        rows = slice(24 * k, min(24 * k + 24, 40))
        own = blocks.sample([tmp_path / f"{seed}.root"], "signal", rows.stop - rows.start, tmp_path, quiet=True)
        np.testing.assert_array_equal(found.features[rows], own.features)
        np.testing.assert_array_equal(found.targets[rows], own.targets)
    again = blocks.simulated(settings, 5, "signal", 40, tmp_path / "features", quiet=True)
    np.testing.assert_array_equal(again.features, found.features)


@pytest.mark.slow
def test_trees_learn_what_the_conventional_answers_miss(bench: dict[str, Any], tmp_path: Path) -> None:
    """On other events than those they were trained on: narrower in u, v, w, and the columns of `xec predict`."""
    pytest.importorskip("lightgbm", reason="the yardstick needs lightgbm: pip install lightgbm")
    yardstick, blocks = bench["yardstick"], bench["yardstick_blocks"]
    settings = make_settings({"vertex": "decoupled", "energy_mev": (15.0, 60.0), "map_quality": "quick"})
    simulate(tmp_path / "train.root", 2000, settings=settings, seed=1, jobs=2)
    simulate(tmp_path / "test.root", 600, settings=settings, seed=2, jobs=2)
    given = blocks.sample([tmp_path / "train.root"], "decoupled", 2000, tmp_path / "features", quiet=True)
    again = blocks.sample([tmp_path / "train.root"], "decoupled", 2000, tmp_path / "features", quiet=True)
    np.testing.assert_array_equal(given.features, again.features)
    trees = yardstick.train(given, "decoupled", quiet=True)
    yardstick.save(trees, tmp_path / "trees.json")
    trees = yardstick.load(tmp_path / "trees.json")
    assert trees.events == 2000
    assert [Path(name).name for name in trees.files] == ["train.root"]
    assert yardstick.predict_files(trees, [tmp_path / "test.root"], tmp_path / "out.root") == 600
    table = read_table(tmp_path / "out.root")
    assert {"run", "event", "n_valid", "opening_angle", "true_w", "pred_emiVec"} - table.keys() == {"pred_emiVec"}
    chunk = next(rootio.read(tmp_path / "test.root", ("npho", "time"), chunk_events=600))
    plain = describe(Reconstruction(read_constants("decoupled")), chunk["npho"], chunk["time"])
    for k, axis in enumerate("uvw"):
        conventional = 10 * (plain.uvw[:, k] - table[f"true_{axis}"])
        assert s68(residuals(table, axis)) < 0.95 * s68(conventional), axis
    with pytest.raises(InputError, match="test.root"):
        yardstick.predict_files(trees, [tmp_path / "test.root"], tmp_path / "test.root")
