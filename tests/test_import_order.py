"""Imports run one way: geometry -> files -> simulation, conventional -> data -> models -> ... -> command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "xecml"

# lower layers first; modules of one layer may import one another
LAYERS = (
    ("errors",),
    ("geometry", "resolution", "progress", "files", "outputs", "compiled"),
    ("schema",),
    ("events",),
    ("rootio", "treereader", "treewriter", "rootopen", "packed"),
    ("limits", "yamlfile", "config", "oldconfig", "recipes"),
    ("simulation", "conventional"),
    ("data",),
    ("models",),
    ("training",),
    ("evaluation",),
    ("deploy",),
    ("cluster",),
    ("demo",),
    ("terminal", "failures"),
    ("clitrain",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# the package's front door reaches up on purpose, at call time only
FREE = {"__init__"}


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "xecml":
            parts = node.module.split(".")[1:]
            found += [parts[0]] if parts else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [a.name.split(".")[1] for a in node.names if a.name.startswith("xecml.")]
    return [name for name in found if not name.startswith("__")]


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(SOURCE)) for p in MODULES])
def test_imports_run_downwards(path: Path) -> None:
    own = path.relative_to(SOURCE).with_suffix("").parts[0]
    if own in FREE:
        return
    assert own in LEVEL, f"{own} has no place among the layers"
    above = [name for name in _imports(path) if LEVEL.get(name, 0) > LEVEL[own]]
    assert not above, f"{path} imports {above}, which lie above it"


@pytest.mark.parametrize(
    "module", ["xecml", "xecml.geometry", "xecml.events", "xecml.rootio", "xecml.cli", "xecml.simulation.generate"]
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_geometry_needs_numpy_alone() -> None:
    heavy = "{'uproot', 'numba', 'torch', 'matplotlib', 'pydantic', 'typer', 'scipy'}"
    code = f"import sys, xecml.geometry; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
