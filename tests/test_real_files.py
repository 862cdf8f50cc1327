"""Files as experiments have them: other names and types, several trees, empty files, remote ones."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

from tests.conftest import point_sources
from xecml import rootio
from xecml.checks.event_files import check_files
from xecml.data import source
from xecml.data.convert import convert
from xecml.data.stream import EventStream
from xecml.errors import InputError

NAMES = {"npho": "nphoton", "time": "tpm", "energyTruth": "egamma", "run": "runnumber", "event": "eventnumber"}


@pytest.fixture(scope="module")
def events() -> dict[str, np.ndarray]:
    return point_sources(70, seed=31, dead=0.03)


@pytest.fixture(scope="module")
def foreign(events: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Own names, jagged counts, double precision, scalars of shape (1,), another tree before and an old cycle."""
    path = tmp_path_factory.mktemp("foreign") / "foreign.root"
    types = {
        "nphoton": "var * float64",
        "tpm": ("f8", (4760,)),
        "egamma": ("f8", (1,)),
        "runnumber": "int64",
        "eventnumber": "int64",
    }
    with uproot.recreate(path) as file:
        file.mktree("settings", {"threshold": "float64"})
        file["settings"].extend({"threshold": np.ones(3)})
        for part in (slice(0, 3), slice(0, 70)):
            file.mktree("rec", types)
            for piece in np.array_split(np.arange(70)[part], 2):
                file["rec"].extend(
                    {
                        "nphoton": ak.from_regular(ak.Array(events["npho"][piece].astype("f8"))),
                        "tpm": events["time"][piece].astype("f8"),
                        "egamma": events["energyTruth"][piece, None].astype("f8"),
                        "runnumber": events["run"][piece].astype("i8"),
                        "eventnumber": events["event"][piece].astype("i8"),
                    }
                )
    return path


def assert_equal(stream: EventStream, events: dict[str, np.ndarray]) -> None:
    batches = list(stream.epoch(0))
    for name in ("npho", "time", "run", "event"):
        values = torch.cat([getattr(b, name) for b in batches])
        np.testing.assert_array_equal(values, events[name])
    energy = torch.cat([b.truth["energy"] for b in batches])
    np.testing.assert_array_equal(energy[:, 0], events["energyTruth"])


def in_order(path: Path | str | list[str], **options: object) -> EventStream:
    return EventStream(path, tasks=["energy"], batch_size=16, buffer_events=32, shuffle=False, **options)  # type: ignore[arg-type]


def test_other_names_and_types(foreign: Path, events: dict[str, np.ndarray]) -> None:
    assert_equal(in_order(str(foreign), tree="rec", names=NAMES), events)


def test_branches_of_the_sensors_by_their_names_in_the_file(foreign: Path, events: dict[str, np.ndarray]) -> None:
    others = {k: v for k, v in NAMES.items() if k not in ("npho", "time")}
    branches = {"npho_branch": "nphoton", "time_branch": "tpm"}
    assert_equal(in_order(str(foreign), tree="rec", names=others, **branches), events)


def test_other_names_are_converted_to_the_vocabulary(
    foreign: Path, events: dict[str, np.ndarray], tmp_path: Path
) -> None:
    convert(foreign, tmp_path / "out", tree="rec", names=NAMES)
    assert_equal(in_order(str(tmp_path / "out")), events)


def test_other_names_can_be_checked(foreign: Path) -> None:
    report = check_files(foreign, "rec", names=NAMES)
    assert report.usable, report.findings
    assert report.present == ("npho", "time", "energyTruth", "run", "event")


def test_a_wrong_tree_is_named_with_those_there_are(foreign: Path) -> None:
    with pytest.raises(InputError, match="no tree 'tree'.*it has rec, settings"):
        in_order(str(foreign))


def test_empty_files_in_a_glob_are_passed_over(tmp_path: Path, events: dict[str, np.ndarray]) -> None:
    for name, part in (("a", slice(0, 0)), ("b", slice(0, 40)), ("c", slice(0, 0)), ("d", slice(40, 70))):
        rootio.write(tmp_path / f"{name}.root", {k: v[part] for k, v in events.items()})
    assert_equal(in_order(str(tmp_path / "*.root")), events)
    shuffled = EventStream(str(tmp_path), tasks=["energy"], batch_size=7, buffer_events=21)
    assert sorted(int(e) for b in shuffled.epoch(1) for e in b.event) == list(range(70))
    report = convert(tmp_path / "*.root", tmp_path / "out")
    assert report.events == 70
    assert_equal(in_order(str(tmp_path / "out")), events)


def test_an_empty_jagged_file_is_passed_over(foreign: Path, tmp_path: Path, events: dict[str, np.ndarray]) -> None:
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("rec", {"nphoton": "var * float64", "tpm": "var * float64", "egamma": "float64"})
    (tmp_path / "b.root").write_bytes(foreign.read_bytes())
    assert_equal(in_order(str(tmp_path), tree="rec", names=NAMES), events)


def test_files_without_numbers_count_their_entries(tmp_path: Path, events: dict[str, np.ndarray]) -> None:
    rootio.write(tmp_path / "n.root", {k: events[k] for k in ("npho", "time", "energyTruth")})
    numbered = events | {"run": np.zeros(70, np.int32), "event": np.arange(70, dtype=np.int32)}
    assert_equal(in_order(str(tmp_path / "n.root")), numbered)


def test_files_of_ntuples(tmp_path: Path, events: dict[str, np.ndarray]) -> None:
    with uproot.recreate(tmp_path / "n.root") as file:
        columns = {k: ak.Array(v) if v.ndim == 1 else ak.from_regular(ak.Array(v)) for k, v in events.items()}
        file.mkrntuple("tree", columns)
    assert_equal(in_order(str(tmp_path / "n.root")), events)
    shuffled = EventStream(str(tmp_path / "n.root"), tasks=["energy"], batch_size=7, buffer_events=21, workers=2)
    assert sorted(int(e) for b in shuffled.epoch(1) for e in b.event) == list(range(70))


def test_uncompressed_files(tmp_path: Path, events: dict[str, np.ndarray]) -> None:
    rootio.write(tmp_path / "u.root", events, compression="none")
    stream = in_order(str(tmp_path / "u.root"))
    assert_equal(stream, events)
    kept = list(stream.epoch(0))  # the file is closed: nothing may look into it
    np.testing.assert_array_equal(torch.cat([b.npho for b in kept]), events["npho"])


def test_one_event_baskets(tmp_path: Path, events: dict[str, np.ndarray]) -> None:
    """ROOT's default buffers hold an event or two until it has learnt better."""
    with rootio.TreeWriter(tmp_path / "s.root") as writer:
        for i in range(70):
            writer.extend({k: v[i : i + 1] for k, v in events.items()})
    assert_equal(in_order(str(tmp_path / "s.root")), events)


# ------------------------------------------------------------------------------------------------------- root://


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Path, str]]:
    """A folder and its address on a local XRootD server."""
    if shutil.which("xrootd") is None:
        pytest.skip("no XRootD server is installed here (Debian: apt-get install xrootd-server)")
    pytest.importorskip("fsspec_xrootd", reason="the client is not installed (pip install 'xecml[xrootd]')")
    # not under pytest's folder: the server does not run as root, and must be able to read
    base = Path(tempfile.mkdtemp(prefix="xecml-xrootd-"))
    base.chmod(0o755)
    (base / "data").mkdir()
    admin = base / "admin"
    admin.mkdir()
    admin.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [
        f"xrd.port {port}",
        "all.export /data r/o",
        f"oss.localroot {base}",
        f"all.adminpath {admin}",
        f"all.pidpath {admin}",
    ]
    (base / "xrootd.cfg").write_text("\n".join(settings) + "\n")
    user = ["-R", "nobody"] if os.getuid() == 0 else []
    command = ["xrootd", "-c", str(base / "xrootd.cfg"), "-l", str(admin / "log"), "-n", "test", *user]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=admin)
    try:
        _wait_for(port, process)
        yield base / "data", f"root://127.0.0.1:{port}//data"
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(base, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(150):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"the XRootD server that is installed does not answer on port {port}; exit status {process.poll()}")


def test_remote_files(server: tuple[Path, str], events: dict[str, np.ndarray]) -> None:
    folder, address = server
    for name, part in (("a", slice(0, 40)), ("b", slice(40, 70))):
        rootio.write(folder / f"{name}.root", {k: v[part] for k, v in events.items()})
    urls = [f"{address}/a.root", f"{address}/b.root"]
    assert source.count_events(urls) == 70
    assert_equal(in_order(urls), events)
    local = EventStream(str(folder), tasks=["energy"], batch_size=7, buffer_events=21, seed=3)
    remote = EventStream(urls, tasks=["energy"], batch_size=7, buffer_events=21, seed=3, workers=2)
    for a, b in zip(local.epoch(2), remote.epoch(2), strict=True):
        assert torch.equal(a.event, b.event)
        assert torch.equal(a.npho, b.npho)


def test_remote_mistakes_are_one_sentence(server: tuple[Path, str]) -> None:
    _, address = server
    with pytest.raises(InputError, match=r"none\.root cannot be opened; check the address and the server") as caught:
        source.count_events(f"{address}/none.root")
    assert "\n" not in str(caught.value)
