"""Shards: the same events as the files, in any order; restartable, checked, refused when damaged."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import rootio
from xecml.data import convert as convert_module
from xecml.data import shards, source
from xecml.data.convert import convert
from xecml.data.shards import Shard
from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.events import INVALID, PDE_SIPM, QE_PMT, read_counts, relative_quantities, valid_counts
from xecml.geometry import N_SIPM

EVENTS = 1300


@pytest.fixture(scope="module")
def events() -> dict[str, np.ndarray]:
    made = point_sources(EVENTS, seed=14, dead=0.02)
    made["npho"][3, 7] = np.nan
    made["time"][4, 7] = INVALID  # counted, but not timed
    made["npho"][5, 7:9] = 0.0, -0.4  # dark
    return made


@pytest.fixture(scope="module")
def files(events: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, part in (("a", slice(0, 700)), ("b", slice(700, EVENTS))):
        rootio.write(folder / f"{name}.root", {k: v[part] for k, v in events.items()})
    return folder


@pytest.fixture(scope="module")
def floats(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "floats"
    convert(files, out, events_a_shard=600)
    return out


@pytest.fixture(scope="module")
def compact(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "compact"
    convert(files, out, form="compact", events_a_shard=600)
    return out


def joined(inputs: str | Path, branches: list[str] | None = None) -> dict[str, np.ndarray]:
    chunks = list(source.read(inputs, branches, chunk_events=100))
    return {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}


def test_floats_are_the_files_bit_for_bit(events: dict[str, np.ndarray], floats: Path) -> None:
    back = joined(floats)
    assert set(back) == set(events)
    for name, values in events.items():
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype == values.dtype
    assert [Shard(p).n_events for p in source.expand(floats)] == [600, 600, 100]
    assert source.count_events(floats) == EVENTS


def test_one_stream_for_files_and_shards(files: Path, floats: Path) -> None:
    for prefix in ("", "relative_"):
        branches = {"npho_branch": f"{prefix}npho", "time_branch": f"{prefix}time"}
        common = {"tasks": ["angle", "uvwFI"], "batch_size": 64, "buffer_events": 256, "shuffle": False, **branches}
        for a, b in zip(*(EventStream(str(p), **common).epoch(0) for p in (files, floats)), strict=True):  # type: ignore[arg-type]
            for x, y in zip((*a.inputs(), a.run, a.event), (*b.inputs(), b.run, b.event), strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(a.truth["uvwFI"], b.truth["uvwFI"])
            assert torch.equal(a.truth["angle"], b.truth["angle"])


def test_a_shuffled_epoch_of_shards_has_every_event_once_and_restarts(floats: Path) -> None:
    stream = EventStream(str(floats), tasks=["energy"], batch_size=50, buffer_events=200, seed=2)
    batches = list(stream.epoch(3))
    seen = [int(e) for b in batches for e in b.event]
    assert sorted(seen) == list(range(EVENTS))
    for start in (1, 4, 5, 25):
        again = list(stream.epoch(3, start))
        assert [b.event.tolist() for b in again] == [b.event.tolist() for b in batches[start:]]
        assert torch.equal(again[0].npho.nan_to_num(), batches[start].npho.nan_to_num())


def test_mixed_inputs(files: Path, floats: Path) -> None:
    assert source.count_events([files / "a.root", floats]) == 700 + EVENTS
    assert source.count_events(str(floats.parent / "*")) == EVENTS
    assert source.count_events(floats / "shard_00002") == 100
    with pytest.raises(InputError, match="No such file"):
        source.expand(str(floats / "nothing"))


# ------------------------------------------------------------------------------------------------ compact form


def test_compact_counts_are_within_a_tenth_of_their_statistics(events: dict[str, np.ndarray], compact: Path) -> None:
    back = joined(compact, ["npho"])["npho"]
    valid, read = valid_counts(events["npho"]), read_counts(events["npho"])
    np.testing.assert_array_equal(valid_counts(back), valid)
    assert (back[~read] == np.float32(INVALID)).all()
    assert (read & ~valid).any()
    assert (back[read & ~valid] == 0).all()
    efficiency = np.where(np.arange(4760) < N_SIPM, PDE_SIPM, QE_PMT)
    true = np.where(valid, events["npho"], 0).astype(float)
    statistics = np.sqrt(true * efficiency) / efficiency  # of photoelectrons, in photons
    error = np.abs(np.where(valid, back, 0) - true)
    assert (error <= 0.0126 * statistics + 1e-3)[valid].all()
    assert error[valid].max() > 0


@pytest.mark.parametrize("photons", [1.0, 10.0, 1e3, 1e6, 4e6])
def test_compact_counts_hold_up_to_four_million(photons: float) -> None:
    counts = np.full((1, 4760), photons, np.float32)
    codes = shards.encode({"npho": counts}, "compact")[0]["npho"]
    error = abs((float(codes[0, 0]) / 32) ** 2 - photons)
    assert error <= np.sqrt(photons) / 32 + 1 / 4096
    assert error <= 0.1 * np.sqrt(photons / QE_PMT)


def test_compact_times_are_within_half_a_picosecond(events: dict[str, np.ndarray], compact: Path) -> None:
    back = joined(compact, ["npho", "time"])
    timed = valid_counts(events["npho"]) & (events["time"] < 9e9)
    np.testing.assert_array_equal(back["time"] < 9e9, timed)
    assert not timed[4, 7]
    assert valid_counts(back["npho"])[4, 7]
    error = np.abs(back["time"].astype(float) - events["time"])[timed]
    assert error.max() < 0.52e-12
    assert joined(compact, ["energyTruth"])["energyTruth"].tolist() == events["energyTruth"].tolist()


def test_compact_steps_widen_with_the_range_of_times() -> None:
    time = np.linspace(-4e-7, 4e-7, 4760, dtype=np.float32)[None]
    columns, _ = shards.encode({"npho": np.ones_like(time), "time": time}, "compact")
    step = float(columns["time.step"][0])
    assert step == pytest.approx(8e-7 / 65534, rel=1e-5)
    back = columns["time.first"] + (columns["time"].astype(float) - 1) * step
    assert np.abs(back - time).max() < 0.51 * step < 0.02e-9
    with pytest.raises(InputError, match="use the form float32"):
        shards.encode({"npho": np.ones_like(time), "time": 3 * time}, "compact")
    with pytest.raises(InputError, match="reaches 5e"):
        shards.encode({"npho": np.full_like(time, 5e6)}, "compact")


def test_compact_relative_quantities(tmp_path: Path, events: dict[str, np.ndarray]) -> None:
    npho, time = (events[b][100:160] for b in ("npho", "time"))
    relative = dict(zip(("relative_npho", "relative_time"), relative_quantities(npho, time), strict=True))
    rootio.write(tmp_path / "r.root", relative)
    convert(tmp_path / "r.root", tmp_path / "out", form="compact")
    back = joined(tmp_path / "out")
    valid = valid_counts(relative["relative_npho"])
    error = np.abs(back["relative_npho"] - relative["relative_npho"])[valid]
    assert (error <= np.sqrt(relative["relative_npho"][valid]) / 65535 + 3e-7).all()
    timed = relative["relative_time"] < 9e9
    assert np.abs(back["relative_time"] - relative["relative_time"])[timed].max() < 0.52e-12


def test_an_event_without_light(tmp_path: Path) -> None:
    dark = {name: np.full((2, 4760), INVALID, np.float32) for name in ("npho", "time")}
    rootio.write(tmp_path / "d.root", dark)
    convert(tmp_path / "d.root", tmp_path / "out", form="compact")
    np.testing.assert_array_equal(joined(tmp_path / "out")["time"], dark["time"])


# ------------------------------------------------------------------------------------- stopping, changing, damage


def test_a_stopped_conversion_goes_on(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    real, calls = convert_module._ShardWriter.add, []

    def stopped(self: object, chunk: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(convert_module._ShardWriter, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert(files, out, events_a_shard=600)
    assert sorted(p.name for p in out.iterdir()) == ["shard_00000"]
    monkeypatch.undo()
    with pytest.raises(InputError, match="run the same 'xec convert' again"):
        source.expand(out)
    (out / ".shard_00001.partial").mkdir()  # as a kill leaves it
    untouched = (out / "shard_00000" / "npho.bin").stat().st_mtime_ns
    report = convert(files, out, events_a_shard=600)
    assert (report.events, report.shards, report.kept) == (EVENTS, 3, 1)
    assert (out / "shard_00000" / "npho.bin").stat().st_mtime_ns == untouched
    convert(files, whole, events_a_shard=600)
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*"))
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == names
    for name in names:
        if (whole / name).is_file():
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_shards_of_other_files_are_not_overwritten(files: Path, tmp_path: Path) -> None:
    convert(files / "b.root", tmp_path / "out")
    with pytest.raises(InputError, match="shards of other files"):
        convert(files, tmp_path / "out")
    with pytest.raises(InputError, match="another form"):
        convert(files / "b.root", tmp_path / "out", form="compact")
    assert convert(files / "b.root", tmp_path / "out").kept == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds thesis\.tex, which is no shard"):
        convert(files, tmp_path / "mine")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_shard_is_refused_by_name(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(files, out, events_a_shard=700)
    _flip(out / "shard_00001" / "time.bin")
    with pytest.raises(InputError, match=r"shard_00001 is damaged: the checksum of time fails in events 0 to 511"):
        list(EventStream(str(out), tasks=["energy"], batch_size=64, buffer_events=256).epoch(0))
    with pytest.raises(InputError, match="shard_00001 is damaged"):
        joined(out)
    assert len(joined(out / "shard_00000")["event"]) == 700
    # the same conversion mends it
    assert convert(files, out, events_a_shard=700).kept == 1
    assert len(joined(out)["event"]) == EVENTS


def test_each_block_is_looked_at_once(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(files / "b.root", tmp_path / "out")
    looked = []
    real = shards.checksum
    monkeypatch.setattr(shards, "checksum", lambda values: looked.append(len(values)) or real(values))
    stream = EventStream(str(tmp_path / "out"), tasks=[], batch_size=60, buffer_events=120)
    for epoch in (1, 2):
        assert sum(len(b) for b in stream.epoch(epoch)) == 600
    assert sorted(looked) == [88] * 4 + [512] * 4  # counts, times, run, event
    Shard(tmp_path / "out" / "shard_00000").verify()
    assert len(looked) > 8


def test_a_cut_shard_is_refused_at_once(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(files / "b.root", out)
    path = out / "shard_00000" / "npho.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"shard_00000 is damaged: npho\.bin has \d+ of \d+ bytes"):
        EventStream(str(out), tasks=["energy"], batch_size=64, buffer_events=256)
    path.unlink()
    with pytest.raises(InputError, match="shard_00000 is damaged"):
        Shard(out / "shard_00000")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"geometry_hash": "0" * 16}, "shard_00000 was made for sensor geometry 0000000000000000"),
        ({"version": 99}, "is of format xecml-shards 99"),
        ({"format": "other"}, "is of format other"),
        (None, r"manifest\.json is damaged"),
    ],
)
def test_another_geometry_or_version_is_refused(
    files: Path, tmp_path: Path, change: dict[str, object] | None, message: str
) -> None:
    convert(files / "b.root", tmp_path / "out")
    path = tmp_path / "out" / "shard_00000" / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text("{" if change is None else json.dumps(content | change))
    with pytest.raises(InputError, match=message):
        EventStream(str(tmp_path / "out"), tasks=["energy"], batch_size=64, buffer_events=256)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two shards of ten events."""
    folder = tmp_path_factory.mktemp("small")
    rootio.write(folder / "s.root", point_sources(20, seed=3))
    convert(folder / "s.root", folder / "out", form="compact", events_a_shard=10)
    return folder / "out"


DEEP = json.loads("[" * 150 + "]" * 150)
WRONG: list[tuple[str, object, str]] = [
    ("version", "2", "'version': input should be a valid integer"),
    ("version", None, "'version' is missing"),
    ("geometry_hash", DEEP, "'geometry_hash': input should be a valid string"),
    ("events", None, "'events' is missing"),
    ("events", 10.5, "'events': input should be a valid integer"),
    ("events", -1, "'events': input should be greater than or equal to 1"),
    ("events", 9, r"npho\.bin has 95200 of 85680 bytes"),
    ("events", 600, "has 1 checksums for 2 blocks"),
    ("events", 10**40, "'events': input should be less than"),
    ("first", None, "'first' is missing"),
    ("branches", None, "'branches' is missing"),
    ("branches", ["npho"], "'branches': input should be a valid dictionary"),
    ("branches", {"npho": 3}, "'branches.npho': input should be 'plain', 'roots' or 'steps'"),
    ("branches", {"energyTruth": "roots"}, "'energyTruth' is no branch that is stored as roots"),
    ("columns", None, "'columns' is missing"),
    ("columns", DEEP, "'columns': input should be a valid dictionary"),
    ("columns", {}, "its branches and columns do not agree on 'emiAng'"),
    ("columns.npho.file", None, "'columns.npho.file' is missing"),
    ("columns.npho.file", "../shard_00001/npho.bin", "'columns.npho.file': it must be the name of a file in this"),
    ("columns.npho.file", "/etc/passwd", "it must be the name of a file in this folder"),
    ("columns.npho.file", "link.bin", r"link\.bin is a link that leads out of"),
    ("columns.npho.dtype", "O", "column 'npho' must be of <u2 and shape"),
    ("columns.npho.shape", [4760, 10], "column 'npho' must be of <u2 and shape"),
    ("columns.npho.checksums", ["0" * 15], "'columns.npho.checksums.0': string should match"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(WRONG)])
def test_a_wrong_manifest_is_named_with_its_key(
    small: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    """Nothing that a manifest says is used before it was looked at; and the same conversion mends it."""
    shutil.copytree(small, tmp_path / "out")
    shard = tmp_path / "out" / "shard_00000"
    (shard / "link.bin").symlink_to(small / "shard_00000" / "npho.bin")
    content = inner = json.loads((shard / "manifest.json").read_text())
    *path, last = key.split(".")
    for part in path:
        inner = inner[part]
    inner.pop(last)
    if value is not None:
        inner[last] = value
    (shard / "manifest.json").write_text(json.dumps(content))
    for use in (lambda: source.count_events(tmp_path / "out"), lambda: joined(shard, ["npho"])):
        with pytest.raises(InputError, match=said) as error:
            use()
        assert "\n" not in str(error.value)
    assert "run the same 'xec convert' again" in str(error.value) or "link" in key + str(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON, recursion limit exceeded"),
        (b'{"a": ' * 100_000, "it is no JSON, recursion limit exceeded"),
        (b'{"version": NaN}', "it is no JSON"),
        (b"\xff\xfe\x00", "it is no JSON"),
        (b"[1, 2]", "it holds no names with values"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(InputError, match=f"manifest.json is damaged: {said}.*; remove .* and run the same"):
        source.expand(tmp_path)


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "shard_00000").mkdir()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="is a pipe, not a manifest"):
        source.expand(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shards": ["../out/shard_00000", "shard_00001"]}, "'shards.0': it must be the name of a file in this folder"),
        ({"shards": ["shard_00000"]}, "its 20 events are in 2 shards, shard_00000 and so on"),
        ({"shards": ["shard_00001", "shard_00000"]}, "its 20 events are in 2 shards"),
        ({"events": 30}, "its sources have 20 events, not 30"),
        ({"sources": "a.root"}, "'sources': input should be a valid list"),
    ],
)
def test_a_folder_knows_its_shards(small: Path, tmp_path: Path, change: dict[str, object], said: str) -> None:
    shutil.copytree(small, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=f"{said}.*; remove {path} and run the same"):
        source.expand(tmp_path / "out")
    # the advice helps, and the shards are kept
    path.unlink()
    assert convert(small.parent / "s.root", tmp_path / "out", form="compact", events_a_shard=10).kept == 2
    assert source.count_events(tmp_path / "out") == 20


def test_links_and_files_are_no_shards(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "shard_00001")
    (tmp_path / "out" / "shard_00001").symlink_to(small / "shard_00001")
    with pytest.raises(InputError, match="shard_00001 is a link that leads out of"):
        source.expand(tmp_path / "out")
    with pytest.raises(InputError, match="holds shard_00001, which is no shard"):
        convert(small.parent / "s.root", tmp_path / "out", form="compact", events_a_shard=10)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "shard_00000").write_text("")
    with pytest.raises(InputError, match="holds shard_00000, which is no shard"):
        convert(small.parent / "s.root", tmp_path / "files")


def test_a_damaged_manifest_of_a_shard_is_mended_as_the_message_says(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "out")
    (tmp_path / "out" / "shard_00001" / "manifest.json").write_text("{")
    again = partial(convert, small.parent / "s.root", tmp_path / "out", form="compact", events_a_shard=10)
    with pytest.raises(InputError, match=r"is damaged: .*; remove .*/shard_00001 and run the same"):
        again()
    shutil.rmtree(tmp_path / "out" / "shard_00001")
    assert again().kept == 1
    assert source.count_events(tmp_path / "out") == 20


def test_the_manifest_says_where_events_come_from(files: Path, floats: Path) -> None:
    manifest = json.loads((floats / "manifest.json").read_text())
    assert manifest["events"] == EVENTS
    assert [s["events"] for s in manifest["sources"]] == [700, 600]
    assert manifest["sources"][0]["bytes"] == (files / "a.root").stat().st_size
    assert manifest["shards"] == ["shard_00000", "shard_00001", "shard_00002"]


def test_missing_branches_and_inputs_are_named(files: Path, floats: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no branch 'energyReco'"):
        joined(floats, ["energyReco"])
    with pytest.raises(InputError, match="Unknown form"):
        convert(files, tmp_path / "x", form="float8")
    rootio.write(tmp_path / "t.root", {"energyTruth": np.ones(3, np.float32)})
    with pytest.raises(InputError, match="no pair of counts and times"):
        convert(tmp_path / "t.root", tmp_path / "x")
    with pytest.raises(InputError, match="is a file"):
        convert(files, tmp_path / "t.root")
