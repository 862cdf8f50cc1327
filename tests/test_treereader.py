"""Trees that say wrong things of their lengths: nothing is read of them but what is certain."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from tests.conftest import point_sources
from tests.rootbytes import halves, write_pieces
from xecml import rootio
from xecml.checks.event_files import check_files
from xecml.cli.info import describe_file
from xecml.conventional.dead_sensor_estimates import ConventionalRepair
from xecml.data.convert import convert
from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.events import measured, valid_counts
from xecml.figures.event_display import display_event
from xecml.inference.inpaint import inpaint_files

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def events() -> Columns:
    return point_sources(12, seed=7)


def few(events: Columns) -> Columns:
    return {name: events[name] for name in ("npho", "time", "energyTruth", "run", "event")}


@pytest.fixture(params=["time", "npho", "energyTruth"])
def short(request: pytest.FixtureRequest, events: Columns, tmp_path: Path) -> tuple[Path, str]:
    """A tree of 12 events of which a branch has the first six."""
    write_pieces(tmp_path / "short.root", halves(few(events)), {request.param: 6})
    return tmp_path / "short.root", str(request.param)


def test_a_short_branch_is_refused_in_every_way_of_reading(short: tuple[Path, str], events: Columns) -> None:
    path, branch = short
    message = f"short.root: '{branch}' has 6 entries of the tree's 12"
    with pytest.raises(InputError, match=message) as caught:
        list(rootio.read(path))
    assert "\n" not in str(caught.value)
    with rootio.open_tree(path) as reader:
        assert reader.n_events == 12
        assert reader.uneven() == {branch: 6}
        ways = (
            lambda: reader.arrays([branch], 0, 3),
            lambda: reader.arrays([branch], 0, 0),
            lambda: reader.raw(branch, 0, 3),
            lambda: reader.boundaries([branch]),
            lambda: reader.arrays(["relative_npho"], 0, 3) if branch != "energyTruth" else reader.raw(branch, 8, 9),
        )
        for way in ways:
            with pytest.raises(InputError, match=message):
                way()
        rest = [name for name in few(events) if name != branch]
        for name, values in reader.arrays(rest, 0, 12).items():
            np.testing.assert_array_equal(values, events[name])


def test_a_short_branch_is_refused_by_all_that_read_files(short: tuple[Path, str], tmp_path: Path) -> None:
    path, branch = short
    message = f"'{branch}' has 6 entries of the tree's 12"
    calls = (
        lambda: convert(path, tmp_path / "shards"),
        lambda: EventStream(str(path), tasks=["energy"], batch_size=4, buffer_events=8),
        lambda: display_event(str(path), 1, tmp_path / "e.png"),
        lambda: inpaint_files(
            ConventionalRepair("neighbour_mean"), path, tmp_path / "f.root", dead_list=tmp_path / "d"
        ),
    )
    (tmp_path / "d").write_text("3\n")
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "short.root"]
    report = check_files(path)
    assert not report.usable
    assert [f.where for f in report.findings if message in f.message] == [branch]
    assert not any("no events" in f.message for f in report.findings)
    assert describe_file(str(path))["tree: entries of branches unlike it"] == {branch: 6}


def test_what_a_repair_does_not_need_may_be_short_and_is_left_out(events: Columns, tmp_path: Path) -> None:
    own = few(events) | {"weather": np.arange(12.0)}
    write_pieces(tmp_path / "a.root", halves(own), {"weather": 6})
    (tmp_path / "d").write_text("3\n")
    report = inpaint_files(
        ConventionalRepair("neighbour_mean"), tmp_path / "a.root", tmp_path / "b.root", dead_list=tmp_path / "d"
    )
    assert report.left_out == ("weather",)
    assert report.events == 12


def test_short_branches_of_many_baskets_and_of_lists(events: Columns, tmp_path: Path) -> None:
    pieces = [{k: v[i : i + 1] for k, v in few(events).items()} for i in range(12)]
    write_pieces(tmp_path / "many.root", pieces, {"time": 10})
    with pytest.raises(InputError, match="'time' has 10 entries of the tree's 12"):
        list(rootio.read(tmp_path / "many.root", ["npho", "time"]))
    assert [len(c["npho"]) for c in rootio.read(tmp_path / "many.root", ["npho"])] == [12]


def test_branches_filled_one_by_one_have_a_sentence(events: Columns, tmp_path: Path) -> None:
    write_pieces(tmp_path / "a.root", halves(few(events)), {}, tree_entries=0)
    with pytest.raises(InputError, match=r"12 entries but its tree 'tree' none.*SetEntries\(\)"):
        rootio.count_events(tmp_path / "a.root")
    write_pieces(tmp_path / "b.root", halves(few(events)), {}, tree_entries=6)
    with pytest.raises(InputError, match="'npho' has 12 entries of the tree's 6"):
        list(rootio.read(tmp_path / "b.root", ["npho"]))


@pytest.mark.parametrize("claimed", [2**62, -1])
def test_impossible_numbers_of_entries_are_damage(events: Columns, tmp_path: Path, claimed: int) -> None:
    write_pieces(tmp_path / "a.root", halves(few(events)), {}, tree_entries=claimed)
    with pytest.raises(InputError, match=f"damaged: the tree 'tree' claims {claimed} entries"):
        rootio.count_events(tmp_path / "a.root")


@pytest.mark.parametrize(
    ("sizes", "begins"),
    [([6, 6], [0, 1, 12]), ([6, 6], [0, 8, 12]), ([4, 4, 4], [0, 9, 7, 12]), ([1] * 10, [*range(10), 12])],
)
def test_baskets_of_other_lengths_than_promised_are_damage(
    events: Columns, tmp_path: Path, sizes: list[int], begins: list[int]
) -> None:
    path, edges = tmp_path / "a.root", np.cumsum([0, *sizes])
    pieces = [{"npho": events["npho"][a:b]} for a, b in pairwise(edges)]
    write_pieces(path, pieces, {"npho": 12}, tree_entries=12, edges={"npho": begins})
    if len(sizes) == 10:  # numpy repeats an event for as many as are promised
        with uproot.open({path: None}) as file:
            np.testing.assert_array_equal(file["tree"]["npho"].array(library="np")[10:], events["npho"][[9, 9]])
    with pytest.raises(InputError, match=r"a\.root cannot be read as a ROOT file; it is damaged"):
        list(rootio.read(path, ["npho"]))


def test_a_library_that_returns_less_than_asked_for_is_noticed(events: Columns, tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "n.root") as file:
        columns = {k: ak.Array(v) if v.ndim == 1 else ak.from_regular(ak.Array(v)) for k, v in few(events).items()}
        file.mkrntuple("tree", columns)
    with rootio.open_tree(tmp_path / "n.root") as reader:
        own = reader._tree.arrays
        reader._tree.arrays = lambda names, entry_start, entry_stop: own(
            names, entry_start=entry_start, entry_stop=entry_stop - 1
        )
        with pytest.raises(InputError, match="'npho' has 4 entries from 3 to 8"):
            reader.arrays(["npho"], 3, 8)


# --------------------------------------------------------------------------------------------------------- numbers


def write_doubles(path: Path, events: Columns, **values: np.ndarray) -> Columns:
    """Events as doubles, some branches replaced."""
    columns = {k: np.asarray(values.get(k, v), np.float64) for k, v in few(events).items()}
    with uproot.recreate(path) as file:
        file.mktree("tree", {k: np.dtype((v.dtype, v.shape[1:])) for k, v in columns.items()})
        file["tree"].extend(columns)
    return columns


def test_doubles_beyond_float32_are_not_measured(events: Columns, tmp_path: Path) -> None:
    """Without a warning, which would be an error here."""
    npho, time = events["npho"].astype("f8"), events["time"].astype("f8")
    npho[0, :4], time[0, 4:6] = (1e300, -1e300, np.nan, 1e10), (1e300, -1e300)
    path = tmp_path / "d.root"
    write_doubles(path, events, npho=npho, time=time)
    chunk = next(rootio.read(path))
    assert chunk["npho"][0, :4].tolist()[:2] == [np.inf, -np.inf]
    assert chunk["npho"].dtype == chunk["time"].dtype == np.float32
    with rootio.open_tree(path) as reader:
        np.testing.assert_array_equal(reader.raw("npho", 0, 12), chunk["npho"])
    convert(path, tmp_path / "shards", form="compact")
    for files in (path, tmp_path / "shards"):
        stream = EventStream(str(files), tasks=["energy"], batch_size=12, buffer_events=12, shuffle=False)
        batch = next(stream.epoch(0))
        assert not batch.valid[0, :4].any()
        assert not batch.timed[0, :6].any()
        assert int(batch.valid.sum()) == int(valid_counts(events["npho"])[1:].sum() + valid_counts(npho[0]).sum())
    report = check_files(path)
    assert report.usable
    assert "npho holds 3 NaN or infinite values; they count as not measured." in {f.message for f in report.findings}


@pytest.mark.parametrize(
    ("value", "what"), [(1e300, "not finite"), (np.nan, "not finite"), (1e10, r"not measured \(1e10\)")]
)
def test_truth_that_is_none_is_refused_in_training_and_found_by_the_check(
    events: Columns, tmp_path: Path, value: float, what: str
) -> None:
    energy = events["energyTruth"].astype("f8")
    energy[5] = value
    write_doubles(tmp_path / "d.root", events, energyTruth=energy)
    stream = EventStream(str(tmp_path / "d.root"), tasks=["energy"], batch_size=4, buffer_events=8, shuffle=False)
    with pytest.raises(InputError, match=f"'energyTruth' is {what} in run 7 event 5"):
        list(stream.epoch(0))
    report = check_files(tmp_path / "d.root")
    assert report.usable == (value == 1e10)
    assert any(f.where == "energyTruth" for f in report.findings)
    assert not measured(next(rootio.read(tmp_path / "d.root"))["energyTruth"])[5]


@pytest.mark.parametrize("value", [1e300, -(2.0**31) - 1, 2.0**31, np.nan, np.inf, 3.5])
@pytest.mark.parametrize("branch", ["run", "event", "nGamma"])
def test_numbers_that_are_no_whole_ones_are_refused(events: Columns, tmp_path: Path, branch: str, value: float) -> None:
    columns = {"npho": events["npho"], branch: np.r_[2.0**31 - 1, value, -(2.0**31)]}
    with uproot.recreate(tmp_path / "n.root") as file:
        file.mktree("tree", {branch: "f8"})
        file["tree"].extend({branch: columns[branch]})
    with pytest.raises(InputError, match=f"n.root: '{branch}' .* which"):
        list(rootio.read(tmp_path / "n.root", [branch]))
    with rootio.open_tree(tmp_path / "n.root") as reader:
        assert reader.arrays([branch], 0, 1)[branch].tolist() == [2**31 - 1]
        assert reader.arrays([branch], 2, 3)[branch].tolist() == [-(2**31)]


@pytest.mark.parametrize("kind", ["tree", "ntuple"])
@pytest.mark.parametrize("bytes_", [b"\xff" * 4, bytes(8), b"\0\0\0\x01", b"\x7f"])
def test_damage_anywhere_is_a_sentence(events: Columns, tmp_path: Path, kind: str, bytes_: bytes) -> None:
    """At any place of a file: what is read is as long as it should be, or there is one line that says why not."""
    path, columns = tmp_path / "d.root", {name: events[name] for name in ("energyTruth", "run")}
    if kind == "tree":
        rootio.write(path, columns)
    else:
        with uproot.recreate(path) as file:
            file.mkrntuple("tree", {k: ak.Array(v) for k, v in columns.items()})
    whole, refused = path.read_bytes(), list[str]()
    for place in range(0, len(whole) - 8, 149):
        path.write_bytes(whole[:place] + bytes_ + whole[place + len(bytes_) :])
        try:
            lengths = {len(values) for chunk in rootio.read(path, list(columns)) for values in chunk.values()}
            assert lengths <= {12}
        except InputError as error:
            refused.append(str(error))
    assert 0 < len(refused) < len(whole) / 149
    assert not [line for line in refused if "\n" in line]
