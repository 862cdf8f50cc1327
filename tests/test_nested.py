"""Branches by the names that physicists know, in whatever lists and records they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from xecml import rootio
from xecml.errors import InputError
from xecml.realdata.shapes import of_events, of_photons, of_sensors
from xecml.rootio.nested import BranchFinder, Nested, Place, _dotted
from xecml.rootio.opening import opened
from xecml.rootio.treereader import TreeReader

RECORDED = Path(__file__).parent / "data" / "rec000321.root"


def finder(names: set[str]) -> BranchFinder:
    """Of a tree that has branches of these names and can read none."""

    class Reader:
        path, in_file = "a.root", frozenset(names)

        def has(self, name: str) -> bool:
            return name in names

        def stored(self, *_: Any) -> Any:
            raise InputError("whole objects")

    return BranchFinder(Reader())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("branch", "name"),
    [
        ("npho", "npho"),
        ("xeccl/xeccl.npho", "xeccl.npho"),
        ("reco./reco.EGamma", "reco.EGamma"),
        ("reco./EGamma", "reco.EGamma"),
        ("header/mask", "header.mask"),
        ("reco./reco.TObject/reco.TObject.fBits", "reco.TObject.fBits"),
        ("xecposlfit/xecposlfit.xyz[3]", "xecposlfit.xyz[3]"),
        ("a[2]/b", "a.b"),
    ],
)
def test_the_name_of_a_branch_without_its_way(branch: str, name: str) -> None:
    assert _dotted(branch) == name


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("xecposlfit.xyz", "xecposlfit/xecposlfit.xyz[3]"),
        ("xecposlfit.xyz[3]", "xecposlfit/xecposlfit.xyz[3]"),
        ("xecposlfit.xyz[5]", "xecposlfit/xecposlfit.xyz[3]"),
        ("header.mask", "header/mask"),
        ("header/mask", "header/mask"),
        ("npho", "npho[4760]"),
        ("npho[n]", "npho[4760]"),
        ("mask", None),
        ("xecposlfit", None),
        ("nothing.there", None),
    ],
)
def test_branches_by_name(wanted: str, found: str | None) -> None:
    place = finder({"xecposlfit/xecposlfit.xyz[3]", "header/mask", "npho[4760]"}).find(wanted)
    assert place == (None if found is None else Place(found))


def test_a_name_of_several_branches_is_refused() -> None:
    with pytest.raises(InputError, match=r"'xyz' may be xyz\[2\] or xyz\[3\]; write the one that you mean"):
        finder({"xyz[2]", "xyz[3]"}).find("xyz")
    assert finder({"xyz[2]", "xyz[3]"}).find("xyz[3]") == Place("xyz[3]")
    assert finder({"xyz", "xyz[3]"}).find("xyz") == Place("xyz")


def test_a_file_of_root_with_objects_in_a_list() -> None:
    with rootio.open_tree(RECORDED, "rec") as reader:
        branches = BranchFinder(reader)
        assert {"xeccl.npho", "xecposlfit.xyz", "reco.EGamma", "Info.run"} <= set(branches.names)
        forms = {"xeccl.npho": (2, "f4"), "xeccl.tpm": (2, "f8"), "xeccl.bad": (1, "i2"), "xecposlfit.xyz": (2, "f8")}
        forms |= {"reco.EGamma": (1, "f8"), "Info.run": (0, "i8")}
        for name, (axes, kind) in forms.items():
            place = branches.find(name)
            assert place is not None
            nested = branches.nested(place, 1, 4)
            assert (nested.entries, nested.axes, nested.values.dtype.newbyteorder("=")) == (3, axes, np.dtype(kind))
        assert branches.nested(Place("xecposlfit/xecposlfit.xyz[3]"), 0, 5).lengths[0].tolist() == [2, 1, 0, 2, 1]


def test_leaves_of_a_branch_and_text(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        file.mktree("rec", {"who": "string", "n": "int32"})
        file["rec"].extend({"who": ["a", "b"], "n": np.arange(2, dtype=np.int32)})
        file.mkrntuple("nt", ak.Array([{"a": {"b": {"c": [1, 2]}}}, {"a": {"b": {"c": []}}}]))
    with rootio.open_tree(path, "rec") as reader:
        with pytest.raises(InputError, match="'who' holds no numbers; name a branch of numbers"):
            BranchFinder(reader).nested(Place("who"), 0, 2)
        assert BranchFinder(reader).find("n.x") is None
    with rootio.open_tree(path, "nt") as reader:
        branches = BranchFinder(reader)
        place = branches.find("a.b.c")
        assert place == Place("a", ("b", "c"))
        assert branches.find("a.b.d") is None
        assert branches.nested(place, 0, 2).lengths[0].tolist() == [2, 0]
        with pytest.raises(InputError, match="holds no numbers"):
            branches.nested(Place("a", ("b",)), 0, 2)


def test_a_shape_in_a_name_is_no_part_of_the_shape(tmp_path: Path) -> None:
    """A branch `xyz[3]` of three numbers has a leaf that is called `xyz[3][3]`."""
    xyz = np.arange(24.0).reshape(4, 2, 3)
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("rec", {"xyz[3]": ("f8", (3,)), "m[2][3]": ("f8", (2, 3)), "k[3]": "f8"})
        file["rec"].extend({"xyz[3]": xyz[:, 0], "m[2][3]": xyz, "k[3]": xyz[:, 0, 0]})
    with opened(str(tmp_path / "a.root")) as file:
        reader = TreeReader("a.root", file["rec"], {})
        np.testing.assert_array_equal(reader.stored("xyz[3]", 1, 3), xyz[1:3, 0])
        np.testing.assert_array_equal(reader.stored("m[2][3]", 0, 4), xyz)
        np.testing.assert_array_equal(reader.stored("k[3]", 0, 4), xyz[:, 0, 0])


# ------------------------------------------------------------------------------------------------------ shapes


def lengths(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_numbers_of_events() -> None:
    values = np.array([3, 1, 2], ">i4")
    for nested in (Nested(values), Nested(values[:, None]), Nested(values, (lengths(1, 1, 1),))):
        assert of_events(nested, "x").tolist() == [3, 1, 2]
    for nested in (Nested(values, (lengths(2, 0, 1),)), Nested(np.ones((3, 2)))):
        with pytest.raises(InputError, match="x is a? ?.*numbers an event; it must be one number"):
            of_events(nested, "x")


def test_numbers_and_vectors_of_photons() -> None:
    nan = np.nan
    number = Nested(np.array([1.0, 2.0, 3.0]), (lengths(2, 0, 1),))
    np.testing.assert_array_equal(of_photons(number, "x"), [[1, 2], [nan, nan], [3, nan]])
    np.testing.assert_array_equal(of_photons(Nested(np.array([1.0, 2.0])), "x"), [[1], [2]])
    np.testing.assert_array_equal(of_photons(Nested(np.ones((2, 4), np.int32)), "x"), np.ones((2, 4)))
    six = np.arange(6.0)
    one = [[0.0, 1, 2]], [[3.0, 4, 5]]
    np.testing.assert_array_equal(of_photons(Nested(six.reshape(2, 3)), "x", 3), one)
    np.testing.assert_array_equal(of_photons(Nested(six.reshape(2, 1, 3)), "x", 3), one)
    np.testing.assert_array_equal(of_photons(Nested(six, (lengths(3, 3),)), "x", 3), one)
    in_lists = Nested(six, (lengths(1, 0, 2), lengths(3, 0, 3)))
    none = [nan] * 3
    np.testing.assert_array_equal(of_photons(in_lists, "x", 3), [[[0, 1, 2], none], [none] * 2, [none, [3, 4, 5]]])
    empty = Nested(six[:3], (lengths(0, 3),))
    np.testing.assert_array_equal(of_photons(empty, "x", 3), [[none], [[0, 1, 2]]])
    assert of_photons(Nested(six[:0], (lengths(0, 0),)), "x").shape == (2, 0)


@pytest.mark.parametrize(
    ("nested", "size"),
    [
        (Nested(np.ones((2, 3, 2))), 0),
        (Nested(np.ones((2, 2))), 3),
        (Nested(np.ones(2)), 3),
        (Nested(np.ones(5), (lengths(3, 2),)), 3),
        (Nested(np.ones((4, 2)), (lengths(3, 1),)), 0),
        (Nested(np.ones(2000), (lengths(0, 2000),)), 0),
    ],
)
def test_other_shapes_are_no_photons(nested: Nested, size: int) -> None:
    with pytest.raises(InputError, match=rf"it must be {size or 1} numbers? for every photon"):
        of_photons(nested, "x", size)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_sensors_in_every_order_of_lists_and_arrays(most: int) -> None:
    """Three events with `most` photons each; the third row asks for a photon that is there only if there are three."""
    values = np.arange(3 * most * 4760, dtype=np.float64).reshape(3, most, 4760)
    swapped = np.ascontiguousarray(np.moveaxis(values, 1, 2))
    forms = [
        Nested(values),
        Nested(swapped),
        Nested(values.reshape(-1, 4760), (lengths(*[most] * 3),)),
        Nested(swapped.reshape(-1, most), (lengths(*[4760] * 3),)),
        Nested(values.ravel(), (lengths(*[most] * 3), lengths(*[4760] * 3 * most))),
        Nested(swapped.ravel(), (lengths(*[4760] * 3), lengths(*[most] * 3 * 4760))),
    ]
    rows, photon = np.array([0, 2, 2]), np.array([0, 0, 2])
    wanted = np.stack([values[0, 0], values[2, 0], values[2, 2 if most == 3 else 0]])
    if most == 2:
        wanted[2] = np.nan
    for nested in forms:
        np.testing.assert_array_equal(of_sensors(nested, "x", rows, photon), wanted)


def test_sensors_that_are_not_there_or_too_many() -> None:
    none = Nested(np.empty(0, np.float32), (lengths(0, 0),))
    assert np.isnan(of_sensors(none, "x", np.array([1]), np.array([0]))).all()
    lists = Nested(np.empty(0, np.float32), (lengths(0, 0), lengths()))
    assert np.isnan(of_sensors(lists, "x", np.array([0, 1]), np.array([0, 3]))).all()
    for nested in (Nested(np.ones((2, 4761))), Nested(np.ones(2, np.float32)), Nested(np.ones(4761), (lengths(4761),))):
        with pytest.raises(InputError, match="4760"):
            of_sensors(nested, "x", np.array([0]), np.array([0]))
