"""Parts of predictions joined to one file: every event is there once, or a sentence says which is not."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from numpy.typing import NDArray

from xecml import rootio
from xecml.errors import InputError
from xecml.inference import output_parts
from xecml.inference.merge import merge_files
from xecml.outputs import making


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbers(run: int, first: int, last: int) -> dict[str, NDArray[Any]]:
    events = np.arange(first, last, dtype=np.int32)
    return {"run": np.full(len(events), run, np.int32), "event": events}


def predicted(path: str, run: int, first: int, last: int, **more: NDArray[Any]) -> None:
    columns = numbers(run, first, last)
    with making("predict"):
        pred = (columns["event"] / 7).astype(np.float32)
        rootio.write(path, columns | {"pred_energy": pred} | more, tree="predictions")


def inputs(path: str, run: int, first: int, last: int) -> None:
    rootio.write(path, numbers(run, first, last) | {"energyTruth": np.zeros(last - first, np.float32)})


def shared_out() -> None:
    """Three parts of four files, as `xec submit` shares them out."""
    for i in range(4):
        inputs(f"in_{i}.root", 7, 10 * i, 10 * i + 10)
    files = {"0": ["in_0.root"], "1": ["in_1.root", "in_2.root"], "10": ["in_3.root"]}
    outs = {int(number): Path(f"all_{number}.root") for number in files}
    output_parts.write(Path("all.root.jobs"), output_parts.manifest_of(["predict", "m.pth"], "tree", outs, files))


def all_parts() -> None:
    predicted("all_0.root", 7, 0, 10)
    predicted("all_1.root", 7, 10, 30)
    predicted("all_10.root", 7, 30, 40)


def test_parts_of_an_array_are_joined_in_the_order_of_its_tasks() -> None:
    shared_out()
    all_parts()
    report = merge_files(["all_*.root"], "all.root")
    assert (report.events, report.inputs, report.parts) == (40, 4, ["all_0.root", "all_1.root", "all_10.root"])
    with uproot.open("all.root:predictions") as tree:
        found = tree.arrays(library="np")
    assert found["event"].tolist() == list(range(40))
    assert found["run"].dtype == np.int32
    np.testing.assert_array_equal(found["pred_energy"], (np.arange(40) / 7).astype(np.float32))
    # the result matches the pattern of its parts, and is made again
    assert merge_files(["all*.root"], "all.root").events == 40


def test_a_part_or_an_event_that_is_missing_is_named() -> None:
    shared_out()
    all_parts()
    with pytest.raises(InputError, match=r"all_1.root is not named; .*--inputs.* \(1 part of 3 missing"):
        merge_files(["all_0.root", "all_10.root"], "out.root")
    Path("all_10.root").unlink()
    with pytest.raises(InputError, match="all_10.root is not there yet; submit the array again"):
        merge_files(["all_*.root"], "out.root")
    predicted("all_10.root", 7, 31, 40)
    with pytest.raises(InputError, match="all_10.root lacks 1 event, the first of them run 7, event 30; predict"):
        merge_files(["all_*.root"], "out.root")
    predicted("all_10.root", 7, 30, 41)
    with pytest.raises(InputError, match="all_10.root has 1 event too often or beyond its inputs, .*event 40; leave"):
        merge_files(["all_*.root"], "out.root")
    predicted("other.root", 8, 0, 3)
    predicted("all_10.root", 7, 30, 40)
    with pytest.raises(InputError, match="other.root is no part of the same array"):
        merge_files(["all_*.root", "other.root"], "out.root")
    assert not Path("out.root").exists()


def test_other_files_may_have_no_event_twice() -> None:
    predicted("a.root", 1, 0, 5)
    predicted("b.root", 1, 4, 9)
    predicted("c.root", -2, -3, 5)
    report = merge_files(["a.root", "c.root"], "out.root")
    assert (report.events, report.inputs) == (13, 0)
    with pytest.raises(InputError, match="run 1, event 4 is in a.root and b.root .1 event too many.; leave one"):
        merge_files(["a.root", "b.root", "c.root"], "other.root")
    with pytest.raises(InputError, match="A part is named twice"):
        merge_files(["a.root", "./a.root"], "other.root")


def test_inputs_say_which_events_there_ought_to_be() -> None:
    predicted("a.root", 1, 0, 5)
    predicted("b.root", 1, 4, 9)
    for name, first, last in (("x", 4, 9), ("y", 0, 5)):
        inputs(f"{name}.root", 1, first, last)
    # event 4 is there twice in the inputs, too, and their order is another
    assert merge_files(["a.root", "b.root"], "out.root", inputs=["x.root", "y.root"]).inputs == 2
    with pytest.raises(InputError, match="lacks 5 events, the first of them run 1, event 4"):
        merge_files(["a.root"], "other.root", inputs=["x.root", "y.root"])
    # files without numbers: predictions number them anew
    rootio.write("plain.root", {"energyTruth": np.zeros(5, np.float32)})
    assert merge_files(["a.root"], "plainly.root", inputs=["plain.root"]).inputs == 1
    with pytest.raises(InputError, match="a.root has 5 events of the 10 of its files"):
        merge_files(["a.root"], "other.root", inputs=["plain.root", "y.root"])


def test_what_cannot_be_merged_is_a_sentence() -> None:
    predicted("a.root", 1, 0, 5)
    predicted("wide.root", 2, 0, 5, sigma_energy=np.zeros(5, np.float32))
    inputs("events.root", 1, 0, 5)
    for files, out, message in (
        (["a.root", "wide.root"], "out.root", "wide.root differs from a.root in sigma_energy"),
        (["events.root"], "out.root", "has no tree 'predictions'"),
        (["a.root"], "a.root", "a.root is the only file that was named"),
        (["none_*.root"], "out.root", "No file matches none_"),
        (["a.root"], "out.txt", "give it a name that ends in .root"),
        (["a.root"], "events.root", "was not made by 'xec merge'"),
    ):
        with pytest.raises(InputError, match=message):
            merge_files(files, out)
    assert not Path("out.root").exists()


def test_a_part_is_finished_when_it_was_written_since_and_of_the_same_files() -> None:
    predicted("all_0.root", 7, 0, 10)
    os.utime("all_0.root", (1, 1))
    shared_out()
    folder = Path("all.root.jobs")
    manifest = output_parts.read(folder)
    assert manifest is not None
    assert output_parts.progress_of(folder, manifest) == output_parts.Progress([], [])
    all_parts()
    inputs("in_2.root", 7, 20, 300)
    rootio.write("all_10.root", numbers(7, 30, 40))  # of another command
    assert output_parts.progress_of(folder, manifest) == output_parts.Progress([0], [1])
    (folder / "manifest.json").write_text('{"command": []}')
    with pytest.raises(InputError) as caught:
        output_parts.read(folder)
    assert re.search("manifest.json is damaged: .*; remove it to share the files out anew", str(caught.value))
