"""ROOT in and out: what is written is read, whatever form it has; bad files are one sentence."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from tests.conftest import point_sources
from xecml import events, rootio
from xecml.errors import InputError


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
        file["rec"].extend({"counts": jagged, "time": few["time"].astype("f8"), "energyTruth": few["energyTruth"][:, None].astype("f8")})  # fmt: skip
    back = joined(
        list(rootio.read(tmp_path / "o.root", ["npho", "time", "energyTruth"], tree="rec", names={"npho": "counts"}))
    )
    assert back["npho"].dtype == np.float32
    np.testing.assert_array_equal(back["npho"], few["npho"])
    np.testing.assert_array_equal(back["energyTruth"], few["energyTruth"])


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
    with pytest.raises(InputError, match="is a folder"):
        rootio.write(tmp_path, few)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        rootio.write(tmp_path / "file" / "x.root", few)
