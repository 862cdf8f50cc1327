"""Run the quick tests with the oldest or the newest versions that pyproject.toml allows, in a fresh environment.

    pip install uv
    python .ci/test_versions.py oldest|newest [--python 3.13] [--keep FOLDER]

Oldest: every library that pyproject.toml names at its lower bound, and what these need as new as they allow. Newest:
whatever the package index has today. Takes some GB of disk and network, as PyTorch from the index is a build for GPUs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}


def run(*command: str | Path, **environment: str) -> None:
    """Run a command in the project's folder; its failure is that of this script."""
    print("+", *command, flush=True)
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Make the environment, and run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=RESOLUTIONS)
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="its version")
    parser.add_argument("--keep", type=Path, help="folder of the environment, which is left for looking at")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = options.keep or Path(passing) / "environment"
        python = folder / "bin" / "python"
        run("uv", "venv", "--python", options.python, folder)
        wanted = ("--resolution", RESOLUTIONS[options.which], "--editable", ".[all,dev]")
        run("uv", "pip", "install", "--quiet", "--python", python, *wanted)
        run("uv", "pip", "list", "--python", python)
        quick = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not slow")
        run(python, *quick, OMP_NUM_THREADS="1")


if __name__ == "__main__":
    main()
