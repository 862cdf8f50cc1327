"""Recipes that are shipped: listed, found by name, copied; each loads and names the command that it is for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xecml import __version__
from xecml.cli import main
from xecml.errors import InputError
from xecml.realdata.branch_map import load_map
from xecml.recipes import load_config
from xecml.recipes.shipped import copy_recipe, find, shipped
from xecml.simulation.settings import load_settings


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["xec", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_names_that_users_know_are_shipped() -> None:
    assert {"regress", "mae", "finetune", "inpaint", "tiny", "demo", "robust", "simulation", "varied"} <= set(shipped())


@pytest.mark.parametrize("name", sorted(shipped()))
def test_each_says_what_it_is_for_and_loads(name: str) -> None:
    one = shipped()[name]
    assert one.meaning.endswith(".")
    assert len(one.meaning) < 120
    words = one.usage.split()
    assert words[0] == "xec"
    assert words[words.index(one.option) + 1] == name
    if words[1] == "train":
        load_config(name, job=words[2])
    elif words[1] == "prepare":
        assert one.option == "--map"
        assert load_map(name) == load_map()
    else:
        assert words[1] == "simulate"
        load_settings(name)


def test_list_and_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "recipes") == 0
    listed = capsys.readouterr().out
    assert all(f"{one.name} " in listed and one.meaning in listed for one in shipped().values())
    assert run(monkeypatch, "recipes", "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() == shipped().keys()
    assert run(monkeypatch, "recipes", "copy", "regress") == 0
    assert "--config regress.yaml" in capsys.readouterr().out
    assert Path("regress.yaml").read_bytes() == shipped()["regress"].path.read_bytes()


def test_a_copy_replaces_nothing_unasked(tmp_path: Path) -> None:
    copy = copy_recipe("mae", tmp_path)
    copy.write_text("mine")
    with pytest.raises(InputError, match=r"mae\.yaml exists; name another file, or give --force"):
        copy_recipe("mae", tmp_path)
    assert copy.read_text() == "mine"
    assert copy_recipe("mae", copy, force=True).read_bytes() == shipped()["mae"].path.read_bytes()
    with pytest.raises(InputError, match="There is no recipe 'mea'.*did you mean 'mae'"):
        copy_recipe("mea", tmp_path)


def test_a_file_comes_before_a_shipped_name_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mae").mkdir()
    assert find("mae", "train") == shipped()["mae"].path
    Path("regress").write_text("training: {epochs: 3}")
    assert load_config("regress").training.epochs == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("regres", "no recipe of that name.*did you mean 'regress'"),
        ("simulation", "'simulation' is for 'xec simulate'; choose one of demo"),
        (
            "configs/mae.yaml",
            "No such file: configs/mae.yaml; the recipe of that name that is shipped is: --config mae",
        ),
        ("my/own.yaml", "No such recipe: my/own.yaml; check the path"),
    ],
)
def test_what_is_not_there_is_named(given: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config(given)


def test_version_and_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"xec {__version__}\n"
    words = {"_XEC_COMPLETE": "complete_bash", "COMP_WORDS": "xec recipes copy reg", "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['xec']; from xecml.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["regress"]
    assert run(monkeypatch, "--help") == 0
    assert "--install-completion" in capsys.readouterr().out


def test_a_folder_of_a_recipes_name_is_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that a command made in a folder called as a recipe is replaced by the next run, not taken for an input."""
    monkeypatch.chdir(tmp_path)
    shipped.cache_clear()
    monkeypatch.setattr("xecml.recipes.shipped.FOLDER", tmp_path)
    Path("quick.yaml").write_text("# Quick.\n# xec simulate OUT.root -n 4 --config quick\nmap_quality: quick\n")
    Path("quick").mkdir()
    for _ in range(2):
        assert run(monkeypatch, "simulate", "quick/a.root", "-n", "4", "--config", "quick") == 0
    shipped.cache_clear()
    assert "replacing quick/a.root" in capsys.readouterr().err
