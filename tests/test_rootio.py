"""ROOT in and out: what is written is read, whatever form it has; bad files are one sentence."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from tests.conftest import point_sources
from xecml import events, rootio
from xecml.errors import InputError
from xecml.rootio import treewriter


@pytest.fixture(scope="module")
def few() -> dict[str, np.ndarray]:
    return point_sources(7, seed=3, dead=0.05)


def joined(chunks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}


@pytest.mark.parametrize("compression", ["lz4", "zlib", "zstd", "none"])
def test_what_is_written_is_read(tmp_path: Path, few: dict[str, np.ndarray], compression: str) -> None:
    rootio.write(tmp_path / "a.root", few, compression=compression)
    back = joined(list(rootio.read(tmp_path / "a.root", chunk_events=3)))
    assert set(back) == set(few)
    for name, values in few.items():
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype == values.dtype


def test_chunks_are_bounded_and_in_order(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    rootio.write(tmp_path / "a.root", few)
    chunks = list(rootio.read([tmp_path / "a.root"] * 2, ["event"], chunk_events=3))
    assert [len(c["event"]) for c in chunks] == [3, 3, 1, 3, 3, 1]
    assert joined(chunks)["event"].tolist() == [*range(7)] * 2


def test_ntuples_are_read(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    with uproot.recreate(tmp_path / "n.root") as file:
        columns = {k: ak.Array(v) if v.ndim == 1 else ak.from_regular(ak.Array(v)) for k, v in few.items()}
        file.mkrntuple("tree", columns)
    back = joined(list(rootio.read(tmp_path / "n.root", chunk_events=4)))
    for name, values in few.items():
        np.testing.assert_array_equal(back[name], values)


def test_other_types_and_shapes_become_the_vocabulary_s(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    """Double precision, jagged arrays of equal length, scalars as (N, 1), other branch names."""
    with uproot.recreate(tmp_path / "o.root") as file:
        jagged = ak.from_regular(ak.Array(few["npho"].astype(np.float64)))
        file.mktree("rec", {"counts": "var * float64", "time": ("f8", (4760,)), "energyTruth": ("f8", (1,))})
        energy = few["energyTruth"][:, None].astype("f8")
        file["rec"].extend({"counts": jagged, "time": few["time"].astype("f8"), "energyTruth": energy})
    back = joined(
        list(rootio.read(tmp_path / "o.root", ["npho", "time", "energyTruth"], tree="rec", names={"npho": "counts"}))
    )
    assert back["npho"].dtype == np.float32
    np.testing.assert_array_equal(back["npho"], few["npho"])
    np.testing.assert_array_equal(back["energyTruth"], few["energyTruth"])


def test_event_numbers_that_do_not_fit_are_refused(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    for first, fits in ((5, True), (2**33, False)):
        with uproot.recreate(tmp_path / "n.root") as file:
            file.mktree("tree", {"event": "i8", "npho": ("f4", (4760,))})
            file["tree"].extend({"event": first + np.arange(len(few["npho"])), "npho": few["npho"]})
        if fits:
            assert joined(list(rootio.read(tmp_path / "n.root", ["event"])))["event"][0] == first
        else:
            with pytest.raises(InputError, match="which int32 does not hold"):
                list(rootio.read(tmp_path / "n.root", ["event"]))


def test_relative_branches_are_derived(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    rootio.write(tmp_path / "a.root", few)
    chunk = next(rootio.read(tmp_path / "a.root", ["relative_npho", "relative_time"]))
    wanted = events.relative_quantities(few["npho"], few["time"])
    np.testing.assert_array_equal(chunk["relative_npho"], wanted[0])
    np.testing.assert_array_equal(chunk["relative_time"], wanted[1])


def test_files_globs_and_folders(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    for name in ("b", "a"):
        rootio.write(tmp_path / f"{name}.root", few)
    (tmp_path / "notes.txt").write_text("not data")
    for inputs in (tmp_path, str(tmp_path / "*.root"), [tmp_path / "a.root", tmp_path / "b.root"]):
        assert rootio.count_events(inputs) == 14
    with pytest.raises(InputError, match="No file matches"):
        rootio.count_events(str(tmp_path / "*.raw"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no .root file"):
        rootio.count_events(tmp_path / "empty")


def test_an_empty_tree_yields_nothing(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    rootio.write(tmp_path / "a.root", {k: v[:0] for k, v in few.items()})
    assert list(rootio.read(tmp_path / "a.root")) == []


def test_the_highest_cycle_of_a_tree_is_read(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    with uproot.recreate(tmp_path / "c.root") as file:
        for events_written in (2, 5):
            file.mktree("tree", {"event": "int32"})
            file["tree"].extend({"event": np.arange(events_written, dtype=np.int32)})
        file.mktree("other", {"event": "int32"})
    assert rootio.count_events(tmp_path / "c.root") == 5
    assert sorted(rootio.list_trees(tmp_path / "c.root")) == ["other", "tree"]


def _truncated(path: Path, few: dict[str, np.ndarray]) -> None:
    rootio.write(path, few)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_shape(path: Path, few: dict[str, np.ndarray]) -> None:
    rootio.write(path, {"npho": few["npho"][:, :100]})


def _ragged(path: Path, few: dict[str, np.ndarray]) -> None:
    with uproot.recreate(path) as file:
        file.mktree("tree", {"npho": "var * float32"})
        file["tree"].extend({"npho": ak.Array([[1.0, 2.0], [3.0]])})


def _damaged_inside(path: Path, few: dict[str, np.ndarray]) -> None:
    rootio.write(path, few)
    content = bytearray(path.read_bytes())
    content[2000:60000] = bytes(58000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, few: None, "No such file"),
        (lambda path, few: path.write_text("this is text"), "cannot be read as a ROOT file"),
        (lambda path, few: path.write_bytes(b""), "cannot be read as a ROOT file"),
        (_truncated, "damaged or incomplete"),
        (_damaged_inside, "damaged or incomplete"),
        (_other_shape, r"'npho' has shape \(100,\)"),
        (_ragged, "different lengths"),
        (lambda path, few: rootio.write(path, {"nphoo": few["npho"]}), "did you mean 'nphoo'"),
        (lambda path, few: rootio.write(path, few, tree="trees"), "did you mean 'trees'"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, few: dict[str, np.ndarray], make: object, message: str) -> None:
    make(tmp_path / "bad.root", few)  # type: ignore[operator]
    with pytest.raises(InputError, match=message) as caught:
        list(rootio.read(tmp_path / "bad.root", ["npho"]))
    assert "\n" not in str(caught.value)
    assert "bad.root" in str(caught.value)


def test_a_failed_write_leaves_nothing(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    target = tmp_path / "out.root"
    with pytest.raises(ValueError, match="changed"), rootio.TreeWriter(target) as writer:
        writer.extend(few)
        writer.extend({"npho": few["npho"]})
    assert list(tmp_path.iterdir()) == []
    rootio.write(target, few)
    before = target.read_bytes()
    with pytest.raises(RuntimeError), rootio.TreeWriter(target) as writer:
        writer.extend(few)
        raise RuntimeError
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_cannot_be_written_over_a_folder(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    (tmp_path / "folder.root").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        rootio.write(tmp_path / "folder.root", few)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        rootio.write(tmp_path / "file" / "x.root", few)


# ------------------------------------------------------------------------------------------- bytes, ranges, baskets


def test_equal_arrays_give_equal_bytes(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    """Neither the file's name, nor its folder, nor the time of day is in a file."""
    (tmp_path / "elsewhere").mkdir()
    rootio.write(tmp_path / "a.root", few)
    time.sleep(1.1)  # the dates in ROOT files have seconds
    rootio.write(tmp_path / "elsewhere" / "another_name.root", few)
    content = (tmp_path / "a.root").read_bytes()
    assert (tmp_path / "elsewhere" / "another_name.root").read_bytes() == content
    assert b"a.root" not in content


def test_threads_that_compress_leave_the_bytes_as_they_are(tmp_path: Path) -> None:
    """Of arrays of several of ROOT's blocks too, of small ones, and of some that do not become smaller."""
    rng = np.random.default_rng(1)
    chunk = {
        "counts": rng.poisson(3, (900, 4760)).astype(np.float32),
        "noise": rng.normal(size=(900, 4760)).astype(np.float32),
        "bytes": rng.integers(0, 2, (900, 4761)).astype(np.int8),
        "number": np.arange(900, dtype=np.int32),
    }
    assert chunk["counts"].nbytes > treewriter._BLOCK_BYTES
    for threads in (0, 2):
        with rootio.TreeWriter(tmp_path / f"{threads}.root", threads=threads) as writer:
            for piece in (slice(None), slice(100, 300), slice(0, 5), slice(0, 0)):
                writer.extend({name: values[piece] for name, values in chunk.items()})
    assert (tmp_path / "0.root").read_bytes() == (tmp_path / "2.root").read_bytes()


def test_a_block_that_no_thread_has_is_compressed_when_it_is_asked_for() -> None:
    with ThreadPoolExecutor(1) as pool:
        ahead, plain = treewriter._Beforehand(1, pool), uproot.LZ4(1)
        first, second = np.arange(1000, dtype=">f4"), np.zeros(1000, ">f4")
        ahead.next = ahead.begin([first, second])
        for asked in (second, first[:-1], first, second, first):
            assert bytes(ahead.compress(asked.tobytes())) == bytes(plain.compress(asked.tobytes()))
        assert ahead.code_pair == plain.code_pair
        assert not ahead.next


def test_a_chunk_may_be_begun_while_another_is_written(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    """The file is the same as of chunks that are given one after the other."""
    chunks = [{k: np.repeat(v[rows], 40, axis=0) for k, v in few.items()} for rows in (slice(0, 4), slice(4, None))]
    with rootio.TreeWriter(tmp_path / "ahead.root", threads=2) as writer:
        begun = [writer.begin(chunk) for chunk in chunks]
        assert all(chunk.blocks for chunk in begun)
        for chunk in begun:
            writer.extend(chunk)
        assert not any(chunk.blocks for chunk in begun)
    with rootio.TreeWriter(tmp_path / "plain.root") as writer:
        for chunk in chunks:
            writer.extend(chunk)
    assert (tmp_path / "ahead.root").read_bytes() == (tmp_path / "plain.root").read_bytes()


def test_other_arrays_are_another_file(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    """Readers tell files apart by an identity in the header, which follows from the whole content."""
    identities = set()
    changed = {k: v.copy() for k, v in few.items()}
    changed["npho"][-1, -1] = 3
    for name, arrays in (("a", few), ("b", few), ("c", changed)):
        with rootio.TreeWriter(tmp_path / f"{name}.root") as writer:
            writer.extend({k: v[:4] for k, v in arrays.items()})
            writer.extend({k: v[4:] for k, v in arrays.items()})
        with uproot.open(tmp_path / f"{name}.root") as file:
            identities.add(file.file.hex_uuid)
            np.testing.assert_array_equal(file["tree"]["npho"].array(library="np"), arrays["npho"])
    assert len(identities) == 2


def test_the_installed_uproot_asks_the_function_that_is_replaced_for_dates(
    tmp_path: Path, few: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is private to uproot: a version that dates files otherwise fails here, and not in a user's comparison."""
    asked = []

    def counting(date: Any) -> int:
        asked.append(date)
        return int(original(date))

    original = uproot._util.datetime_to_code
    monkeypatch.setattr(uproot._util, "datetime_to_code", counting)
    rootio.write(tmp_path / "a.root", few)
    assert asked
    assert {date.year for date in asked} == {2000}


def test_two_threads_write_and_leave_the_clock_as_it_was(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    before = uproot._util.datetime_to_code
    together = threading.Barrier(2)

    def write(name: str) -> None:
        together.wait()
        for _ in range(5):
            rootio.write(tmp_path / name, few)

    threads = [threading.Thread(target=write, args=(f"{k}.root",)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert uproot._util.datetime_to_code is before
    assert (tmp_path / "0.root").read_bytes() == (tmp_path / "1.root").read_bytes()


def test_without_that_function_files_are_written_all_the_same(
    tmp_path: Path, few: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xecml.rootio import treewriter

    class NoUtil:
        pass

    class Uproot:
        _util = NoUtil()

        def __getattr__(self, name: str) -> Any:
            return getattr(uproot, name)

    monkeypatch.setattr(treewriter, "uproot", Uproot())
    rootio.write(tmp_path / "a.root", few)
    with uproot.open(tmp_path / "a.root") as file:
        np.testing.assert_array_equal(file["tree"]["npho"].array(library="np"), few["npho"])


def test_the_clock_is_left_as_it_was(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    before = uproot._util.datetime_to_code
    with pytest.raises(RuntimeError), rootio.TreeWriter(tmp_path / "a.root") as writer:
        writer.extend(few)
        raise RuntimeError
    assert uproot._util.datetime_to_code is before


@pytest.mark.parametrize(
    ("boundaries", "most", "expected"),
    [
        ([0, 512, 1024, 1100], 512, [(0, 512), (512, 1024), (1024, 1100)]),
        ([0, 512, 1024, 1536], 1100, [(0, 1024), (1024, 1536)]),
        ([0, 1000, 1010], 300, [(0, 300), (300, 600), (600, 900), (900, 1000), (1000, 1010)]),
        ([0, 3, 6, 7, 20, 21], 7, [(0, 7), (7, 14), (14, 20), (20, 21)]),
        ([0], 5, []),
        ([0, 1], 5, [(0, 1)]),
    ],
)
def test_ranges_follow_boundaries(boundaries: list[int], most: int, expected: list[tuple[int, int]]) -> None:
    assert rootio.ranges(boundaries, most) == expected


@pytest.fixture
def in_pieces(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """60 events in baskets of 4, 1, 12, ... events."""
    events = point_sources(60, seed=9)
    with rootio.TreeWriter(tmp_path / "p.root") as writer:
        for a, b in ((0, 4), (4, 5), (5, 17), (17, 18), (18, 40), (40, 60)):
            writer.extend({k: v[a:b] for k, v in events.items()})
    return tmp_path / "p.root", events


def test_boundaries_are_those_of_baskets(in_pieces: tuple[Path, dict[str, np.ndarray]]) -> None:
    with rootio.open_tree(in_pieces[0]) as reader:
        for branches in (["npho", "time"], ["relative_npho"]):
            assert reader.boundaries(branches) == [0, 4, 5, 17, 18, 40, 60]
        with pytest.raises(InputError, match="no branch 'energyReco'"):
            reader.boundaries(["energyReco"])


@pytest.mark.parametrize("span", [(0, 60), (0, 4), (1, 3), (3, 6), (16, 19), (4, 59), (59, 60), (7, 7)])
def test_any_range_is_read_across_baskets(in_pieces: tuple[Path, dict[str, np.ndarray]], span: tuple[int, int]) -> None:
    path, events = in_pieces
    start, stop = span
    with rootio.open_tree(path) as reader:
        for _ in range(2):  # the second time from the basket that was kept
            chunk = reader.arrays(["npho", "emiAng", "event"], start, stop)
            for name, values in chunk.items():
                np.testing.assert_array_equal(values, events[name][start:stop])
                assert values.dtype == events[name].dtype
                assert values.flags.writeable
            np.testing.assert_array_equal(reader.raw("time", start, stop), events["time"][start:stop])


def test_many_small_baskets_are_read_at_once(tmp_path: Path) -> None:
    events = {"energyTruth": np.arange(40, dtype=np.float32)}
    with rootio.TreeWriter(tmp_path / "s.root") as writer:
        for i in range(40):
            writer.extend({"energyTruth": events["energyTruth"][i : i + 1]})
    with rootio.open_tree(tmp_path / "s.root") as reader:
        assert reader.arrays(["energyTruth"], 3, 38)["energyTruth"].tolist() == list(range(3, 38))


def test_chunks_follow_baskets(in_pieces: tuple[Path, dict[str, np.ndarray]]) -> None:
    sizes = [len(c["event"]) for c in rootio.read(in_pieces[0], ["event"], chunk_events=18)]
    assert sizes == [18, 18, 4, 18, 2]
    sizes = [len(c["event"]) for c in rootio.read(in_pieces[0], ["event"], chunk_events=25)]
    assert sizes == [18, 22, 20]
