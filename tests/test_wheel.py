"""The wheel and the source distribution are the whole product: installed by themselves, they go the whole way."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from xecml.recipes.shipped import shipped

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def done(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    other = ("PYTHON", "VIRTUAL_ENV", "PIP_CONSTRAINT", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "MLFLOW_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(other)}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    said = done(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    if said.returncode and re.search(
        r"No matching distribution|ConnectionError|Max retries", said.stdout + said.stderr
    ):
        pytest.skip("no package index is reachable, from which a build takes its tools")
    assert said.returncode == 0, said.stdout + said.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_holds_recipes_and_tables_and_no_tests(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    package = ROOT / "src" / "xecml"
    wanted = {
        str(p.relative_to(ROOT / "src")) for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert wanted <= names
    assert {name.split("/")[0] for name in names} == {"xecml", f"xecml-{PROJECT['version']}.dist-info"}
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        held = {name.partition("/")[2] for name in sources.getnames()}
    assert {"README.md", "LICENSE", "Makefile", "constraints.txt", "tests/conftest.py", "docs/training.md"} <= held
    assert {f"src/xecml/recipes/{name}.yaml" for name in shipped()} <= held


@pytest.mark.slow
@pytest.mark.long
def test_an_installed_wheel_goes_the_whole_way_from_another_folder(built: Path, tmp_path: Path) -> None:
    """Into an empty environment, with what it asks for itself and nothing else."""
    (wheel,) = built.glob("*.whl")
    environment = tmp_path / "environment"
    assert done(sys.executable, "-m", "venv", environment, cwd=tmp_path).returncode == 0
    python, xec = environment / "bin" / "python", environment / "bin" / "xec"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    said = done(*pip, f"{wheel}[onnx]", cwd=tmp_path)
    assert said.returncode == 0, said.stderr[-2000:]
    held = done(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).stdout
    assert not re.search(r"^(mlflow|tensorboard|pytest|ruff|optuna|plotly|submitit)=", held, re.MULTILINE)
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "quick.yaml").write_text("map_quality: quick\n")
    best = "artifacts/first/checkpoint_best.pth"
    commands = (
        "simulate train.root -n 200 --energy 15:60 --seed 1 --config quick.yaml",
        "simulate val.root -n 64 --energy 15:60 --seed 2 --config quick.yaml",
        "recipes copy tiny mine.yaml",
        "train regress --config mine.yaml --train_path train.root --val_path val.root --epochs 1 --name first",
        f"export {best} first.onnx",
        "predict first.onnx val.root --out predictions.root",
        "info --system",
    )
    for command in commands:
        said = done(xec, *command.split(), cwd=place, OMP_NUM_THREADS="1", XECML_CACHE=str(tmp_path / "cache"))
        assert said.returncode == 0, f"{command}\n{said.stderr}"
    assert re.search(r"^mlflow +not installed$", said.stdout, re.MULTILINE)
    assert (place / "predictions.root").stat().st_size > 0
    # what an extra is missing for is one sentence
    tracked = "train regress --config tiny --train_path train.root --val_path val.root --epochs 1 --name second"
    said = done(xec, *tracked.split(), "--set", "mlflow.enabled=true", cwd=place, OMP_NUM_THREADS="1")
    assert said.returncode == 0, said.stderr
    assert "pip install 'xecml[track]'" in said.stdout + said.stderr


def test_what_the_code_imports_is_asked_for() -> None:
    """Every library that the package imports is a dependency or of an extra, and none is asked for without use."""
    imported = set()
    for path in (ROOT / "src" / "xecml").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    imported -= {*sys.stdlib_module_names, "xecml"}
    named = {"yaml": "PyYAML", "mpl_toolkits": "matplotlib"}
    asked = {re.split(r"[\[>=<~ ]", one)[0] for one in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    optional = {
        re.split(r"[\[>=<~ ]", one)[0] for extra in ("onnx", "track", "tune", "parquet") for one in extras[extra]
    }
    # pydantic and jinja2 bring these, whose types they hand out
    wanted = {named.get(name, name.replace("_", "-")) for name in imported} - {"pydantic-core", "markupsafe"}
    assert wanted <= asked | optional, wanted - asked - optional
    # PyTorch brings the writer of TensorBoard's files, and asks for its library
    assert asked | optional <= wanted | {"tensorboard"}


def test_the_page_of_dependencies_names_each_of_them() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    extras = PROJECT["optional-dependencies"]
    for one in [*PROJECT["dependencies"], *(r for name in extras if name != "all" for r in extras[name])]:
        name = re.split(r"[\[>=<~ ]", one)[0]
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", page) or name.startswith("types-"), name
