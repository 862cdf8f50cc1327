"""The map of the package is true: its picture is of today's code, its files exist, and registries agree."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from xecml.choices import LOSSES, MASK_PATTERNS, PRESETS, REPAIRS
from xecml.cluster import sites
from xecml.config import AugmentationConfig, Config
from xecml.data import masks
from xecml.data.augment import CHANGES, Augmentation
from xecml.events import BRANCHES, TASKS
from xecml.inference.repair_models import load_repair
from xecml.recipes import describe

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_of_todays_code(script: Any, tmp_path: Path) -> None:
    script.main(tmp_path / "now.png")
    with Image.open(tmp_path / "now.png") as now, Image.open(ROOT / "docs" / "architecture.png") as shown:
        assert now.info["Description"] == shown.info["Description"], "draw it anew: python docs/draw_architecture.py"
        assert now.size == shown.size


def test_every_room_is_drawn_and_described(script: Any) -> None:
    rooms = {path.name for path in (ROOT / "src" / "xecml").iterdir() if (path / "__init__.py").exists()}
    assert rooms - {"rootio", "recipes"} == {*script.ROOMS} - {"ground floor"}
    for room in rooms - {"recipes"}:
        assert f"| `{room}/` |" in MAP, room


def test_every_room_has_quick_tests(script: Any) -> None:
    quick = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
    quick = [
        text
        for text in quick
        if not re.search(r"^pytestmark = (pytest\.mark\.slow|\[\s+pytest\.mark\.slow)", text, re.M)
    ]
    for room in (*script.ROOMS, "rootio"):
        if room != "ground floor":
            assert any(f"xecml.{room}" in text or f"xecml import {room}" in text for text in quick), room


def test_what_flows_is_defined_in_a_room_and_used_in_others(script: Any) -> None:
    for flow, rooms in script.uses().items():
        assert script.home_of(flow) in rooms
        assert len(rooms) > 1, f"{flow} flows nowhere"


def test_files_and_names_of_the_map_exist() -> None:
    for path in re.findall(r"`((?:src|tests|docs)/[\w/.]+)`", MAP):
        assert (ROOT / path).exists(), path
    for name, path in re.findall(r"`(\w+)` (?:in|of) `(src/[\w/.]+\.py)`", MAP):
        assert re.search(rf"^(?:def |class |)?{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.M), (name, path)


def test_registries_have_their_counterparts() -> None:
    for name, choice in {**LOSSES, **PRESETS, **REPAIRS}.items():
        assert callable(choice.does), name
        assert choice.meaning, name
    assert tuple(MASK_PATTERNS) == masks.PATTERNS
    keys = {field.name for field in fields(Augmentation)}
    assert AugmentationConfig.model_fields.keys() == keys - {"channel_dropout", "relative"}
    assert {key for switches in CHANGES for key in switches} <= keys
    for name in REPAIRS:
        assert load_repair(name).method == name  # type: ignore[attr-defined]


def test_a_site_is_added_as_the_map_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of the user's file is a site with every key that profiles have; the shipped ones stay beside it."""
    (row,) = [line for line in MAP.splitlines() if line.startswith("| a site |")]
    assert "`~/.config/xecml/sites.yaml`" in row
    (tmp_path / "xecml").mkdir()
    (tmp_path / "xecml" / "sites.yaml").write_text("mine:\n  partition: gpu\n  partitions: {gpu: {cluster: big}}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found, _ = sites.load_sites()
    assert (found["mine"].find(None)[1].cluster, {"generic", "merlin7"} <= found.keys()) == ("big", True)
    described = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for key in (*sites.Site.model_fields, *sites.Partition.model_fields):
        assert f"`{key}`" in described, key


def test_entries_of_registries_are_keys_of_recipes_with_a_meaning() -> None:
    meanings = {key: meaning for key, _, _, meaning in describe()}
    for task in TASKS.values():
        assert task.truth in BRANCHES
    wanted = [f"tasks.{name}.enabled" for name in TASKS] + [f"masking.{name}" for name in MASK_PATTERNS]
    wanted += [f"reweighting.{name}.enabled" for name, task in TASKS.items() if task.flattened]
    assert all(meanings[key] for key in wanted)
    assert [name for name, task in Config().tasks if task.loss_fn != TASKS[name].loss] == []


@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_loss_fits_some_task(loss: str) -> None:
    assert any(LOSSES[loss].fits(task) for task in TASKS.values())
