"""Files with dead sensors in, repaired files out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from numpy.typing import ArrayLike, NDArray

from tests.conftest import point_sources
from xecml import rootio
from xecml.conventional.dead_sensor_estimates import ConventionalRepair
from xecml.errors import InputError
from xecml.events import INVALID, photoelectrons, relative_quantities
from xecml.inference.inpaint import inpaint_files

EVENTS = 120
DEAD = (3, 100, 2045, 2046, 4200, 4600)
Arrays = dict[str, NDArray[Any]]


class Fixed:
    """Fills 321 photons and 7 ns, and spoils live sensors, which must not come through."""

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        n, t = np.full(np.shape(npho), 321.0), np.full(np.shape(time), 7e-9)
        return n, t


def events(seed: int = 1, number: int = EVENTS) -> Arrays:
    chunk = point_sources(number, seed)
    chunk["npho"] = np.where(chunk["npho"] < 9e9, chunk["npho"], 0).astype(np.float32)
    # bits that arithmetic would not keep
    chunk["npho"][0, 50], chunk["time"][1, 51], chunk["npho"][2, 52] = np.nan, np.inf, -0.0
    return chunk


def relatives(chunk: Arrays) -> Arrays:
    pair = relative_quantities(chunk["npho"], chunk["time"])
    return chunk | {"relative_npho": pair[0].astype(np.float32), "relative_time": pair[1].astype(np.float32)}


def read_all(path: Path) -> Arrays:
    with rootio.open_tree(path) as reader:
        return reader.arrays(sorted(reader.in_file), 0, reader.n_events)


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture
def dead_list(tmp_path: Path) -> Path:
    path = tmp_path / "dead.txt"
    path.write_text("# found in 2023\n" + "\n".join(f"{s}  # sensor" for s in DEAD) + "\n\n")
    return path


def test_dead_sensors_are_filled_and_everything_else_passes(tmp_path: Path, dead_list: Path) -> None:
    chunk = events() | {"npho_expected": np.arange(EVENTS * 4760, dtype=np.float32).reshape(EVENTS, 4760)}
    chunk["bits"] = np.arange(EVENTS, dtype=np.int16)
    rootio.write(tmp_path / "in.root", chunk)
    report = inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "out.root", dead_list=dead_list, chunk_events=50)
    out = read_all(tmp_path / "out.root")
    dead = np.isin(np.arange(4760), DEAD)
    assert out.keys() == chunk.keys() | {"inpainted"}
    assert out["inpainted"].dtype == bool
    assert np.array_equal(out["inpainted"], np.tile(dead, (EVENTS, 1)))
    for name, value in (("npho", 321), ("time", 7e-9)):
        assert (out[name][:, dead] == np.float32(value)).all()
        assert same_bits(out[name][:, ~dead], chunk[name][:, ~dead])
    for name in chunk.keys() - {"npho", "time"}:
        assert same_bits(out[name], chunk[name]), name
    assert (report.events, report.origin, report.sensors) == (EVENTS, "list", DEAD)
    assert (report.filled, report.not_filled) == (EVENTS * len(DEAD), 0)
    assert report.as_dict()["out"] == str(tmp_path / "out.root")


def test_several_files_become_one_in_order(tmp_path: Path, dead_list: Path) -> None:
    for i in (1, 2):
        rootio.write(tmp_path / f"in{i}.root", events(seed=i, number=20))
    files = [tmp_path / "in2.root", tmp_path / "in1.root"]
    inpaint_files(Fixed(), files, tmp_path / "out.root", dead_list=dead_list)
    out = read_all(tmp_path / "out.root")
    assert out["run"].tolist() == [2] * 20 + [1] * 20
    assert out["event"].tolist() == [*range(20), *range(20)]


def test_flags_of_the_file_serve_event_by_event(tmp_path: Path) -> None:
    chunk = events()
    flags = np.random.default_rng(0).random((EVENTS, 4760)) < 0.01
    rootio.write(tmp_path / "in.root", chunk | {"dead": flags})
    report = inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "out.root", chunk_events=33)
    out = read_all(tmp_path / "out.root")
    assert report.origin == "branch"
    assert report.filled == flags.sum()
    assert np.array_equal(out["inpainted"], flags)
    assert np.array_equal(out["dead"], flags)
    assert (out["npho"][flags] == 321).all()
    assert same_bits(out["npho"][~flags], chunk["npho"][~flags])


def test_a_list_goes_before_flags(tmp_path: Path, dead_list: Path) -> None:
    rootio.write(tmp_path / "in.root", events() | {"dead": np.ones((EVENTS, 4760), bool)})
    report = inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "out.root", dead_list=dead_list)
    assert (report.origin, report.sensors) == ("list", DEAD)


def test_never_lit_and_always_lit_sensors_are_found(tmp_path: Path) -> None:
    chunk = events()
    typical = np.median((chunk["npho"] > 0).mean(0))
    assert typical > 0.5
    chunk["npho"][:, 2045], chunk["npho"][:, 4200] = INVALID, 0.0
    chunk["npho"][:, 1500] = 1e6
    rootio.write(tmp_path / "in.root", chunk)
    report = inpaint_files(ConventionalRepair("point_source"), tmp_path / "in.root", tmp_path / "out.root")
    assert (report.origin, report.sensors) == ("automatic", (1500, 2045, 4200))
    out, truth = read_all(tmp_path / "out.root")["npho"], events()["npho"]
    for sensor in report.sensors:
        bright = truth[:, sensor] > 200
        assert np.median(out[bright, sensor] / truth[bright, sensor]) == pytest.approx(1, abs=0.2)


def test_relative_branches_follow(tmp_path: Path) -> None:
    chunk = events()
    top = np.nanargmax(np.where(chunk["npho"] < 9e9, chunk["npho"], 0), axis=1)
    # in the first event the brightest sensor is dead: all its relative counts are to the one that is filled
    dead = np.zeros((EVENTS, 4760), bool)
    dead[:, 4100] = True
    dead[4, top[4]] = True
    damaged = chunk | {"npho": np.where(dead, np.float32(1e10), chunk["npho"])}
    damaged = relatives(damaged) | {"dead": dead, "nphe": photoelectrons(damaged["npho"]).astype(np.float32)}
    rootio.write(tmp_path / "in.root", damaged)

    class Back:
        def fill(self, npho: ArrayLike, time: ArrayLike, where: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
            del where
            return chunk["npho"][: len(np.asarray(npho))], chunk["time"][: len(np.asarray(time))]

    inpaint_files(Back(), tmp_path / "in.root", tmp_path / "out.root")
    out = read_all(tmp_path / "out.root")
    whole = relatives(chunk)
    for name in ("npho", "time"):
        assert same_bits(out[name], chunk[name])
    assert np.allclose(out["relative_npho"], whole["relative_npho"], rtol=1e-6)
    assert out["relative_npho"][4, top[4]] == 1
    # elsewhere live sensors keep their bits
    live = ~dead & (np.arange(EVENTS) != 4)[:, None]
    assert same_bits(out["relative_npho"][live], damaged["relative_npho"][live])
    assert np.allclose(out["nphe"][dead], photoelectrons(chunk["npho"])[dead], rtol=1e-6)


def test_a_repair_of_relative_quantities_fills_photons_and_seconds_too(tmp_path: Path, dead_list: Path) -> None:
    chunk = relatives(events())
    rootio.write(tmp_path / "in.root", chunk)

    class Half:
        def fill(self, npho: ArrayLike, time: ArrayLike, where: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
            del where
            return np.full(np.shape(npho), 0.5), np.full(np.shape(time), 2e-9)

    pair = ("relative_npho", "relative_time")
    inpaint_files(Half(), tmp_path / "in.root", tmp_path / "out.root", dead_list=dead_list, branches=pair)
    out, dead = read_all(tmp_path / "out.root"), np.isin(np.arange(4760), DEAD)
    largest = np.where(chunk["npho"] < 9e9, chunk["npho"], 0)[:, ~dead].max(1)
    # events whose largest count is at a live sensor
    plain = np.nanmax(np.where(chunk["npho"] < 9e9, chunk["npho"], 0), axis=1) == largest
    assert plain.sum() > 100
    assert (out["relative_npho"][plain][:, dead] == np.float32(0.5)).all()
    assert np.allclose(out["npho"][plain][:, dead], 0.5 * largest[plain, None], rtol=1e-4)
    begin = np.nanmedian(np.where(np.abs(chunk["time"]) < 1, chunk["time"] - chunk["relative_time"], np.nan), axis=1)
    assert np.allclose(out["time"][plain][:, dead], (begin + 2e-9)[plain, None], atol=1e-12)
    assert same_bits(out["npho"][:, ~dead], chunk["npho"][:, ~dead])


def test_what_cannot_be_filled_stays_not_measured(tmp_path: Path) -> None:
    flags = np.zeros((EVENTS, 4760), bool)
    flags[:, 4308:4452] = True  # a whole face
    rootio.write(tmp_path / "in.root", events() | {"dead": flags})
    report = inpaint_files(ConventionalRepair("neighbour_mean"), tmp_path / "in.root", tmp_path / "out.root")
    assert (report.filled, report.not_filled) == (0, flags.sum())
    out = read_all(tmp_path / "out.root")
    assert (out["npho"][flags] == np.float32(INVALID)).all()
    assert not out["inpainted"].any()


def test_an_event_that_is_dead_as_a_whole_stays_as_it_is(tmp_path: Path) -> None:
    flags = np.zeros((EVENTS, 4760), bool)
    flags[7], flags[:, 3] = True, True
    chunk = events()
    rootio.write(tmp_path / "in.root", chunk | {"dead": flags})
    report = inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "out.root", chunk_events=7)
    out = read_all(tmp_path / "out.root")
    assert same_bits(out["npho"][7], chunk["npho"][7])
    assert not out["inpainted"][7].any()
    assert out["inpainted"].sum() == EVENTS - 1
    assert (report.filled, report.not_filled, report.sensors) == (EVENTS - 1, 4760, (3,))


def test_runs_differ_in_their_dead_sensors(tmp_path: Path) -> None:
    """A file of enough events speaks for itself, a short one goes by all together."""
    for i, sensor in enumerate((2045, 1000)):
        chunk = events(seed=i)
        chunk["npho"][:, sensor] = 0
        chunk["npho"][:, 1500] = 0
        rootio.write(tmp_path / f"{i}.root", chunk)
    short = events(seed=5, number=20)
    rootio.write(tmp_path / "2.root", short)
    files = [tmp_path / f"{i}.root" for i in range(3)]
    report = inpaint_files(Fixed(), files, tmp_path / "out.root")
    filled = read_all(tmp_path / "out.root")["inpainted"]
    assert report.sensors == (1000, 1500, 2045)
    assert [np.flatnonzero(filled[event]).tolist() for event in (0, EVENTS, 2 * EVENTS)] == [
        [1500, 2045], [1000, 1500], []
    ]  # fmt: skip


def test_names_of_branches_are_those_of_the_files(tmp_path: Path, dead_list: Path) -> None:
    chunk = relatives(events())
    mine = {"npho": "nphoton", "relative_npho": "share"}
    rootio.write(tmp_path / "in.root", {mine.get(name, name): values for name, values in chunk.items()})
    inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "out.root", dead_list=dead_list, names=mine)
    with uproot.open(tmp_path / "out.root") as file:
        out = file["tree"].arrays(library="np")
    assert set(out) == {mine.get(name, name) for name in chunk} | {"inpainted"}
    assert (out["nphoton"][:, list(DEAD)] == 321).all()
    # and where a file has the usual names after all
    rootio.write(tmp_path / "usual.root", chunk)
    both = [tmp_path / "usual.root", tmp_path / "in.root"]
    inpaint_files(Fixed(), both, tmp_path / "usual_out.root", dead_list=dead_list, names=mine)
    usual = read_all(tmp_path / "usual_out.root")
    assert (usual["npho"][:, list(DEAD)] == 321).all()
    assert len(usual["npho"]) == 2 * EVENTS
    # or both of them
    rootio.write(tmp_path / "two.root", chunk | {"nphoton": chunk["npho"]})
    report = inpaint_files(Fixed(), tmp_path / "two.root", tmp_path / "two_out.root", dead_list=dead_list, names=mine)
    assert report.left_out == ("npho",)


def test_flags_may_be_lists(tmp_path: Path) -> None:
    import awkward as ak

    chunk = events(number=4)
    flags = np.zeros((4, 4760), bool)
    flags[:, 5] = True
    with uproot.recreate(tmp_path / "in.root") as file:
        types = {name: np.dtype((v.dtype, v.shape[1:])) for name, v in chunk.items()}
        file.mktree("tree", {**types, "dead": "var * bool"})
        file["tree"].extend({**chunk, "dead": ak.from_regular(ak.Array(flags))})
    report = inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "out.root")
    assert (report.origin, report.sensors) == ("branch", (5,))


def test_a_second_repair_adds_to_the_mask(tmp_path: Path, dead_list: Path) -> None:
    rootio.write(tmp_path / "in.root", events())
    inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "once.root", dead_list=dead_list)
    (tmp_path / "more.txt").write_text("7\n")
    inpaint_files(Fixed(), tmp_path / "once.root", tmp_path / "twice.root", dead_list=tmp_path / "more.txt")
    found = read_all(tmp_path / "twice.root")["inpainted"]
    assert np.flatnonzero(found[0]).tolist() == [3, 7, *DEAD[1:]]


def test_branches_without_fixed_length_are_named(tmp_path: Path, dead_list: Path) -> None:
    import awkward as ak

    chunk = events(number=4)
    with uproot.recreate(tmp_path / "in.root") as file:
        types = {name: np.dtype((v.dtype, v.shape[1:])) for name, v in chunk.items()}
        tree = file.mktree("tree", {**types, "hits": "var * float32", "even": "var * float32", "reco.E": "f8"})
        lists = {"hits": ak.Array([[1.0], [], [2.0, 3.0], [4.0]]), "even": ak.Array([[1.0], [2.0], [3.0], [4.0]])}
        tree.extend({**chunk, **lists, "reco.E": np.arange(4.0)})
    report = inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "out.root", dead_list=dead_list)
    assert {"hits", "even"} == set(report.left_out)
    out = read_all(tmp_path / "out.root")
    assert not {"hits", "even"} & out.keys()
    assert out["reco.E"].tolist() == [0, 1, 2, 3]


def test_bad_input_is_one_sentence_and_leaves_no_output(tmp_path: Path, dead_list: Path) -> None:
    rootio.write(tmp_path / "in.root", events())
    rootio.write(tmp_path / "few.root", events(number=20))
    rootio.write(tmp_path / "old.root", {k: v for k, v in relatives(events()).items() if k not in ("npho", "time")})
    rootio.write(tmp_path / "all.root", events() | {"dead": np.ones((EVENTS, 4760), bool)})
    rootio.write(tmp_path / "odd.root", events() | {"dead": np.ones((EVENTS, 7), bool)})
    rootio.write(tmp_path / "none.root", {k: v[:0] for k, v in events().items()})
    rootio.write(tmp_path / "more.root", events() | {"weight": np.ones(EVENTS, np.float32)})
    (tmp_path / "wrong.txt").write_text("12\n4760\n")
    (tmp_path / "long.txt").write_text("9" * 10_000)
    (tmp_path / "strange.txt").write_bytes(b"1\n\x1b[31m2")
    (tmp_path / "big.txt").write_bytes(bytes(2_000_000))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe1\x00")
    os.mkfifo(tmp_path / "pipe.txt")
    cases: tuple[tuple[Any, Path | None, str], ...] = (
        ("in.root", tmp_path / "wrong.txt", r"line 2: '4760' is no sensor id"),
        ("in.root", tmp_path / "missing.txt", "No such dead list"),
        ("in.root", tmp_path / "long.txt", f"line 1: '{'9' * 40}' is no sensor id"),
        ("in.root", tmp_path / "strange.txt", r"line 2: '\\x1b\[31m2' is no sensor id"),
        ("in.root", tmp_path / "big.txt", "2000000 bytes, too many for a dead list"),
        ("in.root", tmp_path / "binary.txt", "is no text file"),
        ("in.root", tmp_path / "pipe.txt", "is a pipe, not a dead list"),
        ("in.root", tmp_path, "is a folder, not a dead list"),
        ("in.root", Path("a\0b"), "null (byte|character)"),
        ("few.root", None, "20 events, too few to tell which sensors are dead"),
        ("old.root", dead_list, "has no branch 'npho'"),
        ("all.root", None, "All 4760 sensors are dead in all events"),
        ("odd.root", None, r"'dead' has shape \(7,\)"),
        ("none.root", dead_list, "no events"),
        ("absent.root", dead_list, "No such file"),
    )
    for name, listed, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            inpaint_files(Fixed(), tmp_path / name, tmp_path / "out.root", dead_list=listed)
    with pytest.raises(InputError, match="it is the input"):
        inpaint_files(Fixed(), tmp_path / "in.root", tmp_path / "in.root", dead_list=dead_list)
    with pytest.raises(InputError, match="differ in weight"):
        inpaint_files(
            Fixed(), [tmp_path / "in.root", tmp_path / "more.root"], tmp_path / "out.root", dead_list=dead_list
        )
    assert not (tmp_path / "out.root").exists()
    assert not list(tmp_path.glob(".out*"))
