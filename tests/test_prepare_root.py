"""Rec files that C++ ROOT itself wrote, where its Python package is installed.

It is looked for in this interpreter and in the one that `XECML_ROOT_PYTHON` names: `pip install root` in an environment
of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from tests.recfiles import Event, as_arrays, assert_rows, chosen, events, row, small_events
from xecml.errors import InputError
from xecml.realdata.branch_map import load_map
from xecml.realdata.prepare import Report, prepare_files
from xecml.rootio.pointers import as_lists, pointers, unpacked

INTERPRETER = os.environ.get("XECML_ROOT_PYTHON", sys.executable if find_spec("ROOT") else "")
OPEN = {"trigger": None, "one_photon": False, "energy_mev": None, "fiducial": False, "pileup": None}
needs_root = pytest.mark.skipif(
    not INTERPRETER,
    reason="the package ROOT, which writes the files of this test, is not installed: 'pip install root' in an "
    "environment of its own, and name its interpreter in XECML_ROOT_PYTHON",
)


@pytest.fixture(scope="module")
def found() -> list[Event]:
    """Photons of some events, two, one or none; a sensor's number of one photon differs from that of the other."""
    return events(12, photons=(2, 1, 0, 1))


@pytest.fixture(scope="module")
def folder(found: list[Event], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("root")
    np.savez(path / "events.npz", **as_arrays(found))  # type: ignore[arg-type]
    script = Path(__file__).with_name("root_rec_files.py")
    # ROOT's libraries and this interpreter's have nothing to do with one another
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [INTERPRETER, str(script), str(path / "events.npz"), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def prepared(path: Path, out: Path, photons: str = "highest") -> Report:
    return prepare_files(path, out, load_map(None, {"selection": OPEN, "photons": photons}), chunk_events=5)


@needs_root
@pytest.mark.parametrize("form", ["vectors", "objects", "shallow"])
def test_what_root_wrote_of_several_photons_is_read(
    found: list[Event], folder: Path, tmp_path: Path, form: str
) -> None:
    prepared(folder / f"{form}.root", tmp_path / "out.root")
    assert_rows(tmp_path / "out.root", [row(e, e.photons[j]) for e in found for j in chosen(e)])
    prepared(folder / f"{form}.root", tmp_path / "all.root", "all")
    assert_rows(tmp_path / "all.root", [row(e, p) for e in found for p in e.photons])


@needs_root
def test_leaf_lists_of_root_are_read(found: list[Event], folder: Path, tmp_path: Path) -> None:
    """There sensors have one number each, of the first photon."""
    prepared(folder / "arrays.root", tmp_path / "out.root")
    wanted = []
    for event in found:
        for j in chosen(event):
            one = row(event, event.photons[0])
            other = row(event, event.photons[j])
            same = ("npho", "time", "relative_npho", "relative_time")
            wanted.append(other | {name: one[name] for name in same})
    assert_rows(tmp_path / "out.root", wanted)


@needs_root
def test_whole_objects_are_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'xeccl' holds whole objects, which need their own code: write it with split"):
        prepared(folder / "whole.root", tmp_path / "out.root")


def test_a_file_that_root_wrote_is_read_without_it(tmp_path: Path) -> None:
    """Split objects and TClonesArrays with arrays behind pointers, of one photon, of two, of none."""
    found = small_events()
    path = Path(__file__).parent / "data" / "rec000321.root"
    prepared(path, tmp_path / "out.root")
    assert_rows(tmp_path / "out.root", [row(e, e.photons[j]) for e in found for j in chosen(e)])
    prepared(path, tmp_path / "all.root", "all")
    assert_rows(tmp_path / "all.root", [row(e, p) for e in found for p in e.photons])


@pytest.mark.parametrize("sure", [64, 10**9])
def test_arrays_behind_pointers_are_read_by_their_bytes_or_by_their_numbers(
    sure: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the bytes and what other branches say of them disagree, the file is damaged."""
    monkeypatch.setattr("xecml.rootio.pointers._SURE_OBJECTS", sure)
    path = Path(__file__).parent / "data" / "rec000321.root"
    with uproot.open(path) as file:
        tree, found = file["rec"], file["rec"]["xeccl.npho"]
        how, sizes = pointers(found), file["rec"]["xeccl.nphoSize"].array()
        assert how == (np.dtype(">f4"), "xeccl", "xeccl.nphoSize")
        right = as_lists(*unpacked(tree, found, how, 1, 4, {}))
        assert ak.num(right, axis=1).to_list() == [4760] * 3
        assert ak.num(right, axis=2)[:, 5].to_list() == sizes[1:4, 5].to_list() == [1, 0, 2]
        other = {"xeccl.nphoSize": tree["xeccl.bad"], "xeccl": tree["eventheader.mask"]}
        for name in ["xeccl"] if sure == 64 else other:
            wrong = {n: other[n] if n == name else tree[n] for n in other}
            with pytest.raises(ValueError, match=r"have other lengths than|cannot|basket"):
                unpacked(wrong, found, how, 1, 4, {})
