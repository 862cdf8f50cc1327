"""Imports run one way, room by room; no import runs upwards, not even inside a function."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parents[1] / "src" / "xecml"

# lower rooms first; files of one line may import one another
ROOMS = (
    "errors",
    "geometry resolution progress stopwatch garbage_collection cpu_load files outputs compiled notebook",
    "schema",
    "events",
    "rootio",
    "selections selection_grammar selection_values sensor_lists",
    "limits yamlfile choices config oldconfig recipes pretrained conditions conditions_file",
    "simulation.volume simulation.cascade",
    "simulation.light",
    "simulation",
    "simulation.validation",
    "conventional",
    "data",
    "checks",
    "realdata",
    "models.answerable models.corrections models.cpu models.encoder models.normalise models.ridge models.sigma_shape "
    "models.weight_files",
    "models.networks",
    "models.training_distribution",
    "models.regressor",
    "models.rebuild models.original models.newer",
    "models",
    "inference",
    "training.processes.rank training.processes.peers training.processes.devices",
    "training",
    "evaluation",
    "figures",
    "reports",
    "cluster",
    "tuning",
    "cli",
    "demo",
    "demo_pretrained",
)
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names.split()}
FRONT_DOOR = {"inference.trained_model"}
"""What the package itself imports, when `xecml.load_model` is called."""


def name_of(path: Path) -> str:
    """Module below `xecml`; a package by its own name."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def level_of(module: str) -> int:
    """Level of the smallest room that a module is in."""
    while module and module not in LEVEL:
        module = module.rpartition(".")[0]
    assert module, "a module has no room"
    return LEVEL[module]


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "xecml":
            module = (node.module or "").removeprefix("xecml").lstrip(".")
            names = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if name in MODULES else module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("xecml.") for alias in node.names if alias.name.startswith("xecml.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports relative to itself"
    return found - {""}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {""}))
def test_imports_run_downwards(module: str) -> None:
    above = [name for name in imported(MODULES[module]) if level_of(name) > level_of(module)]
    assert not above, f"{module} imports {above}, which lie above it"


def test_the_front_door_opens_one_room() -> None:
    assert imported(MODULES[""]) == FRONT_DOOR


def test_no_file_is_among_the_rooms_twice() -> None:
    names = " ".join(ROOMS).split()
    assert len(names) == len(set(names))
    assert set(names) <= {*MODULES, *(name.rpartition(".")[0] for name in MODULES)}


def _in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    ["xecml", "xecml.geometry", "xecml.events", "xecml.rootio", "xecml.cli.commands", "xecml.simulation.generate"],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    assert _in_new_process(f"import sys, {module}; print('torch' in sys.modules)") == "False"


def test_geometry_needs_numpy_alone() -> None:
    heavy = "{'uproot', 'numba', 'torch', 'matplotlib', 'pydantic', 'typer', 'scipy'}"
    assert _in_new_process(f"import sys, xecml.geometry; print(len({heavy} & set(sys.modules)))") == "0"


def test_a_model_is_loaded_without_training_and_evaluation() -> None:
    code = (
        "import sys, xecml\n"
        "try:\n"
        "    xecml.load_model('no such model.pth')\n"
        "except xecml.errors.InputError:\n"
        "    pass\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('xecml.')}\n"
        "print(sorted(rooms & {'training', 'evaluation', 'figures', 'reports', 'cli'}), 'matplotlib' in sys.modules)"
    )
    assert _in_new_process(code) == "[] False"


def _others(code: str) -> set[str]:
    """Packages beside the standard library that a new process has imported after the code."""
    found = _in_new_process(
        f"{code}\nimport sys\nprint(*{{n.split('.')[0] for n in sys.modules}} - set(sys.stdlib_module_names))"
    )
    # two underscores: what the import system itself adds for installed packages
    return {name for name in found.split() if not name.startswith("__")}


_HELP = "import contextlib, io, sys\nfrom xecml.cli.commands import main\nsys.argv = ['xec', '--help']\n" + (
    "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n    main()"
)


def test_the_package_imports_the_standard_library_alone() -> None:
    assert _others("import xecml") <= {"xecml"} | _others("pass")


def test_the_help_imports_the_command_line_alone() -> None:
    """Numpy alone takes as long as all of them."""
    assert _others(_HELP) <= {"xecml"} | _others("import typer") | _others("import shellingham")


def _processor_seconds(code: str) -> float:
    """Of a new process; unlike its wall time, hardly longer where others are waiting for the same cores."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_the_help_is_there_at_once() -> None:
    """Beside the library of the command line: its import takes 0.1 s, the help with it 0.25 s."""
    times = np.array([[_processor_seconds(code) for code in ("pass", "import typer", _HELP)] for _ in range(5)])
    empty, library, whole = times.min(axis=0)
    assert whole - empty < 5 * (library - empty)
