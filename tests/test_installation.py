"""One set of versions for two architectures, builds of PyTorch, conda and pip; and what checks an installation."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from xecml.cli import system

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
]
LINUX: dict[str, str] = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


def locked() -> dict[str, Requirement]:
    return {canonicalize_name(one.name): one for one in map(Requirement, CONSTRAINTS)}


def asked(machine: str) -> list[Requirement]:
    """What the package and all its extras ask for on an architecture."""
    extras = PROJECT["optional-dependencies"]
    every = [*PROJECT["dependencies"], *(one for name, list_ in extras.items() if name != "all" for one in list_)]
    found = [Requirement(one) for one in every]
    return [one for one in found if one.marker is None or one.marker.evaluate(LINUX | {"platform_machine": machine})]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("conda_environment", ROOT / ".ci" / "conda_environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------------------------- versions


def test_versions_are_exact_and_of_no_architecture_or_build() -> None:
    """A line for another architecture, or a build such as 2.13.0+cpu, would leave one of the others without any."""
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in CONSTRAINTS)
    assert len(locked()) == len(CONSTRAINTS)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_is_asked_for_is_locked_within_its_range(machine: str) -> None:
    versions = {name: next(iter(one.specifier)).version for name, one in locked().items()}
    for one in asked(machine):
        name = canonicalize_name(one.name)
        if name == "optuna":  # of an extra that is not in `all`
            continue
        assert name in versions, f"{one} is not in constraints.txt"
        assert one.specifier.contains(versions[name]), f"{one} does not allow {versions[name]}"


def test_the_environment_of_conda_is_made_of_the_same_versions(script: Any) -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert text == script.environment(), "make it anew: python .ci/conda_environment.py"
    dependencies = yaml.safe_load(text)["dependencies"]
    pip = dependencies[-1]["pip"]
    given = {canonicalize_name(one.name): one for one in map(Requirement, pip[1:-1])}
    assert (pip[0], pip[-1]) == ("-c constraints.txt", "-e .")
    for name, one in given.items():
        assert one.specifier == locked()[name].specifier, name
    wanted = [Requirement(one) for one in PROJECT["dependencies"]]
    extras = PROJECT["optional-dependencies"]
    wanted += [Requirement(one) for extra in ("onnx", "track", "xrootd") for one in extras[extra]]
    assert {canonicalize_name(one.name) for one in wanted} <= given.keys()
    for name in ("xrootd", "fsspec-xrootd"):
        marker = given[name].marker
        assert marker is not None
        assert [marker.evaluate(LINUX | {"platform_machine": m}) for m in ("x86_64", "aarch64")] == [True, False]
    (python,) = [one for one in dependencies if str(one).startswith("python=")]
    assert f"{python.partition('=')[2]}" in {c.rpartition(" ")[2] for c in PROJECT["classifiers"]}


def test_the_script_writes_where_it_is_told(script: Any, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / ".ci" / "conda_environment.py"), str(tmp_path / "here.yml")]
    subprocess.run(command, check=True)
    assert (tmp_path / "here.yml").read_text(encoding="utf-8") == script.environment()


# -------------------------------------------------------------------------------------------------------------- make


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """What make would do, from whatever make the tests were started."""
    ours = ("TORCH", "VENV", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", "--dry-run", *words], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("build", ["cpu", "cu126", "cu130"])
def test_make_installs_a_build_of_pytorch_and_remembers_it(tmp_path: Path, build: str) -> None:
    venv = tmp_path / "venv"
    said = make("install", f"TORCH={build}", f"VENV={venv}")
    assert said.returncode == 0, said.stderr
    words = " ".join(said.stdout.replace("\\\n", " ").split())
    assert f"--torch-backend {build} --reinstall-package torch -c constraints.txt -e '.[all,dev,docs]'" in words
    assert f"echo {build} > {venv}/.torch" in said.stdout
    venv.mkdir()
    (venv / ".torch").write_text(f"{build}\n")
    again = make("install", f"VENV={venv}")
    assert f"--torch-backend {build}" in again.stdout
    (venv / f".installed-{build}").write_text("")
    assert "--torch-backend" not in make("install", f"VENV={venv}").stdout  # nothing is left to do
    other = "cpu" if build != "cpu" else "cu130"
    assert f"--torch-backend {other}" in make("install", f"VENV={venv}", f"TORCH={other}").stdout


def test_make_without_a_build_takes_what_the_index_has(tmp_path: Path) -> None:
    said = make("install", f"VENV={tmp_path / 'venv'}").stdout
    assert "pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]'" in said
    assert "--torch-backend" not in said


def test_a_wrong_build_is_refused_with_those_there_are(tmp_path: Path) -> None:
    said = make("install", "TORCH=cu999", f"VENV={tmp_path / 'venv'}")
    assert said.returncode == 2
    assert "TORCH=cu999 is no build of PyTorch that is tested; choose one of cpu cu126 cu130" in said.stderr


# ------------------------------------------------------------------------------------------------------------ system


def test_the_system_says_what_an_installation_stands_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "c++").write_text("#!/bin/sh\necho 'a compiler 14.2'\necho more\n")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 570.1\n")
    for name in ("c++", "nvidia-smi"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracking:5000")
    said = system.describe_system()
    assert said["compiler"] == f"{tmp_path / 'c++'}: a compiler 14.2"
    assert said["NVIDIA driver"] == "570.1"
    assert said["MLflow"] == "http://me:***@tracking:5000"
    assert re.fullmatch(r"\d+\.\d GB(, \d+\.\d GB free)?", said["memory"])
    assert 1 <= said["cores of this process"] <= said["cores"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:runs")
    assert "MLFLOW_TRACKING_URI=file:runs is a folder" in system.tracking_address()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert system.tracking_address() == "sqlite:///mlruns.db"


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "g++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "nowhere")
    assert system.compiler() == "none; training.compile needs one (g++, or CXX with its name)"


def test_gpus_are_described_as_pytorch_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor = "NVIDIA A100-SXM4-80GB", 85_000_000_000, 8, 0

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: Properties)
    assert system.gpus() == ["NVIDIA A100-SXM4-80GB, 85 GB, capability 8.0"] * 2


def test_the_cpp_library_of_a_process_is_found(tmp_path: Path) -> None:
    library = tmp_path / "libstdc++.so.6"
    library.write_bytes(b"\0GLIBCXX_3.4\0GLIBCXX_3.4.9\0GLIBCXX_3.4.25\0")
    maps = tmp_path / "maps"
    rows = [f"7f00-7f01 r-xp 00000000 08:01 12 {' ' * 20}{path}" for path in (library, library, "/gone/libstdc++.so.6")]
    maps.write_text("\n".join([*rows, "7f02-7f03 rw-p 00000000 00:00 0 [heap]", ""]))
    assert system.cpp_library(str(maps)) == f"{library}, up to GLIBCXX_3.4.25"
    maps.write_text("")
    assert system.cpp_library(str(maps)) == "none"
    assert system.cpp_library(str(tmp_path / "nothing")) == "unknown"
