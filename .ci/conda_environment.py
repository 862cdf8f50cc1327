"""Write environment.yml, for conda and mamba, with the versions of constraints.txt.

    python .ci/conda_environment.py [OUT]

Python, the C++ library and the compiler are conda's; the libraries that pyproject.toml names come from the package
index, as everywhere else: the same wheels that are tested, on x86_64 and aarch64.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = "3.11"
HEAD = f"""\
# Made by: python .ci/conda_environment.py
# mamba env create -f environment.yml && mamba activate xecml
name: xecml
channels: [conda-forge, nodefaults]
dependencies:
  - python={PYTHON}
  - pip
  # newer than that of old systems, which some compiled libraries do not load with
  - libstdcxx>=14
  # for training.compile
  - cxx-compiler
  - pip:
      - -c constraints.txt
"""


def wanted() -> list[str]:
    """Requirements of the package and of its extra `all`, in their order, each with its marker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, found = project["optional-dependencies"], list(project["dependencies"])
    for one in extras["all"]:
        name, _, marker = one.partition(";")
        inside = re.fullmatch(r"xecml\[([\w,]+)\]", name.strip())
        assert inside is not None, one
        for extra in inside[1].split(","):
            found += [f"{requirement};{marker}" if marker else requirement for requirement in extras[extra]]
    return found


def pins() -> dict[str, str]:
    """Lines of constraints.txt by the canonical names of libraries."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonical(line.partition("==")[0]): line for line in lines if line and not line.startswith("#")}


def canonical(name: str) -> str:
    """A library's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def environment() -> str:
    """Text of environment.yml."""
    exact, lines = pins(), []
    for one in wanted():
        requirement, _, marker = one.partition(";")
        found = re.match(r"[\w.-]+", requirement)
        assert found is not None, one
        lines.append(f"{exact[canonical(found[0])]}{f' ; {marker.strip()}' if marker else ''}")
    return HEAD + "".join(f"      - {_quoted(line)}\n" for line in [*lines, "-e ."])


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text or ";" in text else text


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "environment.yml"
    out.write_text(environment(), encoding="utf-8")
