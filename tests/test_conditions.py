"""Conditions by run: tables in YAML and ROOT, what is wrong with them, and corrections by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.conditions import NOMINAL_EFFICIENCY, Correction, parse_corrections
from xecml.conditions_file import correction, earlier, load_conditions, refuse_twice, write_conditions
from xecml.errors import InputError
from xecml.events import INVALID, relative_quantities
from xecml.geometry import N_SENSORS, N_SIPM
from xecml.sensor_lists import read_sensor_values

TABLE = """\
ranges:
  - runs: [430010, 430019]
    dead: dead.txt
    gains: gains.txt
  - runs: [430000, 430009]
    dead: [5, 4100]
    gains: {sipm: 1.25, outer: 0.8}
    efficiencies: {sipm: 0.10}
    time_offsets_ns: [[7, 2.5], [4100, -1.0]]
    noise_photoelectrons: 0.3
  - runs: 430030
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "dead.txt").write_text("6\n7 # a board\n")
    (tmp_path / "gains.txt").write_text("# id gain\n12 0.5\n4091 2e0\n")
    path = tmp_path / "conditions.yaml"
    path.write_text(TABLE)
    return path


def test_a_table_is_read_in_every_form_of_its_values(table: Path) -> None:
    found = load_conditions(table)
    assert found.first.tolist() == [430000, 430010, 430030]
    assert found.last.tolist() == [430009, 430019, 430030]
    assert [np.flatnonzero(mask).tolist() for mask in found.dead] == [[5, 4100], [6, 7], []]
    gains = found.values["gains"]
    assert (gains[0, 0], gains[0, N_SIPM - 1]) == (1.25, 1.25)
    assert gains[0, geometry.face_sensors("outer")] == pytest.approx(0.8)
    assert gains[0, geometry.face_sensors("top")] == pytest.approx(1.0)
    assert {int(i): float(gains[1, i]) for i in np.flatnonzero(gains[1] != 1)} == {12: 0.5, 4091: 2.0}
    offsets = found.values["time_offsets_ns"]
    assert {int(i): float(offsets[0, i]) for i in np.flatnonzero(offsets[0])} == {7: 2.5, 4100: -1.0}
    assert found.values["efficiencies"][0, 0] == np.float32(0.10)
    assert found.values["efficiencies"][0, N_SIPM] == np.float32(0.16)
    np.testing.assert_allclose(found.values["efficiencies"][1], NOMINAL_EFFICIENCY, rtol=1e-6)
    assert {name: given.tolist() for name, given in found.given.items()} == {
        "gains": [True, True, False], "efficiencies": [True, False, False], "time_offsets_ns": [True, False, False],
        "noise_photoelectrons": [True, False, False],
    }  # fmt: skip


def test_runs_have_the_range_that_they_are_in(table: Path) -> None:
    found = load_conditions(table)
    assert found.rows([430009, 430000, 430030, 430010]).tolist() == [0, 0, 2, 1]
    assert found.uncovered([430005, 430031, 430020, 1, 430020]).tolist() == [1, 430020, 430031]
    with pytest.raises(InputError, match=r"Runs 430020, 430031 of f.root are in no range .*430000-430009, 430010-430"):
        found.rows([430000, 430020, 430031], "f.root")
    with pytest.raises(InputError, match=r"Run 7 is in no range .*add a range for it\."):
        found.rows([7])
    masks, of = found.masks([430012, 430003, 430012])
    assert [np.flatnonzero(masks[i]).tolist() for i in of] == [[6, 7], [5, 4100], [6, 7]]


def test_values_by_run_for_plots(table: Path) -> None:
    found = load_conditions(table).per_run([430012, 430003, 430012, 430030])
    assert found["run"].tolist() == [430003, 430012, 430030]
    assert found["dead"].tolist() == [2, 2, 0]
    assert found["gains_sipm"][0] == pytest.approx(1.25)
    assert found["gains_sipm"][1] == pytest.approx(1 + (0.5 - 1 + 2 - 1) / (N_SIPM - 2))
    assert np.isnan(found["gains_sipm"][2])
    live = N_SIPM - 1
    assert found["time_offsets_ns_sipm"][0] == pytest.approx(2.5 / live)
    assert found["time_offsets_ns_pmt"][0] == 0  # the one that has an offset is dead


def test_root_holds_the_same_table(table: Path, tmp_path: Path) -> None:
    table.write_text(TABLE.replace("    efficiencies: {sipm: 0.10}\n", "").replace("  - runs: 430030\n", ""))
    text = table.read_text().replace(
        "    time_offsets_ns: [[7, 2.5], [4100, -1.0]]\n    noise_photoelectrons: 0.3\n", ""
    )
    table.write_text(text)
    yaml = load_conditions(table)
    write_conditions(tmp_path / "c.root", yaml)
    root = load_conditions(tmp_path / "c.root")
    assert root.digest == yaml.digest
    assert (root.first.tolist(), root.last.tolist()) == (yaml.first.tolist(), yaml.last.tolist())
    np.testing.assert_array_equal(root.dead, yaml.dead)
    np.testing.assert_array_equal(root.values["gains"], yaml.values["gains"])
    assert not root.given["efficiencies"].any()
    table.write_text(TABLE)
    with pytest.raises(InputError, match="has gains for some runs but not for 430030"):
        write_conditions(tmp_path / "d.root", load_conditions(table))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ranges:\n  - runs: [1, 5]\n  - runs: [5, 9]\n", "the ranges 1-5 and 5-9 overlap in 5"),
        ("ranges:\n  - runs: [1, 50]\n  - runs: 7\n", "the ranges 1-50 and 7 overlap in 7"),
        ("ranges:\n  - runs: [9, 5]\n", "range 1: runs is .* the first and the last run"),
        ("ranges:\n  - runs: a\n", "the first and the last run"),
        ("ranges:\n  - runs: [-1, 5]\n", "the first and the last run"),
        ("ranges:\n  - dead: [1]\n", "'runs' is missing"),
        ("ranges: []\n", "a list of 1 to 2000 ranges"),
        ("range: []\n", r"Unknown key 'range' .*did you mean 'ranges'"),
        ("ranges:\n  - runs: 1\n  - runs: 2\n    gain: 1\n", r"Unknown key 'gain' in .*range 2 .*did you mean 'gains'"),
        ("ranges:\n  - runs: 1\n    dead: [4760]\n", "sensor ids from 0 to 4759"),
        ("ranges:\n  - runs: 1\n    dead: [true]\n", "sensor ids"),
        ("ranges:\n  - runs: 1\n    dead: none.txt\n", "none.txt"),
        ("ranges:\n  - runs: 1\n    gains: none.txt\n", "none.txt"),
        ("ranges:\n  - runs: 1\n    gains: {simp: 1.0}\n", "'simp' is no kind of sensor.*did you mean 'sipm'"),
        ("ranges:\n  - runs: 1\n    gains: {sipm: x}\n", "give a number"),
        ("ranges:\n  - runs: 1\n    gains: [1.0, 2.0]\n", "pairs of sensor id and number"),
        ("ranges:\n  - runs: 1\n    gains: .nan\n", "must be a number"),
        ("ranges:\n  - runs: 1\n    gains: 0\n", "gains of sensor 0 is 0; it must be a number from 0.01 to 100"),
        ("ranges:\n  - runs: [1, 3]\n    efficiencies: 1.5\n", "runs 1-3: efficiencies of sensor 0 is 1.5"),
        ("ranges:\n  - runs: 1\n    time_offsets_ns: 1.0e-9\n    noise_photoelectrons: -1\n", "noise_photoelectrons"),
        ("- 1\n", "must hold a list .ranges."),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        load_conditions(tmp_path / "t.yaml")
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")


def test_all_sensors_dead_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("\n".join(map(str, range(N_SENSORS))))
    (tmp_path / "t.yaml").write_text("ranges:\n  - runs: 1\n    dead: all.txt\n")
    with pytest.raises(InputError, match="all 4760 sensors are dead"):
        load_conditions(tmp_path / "t.yaml")
    with pytest.raises(InputError, match=r"name does not end in .yaml or .root"):
        load_conditions(tmp_path / "t.csv")
    with pytest.raises(InputError, match="No such"):
        load_conditions(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"last_run": np.int32([5])}, "first_run"),
        ({"first_run": np.int32([1, 4]), "last_run": np.int32([5, 6])}, "overlap in 4-5"),
        ({"first_run": np.int32([1]), "last_run": np.int32([5]), "gain": np.ones((1, 4760))}, "did you mean 'gains'"),
        ({"first_run": np.int32([1]), "last_run": np.int32([5]), "gains": np.ones((1, 476))}, "has shape"),
        ({"first_run": np.int32([6]), "last_run": np.int32([5])}, "the first and the last run"),
        (
            {"first_run": np.int32([1]), "last_run": np.int32([5]), "gains": np.full((1, 4760), np.nan)},
            "must be a number",
        ),
        ({"first_run": np.empty(0, np.int32), "last_run": np.empty(0, np.int32)}, "0 ranges"),
    ],
)
def test_what_is_wrong_with_a_tree_is_one_sentence(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    rootio.write(tmp_path / "c.root", arrays, tree="conditions")
    with pytest.raises(InputError, match=said):
        load_conditions(tmp_path / "c.root")


@pytest.mark.parametrize("text", ["1", "1 x", "x 1", "4760 1", "1 2 3", "1 nan", "1 1\n1 2", "-1 2"])
def test_lists_of_values_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(InputError, match=r"line [12]"):
        read_sensor_values(tmp_path / "v.txt", 1.0)


# ------------------------------------------------------------------------------------------------------ corrections


def two_runs(seed: int = 3) -> dict[str, Any]:
    """Forty events, of runs 430003 and 430012 in turn."""
    chunk = point_sources(40, seed)
    chunk["run"] = np.where(np.arange(40) % 2, 430012, 430003).astype(np.int32)
    return chunk


def test_each_event_has_the_mask_of_its_own_run(table: Path) -> None:
    chunk = two_runs()
    found = Correction(load_conditions(table))("f.root", dict(chunk))
    for i in range(40):
        dead = [6, 7] if i % 2 else [5, 4100]
        assert (found["npho"][i, dead] == INVALID).all()
        assert (found["time"][i, dead] == INVALID).all()
        live = np.delete(np.arange(N_SENSORS), dead)
        np.testing.assert_array_equal(found["npho"][i, live], chunk["npho"][i, live])
        np.testing.assert_array_equal(found["time"][i, live], chunk["time"][i, live])


def test_gains_efficiencies_and_offsets_are_taken_out_where_asked(table: Path) -> None:
    chunk = {name: values[::2] for name, values in two_runs().items()}
    chunk["nphe"] = np.where(chunk["npho"] < 9e9, chunk["npho"] * NOMINAL_EFFICIENCY, INVALID).astype(np.float32)
    pair = relative_quantities(chunk["npho"], chunk["time"])
    chunk |= {name: v.astype(np.float32) for name, v in zip(("relative_npho", "relative_time"), pair, strict=True)}
    what = parse_corrections("gains,efficiencies time_offsets")
    assert what == ("dead", "gains", "efficiencies", "time_offsets")
    done = Correction(load_conditions(table), what)
    found = done("f.root", dict(chunk))
    ok = chunk["npho"] < 9e9
    ok[:, [5, 4100]] = False
    for sensor, factor, gain, offset in ((0, 0.12 / 0.10 / 1.25, 1.25, 0.0), (7, 0.96, 1.25, 2.5e-9),
                                         (4200, 1 / 0.8, 0.8, 0.0), (4400, 1.0, 1.0, 0.0)):  # fmt: skip
        some = ok[:, sensor]
        np.testing.assert_allclose(found["npho"][some, sensor], chunk["npho"][some, sensor] * factor, rtol=1e-6)
        np.testing.assert_allclose(found["nphe"][some, sensor], chunk["nphe"][some, sensor] / gain, rtol=1e-6)
        np.testing.assert_allclose(found["time"][some, sensor], chunk["time"][some, sensor] - offset, atol=2e-15)
        assert (found["npho"][~some, sensor] >= 9e9).all()
    made = relative_quantities(found["npho"], found["time"], found["nphe"])
    np.testing.assert_array_equal(found["relative_npho"], made[0])
    np.testing.assert_array_equal(found["relative_time"], made[1])
    (said,) = [done.record("predict")]
    assert said["applied"] == list(what)
    assert said["runs"] == [{"first": 430000, "last": 430009, "events": 20, "dead": [5, 4100]}]
    assert (said["command"], said["table"]) == ("predict", "conditions.yaml")


def test_what_cannot_be_corrected_is_refused(table: Path) -> None:
    conditions = load_conditions(table)
    chunk = two_runs()
    with pytest.raises(InputError, match="has no efficiencies for the runs 430010-430019"):
        Correction(conditions, ("dead", "efficiencies"))("f.root", dict(chunk))
    with pytest.raises(InputError, match="has no run numbers"):
        Correction(conditions)("f.root", {"npho": chunk["npho"], "time": chunk["time"]})
    n, t = relative_quantities(chunk["npho"], chunk["time"])
    relative = {"run": chunk["run"], "relative_npho": n, "relative_time": t}
    with pytest.raises(InputError, match="no npho and time"):
        Correction(conditions, ("dead", "gains"))("f.root", relative)
    with pytest.raises(InputError, match=r"'gain' is no quantity .*did you mean 'gains'"):
        correction(table, "gain")
    with pytest.raises(InputError, match="needs a table of conditions; name one with --conditions"):
        correction(None, "gains")
    assert correction(None) is None


def test_relative_counts_alone_are_of_the_largest_live_sensor(table: Path) -> None:
    chunk = {name: values[1::2] for name, values in two_runs().items()}
    brightest = np.zeros_like(chunk["npho"])
    brightest[:, 6], brightest[:, 9], brightest[:, 30] = 1.0, 0.5, 0.25
    relative = {"run": chunk["run"], "relative_npho": brightest, "relative_time": chunk["time"]}
    found = Correction(load_conditions(table))("f.root", relative)
    assert (found["relative_npho"][:, 6] == INVALID).all()
    assert (found["relative_npho"][:, [9, 30]] == [1.0, 0.5]).all()


def test_metadata_are_read_back_and_corrections_are_not_made_twice(table: Path, tmp_path: Path) -> None:
    from xecml.conditions_file import TREE, as_text

    done = Correction(load_conditions(table), ("dead", "gains"))
    with rootio.TreeWriter(tmp_path / "f.root") as writer:
        writer.extend(done("x", two_runs()))
        writer.add_text(TREE, as_text([done.record("prepare")]))
    (said,) = earlier(tmp_path / "f.root")
    assert said["applied"] == ["dead", "gains"]
    assert [part["events"] for part in said["runs"]] == [20, 20]
    refuse_twice([tmp_path / "f.root"], ("dead", "time_offsets"))
    with pytest.raises(InputError, match=r"corrected for gains before \(by 'xec prepare' with conditions.yaml\)"):
        refuse_twice([tmp_path / "f.root"], ("dead", "gains"))
    assert rootio.list_trees(tmp_path / "f.root") == ["tree"]
    rootio.write(tmp_path / "plain.root", two_runs())
    assert earlier(tmp_path / "plain.root") == []
