"""Float16_t and Double32_t as ROOT packs them, in every form of their titles, against numbers packed by its rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import uproot

from tests.conftest import point_sources
from tests.rootbytes import pack_mantissa, pack_range, write_packed
from xecml import rootio
from xecml.checks.event_files import check_files
from xecml.conventional.dead_sensor_estimates import ConventionalRepair
from xecml.data.stream import EventStream
from xecml.events import INVALID, valid_counts, valid_times
from xecml.inference.inpaint import inpaint_files
from xecml.rootio.packed import _range

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def events() -> Columns:
    return point_sources(9, seed=5, dead=0.05)


def read(path: Path, *branches: str) -> Columns:
    return next(rootio.read(path, branches or None))


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("x[4760]/[0,100,12]", (0.0, 100.0, 12)),
        ("f[0,100,12]", (0.0, 100.0, 12)),
        ("d[-pi,pi]", (-np.pi, np.pi, 32)),
        ("[-2*pi, twopi, 8] an angle", (-2 * np.pi, 2 * np.pi, 8)),
        ("[-pi/2,pi/4,20]", (-np.pi / 2, np.pi / 4, 20)),
        ("[n][-1.5e-7,+.5]", (-1.5e-7, 0.5, 32)),
        ("[0,0,8]", (0.0, 0.0, 8)),
        ("[1,2,40]", (1.0, 2.0, 32)),
        ("[1,2,1]", (1.0, 2.0, 32)),
        ("x[4760]", (0.0, 0.0, 32)),
        ("x[2][3]/[0,1,9]", (0.0, 1.0, 9)),
        ("f", (0.0, 0.0, 32)),
        ("counts [photons]", (0.0, 0.0, 32)),
        ("[a][b][0,1]", (0.0, 0.0, 32)),
        ("[", (0.0, 0.0, 32)),
    ],
)
def test_ranges_are_read_as_root_reads_them(title: str, values: tuple[float, float, int]) -> None:
    assert _range(title) == pytest.approx(values)


@pytest.mark.parametrize("title", ["npho[4760]", "f", "npho[4760]/[0,0,14]", "f[0,0,6]", "npho[4760]/[0,0,16]"])
def test_truncated_floats_are_those_that_were_packed(tmp_path: Path, events: Columns, title: str) -> None:
    """The first two are `npho[4760]/f`, in new and old versions; of 16 bits ROOT takes no notice."""
    bits = {"14]": 14, "6]": 6}.get(title.split(",")[-1], 12)
    columns = {"npho": ("TLeafF16", title, 4760, pack_mantissa(events["npho"], bits))}
    write_packed(tmp_path / "p.root", columns, {"time": events["time"], "run": events["run"]})
    chunk = read(tmp_path / "p.root")
    assert chunk["npho"].dtype == np.float32
    np.testing.assert_allclose(chunk["npho"], events["npho"], rtol=2.0 ** -(bits + 1) * 1.0001)
    np.testing.assert_array_equal(valid_counts(chunk["npho"]), valid_counts(events["npho"]))
    np.testing.assert_array_equal(chunk["time"], events["time"])
    with rootio.open_tree(tmp_path / "p.root") as reader:
        np.testing.assert_array_equal(reader.raw("npho", 2, 7), chunk["npho"][2:7])
        assert not reader.is_jagged("npho")


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("leaf", ["TLeafF16", "TLeafD32"])
@pytest.mark.parametrize("old", [True, False])
def test_numbers_in_a_range_are_those_that_were_packed(
    tmp_path: Path, events: Columns, leaf: str, bits: int, old: bool
) -> None:
    """Of an array with a range uproot takes the integers for floats, in a Double32_t without a word."""
    form = f"[-2e-7,2e-7,{bits}]"
    title = leaf[5].lower() + form if old else f"time[4760]/{form}"
    packed = pack_range(events["time"], -2e-7, 2e-7, bits)
    write_packed(tmp_path / "p.root", {"time": (leaf, title, 4760, packed)}, {"npho": events["npho"]})
    time, timed = read(tmp_path / "p.root", "time")["time"], valid_times(events["npho"], events["time"])
    np.testing.assert_allclose(time[timed], events["time"][timed], atol=4e-7 * (0.5 / 2**bits + 2e-7), rtol=0)
    # what was not measured lies above the range
    assert (time[events["time"] > 1] == INVALID).all()
    np.testing.assert_array_equal(valid_times(events["npho"], time), timed)


def test_double32_without_a_range_is_a_float(tmp_path: Path, events: Columns) -> None:
    as_floats = {name: events[name].astype(">f4") for name in ("npho", "time", "energyTruth")}
    columns = {
        "npho": ("TLeafD32", "npho[4760]", 4760, as_floats["npho"].view("u1")),
        "time": ("TLeafD32", "d", 4760, as_floats["time"].view("u1")),
        "energyTruth": ("TLeafD32", "energyTruth", 1, as_floats["energyTruth"][:, None].view("u1")),
    }
    write_packed(tmp_path / "p.root", columns, {"run": events["run"]})
    for name, values in read(tmp_path / "p.root").items():
        np.testing.assert_array_equal(values, events[name])


def test_scalars_and_matrices_in_ranges(tmp_path: Path, events: Columns) -> None:
    angles, energy = events["emiAng"], events["energyTruth"][:, None]
    columns = {
        "energyTruth": ("TLeafD32", "energyTruth/[0,0.1,32]", 1, pack_range(energy, 0, 0.1, 32)),
        "emiAng": ("TLeafF16", "f[-180,180,32]", 2, pack_range(angles, -180, 180, 32)),
        "pair": ("TLeafF16", "pair[2][1]/[-180,180,32]", 2, pack_range(angles, -180, 180, 32)),
    }
    write_packed(tmp_path / "p.root", columns, {"run": events["run"]})
    chunk = read(tmp_path / "p.root", "energyTruth", "emiAng", "pair")
    np.testing.assert_allclose(chunk["energyTruth"], events["energyTruth"], atol=1e-8)
    np.testing.assert_allclose(chunk["emiAng"], angles, atol=3e-5)
    assert chunk["pair"].shape == (9, 2, 1)
    # the end of a range says nothing of truth
    assert read(tmp_path / "p.root", "emiAng")["emiAng"].max() < 180


def test_packed_files_serve_like_others(tmp_path: Path, events: Columns) -> None:
    columns = {
        "npho": ("TLeafF16", "npho[4760]", 4760, pack_mantissa(events["npho"], 12)),
        "time": ("TLeafD32", "time[4760]/[-2e-7,2e-7,32]", 4760, pack_range(events["time"], -2e-7, 2e-7, 32)),
    }
    path = tmp_path / "p.root"
    write_packed(path, columns, {k: events[k] for k in ("energyTruth", "run", "event")})
    assert check_files(path).usable
    batch = next(EventStream(str(path), tasks=["energy"], batch_size=9, buffer_events=9, shuffle=False).epoch(0))
    np.testing.assert_array_equal(batch.valid, valid_counts(events["npho"]))
    np.testing.assert_array_equal(batch.timed, valid_times(events["npho"], events["time"]))
    (tmp_path / "d").write_text("3\n")
    report = inpaint_files(ConventionalRepair("neighbour_mean"), path, tmp_path / "f.root", dead_list=tmp_path / "d")
    assert report.left_out == ()
    assert report.events == 9


def test_uproot_still_needs_to_be_told(tmp_path: Path, events: Columns) -> None:
    """If this fails, uproot reads such branches itself, and `xecml.rootio.packed` can go."""
    packed = pack_range(events["time"], -2e-7, 2e-7, 24)
    write_packed(tmp_path / "p.root", {"time": ("TLeafD32", "time[4760]/[-2e-7,2e-7,24]", 4760, packed)}, {})
    with uproot.open(tmp_path / "p.root") as file:
        assert type(file["tree"]["time"].interpretation) is uproot.AsDtype
