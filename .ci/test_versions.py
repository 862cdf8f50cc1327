"""Run the quick tests with the oldest or the newest versions that pyproject.toml allows, in a fresh environment.

    python .ci/test_versions.py oldest|newest [--python python3.12] [--keep FOLDER]

Oldest: every package that pyproject.toml names by itself at its lower bound, what these need as they allow it. Newest:
whatever the package index has today. Needs some GB of disk and network; PyTorch of an older version may be a build for
GPUs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BOUND = re.compile(r"^([\w.-]+(?:\[[\w,]+\])?)\s*>=\s*([\w.]+)")


def lower_bounds() -> list[str]:
    """`name==version` of every package with a lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = [_BOUND.match(one) for one in named]
    return [f"{m.group(1)}=={m.group(2)}" for m in found if m is not None]


def run(*command: str | Path) -> None:
    """Run a command in the project's folder; its failure is that of this script."""
    print("+", *command, flush=True)
    done = subprocess.run([str(word) for word in command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Make the environment, and run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("oldest", "newest"))
    parser.add_argument("--python", default=sys.executable, help="interpreter to make the environment with")
    parser.add_argument("--keep", type=Path, help="folder of the environment, which is left for looking at")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = options.keep or Path(passing) / "environment"
        run(options.python, "-m", "venv", folder)
        pip = (folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
        pins = Path(passing) / "lower_bounds.txt"
        pins.write_text("\n".join(lower_bounds()) + "\n", encoding="utf-8")
        limits = ("-c", pins) if options.which == "oldest" else ()
        run(*pip, "install", "--quiet", "--upgrade", *limits, "-e", ".[all,dev]")
        run(*pip, "list")
        run(folder / "bin" / "python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not slow")


if __name__ == "__main__":
    main()
