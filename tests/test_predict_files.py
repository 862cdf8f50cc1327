"""Predictions of files: one out or many, in every form, in pieces, with what is passed through; and what goes wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from typer.testing import CliRunner

from tests.conftest import point_sources
from xecml import rootio
from xecml.cli.commands import app
from xecml.data.convert import convert
from xecml.errors import InputError
from xecml.events import valid_counts
from xecml.inference import overlapped, predict, prediction_writers
from xecml.inference.predict import Report, predict_files
from xecml.inference.prediction_writers import said_of
from xecml.outputs import made_by


class Sums:
    """A model whose energy is the sum of an event's valid counts, and whose position is made of single sensors."""

    tasks = ("energy", "uvwFI")
    branches = ("npho", "time")
    training = None
    usual_sensors = np.zeros((4, 6), np.float32)
    device, precision = "cpu", "float32"

    def __init__(self, fails_at: float | None = None) -> None:
        self.fails_at, self.calls = fails_at, 0
        self.names: dict[str, str] = {}
        self.calibration: dict[str, Any] = {}
        self.truth_ends: dict[str, tuple[float, float]] = {}

    def judge(self, npho: np.ndarray, time: np.ndarray) -> tuple[dict[str, np.ndarray], None]:
        self.calls += 1
        energy = np.where(valid_counts(npho), npho, 0).sum(1, dtype=np.float64).astype(np.float32)
        if self.fails_at is not None and (energy == np.float32(self.fails_at)).any():
            raise InputError("The model fails here; mend it.")
        return {"energy": energy, "uvwFI": npho[:, :3].astype(np.float32)}, None


def energies(events: dict[str, np.ndarray]) -> np.ndarray:
    return Sums().judge(events["npho"], events["time"])[0]["energy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 700, 5 and 300 events, whose numbers tell them apart, with branches that predictions do not have."""
    path = tmp_path_factory.mktemp("files")
    for i, (name, events) in enumerate((("a", 700), ("b", 5), ("c", 300))):
        found = {k: v for k, v in point_sources(events, i).items() if k in ("npho", "time", "energyTruth", "xyzVTX")}
        found["run"] = np.full(events, 100 + i, np.int32)
        found["event"] = np.arange(events, dtype=np.int64) * 3
        found["mask"] = np.arange(events * 6, dtype=np.int16).reshape(events, 2, 3)
        found["weight"] = np.linspace(0, 1, events)
        rootio.write(path / f"{name}.root", found)
    (path / "model.pth").write_bytes(b"a model")
    return path


@pytest.fixture(scope="module")
def events(folder: Path) -> dict[str, np.ndarray]:
    parts = [next(rootio.read(folder / f"{name}.root", chunk_events=1000)) for name in "abc"]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run(
    folder: Path, out: str | Path | None, *, model: Sums | None = None, names: str = "abc", **options: Any
) -> Report:
    files = [folder / f"{name}.root" for name in names]
    return predict_files(model or Sums(), files, out, model_path=folder / "model.pth", **options)  # type: ignore[arg-type]


def table(path: Path) -> dict[str, np.ndarray]:
    """Columns of a file, whatever its form."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        found = parquet.read_table(path)
        return {name: np.array(found[name].to_pylist()) for name in found.column_names}
    if path.suffix == ".csv":
        rows = list(csv.reader(path.read_text(encoding="ascii").splitlines()))
        return dict(zip(rows[0], np.array(rows[1:], float).T, strict=True))
    with uproot.open(path) as file:
        arrays = file["predictions"].arrays()
        return {name: np.asarray(ak.to_numpy(arrays[name])) for name in arrays.fields}


# ------------------------------------------------------------------------------------------------------- one out


def test_events_keep_their_order_and_numbers_whatever_the_jobs(
    folder: Path, events: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for jobs in (1, 3):
        report = run(folder, tmp_path / f"{jobs}.root", jobs=jobs)
        assert (report.events, report.predicted, report.answered.events) == (1005, 1005, 1005)
    found = table(tmp_path / "1.root")
    for name in ("run", "event", "xyzVTX"):
        np.testing.assert_array_equal(found[name], events[name])
    np.testing.assert_array_equal(found["true_energy"], events["energyTruth"])
    np.testing.assert_array_equal(found["pred_energy"], energies(events))
    assert (tmp_path / "1.root").read_bytes() == (tmp_path / "3.root").read_bytes()


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "n.root"])
def test_every_form_holds_the_same(folder: Path, tmp_path: Path, name: str) -> None:
    run(folder, tmp_path / "p.root", keep=("mask", "weight"))
    run(folder, tmp_path / name, keep=("mask", "weight"), ntuple=name == "n.root")
    one, two = table(tmp_path / "p.root"), table(tmp_path / name)
    if name.endswith("csv"):
        one = {
            column if values.ndim == 1 else f"{column}_{'_'.join(map(str, at))}": values[(slice(None), *at)]
            for column, values in one.items()
            for at in np.ndindex(values.shape[1:])
        }
        # numbers come back bit for bit
        two = {column: values.astype(one[column].dtype) for column, values in two.items()}
    assert list(one) == list(two)
    for column, values in one.items():
        np.testing.assert_array_equal(values, np.asarray(two[column]).reshape(values.shape), err_msg=column)
    if name == "n.root":
        with uproot.open(tmp_path / name) as file:
            assert file.classname_of("predictions") == "ROOT::RNTuple"
    assert made_by(tmp_path / name) == "predict"
    assert json.loads(said_of(tmp_path / name, "prediction") or "")["options"]["keep"] == ["mask", "weight"]
    run(folder, tmp_path / name, ntuple=name == "n.root")  # what it made it replaces


def test_numbers_that_are_none_are_written_as_such(tmp_path: Path) -> None:
    found = point_sources(4)
    found["energyTruth"][1] = np.nan
    found["flag"] = np.array([True, False, True, True])
    rootio.write(tmp_path / "in.root", found)
    predict_files(Sums(), [tmp_path / "in.root"], tmp_path / "p.csv", keep=("flag",))  # type: ignore[arg-type]
    rows = table(tmp_path / "p.csv")
    assert np.isnan(rows["true_energy"]).tolist() == [False, True, False, False]
    assert rows["flag"].tolist() == [1, 0, 1, 1]


# ------------------------------------------------------------------------------------------------------ many out


@pytest.mark.parametrize("out", ["new/", "there", "there/*.parquet", "*_answers.root"])
def test_each_file_has_its_own(
    folder: Path, events: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    report = run(folder, out)
    where, ending = out.rpartition("/")[0] or ("there" if out == "there" else "."), Path(out).suffix or ".root"
    ending = f"_answers{ending}" if out.startswith("*_") else ending
    assert report.outputs == tuple(Path(where) / f"{name}{ending}" for name in "abc")
    found = [table(tmp_path / path) for path in report.outputs]
    assert [len(one["run"]) for one in found] == [700, 5, 300]
    np.testing.assert_array_equal(np.concatenate([one["pred_energy"] for one in found]), energies(events))


def test_files_without_events_have_files_of_their_own(folder: Path, tmp_path: Path) -> None:
    rootio.write(tmp_path / "none.root", {k: v[:0] for k, v in point_sources(1).items()})
    report = predict_files(Sums(), [tmp_path / "none.root", folder / "b.root"], f"{tmp_path}/out/")  # type: ignore[arg-type]
    assert [len(table(path)["run"]) for path in report.outputs] == [0, 5]


def test_inputs_that_would_share_a_file_and_differ_are_refused(folder: Path, tmp_path: Path) -> None:
    bare = {k: v for k, v in point_sources(5).items() if k in ("npho", "time")}
    (tmp_path / "more").mkdir()
    for name in ("bare", "more/bare"):
        rootio.write(tmp_path / f"{name}.root", bare)
    files = [folder / "b.root", tmp_path / "bare.root"]
    with pytest.raises(InputError, match=r"b\.root differ in energyTruth, xyzVTX; predict them to a file each"):
        predict_files(Sums(), files, tmp_path / "p.root")  # type: ignore[arg-type]
    assert len(predict_files(Sums(), files, f"{tmp_path}/out/").outputs) == 2  # type: ignore[arg-type]
    files = [tmp_path / "bare.root", tmp_path / "more" / "bare.root"]
    with pytest.raises(InputError, match=r"more/bare\.root would both be written to .*out/bare\.root"):
        predict_files(Sums(), files, f"{tmp_path}/out/")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("ending", [".root", ".csv"])
def test_a_repeated_command_goes_on_with_what_is_missing(
    folder: Path, events: dict[str, np.ndarray], tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"p{ending}"
    first = energies(events)
    with pytest.raises(InputError, match="The model fails here"):
        run(folder, out, model=Sums(fails_at=first[850]), chunk=400)
    names = [f"p_000{i}{ending}" for i in range(3)]
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ending) == names[:2]
    before = [(tmp_path / name).stat().st_mtime_ns for name in names[:2]]
    report = run(folder, out, model=(model := Sums()), chunk=400)
    assert [path.name for path in report.kept] == names[:2]
    assert (report.events, report.predicted, report.answered.events) == (1005, 205, 205)
    assert model.calls <= 3
    assert [(tmp_path / name).stat().st_mtime_ns for name in names[:2]] == before
    found = [table(tmp_path / name) for name in names]
    assert [len(one["run"]) for one in found] == [400, 400, 205]
    np.testing.assert_array_equal(np.concatenate([one["pred_energy"] for one in found]).astype(np.float32), first)
    again = run(folder, out, model=(model := Sums()), chunk=400)
    assert (len(again.kept), again.predicted, model.calls) == (3, 0, 0)


def test_pieces_of_another_prediction_are_not_taken_for_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"a model")
    (tmp_path / "other.pth").write_bytes(b"another")
    file, out = tmp_path / "in.root", tmp_path / "p.root"
    rootio.write(file, point_sources(50, 1))

    def again(model: str = "model.pth", chunk: int = 20, **options: Any) -> Report:
        return predict_files(Sums(), [file], out, model_path=tmp_path / model, chunk=chunk, **options)  # type: ignore[arg-type]

    again()
    for match, change in (
        ("made with another model", {"model": "other.pth"}),
        ("made with other options", {"keep": ("nGamma",)}),
        ("made with other input files or other events of them and other pieces", {"chunk": 30}),
    ):
        with pytest.raises(InputError, match=f"p_0000.root is there already and is not of this prediction: .*{match}"):
            again(**change)  # type: ignore[arg-type]
    rootio.write(file, point_sources(50, 2))
    with pytest.raises(InputError, match="other input files"):
        again()
    assert (again(force=True).predicted, again().predicted) == (50, 0)
    rootio.write(file, point_sources(30, 2))
    with pytest.raises(InputError, match=r"p_0002\.root is there, but this prediction ends with p_0001\.root; remove"):
        again(force=True)
    (tmp_path / "p_0000.root").write_bytes(b"my own notes")
    with pytest.raises(InputError, match=r"p_0000\.root cannot be read as a ROOT file|something that it does not say"):
        again()


# --------------------------------------------------------------------------------------------- kept, and friends


def test_kept_branches_are_as_in_the_file(folder: Path, events: dict[str, np.ndarray], tmp_path: Path) -> None:
    run(folder, tmp_path / "p.root", keep=("weight", "mask", "event", "npho"), jobs=2)
    found = table(tmp_path / "p.root")
    assert list(found)[-3:] == ["weight", "mask", "npho"]
    assert (found["weight"].dtype, found["mask"].dtype, found["event"].dtype) == (np.float64, np.int16, np.int64)
    assert found["mask"].shape == (1005, 2, 3)
    np.testing.assert_array_equal(found["event"], events["event"])
    np.testing.assert_array_equal(found["npho"], events["npho"])
    np.testing.assert_array_equal(found["mask"][700:705], np.arange(30, dtype=np.int16).reshape(5, 2, 3))


def test_branches_that_cannot_be_kept_are_named(folder: Path, tmp_path: Path) -> None:
    found = point_sources(4) | {"outlier": np.zeros(4)}
    with uproot.recreate(tmp_path / "in.root") as file:
        file.mktree("tree", {k: np.dtype((v.dtype, v.shape[1:])) for k, v in found.items()} | {"hits": "var * float32"})
        file["tree"].extend(found | {"hits": [[1.0], [], [2.0, 3.0], [4.0]]})
    for keep, match in (
        (("wieght",), r"a\.root has no branch 'wieght' to keep \(did you mean 'weight'\?\); it has"),
        (("hits",), "'hits' does not hold numbers of one shape"),
        (("pred_u",), "no branch 'pred_u' to keep"),
    ):
        path = (tmp_path if keep == ("hits",) else folder) / ("in.root" if keep == ("hits",) else "a.root")
        with pytest.raises(InputError, match=match):
            predict_files(Sums(), [path], tmp_path / "p.root", keep=keep)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match="'n_valid' of .* cannot be kept, because predictions have a column of that name"
    ):
        rootio.write(tmp_path / "n.root", point_sources(4) | {"n_valid": np.zeros(4)})
        predict_files(Sums(), [tmp_path / "n.root"], tmp_path / "p.root", keep=("n_valid",))  # type: ignore[arg-type]
    assert not (tmp_path / "p.root").exists()


def test_shards_are_predicted_and_kept_alike(folder: Path, tmp_path: Path) -> None:
    convert([folder / "b.root"], tmp_path / "shards")
    run(folder, tmp_path / "p.root", names="b", keep=("xyzVTX",))
    predict_files(Sums(), [tmp_path / "shards"], tmp_path / "q.root", keep=("xyzVTX",))  # type: ignore[arg-type]
    one, two = table(tmp_path / "p.root"), table(tmp_path / "q.root")
    np.testing.assert_array_equal(one["pred_energy"], two["pred_energy"])
    with pytest.raises(InputError, match="no ROOT file, so it cannot have a friend tree"):
        predict_files(Sums(), [tmp_path / "shards"], f"{tmp_path}/f/", friend=True)  # type: ignore[arg-type]


@pytest.fixture
def friends(folder: Path, tmp_path: Path) -> list[Path]:
    """Copies of the files, and friends beside them."""
    for name in "abc":
        (tmp_path / f"{name}.root").write_bytes((folder / f"{name}.root").read_bytes())
    report = predict_files(Sums(), [tmp_path / "a.root", tmp_path / "c.root"], None, friend=True)  # type: ignore[arg-type]
    assert report.outputs == tuple(tmp_path / f"{name}_predictions.root" for name in "ac")
    assert (tmp_path / "a.root").read_bytes() == (folder / "a.root").read_bytes()
    return [tmp_path / f"{name}.root" for name in "ac"]


def test_a_friend_has_an_entry_for_each_of_its_file(friends: list[Path]) -> None:
    for file in friends:
        found = table(file.with_name(f"{file.stem}_predictions.root"))
        columns = ["run", "event", "n_valid", "n_timed", "pred_energy", "pred_u", "pred_v", "pred_w"]
        assert list(found) == columns
        whole = next(rootio.read(file, chunk_events=1000))
        np.testing.assert_array_equal(found["event"], whole["event"])
        np.testing.assert_array_equal(found["pred_energy"], energies(whole))


INTERPRETER = os.environ.get("XECML_ROOT_PYTHON", sys.executable if find_spec("ROOT") else "")


@pytest.mark.skipif(
    not INTERPRETER,
    reason="the package ROOT, which looks at the friend, is not installed: 'pip install root' in an environment of its "
    "own, and name its interpreter in XECML_ROOT_PYTHON",
)
def test_root_itself_takes_the_friend(friends: list[Path]) -> None:
    code = (
        "import ROOT, sys\n"
        "file = ROOT.TFile(sys.argv[1]); tree = file.Get('tree')\n"
        "tree.AddFriend('predictions', sys.argv[1].replace('.root', '_predictions.root'))\n"
        "print(tree.GetEntries('predictions.event == event && pred_energy > 0'), tree.GetEntries())\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [INTERPRETER, "-c", code, str(friends[0])], env=clean, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["700", "700"], done.stderr


# ------------------------------------------------------------------------------------------------ what goes wrong


def _broken(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("out", ["p.root", "p.parquet", "p.csv", "n.root"])
@pytest.mark.parametrize("stage", ["read", "compute", "write", "end"])
def test_an_error_in_any_stage_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, stage: str
) -> None:
    files, model, expected = [folder / "a.root"], Sums(), InputError
    if stage == "read":
        monkeypatch.setattr(predict, "_check_alike", lambda *_: None)  # which would see it before
        rootio.write(tmp_path / "short.root", {k: v for k, v in point_sources(5).items() if k != "time"})
        files.append(tmp_path / "short.root")
    elif stage == "compute":
        model = Sums(fails_at=energies(next(rootio.read(folder / "a.root", chunk_events=700)))[600])
    else:
        form = {"p.parquet": "_Parquet", "p.csv": "_Csv"}.get(out, "_Root")
        monkeypatch.setattr(getattr(prediction_writers, form), stage, _broken)
        expected = OSError
    threads = threading.active_count()
    with pytest.raises(expected):
        predict_files(model, files, tmp_path / out, jobs=2, ntuple=out == "n.root")  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir() if p.name != "short.root"] == []
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("out", "options", "match"),
    [
        ("p.txt", {}, r"p\.txt would be a ROOT file; give it a name that ends in \.root, \.parquet or \.csv"),
        (None, {}, "There is no output for the predictions; give --out"),
        ("p.csv", {"ntuple": True}, "--rntuple is for ROOT files"),
        ("*_*.root", {}, r"has several '\*'"),
        ("p.root", {"friend": True}, "A friend tree belongs to one file, but .*p.root would belong to 3"),
        ("*.csv", {"friend": True}, "A friend tree is a TTree"),
        ("*.root", {"friend": True, "chunk": 10}, "cannot be written in pieces; leave --chunk or --friend out"),
    ],
)
def test_outputs_that_cannot_be_are_refused(
    folder: Path, tmp_path: Path, out: str | None, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        run(folder, None if out is None else f"{tmp_path}/{out}", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_never_written(folder: Path, tmp_path: Path) -> None:
    before = (folder / "a.root").read_bytes()
    with pytest.raises(InputError, match=r"it is the input .*choose another output"):
        run(folder, folder, force=True)
    assert (folder / "a.root").read_bytes() == before


def test_without_pyarrow_parquet_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow; install it with: pip install 'xecml\[parquet\]'"):
        run(folder, tmp_path / "p.parquet")


def mapped_kb(path: Path) -> int:
    """Memory that a process's mapping of a file takes, by what Linux says."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what a mapped file takes in memory")
def test_memory_of_what_was_read_is_given_back(folder: Path) -> None:
    path = folder / "a.root"
    with rootio.open_tree(path) as reader:
        before = reader.arrays(["npho"], 0, 700)["npho"]
        assert mapped_kb(path) > 1000
        reader.forget_pages()
        assert mapped_kb(path) < 100
        np.testing.assert_array_equal(reader.arrays(["npho"], 0, 700)["npho"], before)


# ---------------------------------------------------------------------------------------------------- the threads


@pytest.mark.parametrize("workers", [1, 4])
def test_results_come_in_order_and_few_wait(workers: int) -> None:
    taken = done = 0
    most = 0

    def items() -> Any:
        nonlocal taken, most
        for i in range(50):
            taken += 1
            most = max(most, taken - done)
            yield i

    found = []
    for result in overlapped.in_order(items(), lambda i: i * i, workers=workers):
        found.append(result)
        done += 1
    assert found == [i * i for i in range(50)]
    # of these one is in the hands of who asked, one is read and waits for room
    assert most <= workers + overlapped.AHEAD + 2


def test_reading_goes_on_while_results_are_used() -> None:
    read = threading.Event()

    def items() -> Any:
        yield 1
        read.set()
        yield 2

    results = overlapped.in_order(items(), lambda i: i, workers=1)
    assert next(results) == 1
    assert read.wait(30)
    assert list(results) == [2]


@pytest.mark.parametrize("where", ["items", "work"])
def test_what_goes_wrong_comes_at_its_place(where: str) -> None:
    def items() -> Any:
        yield from (1, 2)
        if where == "items":
            raise InputError("no more")
        yield 0

    got = []
    work: Callable[[int], float] = lambda i: 2 / i  # noqa: E731
    with pytest.raises(InputError if where == "items" else ZeroDivisionError):
        for result in overlapped.in_order(items(), work, workers=2):
            got.append(result)
    assert got == [2, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith(("read", "compute"))]


# ---------------------------------------------------------------------------------------------- the command line


def test_the_command_says_what_it_did(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xecml.inference.trained_model.load_model", lambda *_, **__: Sums())
    files = [str(folder / f"{name}.root") for name in "abc"]
    command = ["predict", str(folder / "model.pth"), *files, "--out", str(tmp_path / "p.csv"), "--chunk", "500"]
    done = CliRunner().invoke(app, [*command, "--keep", "run,weight", "--jobs", "2"])
    assert done.exit_code == 0, done.output
    assert f"Wrote predictions of 1005 events to 3 files {tmp_path / 'p_0000.csv'} ..." in done.output
    again = CliRunner().invoke(app, [*command, "--keep", "run,weight", "--json"])
    values = json.loads(again.output.splitlines()[-1])
    assert (values["predicted"], len(values["kept"]), values["device"]) == (0, 3, "cpu")
    (tmp_path / "b.root").write_bytes((folder / "b.root").read_bytes())
    friend = CliRunner().invoke(app, ["predict", str(folder / "model.pth"), str(tmp_path / "b.root"), "--friend"])
    assert f'tree->AddFriend("predictions", "{tmp_path / "b_predictions.root"}");' in friend.output
