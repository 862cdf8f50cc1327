"""What the README says is executed: its commands, in order, on the tiny recipe."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from xecml.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

# the same commands at a size for tests
SMALLER = {
    "--config regress": "--config tiny --tasks 'angle energy'",
    "--config mae": "--config tiny",
    "--config finetune": "--config tiny --epochs 1 --tasks energy",
    "--config inpaint": "--config tiny --epochs 1",
    "-n 20000": "-n 320 --config quick.yaml",
    "-n 2000": "-n 224 --config quick.yaml",
    "--jobs 2": "--jobs 1",
}


def commands() -> list[str]:
    """Lines of the README's shell blocks that run `xec`, continued lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip().startswith("xec ")]


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "quick.yaml").write_text("map_quality: quick\n")
    return folder


@pytest.mark.slow
def test_the_commands_of_the_readme_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = commands()
    assert len(shown) >= 8
    assert {c.split()[1] for c in shown} >= {
        "simulate",
        "check",
        "train",
        "evaluate",
        "export",
        "predict",
        "display",
        "info",
        "inpaint",
        "calibrate",
    }
    # in this process, which has its libraries loaded; that `xec` is installed is shown by what starts it elsewhere
    monkeypatch.chdir(place)
    for command in shown:
        for large, small in SMALLER.items():
            command = command.replace(large, small)
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, f"{command}\n{capsys.readouterr().err}"
    for block in python_blocks():
        done = subprocess.run([sys.executable, "-c", block], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert done.stdout


def test_files_and_targets_that_the_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
