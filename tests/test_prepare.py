"""Rec files in every form that branches take, in; the events that they hold, out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from tests.recfiles import INVALID, Event, N, arrays, assert_rows, chosen, columns, events, row, write_tree
from xecml import rootio
from xecml.checks.event_files import check_files
from xecml.events import relative_quantities
from xecml.realdata.branch_map import load_map
from xecml.realdata.prepare import Report, prepare_files
from xecml.realdata.rec_file import open_rec

OPEN = {"trigger": None, "one_photon": False, "energy_mev": None, "fiducial": False, "pileup": None}
"""Cuts that look at what an event is like, switched off."""


def prepared(path: Path | list[Path], out: Path, selection: dict[str, Any] = OPEN, **changes: Any) -> Report:
    given = changes.pop("map", None)
    names = load_map(given, {"selection": selection, **changes})
    return prepare_files([str(p) for p in path] if isinstance(path, list) else path, out, names, chunk_events=7)


# ---------------------------------------------------------------------------------------------- one photon an event


def plain(found: list[Event], path: Path) -> Path:
    return write_tree(path, arrays(found))


def lists(found: list[Event], path: Path) -> Path:
    """Sensors as jagged arrays, which are empty in no event."""
    numbers = arrays(found)
    numbers |= {k: ak.from_regular(ak.Array(v)) for k, v in numbers.items() if k.startswith("xeccl.")}
    return write_tree(path, numbers)


def with_ways(found: list[Event], path: Path) -> Path:
    """Names as flat trees have them, with shapes in them, doubles, and numbers of shape (1,)."""
    numbers = columns(found)
    numbers["npho[4760]"] = numbers.pop("npho").astype(np.float64)
    numbers["tpm[4760]"] = numbers.pop("tpm")
    numbers["xyzVTX[3]"] = numbers.pop("xyzVTX")
    numbers["energyReco"] = np.array([[e.photons[0].energy] for e in found])
    numbers["xyzRecoFI"] = np.array([e.photons[0].xyz for e in found], np.float64)
    numbers["run"] = numbers["run"][:, None].astype(np.int64)
    return write_tree(path, numbers)


def in_parts(found: list[Event], path: Path) -> Path:
    """Positions in three branches, which are lists of photons."""
    numbers = arrays(found)
    del numbers["xecposlfit.xyz[3]"]
    for i, axis in enumerate("XYZ"):
        numbers[f"reco.{axis}Gamma"] = ak.Array([[float(p.xyz[i]) for p in e.photons] for e in found])
    return write_tree(path, numbers)


def compressed(found: list[Event], path: Path) -> Path:
    """An RNTuple of plain numbers."""
    numbers = {k.replace(".", "_"): v for k, v in columns(found).items()}
    numbers["xyzRecoFI"] = ak.Array([[p.xyz for p in e.photons] for e in found])
    with uproot.recreate(path) as file:
        file.mkrntuple(
            "rec", ak.Array({k: ak.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in numbers.items()})
        )
    return path


@pytest.mark.parametrize("form", [plain, lists, with_ways, in_parts, compressed])
def test_every_form_gives_the_same_events(tmp_path: Path, form: Callable[[list[Event], Path], Path]) -> None:
    found = events(photons=(1,))
    path = form(found, tmp_path / "rec430001.root")
    report = prepared(path, tmp_path / "out.root")
    assert_rows(tmp_path / "out.root", [row(e, e.photons[0]) for e in found])
    assert (report.read, report.events, report.files, report.left_out, report.bad) == (40, 40, 1, (), ())


def test_relative_quantities_are_those_of_the_package(tmp_path: Path) -> None:
    """Also where the file has no photoelectrons, which come from the nominal efficiencies then."""
    numbers = arrays(events(photons=(1,)))
    del numbers["xeccl.nphe"]
    prepared(write_tree(tmp_path / "rec.root", numbers), tmp_path / "out.root")
    with rootio.open_tree(tmp_path / "out.root") as reader:
        chunk = reader.arrays(["npho", "time", "relative_npho", "relative_time"], 0, reader.n_events)
    wanted = relative_quantities(chunk["npho"], chunk["time"])
    np.testing.assert_array_equal(chunk["relative_npho"], wanted[0].astype(np.float32))
    np.testing.assert_array_equal(chunk["relative_time"], wanted[1].astype(np.float32))
    assert check_files(tmp_path / "out.root").usable


def test_units_are_converted_once_from_double_precision(tmp_path: Path) -> None:
    """Times in ns, energies in MeV, lengths in mm."""
    found = events(photons=(1,))
    numbers = arrays(found)
    ns = np.where(np.abs(numbers["xeccl.tpm"]) < 9e9, numbers["xeccl.tpm"].astype(np.float64) * 1e9, np.nan)
    numbers |= {"xeccl.tpm": ns, "reco.EGamma": numbers["reco.EGamma"] * 1e3}
    numbers["xecposlfit.xyz[3]"] = numbers["xecposlfit.xyz[3]"].astype(np.float64) * 10
    (tmp_path / "map.yaml").write_text(
        "branches:\n  time: {branch: xeccl.tpm, factor: 1.0e-9}\n  energyReco: {branch: reco.EGamma, factor: 0.001}\n"
        "  xyzRecoFI: {branch: xecposlfit.xyz, factor: 0.1}\n"
    )
    prepared(write_tree(tmp_path / "rec.root", numbers), tmp_path / "out.root", map=tmp_path / "map.yaml")
    with rootio.open_tree(tmp_path / "out.root") as reader:
        out = reader.arrays(["time", "npho", "energyReco", "xyzRecoFI"], 0, reader.n_events)
    there = (np.abs(ns) < 9e18) & (np.abs(numbers["xeccl.npho"]) < 9e9)
    np.testing.assert_array_equal(out["time"], np.where(there, ns * 1e-9, 1e10).astype(np.float32))
    np.testing.assert_array_equal(out["energyReco"], (numbers["reco.EGamma"] * 0.001).astype(np.float32))
    np.testing.assert_array_equal(out["xyzRecoFI"], (numbers["xecposlfit.xyz[3]"] * 0.1).astype(np.float32))


# ------------------------------------------------------------------------------------------- several photons an event


def of_sensors(found: list[Event], name: str) -> list[list[list[float]]]:
    """Of each event for each sensor a list of numbers, one for each photon."""
    return [np.array([getattr(p, name) for p in e.photons], np.float32).reshape(-1, N).T.tolist() for e in found]


def of_photons(found: list[Event], name: str) -> list[Any]:
    """Of each event for each photon a list of numbers, one for each sensor."""
    return [[getattr(p, name) for p in e.photons] for e in found]


def objects(found: list[Event], path: Path, sensors: Callable[..., Any] = of_sensors) -> Path:
    """Objects with members, as records of an RNTuple; sensors with a list of photons each, or the other way round."""
    records = {
        "Info": [{"run": e.run, "event": e.number} for e in found],
        "eventheader": [{"mask": e.trigger} for e in found],
        "reco": [
            {"EGamma": [p.energy for p in e.photons], "EvstatGamma": [p.pileup for p in e.photons],
             **{f"{axis}Positron": [e.vertex[i], 77.0] for i, axis in enumerate("XYZ")}}
            for e in found
        ],
        "xecposlfit": [{"xyz": [p.xyz for p in e.photons]} for e in found],
        "xectimefit": [{"time": [p.time for p in e.photons]} for e in found],
    }  # fmt: skip
    fields = {name: ak.Array(values) for name, values in records.items()}
    numbers = {name: ak.values_astype(ak.Array(sensors(found, name)), np.float32) for name in ("npho", "nphe", "tpm")}
    fields["xeccl"] = ak.zip(numbers, depth_limit=1)
    with uproot.recreate(path) as file:
        file.mkrntuple("rec", ak.zip(fields, depth_limit=1))
    return path


def padded(found: list[Event], path: Path) -> Path:
    """Arrays of fixed length for two photons, of which a number says how many there are; the rest is old memory."""
    numbers = arrays(found)
    del numbers["reco.EGamma"], numbers["xectimefit.time"], numbers["reco.EvstatGamma"], numbers["xecposlfit.xyz[3]"]
    old = 3.0

    def filled(values: Callable[[Any], Any], shape: tuple[int, ...]) -> np.ndarray:
        out = np.full((len(found), 2, *shape), old)
        for i, event in enumerate(found):
            for j, photon in enumerate(event.photons):
                out[i, j] = values(photon)
        return out

    numbers["reco.nGamma"] = np.array([len(e.photons) for e in found], np.int32)
    numbers["reco.EGamma"] = filled(lambda p: p.energy, ())
    numbers["xectimefit.time"] = filled(lambda p: p.time, ())
    numbers["reco.EvstatGamma"] = filled(lambda p: p.pileup, ()).astype(np.int32)
    numbers["xecposlfit.xyz[2][3]"] = filled(lambda p: p.xyz, (3,))
    for name in ("npho", "nphe", "tpm"):
        values = filled(lambda p, name=name: getattr(p, name), (N,)).astype(np.float32)  # type: ignore[misc]
        numbers[f"xeccl.{name}"] = values if name == "tpm" else np.moveaxis(values, 1, 2)
    return write_tree(path, numbers)


def by_photon(found: list[Event], path: Path) -> Path:
    return objects(found, path, of_photons)


MANY = (2, 1, 0, 3, 1)


@pytest.mark.parametrize("form", [objects, by_photon, padded])
def test_the_photon_of_highest_energy_is_chosen_with_its_sensors(
    tmp_path: Path, form: Callable[[list[Event], Path], Path]
) -> None:
    found = events(20, photons=MANY if form is not padded else (2, 1, 0, 1))
    (tmp_path / "map.yaml").write_text("branches: {n_photons: reco.nGamma}" if form is padded else "{}")
    path = form(found, tmp_path / "rec.root")
    report = prepared(path, tmp_path / "out.root", map=tmp_path / "map.yaml")
    wanted = [row(e, e.photons[j]) for e in found for j in chosen(e)]
    assert len(wanted) == sum(1 for e in found if e.photons) < len(found)
    assert_rows(tmp_path / "out.root", wanted)
    assert report.flow.left == {"events read": 20, "not read before": 20, "a photon": len(wanted),
                                "a vertex": len(wanted), "a count and a time": len(wanted)}  # fmt: skip


@pytest.mark.parametrize("form", [objects, by_photon, padded])
def test_all_photons_become_entries(tmp_path: Path, form: Callable[[list[Event], Path], Path]) -> None:
    found = events(20, photons=MANY if form is not padded else (2, 1, 0, 1))
    (tmp_path / "map.yaml").write_text("branches: {n_photons: reco.nGamma}" if form is padded else "{}")
    path = form(found, tmp_path / "rec.root")
    prepared(path, tmp_path / "out.root", map=tmp_path / "map.yaml", photons="all")
    assert_rows(tmp_path / "out.root", [row(e, p) for e in found for p in e.photons])


def test_sensors_with_one_number_serve_all_photons(tmp_path: Path) -> None:
    found = events(20, photons=MANY)
    numbers = arrays(found) | {
        "reco.EGamma": ak.Array([[p.energy for p in e.photons] for e in found]),
        "xectimefit.time": ak.Array([[p.time for p in e.photons] for e in found]),
        "reco.EvstatGamma": ak.values_astype(ak.Array([[p.pileup for p in e.photons] for e in found]), np.int32),
    }
    del numbers["xecposlfit.xyz[3]"]
    for i, axis in enumerate("XYZ"):
        numbers[f"reco.{axis}Gamma"] = ak.Array([[float(p.xyz[i]) for p in e.photons] for e in found])
    prepared(write_tree(tmp_path / "rec.root", numbers), tmp_path / "out.root", photons="all")
    wanted = []
    for event in found:
        for photon in event.photons:
            for name in ("npho", "nphe", "tpm"):
                setattr(photon, name, getattr(event.photons[0], name))
            wanted.append(row(event, photon))
    assert_rows(tmp_path / "out.root", wanted)


def test_the_vertex_is_that_of_the_pair(tmp_path: Path) -> None:
    """The first pair with the chosen photon names it; a photon in no pair has none."""
    found = events(6, photons=(2,))
    numbers = arrays(found)
    vertices = np.arange(6 * 3 * 3, dtype=np.float64).reshape(6, 3, 3) / 7
    for name in ("EGamma", "EvstatGamma"):
        numbers[f"reco.{name}"] = ak.Array([[0.04, 0.05]] * 6) if name == "EGamma" else ak.Array([[0, 0]] * 6)
    numbers["xecposlfit.xyz[3]"] = np.array([[p.xyz for p in e.photons] for e in found])
    numbers["xectimefit.time"] = np.zeros((6, 2))
    numbers |= {f"reco.{axis}Positron": vertices[:, :, i].copy() for i, axis in enumerate("XYZ")}
    pairs = [([1, 1], [2, 0]), ([0, 1], [2, 1]), ([0], [1]), ([], []), ([0, 0, 1], [0, 1, 2]), ([1], [9])]
    numbers["combination.gammaIndex"] = ak.Array([p for p, _ in pairs])
    numbers["combination.positronIndex"] = ak.Array([v for _, v in pairs])
    (tmp_path / "map.yaml").write_text(
        "branches: {pair_photon: combination.gammaIndex, pair_vertex: combination.positronIndex}"
    )
    path = write_tree(tmp_path / "rec.root", numbers)
    report = prepared(path, tmp_path / "out.root", {**OPEN, "vertex": False}, map=tmp_path / "map.yaml")
    with rootio.open_tree(tmp_path / "out.root") as reader:
        out = reader.arrays(["xyzVTX", "emiAng", "emiVec"], 0, reader.n_events)
    wanted = [vertices[0, 2], vertices[1, 1], [1e10] * 3, [1e10] * 3, vertices[4, 2], [1e10] * 3]
    np.testing.assert_array_equal(out["xyzVTX"], np.array(wanted, np.float32))
    for name in ("emiAng", "emiVec"):
        np.testing.assert_array_equal((out[name] == INVALID).all(1), [False, False, True, True, False, True])
    assert report.events == 6
    report = prepared(path, tmp_path / "out.root", OPEN, map=tmp_path / "map.yaml")
    assert report.flow.left["a vertex"] == report.events == 3


# ---------------------------------------------------------------------------------------------------- what is kept


def test_the_cuts_leave_what_they_say_one_after_the_other(tmp_path: Path) -> None:
    found = events(80, photons=(1, 2, 0, 1, 1))
    found[8].vertex[:] = -1000  # as the analyser writes what it has not
    for photon in found[15].photons:
        photon.npho[:] = np.nan
    for event in found[20:30]:
        for photon in event.photons:
            photon.xyz *= 0.95  # in front of the xenon
    again = [*found, *found[:5]]
    path = objects(again, tmp_path / "rec.root")
    left: dict[str, int] = {"events read": 85}
    kept = found
    left["not read before"] = len(kept)
    kept = [e for e in kept if e.trigger == 0]
    left["trigger 0"] = len(kept)
    kept = [e for e in kept if len(e.photons) == 1]
    left["one photon"] = left["a photon"] = len(kept)
    kept = [e for e in kept if 0.035 <= e.photons[0].energy <= 0.065]
    left["energy 35 to 65 MeV"] = len(kept)
    kept = [e for e in kept if inside(e.photons[0].xyz)]
    left["|u| < 23.9, |v| < 67.9, w >= 0 cm"] = len(kept)
    kept = [e for e in kept if e.photons[0].pileup == 0]
    left["pile-up flag 0"] = len(kept)
    kept = [e for e in kept if e.vertex[0] > -900]
    left["a vertex"] = len(kept)
    kept = [e for e in kept if np.isfinite(e.photons[0].npho).any()]
    left["a count and a time"] = len(kept)
    assert len(set(left.values())) >= 8
    report = prepared(path, tmp_path / "out.root", {})
    assert report.flow.left == left
    assert list(report.flow.left) == list(left)
    assert_rows(tmp_path / "out.root", [row(e, e.photons[0]) for e in kept])


def inside(xyz: np.ndarray) -> bool:
    x, y, z = xyz.astype(np.float64)
    v = 64.97 * np.arctan2(y, -x)
    return bool(abs(z) < 23.9 and abs(v) < 67.9 and np.hypot(x, y) >= 64.97)


@pytest.mark.parametrize(
    ("cut", "value", "passes"),
    [
        ("trigger", [51], lambda e: e.trigger == 51),
        ("trigger", [0, 51], lambda e: True),
        ("one_photon", True, lambda e: len(e.photons) == 1),
        ("energy_mev", [50.0, 60.0], lambda e: 0.05 <= max(p.energy for p in e.photons) <= 0.06),
        ("fiducial", True, lambda e: inside(e.photons[chosen(e)[0]].xyz)),
        ("pileup", [1], lambda e: e.photons[chosen(e)[0]].pileup == 1),
        ("repeated", False, lambda e: True),
    ],
)
def test_each_cut_by_itself(tmp_path: Path, cut: str, value: Any, passes: Callable[[Event], bool]) -> None:
    found = [e for e in events(40, photons=(1, 2, 1)) if e.photons]
    for event in found[::4]:
        for photon in event.photons:
            photon.xyz *= 0.95
    path = objects(found, tmp_path / "rec.root")
    prepared(path, tmp_path / "out.root", {**OPEN, cut: value})
    kept = [e for e in found if passes(e)]
    assert 0 < len(kept) < len(found) or cut == "repeated" or value == [0, 51]
    assert_rows(tmp_path / "out.root", [row(e, e.photons[chosen(e)[0]]) for e in kept])


def test_events_that_were_there_before_are_left_out_across_chunks_and_files(tmp_path: Path) -> None:
    one, other = events(15, photons=(1,)), events(15, photons=(1,), first=10)
    paths = [plain(one, tmp_path / "a.root"), plain(other, tmp_path / "b.root"), plain(one[::-1], tmp_path / "c.root")]
    report = prepared(paths, tmp_path / "out.root")
    assert report.flow.left["not read before"] == report.events == 25
    assert_rows(tmp_path / "out.root", [row(e, e.photons[0]) for e in [*one, *other[5:]]])
    assert prepared(paths, tmp_path / "out.root", {**OPEN, "repeated": False}).events == 45


def test_chunks_follow_baskets_and_cut_large_ones_evenly(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "rec.root", arrays(events(30, photons=(1,))), pieces=3)
    with open_rec(path, load_map()) as rec:
        assert rec.chunks(100) == [(0, 30)]
        assert rec.chunks(20) == [(0, 20), (20, 30)]
        assert rec.chunks(10) == [(0, 10), (10, 20), (20, 30)]
        assert rec.chunks(9) == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 25), (25, 30)]


# ----------------------------------------------------------------------------------------------------- bad sensors


def test_bad_sensors_of_a_list_and_of_a_flag_become_not_measured(tmp_path: Path) -> None:
    found = events(20, photons=(1,))
    flags = np.zeros((20, N), np.int8)
    flags[::2, 100:110], flags[:, 4700] = 1, 2
    numbers = arrays(found) | {"xeccl.bad": flags}
    (tmp_path / "dead.txt").write_text("5  # broken\n4092\n")
    (tmp_path / "map.yaml").write_text(
        "branches: {dead: xeccl.bad}\nbad_sensors: {list: " + str(tmp_path / "dead.txt") + "}"
    )
    path = write_tree(tmp_path / "rec.root", numbers)
    report = prepared(path, tmp_path / "out.root", map=tmp_path / "map.yaml")
    bad = [{5, 4092, *np.flatnonzero(one)} for one in flags]
    wanted = [row(e, e.photons[0], b) for e, b in zip(found, bad, strict=True)]
    branches = set(uproot.open(tmp_path / "out.root")["tree"].keys())
    assert_rows(tmp_path / "out.root", wanted, branches=branches)
    dead = uproot.open(tmp_path / "out.root")["tree"]["dead"].array(library="np")
    assert [set(np.flatnonzero(one)) for one in dead] == bad
    assert report.bad == (5, *range(100, 110), 4092, 4700)


def test_bad_sensors_are_found_by_sight_file_by_file(tmp_path: Path) -> None:
    found, others = events(120, photons=(1,)), events(120, seed=2, photons=(1,))
    for event in found:
        event.photons[0].npho[2000] = 0
    for event in others:
        event.photons[0].npho[4100] *= 30
    paths = [plain(found, tmp_path / "a.root"), plain(others, tmp_path / "b.root")]
    report = prepared(paths, tmp_path / "out.root", bad_sensors={"find": True})
    dead = uproot.open(tmp_path / "out.root")["tree"]["dead"].array(library="np")
    # three are never measured in any event of these files
    assert [set(np.flatnonzero(dead[i])) for i in (0, 119, 120, 239)] == [{17, 18, 19, 2000}] * 2 + [
        {17, 18, 19, 4100}
    ] * 2
    assert report.bad == (17, 18, 19, 2000, 4100)
    npho = uproot.open(tmp_path / "out.root")["tree"]["npho"].array(library="np")
    assert (npho[:120, 2000] == INVALID).all()
    assert (npho[120:, 4100] == INVALID).all()
    assert (npho[120:, 2000] != INVALID).any()


# ------------------------------------------------------------------------------------------------- what is not there


def test_without_numbers_of_run_and_event_the_name_and_the_entry_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = events(9, photons=(1,))
    numbers = arrays(found)
    del numbers["Info.run"], numbers["Info.event"]
    prepared(write_tree(tmp_path / "rec430017_open.root", numbers), tmp_path / "out.root")
    said = capsys.readouterr().err
    assert "no branch 'Info.run' or 'run': the run number is taken from the file's name" in said
    assert "no branch 'Info.event' or 'event': events are numbered by their entries" in said
    for i, event in enumerate(found):
        event.run, event.number = 430017, i
    assert_rows(tmp_path / "out.root", [row(e, e.photons[0]) for e in found])


def test_what_the_map_does_without_is_not_written(tmp_path: Path) -> None:
    """Calibration runs have no positron, and so no vertex and no angle."""
    found = events(9, photons=(1,))
    numbers = arrays(found)
    for name in ("reco.XPositron", "reco.YPositron", "reco.ZPositron", "xectimefit.time"):
        del numbers[name]
    (tmp_path / "map.yaml").write_text("branches: {xyzVTX: null, timeReco: null}\nselection: {vertex: false}")
    prepared(write_tree(tmp_path / "rec.root", numbers), tmp_path / "out.root", map=tmp_path / "map.yaml")
    wanted = [row(e, e.photons[0]) for e in found]
    gone = {"xyzVTX", "emiAng", "emiVec", "timeReco"}
    assert_rows(tmp_path / "out.root", wanted, branches=set(wanted[0]) - gone)


def test_an_event_without_sensors_is_not_measured(tmp_path: Path) -> None:
    found = events(12, photons=(1, 1, 2))
    path = tmp_path / "rec.root"
    for event in found[::3]:
        for photon in event.photons:
            photon.npho = photon.nphe = photon.tpm = np.empty(0, np.float32)
    numbers = arrays([e if i % 3 else found[1] for i, e in enumerate(found)])
    for name in ("npho", "nphe", "tpm"):
        numbers[f"xeccl.{name}"] = ak.Array([getattr(e.photons[0], name) for e in found])
    report = prepared(write_tree(path, numbers), tmp_path / "out.root", {**OPEN, "repeated": False})
    assert (report.read, report.events) == (12, 8)
    report = prepared(path, tmp_path / "out.root", {**OPEN, "repeated": False, "measured": False})
    assert report.events == 12
    npho = uproot.open(tmp_path / "out.root")["tree"]["npho"].array(library="np")
    assert (npho[::3] == INVALID).all()
    assert not (npho[1::3] == INVALID).all(1).any()
