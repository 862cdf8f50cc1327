"""The command `xec prepare`: by files and by runs, and what it says to input that is none."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from tests.recfiles import N, arrays, assert_rows, events, row, write_tree
from xecml.cli import main
from xecml.errors import InputError
from xecml.realdata import kernels
from xecml.realdata.branch_map import NO_CUTS, load_map
from xecml.realdata.prepare import prepare_files
from xecml.realdata.rec_file import RecFile, run_of_name
from xecml.realdata.run_range import parse_runs


class Xec:
    """Runs `xec prepare` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: object, status: int = 0) -> str:
        self._monkeypatch.setattr(sys, "argv", ["xec", "prepare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        self.error = captured.err
        assert (ended.value.code or 0) == status, captured.err
        return captured.out


@pytest.fixture
def xec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Xec:
    return Xec(monkeypatch, capsys)


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve events of one photon."""
    return write_tree(tmp_path_factory.mktemp("rec") / "rec430001.root", arrays(events(12, photons=(1,))))


def without(path: Path, *names: str, **others: Any) -> Path:
    """A file of twelve events that lacks branches or has others."""
    numbers = arrays(events(12, photons=(1,)))
    for name in names:
        del numbers[name]
    return write_tree(path, numbers | {k.replace("__", "."): v for k, v in others.items()})


# ------------------------------------------------------------------------------------------------------ the command


def test_the_table_and_the_json_say_what_each_cut_left(xec: Xec, rec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.root"
    text = xec(rec, "--out", out, "--no-cuts", "--energy", "40:60", "--trigger", "0,50")
    kept = [e for e in events(12, photons=(1,)) if e.trigger == 0 and 0.04 <= e.photons[0].energy <= 0.06]
    assert 0 < len(kept) < 10
    assert_rows(out, [row(e, e.photons[0]) for e in kept])
    table = [line.split() for line in text.splitlines()]
    assert ["events", "read", "12"] in table
    assert ["trigger", "0,", "50", "10", "83.3", "%", "83.3", "%"] in table
    share = f"{100 * len(kept) / 12:.1f}"
    assert any(line[:6] == ["energy", "40", "to", "60", "MeV", str(len(kept))] and share in line for line in table)
    assert f"Wrote {len(kept)} entries of 12 events in 1 file to {out}" in text
    said = json.loads(xec(rec, "--out", out, "--no-cuts", "--energy", "40:60", "--trigger", "0,50", "--json"))
    assert "replacing" in xec.error
    assert said["cut_flow"] == [
        {"cut": "events read", "left": 12},
        {"cut": "trigger 0, 50", "left": 10},
        {"cut": "a photon", "left": 10},
        {"cut": "energy 40 to 60 MeV", "left": len(kept)},
    ]
    assert (said["read"], said["events"], said["files"], said["left_out"], said["bad_sensors"]) == (
        12,
        len(kept),
        1,
        [],
        [],
    )
    assert uproot.open(out)["tree"].title == "made by 'xec prepare'"


@pytest.mark.parametrize(
    ("words", "cuts"),
    [
        (["--no-cuts"], []),
        (["--no-cuts", "--fiducial"], ["|u| < 23.9, |v| < 67.9, w >= 0 cm"]),
        (["--no-cuts", "--one-photon"], ["one photon"]),
        (["--no-cuts", "--pileup", "0,1"], ["pile-up flag 0, 1"]),
        (["--no-cuts", "--vertex", "--measured"], ["a vertex", "a count and a time"]),
        (["--no-cuts", "--no-repeats"], ["not read before"]),
        (["--trigger", "any", "--energy", "any", "--pileup", "any", "--no-one-photon", "--no-fiducial", "--no-vertex",
          "--no-measured", "--repeats"], []),
    ],
)  # fmt: skip
def test_every_cut_is_switched_by_an_option(
    xec: Xec, rec: Path, tmp_path: Path, words: list[str], cuts: list[str]
) -> None:
    said = json.loads(xec(rec, "--out", tmp_path / "out.root", *words, "--json"))
    names = [one["cut"] for one in said["cut_flow"]]
    assert [name for name in names if name not in ("events read", "a photon")] == cuts


def test_all_photons_by_an_option_and_a_list_of_dead_sensors(xec: Xec, rec: Path, tmp_path: Path) -> None:
    (tmp_path / "dead.txt").write_text("3\n4\n")
    said = json.loads(
        xec(
            rec,
            "--out",
            tmp_path / "o.root",
            "--no-cuts",
            "--photons",
            "all",
            "--dead-list",
            tmp_path / "dead.txt",
            "--json",
        )
    )
    assert [one["cut"] for one in said["cut_flow"]] == ["events read", "photons"]
    assert said["bad_sensors"] == [3, 4]


def test_another_tree_and_a_map_by_name_and_by_path(xec: Xec, tmp_path: Path) -> None:
    found = events(6, photons=(1,))
    path = write_tree(tmp_path / "r.root", arrays(found), tree="data")
    xec(path, "--out", tmp_path / "o.root", "--no-cuts", "--tree", "data", "--map", "prepare")
    assert_rows(tmp_path / "o.root", [row(e, e.photons[0]) for e in found])
    (tmp_path / "mine.yaml").write_text("tree: data\n")
    xec(path, "--out", tmp_path / "o.root", "--no-cuts", "--map", tmp_path / "mine.yaml")
    xec(path, "--out", tmp_path / "p.root", "--no-cuts", status=2)
    assert f"{path} has no tree 'rec'; it has data." in xec.error
    assert not (tmp_path / "p.root").exists()


# ----------------------------------------------------------------------------------------------------------- by run


def runs(folder: Path, numbers: list[int], suffix: str = "_open.root", *, inside: bool = False) -> list[Any]:
    """Files of three events each; their events."""
    found = []
    for run in numbers:
        one = events(3, seed=run - 430000, photons=(1,))
        where = folder / f"{run // 1000}xxx" if inside else folder
        where.mkdir(exist_ok=True)
        write_tree(where / f"rec{run:06d}{suffix}", arrays(one))
        found += one
    return found


@pytest.mark.parametrize("inside", [False, True])
def test_a_range_of_runs_names_its_file_and_a_missing_run_is_one_line(
    xec: Xec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    found = runs(tmp_path, [430002, 430003, 430006], inside=inside)
    runs(tmp_path, [430004], ".root")  # another suffix
    monkeypatch.chdir(tmp_path)
    words = ("--dir", tmp_path, "--runs", "430001:7", "--suffix", "_open.root", "--no-cuts")
    said = json.loads(xec(*words, "--json"))
    assert said["out"] == "DataGammaAngle_430002-430006.root"
    assert_rows(Path(said["out"]), [row(e, e.photons[0]) for e in found])
    missing = [f"run {run}: no file in {tmp_path}" for run in (430001, 430004, 430005, 430007)]
    assert said["left_out"] == missing
    assert [line for line in xec.error.splitlines() if "left out" in line] == [f"xec: left out: {m}" for m in missing]
    (tmp_path / "folder").mkdir()
    assert json.loads(xec(*words, "--json", "--out", "folder"))["out"] == "folder/DataGammaAngle_430002-430006.root"
    assert json.loads(xec(*words, "--json", "--out", "mine.root"))["out"] == "mine.root"


def test_a_damaged_or_empty_file_of_a_range_is_one_line_too(xec: Xec, tmp_path: Path) -> None:
    found = runs(tmp_path, [430001, 430002, 430003], ".root")
    (tmp_path / "rec430002.root").write_bytes((tmp_path / "rec430002.root").read_bytes()[:50_000])
    write_tree(tmp_path / "rec430004.root", {k: v[:0] for k, v in arrays(events(2, photons=(1,))).items()})
    words = ("--dir", tmp_path, "--runs", "430001:4", "--out", tmp_path / "o.root", "--no-cuts")
    said = json.loads(xec(*words, "--json"))
    assert_rows(tmp_path / "o.root", [row(e, e.photons[0]) for e in [*found[:3], *found[6:]]])
    assert len(said["left_out"]) == 2
    assert "rec430002.root is truncated" in said["left_out"][0]
    assert "rec430004.root holds no events." in said["left_out"][1]
    xec(tmp_path / "rec430001.root", tmp_path / "rec430002.root", "--out", tmp_path / "p.root", status=2)
    assert "rec430002.root is truncated" in xec.error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "No rec file was named; give files, or a range of runs: --dir FOLDER --runs 430000:100."),
        (["{rec}"], "There is no file to write to; give --out OUT.root."),
        (["{rec}", "--out", "o.txt"], "give it a name that ends in .root"),
        (["{rec}", "--runs", "1:2"], "Rec files and --runs cannot both be given"),
        (["--runs", "1:2"], "--runs needs to know where the rec files are; give --dir FOLDER."),
        (["--dir", "{dir}", "--runs", "430000"], "'430000' is no range of runs; give the first run and how many"),
        (["--dir", "{dir}", "--runs", "430000:0"], "'430000:0' is no range of runs"),
        (["--dir", "{dir}", "--runs", "2147483647:2"], "is no range of runs"),
        (["--dir", "{dir}", "--runs", "500000:2"], "has no file of the 2 runs from 500000 on, such as rec500000.root"),
        (["--dir", "{dir}", "--runs", "1:2", "--suffix", ".txt"], "The suffix '.txt' must end in .root"),
        (["--dir", "{dir}/no", "--runs", "1:2"], "There is no folder"),
        (["{rec}", "--out", "o.root", "--dir", "{dir}"], "--dir and --suffix are for ranges of runs"),
        (
            ["{rec}", "--out", "o.root", "--energy", "52.8"],
            "'52.8' of --energy is no range; give one in MeV, such as 35:65",
        ),
        (["{rec}", "--out", "o.root", "--energy", "60:50"], "the range of energies must rise"),
        (["{rec}", "--out", "o.root", "--trigger", "none"], "'none' of --trigger is no list of numbers"),
        (["{rec}", "--out", "o.root", "--photons", "all", "--one-photon"], "exclude one another; switch the cut off"),
        (["{rec}", "--out", "o.root", "--map", "nothing"], "There is no file 'nothing', and no recipe of that name"),
        (["{rec}", "--out", "o.root", "--map", "mae"], "'mae' is for 'xec train mae'; choose one of prepare."),
        (["{dir}/no.root", "--out", "o.root"], "No such file"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    xec: Xec, rec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    xec(*(word.format(rec=rec, dir=rec.parent) for word in words), status=2)
    assert sentence in xec.error
    assert len(xec.error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- bad input


def refused(path: Path, tmp_path: Path, xec: Xec, *words: object) -> str:
    """What is said to a file; nothing is written."""
    before = set(tmp_path.iterdir())
    xec(path, "--out", tmp_path / "out.root", *words, status=2)
    assert set(tmp_path.iterdir()) == before
    assert len([line for line in xec.error.splitlines() if line.startswith("xec: ")]) == 1, xec.error
    return xec.error


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("xeccl.npho", "'xeccl.npho' or 'npho', which the map names for npho, in 'rec' (did you mean 'xeccl.nphe'?)"),
        ("xeccl.tpm", "'xeccl.tpm' or 'tpm' or 'time', which the map names for time"),
        ("reco.EGamma", "which the map names for energyReco"),
        ("xecposlfit.xyz[3]", "which the map names for xyzRecoFI"),
        ("reco.YPositron", "'xyzVTX' or ['reco.XPositron', 'reco.YPositron', 'reco.ZPositron'], which the map names"),
        ("eventheader.mask", "'eventheader.mask' or 'mask', which the map names for trigger"),
        ("reco.EvstatGamma", "which the map names for pileup"),
    ],
)
def test_a_branch_that_is_not_there_is_named(xec: Xec, tmp_path: Path, name: str, wanted: str) -> None:
    said = refused(without(tmp_path / "r.root", name), tmp_path, xec)
    assert "r.root has no branch" in said
    assert wanted in said
    assert "; it has Info.event, Info.run" in said
    assert "name it in a map (xec recipes copy prepare)" in said


def test_a_cut_that_is_off_needs_no_branch(xec: Xec, tmp_path: Path) -> None:
    path = without(tmp_path / "r.root", "eventheader.mask", "reco.EvstatGamma")
    xec(path, "--out", tmp_path / "o.root", "--no-cuts")


@pytest.mark.parametrize(
    ("others", "wanted"),
    [
        ({"xeccl__npho": np.ones((12, 4759), np.float32)},
         "'xeccl.npho', npho of the map, has 4759 sensors in an event; the detector has 4760,"),
        ({"xeccl__npho": ak.Array([[1.0] * (4000 if i == 7 else N) for i in range(12)])}, "has 4000 sensors in"),
        ({"xeccl__npho": np.ones((12, 10, 10), np.float32)}, "has 10 sensors in an event"),
        ({"xeccl__npho": np.ones(12, np.float32)}, "npho of the map, is a number an event; it must be 4760 numbers."),
        ({"xecposlfit__xyz": np.ones((12, 2))}, "xyzRecoFI of the map, is 2 numbers an event; it must be 3 numbers"),
        ({"reco__EGamma": np.ones((12, 2, 2))}, "is 2 x 2 numbers an event; it must be 1 number for every photon."),
        ({"eventheader__mask": np.ones((12, 2), np.int32)}, "is 2 numbers an event; it must be one number."),
        ({"Info__run": np.full(12, 2**31, np.int64)}, "reaches 2147483648, which int32 does not hold; number"),
        ({"Info__event": np.full(12, -(2**40), np.int64)}, "reaches -1099511627776, which int32 does not hold"),
        ({"Info__event": np.full(12, 1.5)}, "reaches 1.5, which int32 does not hold"),
        ({"Info__event": np.full(12, np.nan)}, "reaches nan, which int32 does not hold"),
    ],
)  # fmt: skip
def test_a_branch_of_another_shape_or_content_is_named(
    xec: Xec, tmp_path: Path, others: dict[str, Any], wanted: str
) -> None:
    gone = ["xecposlfit.xyz[3]"] if "xecposlfit__xyz" in others else []
    assert wanted in refused(without(tmp_path / "r.root", *gone, **others), tmp_path, xec, "--repeats")


def test_an_empty_tree_and_an_empty_file_among_others(xec: Xec, rec: Path, tmp_path: Path) -> None:
    empty = write_tree(tmp_path / "e.root", {k: v[:0] for k, v in arrays(events(2, photons=(1,))).items()})
    xec(empty, "--out", tmp_path / "out.root", status=2)
    assert f"xec: {empty} holds no events." in xec.error
    assert not (tmp_path / "out.root").exists()
    said = json.loads(xec(empty, rec, "--out", tmp_path / "out.root", "--no-cuts", "--json"))
    assert (said["files"], said["events"]) == (1, 12)
    assert said["left_out"] == [f"{empty} holds no events."]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_refused(xec: Xec, rec: Path, tmp_path: Path, share: float) -> None:
    content = rec.read_bytes()
    (tmp_path / "t.root").write_bytes(content[: int(share * len(content))])
    assert "t.root is truncated" in refused(tmp_path / "t.root", tmp_path, xec)


def test_damage_inside_is_a_sentence_and_leaves_nothing(xec: Xec, rec: Path, tmp_path: Path) -> None:
    content = bytearray(rec.read_bytes())
    content[200_000:201_000] = bytes(1000)
    (tmp_path / "d.root").write_bytes(content)
    said = refused(tmp_path / "d.root", tmp_path, xec, "--no-cuts")
    assert "d.root cannot be read as a ROOT file; it is damaged or incomplete" in said


def test_no_event_that_passes_is_said_with_the_cut(xec: Xec, rec: Path, tmp_path: Path) -> None:
    said = refused(rec, tmp_path, xec, "--no-cuts", "--trigger", "0", "--energy", "100:200")
    assert (
        "passes the cuts, so nothing was written: events read 12, trigger 0 10, a photon 10, energy 100 to 200 MeV 0"
        in said
    )
    assert "switch 'energy 100 to 200 MeV' off or change it" in said


def test_numbers_that_are_none_are_not_measured(xec: Xec, tmp_path: Path) -> None:
    """NaN and infinite energies are no photons; of positions and times they are written as 1e10."""
    numbers = arrays(events(12, photons=(1,)))
    numbers["reco.EGamma"][:3] = [np.nan, np.inf, -np.inf]
    numbers["xectimefit.time"][3:5] = [np.nan, -np.inf]
    numbers["xecposlfit.xyz[3]"][5, 1], numbers["xecposlfit.xyz[3]"][6, 0] = np.nan, -1000
    path = write_tree(tmp_path / "r.root", numbers)
    xec(path, "--out", tmp_path / "o.root", "--no-cuts")
    out = uproot.open(tmp_path / "o.root")["tree"].arrays(library="np")
    assert len(out["run"]) == 9
    np.testing.assert_array_equal(out["timeReco"] == 1e10, [True, True, *[False] * 7])
    for name in ("xyzRecoFI", "uvwRecoFI", "emiAng", "emiVec"):
        np.testing.assert_array_equal((out[name] == 1e10).all(1), [False, False, True, True, *[False] * 5])
        assert np.isfinite(out[name]).all()


def test_all_sensors_dead_are_refused_or_cut(xec: Xec, rec: Path, tmp_path: Path) -> None:
    (tmp_path / "dead.txt").write_text("\n".join(map(str, range(N))))
    said = refused(rec, tmp_path, xec, "--dead-list", tmp_path / "dead.txt")
    assert "dead.txt lists all 4760 sensors as bad" in said
    path = without(tmp_path / "r.root", xeccl__bad=np.ones((12, N), np.int8))
    (tmp_path / "m.yaml").write_text("branches: {dead: xeccl.bad}\n")
    said = refused(path, tmp_path, xec, "--map", tmp_path / "m.yaml", "--no-cuts", "--measured")
    assert "a count and a time 0" in said
    said = refused(rec, tmp_path, xec, "--no-cuts", "--find-dead")
    assert "100 events that pass the cuts are needed to find bad sensors, and there are fewer" in said


def test_an_input_is_never_written(xec: Xec, rec: Path, tmp_path: Path) -> None:
    path = tmp_path / "rec430001.root"
    path.write_bytes(rec.read_bytes())
    (tmp_path / "link.root").symlink_to(path)
    (tmp_path / "map.root").write_text("tree: rec\n")
    (tmp_path / "dead.root").write_text("7\n")
    before = path.read_bytes()
    for words in ((path, "--out", path), (path, "--out", tmp_path / "link.root"), (tmp_path, "--out", path),
                  (rec, "--map", tmp_path / "map.root", "--out", tmp_path / "map.root"),
                  (rec, "--dead-list", tmp_path / "dead.root", "--out", tmp_path / "dead.root")):  # fmt: skip
        xec(*words, "--force", "--no-cuts", status=2)
        assert "it is the input" in xec.error
    assert path.read_bytes() == before
    (tmp_path / "other.root").write_text("of another origin")
    xec(path, "--out", tmp_path / "other.root", "--no-cuts", status=2)
    assert "other.root exists and was not made by 'xec prepare'" in xec.error


def test_a_failure_in_the_middle_leaves_nothing(
    rec: Path, xec: Xec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arrays: Any) -> None:
        raise OSError(28, "No space left on device", "out.root")

    monkeypatch.setattr("xecml.rootio.treewriter.TreeWriter.extend", full)
    xec(rec, "--out", tmp_path / "out.root", "--no-cuts", status=74)
    assert not list(tmp_path.iterdir())


def test_a_file_is_closed_after_the_threads_that_read_it(
    rec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one quantity is refused another may still be on its way out of the file's memory."""
    open_then = []

    def sensors(self: RecFile, name: str, *_: Any) -> Any:
        if name == "npho":
            raise InputError("refused")
        time.sleep(0.3)
        open_then.append(not self._reader._tree.file.closed)
        return np.ones((12, N), np.float32)

    monkeypatch.setattr(RecFile, "sensors", sensors)
    with pytest.raises(InputError, match="refused"):
        prepare_files(rec, tmp_path / "out.root", load_map(None, {"selection": NO_CUTS}))
    assert open_then
    assert all(open_then)


# ------------------------------------------------------------------------------------------------------------ maps


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("branchs: {}", "Unknown key 'branchs' in {0}, line 1 (did you mean 'branches'?); remove or rename it."),
        ("branches:\n  nfo: npho", "Unknown key 'branches.nfo' in {0}, line 2 (did you mean 'npho'?)"),
        ("branches:\n  npho: {branch: npho, faktor: 2.0}", "npho.faktor' in {0}, line 2 (did you mean 'factor'?)"),
        ("selection:\n  fidutial: true", "Unknown key 'selection.fidutial' in {0}, line 2 (did you mean 'fiducial'?)"),
        ("photons: some", "Wrong value 'some' of photons in {0}, line 1: input should be 'highest' or 'all'."),
        ("branches:\n  npho: null", "{0}, line 1: npho names no branch, but event files need counts and times"),
        ("branches:\n  time: {branch: t, factor: 0}", "value 0 of branches.time.factor in {0}, line 2: a factor of 0"),
        ("branches:\n  run: {branch: r, factor: 2}", "run is a number without a unit; leave its factor and limit out"),
        ("branches:\n  energyReco: {parts: [a, b, c]}", "energyReco is one number, and has no parts; name its branch"),
        ("branches:\n  pair_photon: p", "pair_photon and pair_vertex belong together"),
        ("branches:\n  xyzVTX: null", "the cut 'vertex' needs xyzVTX; name its branch, or switch the cut off"),
        ("selection:\n  energy_mev: [65, 35]", "the range of energies must rise"),
        ("selection:\n  trigger: []", "Wrong value [] of selection.trigger in {0}, line 2"),
        ("tree: ''", "Wrong value '' of tree in {0}, line 1: it is empty"),
        ("branches: 7", "Wrong value 7 of branches in {0}, line 1"),
        ("- a", "{0} must hold names and values, such as 'tree: rec'."),
    ],
)  # fmt: skip
def test_a_wrong_map_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        load_map(path)
    assert sentence.format(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_map_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("branches:\n  npho: myNpho\nselection:\n  trigger: [50, 51]\nbad_sensors:\n")
    mine, shipped = load_map(tmp_path / "map.yaml"), load_map()
    assert mine.branches.npho.branch == ("myNpho",)
    assert mine.branches.time == shipped.branches.time
    assert mine.selection == shipped.selection.model_copy(update={"trigger": (50, 51)})
    assert load_map(None, {"selection": {"trigger": None}}).selection.trigger is None
    assert shipped.selection.energy_mev == (35.0, 65.0)
    assert (shipped.photons, shipped.tree) == ("highest", "rec")


@pytest.mark.parametrize(
    ("name", "run"),
    [("rec430017.root", 430017), ("rec430017_open.root", 430017), ("run0042.root", 42),
     ("/data/430xxx/rec00007_v2.root", 7), ("gamma_430017.root", 430017), ("run5_rec12.root", 12),
     ("root://host//a/rec000123.root", 123)],
)  # fmt: skip
def test_the_run_in_a_name(name: str, run: int) -> None:
    assert run_of_name(name) == run


@pytest.mark.parametrize("name", ["a.root", "x12.root", "1234_5678.root", "rec99999999999.root", "rec1_rec2.root"])
def test_a_name_that_tells_no_run(name: str) -> None:
    with pytest.raises(InputError, match="none can be taken from its name"):
        run_of_name(name)


def test_ranges_of_runs() -> None:
    assert parse_runs("430000:100") == (430000, 100)
    assert parse_runs("2147483647:1") == (2147483647, 1)


def test_photons_beyond_a_sensors_numbers_are_not_measured() -> None:
    """Of sensors with lists of several photons, or of one, or of none."""
    flat, lengths = np.array([1.0, 2.0, 3.0], np.float32), np.array([2, 0, 1])
    out = np.empty((3, 3), np.float32)
    pick: Callable[..., None] = kernels.pick_photons
    pick(flat, np.array([0, 2, 2]), lengths, np.array([0, 0, -1]), np.array([1, 2, 0]), out)
    np.testing.assert_array_equal(out, [[2, np.nan, 3], [np.nan, np.nan, 3], [np.nan] * 3])
