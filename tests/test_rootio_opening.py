"""ROOT files that cannot be opened, or not in time: one sentence that says why, and what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import uproot

from tests.conftest import point_sources
from tests.rootbytes import autosaved, not_closed
from xecml import rootio
from xecml.checks.event_files import check_files
from xecml.cli.info import describe_file
from xecml.data import source
from xecml.data.convert import convert
from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.rootio.opening import timeout_seconds

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def events() -> Columns:
    return {k: v for k, v in point_sources(12, seed=4).items() if k in ("npho", "time", "energyTruth", "run", "event")}


def all_that_open(path: str, out: Path) -> list[Callable[[], object]]:
    return [
        lambda: rootio.list_trees(path),
        lambda: rootio.count_events(path),
        lambda: list(rootio.read(path)),
        lambda: describe_file(path),
        lambda: check_files(path),
        lambda: convert(path, out),
        lambda: EventStream(path, tasks=["energy"], batch_size=4, buffer_events=8),
    ]


# ------------------------------------------------------------------------------------------------------ killed jobs


def test_a_file_that_was_not_closed_says_so(tmp_path: Path, events: Columns) -> None:
    path = tmp_path / "k.root"
    rootio.write(path, events)
    not_closed(path)
    for way in all_that_open(str(path), tmp_path / "out"):
        with pytest.raises(InputError, match=r'k\.root was not closed.*TFile f\("k\.root", "UPDATE"\)') as caught:
            way()
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["k.root"]


def test_a_file_saved_in_between_is_read_and_remarked_on(tmp_path: Path, events: Columns) -> None:
    path = tmp_path / "k.root"
    rootio.write(path, events)
    assert "not closed" not in describe_file(str(path))
    autosaved(path, more=1000)
    assert rootio.count_events(path) == 12
    assert describe_file(str(path))["not closed"] == "1000 bytes were written after the trees were last saved"
    report = check_files(path)
    assert report.usable
    said = f"{path} was not closed: what was filled after its last save is lost."
    assert said in [f.message for f in report.findings]


def test_a_closed_file_without_trees_is_no_damage(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "empty.root"):
        pass
    assert rootio.list_trees(tmp_path / "empty.root") == []
    assert describe_file(str(tmp_path / "empty.root"))["trees"] == "none"
    with pytest.raises(InputError, match="has no tree 'tree'; it has none"):
        rootio.count_events(tmp_path / "empty.root")


def test_a_cycle_that_is_not_there_is_no_damage(tmp_path: Path, events: Columns) -> None:
    rootio.write(tmp_path / "a.root", events)
    assert rootio.count_events(tmp_path / "a.root", "tree;1") == 12
    for tree in ("tree;7", "", "tree/", ";"):
        with pytest.raises(InputError, match=f"has no tree '{tree}'.*it has tree"):
            rootio.count_events(tmp_path / "a.root", tree)


# -------------------------------------------------------------------------------------------- no files, and their names


@pytest.fixture(params=["pipe", "socket", "folder", "device", "link to a pipe"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Something that is no file, under the name of one."""
    path = tmp_path / "x.root"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "socket":
        before = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("x.root")
                yield path
        finally:
            os.chdir(before)
        return
    else:
        pipe = path if request.param == "pipe" else tmp_path / "pipe"
        os.mkfifo(pipe)
        if pipe != path:
            path.symlink_to(pipe)
    yield path


def test_what_is_no_file_is_refused_at_once(no_file: Path, tmp_path: Path) -> None:
    kind = "(a pipe|a socket|a folder|a device|The folder .* holds no)"
    started = time.monotonic()
    for way in all_that_open(str(no_file), tmp_path / "out"):
        with pytest.raises(InputError, match=kind):
            way()
    if not no_file.is_dir():
        for pattern in (tmp_path, str(tmp_path / "*.root")):
            with pytest.raises(InputError, match=kind):
                rootio.count_events(pattern)
        with pytest.raises(InputError, match=kind), rootio.open_tree(no_file):
            pass
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "The name of a file is empty"),
        ("x" * 300 + ".root", "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("a\0b.root", "null (byte|character)"),
        ("*\0.root", "null (byte|character)"),
        ("none[1].root", r"No file matches none\[1\]\.root"),
        ("none.root", "No such file: none.root"),
        ("loop.root", "symbolic links"),
    ],
)
def test_impossible_names_are_one_sentence(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop.root").symlink_to("loop.root")
    for expand in (source.expand, rootio.count_events, describe_file):
        with pytest.raises(InputError, match=message if expand is not describe_file else ".") as caught:
            expand(name)
        assert len(str(caught.value)) < 400


STRANGE = ("a[1].root", "a*.root", "a?.root", "[a-z].root", "a\nb.root", "日本😀.root", "a b .root", "x.root:tree.root",
           "$x_{$.root", os.fsdecode(b"\xff\xfe.root"), "-a.root", "a::b.root", "#a.root", "{a,b}.root",
           "~a.root")  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_names_that_look_like_something_else_are_those_of_files(name: str, tmp_path: Path, events: Columns) -> None:
    path, other = tmp_path / name, tmp_path / "a1.root"
    rootio.write(other, {k: v[:5] for k, v in events.items()})
    rootio.write(path, events)
    assert rootio.count_events(str(path)) == source.count_events(str(path)) == 12
    assert next(rootio.read(path, ["event"]))["event"].tolist() == list(range(12))
    assert rootio.count_events(tmp_path) == (17 if name.endswith(".root") else 5)
    if name.endswith(".root"):
        assert describe_file(str(path))["tree: events"] == 12


@pytest.mark.parametrize("name", ["s[1]", "s*", "日本", os.fsdecode(b"\xff"), "a\nb"])
def test_folders_of_shards_may_be_called_anything(name: str, tmp_path: Path, events: Columns) -> None:
    rootio.write(tmp_path / "a.root", events)
    (tmp_path / "s1").mkdir()
    folder = tmp_path / name
    convert(tmp_path / "a.root", folder)
    assert source.count_events(str(folder)) == 12
    assert json.loads((folder / "manifest.json").read_text("utf-8"))["events"] == 12
    again = convert(tmp_path / "a.root", folder)
    assert again.kept == 1
    stream = EventStream(str(folder), tasks=["energy"], batch_size=4, buffer_events=8, shuffle=False)
    assert [int(e) for b in stream.epoch(0) for e in b.event] == list(range(12))


def test_patterns_are_patterns_where_nothing_is_called_so(tmp_path: Path, events: Columns) -> None:
    for name in ("a1.root", "a2.root", "b1.root"):
        rootio.write(tmp_path / name, events)
    assert rootio.count_events(str(tmp_path / "a[12].root")) == 24
    assert source.expand(str(tmp_path / "*1.root")) == [str(tmp_path / "a1.root"), str(tmp_path / "b1.root")]
    assert source.count_events(f"file://{tmp_path}/a1.root") == 12
    (tmp_path / "a3.root").mkdir()
    with pytest.raises(InputError, match=r"a3\.root is a folder, not a file"):
        rootio.count_events(str(tmp_path / "a*.root"))


# --------------------------------------------------------------------------------------------------------- addresses


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a server that takes connections and never says a word."""
    monkeypatch.setenv("XECML_TIMEOUT", "1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["root", "http"])
def test_a_server_that_does_not_answer_is_given_up(silent: int, scheme: str) -> None:
    address, started = f"{scheme}://127.0.0.1:{silent}//x.root", time.monotonic()
    said = "did not answer within 1 s; check the address and the network, or set XECML_TIMEOUT to more seconds."
    # looked for, not imported: the client reads its settings when it is imported
    if importlib.util.find_spec("fsspec_xrootd" if scheme == "root" else "aiohttp") is None:
        said = "needs a package that is not installed"
    with pytest.raises(InputError, match=f"^{re.escape(address)} {said}"):
        source.count_events(address)
    assert time.monotonic() - started < 40


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "0.5"])
def test_the_limit_is_a_number_of_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XECML_TIMEOUT", text)
    with pytest.raises(InputError, match=re.escape(f"XECML_TIMEOUT is '{text}'; give seconds, 1 or more")):
        timeout_seconds()
    monkeypatch.setenv("XECML_TIMEOUT", "2.5")
    assert timeout_seconds() == 2.5
    monkeypatch.delenv("XECML_TIMEOUT")
    assert timeout_seconds() == 60


@pytest.mark.parametrize("address", ["nothing://host/x.root", "root://", "root://no.such.host.invalid//x.root"])
def test_addresses_that_are_none_are_one_sentence(address: str) -> None:
    with pytest.raises(InputError, match="cannot be opened; check the address and the server") as caught:
        source.count_events(address)
    assert "\n" not in str(caught.value)
    assert "<" not in str(caught.value)  # no addresses of Python's objects


def test_addresses_are_read_like_files(tmp_path: Path, events: Columns) -> None:
    """Without a server: files in memory have addresses too."""
    rootio.write(tmp_path / "a.root", events)
    memory = fsspec.filesystem("memory")
    memory.pipe("/xecml/a.root", (tmp_path / "a.root").read_bytes())
    try:
        chunk = next(rootio.read("memory://xecml/a.root"))
        for name, values in events.items():
            np.testing.assert_array_equal(chunk[name], values)
        report = convert("memory://xecml/a.root", tmp_path / "shards")
        assert report.events == 12
        not_closed(tmp_path / "a.root")
        memory.pipe("/xecml/b.root", (tmp_path / "a.root").read_bytes())
        with pytest.raises(InputError, match="was not closed"):
            rootio.count_events("memory://xecml/b.root")
        with pytest.raises(InputError, match=r"memory://xecml/none\.root cannot be opened; check the address"):
            rootio.count_events("memory://xecml/none.root")
    finally:
        memory.rm("/xecml", recursive=True)
