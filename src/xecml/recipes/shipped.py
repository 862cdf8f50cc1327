"""Recipes and settings that are part of the package: found by name, listed, copied to be edited.

Each is a YAML file in this folder. Its first line says what it is for, its second line how it is used.
"""

from __future__ import annotations

import shutil
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xecml.errors import InputError, nearest
from xecml.files import atomic_path, mode_of

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Shipped:
    """A recipe or a file of settings of the package.

    Attributes:
        name: by which it is asked for.
        path: of the file.
        meaning: what it is for.
        usage: the command that it is made for.
    """

    name: str
    path: Path
    meaning: str
    usage: str

    @property
    def option(self) -> str:
        """The option that takes it by its name: `--config`, `--vary`, `--map`."""
        words = self.usage.split()
        return words[len(words) - 2 - words[::-1].index(self.name)]

    @property
    def command(self) -> str:
        """The command it serves: `train regress`, `simulate`, ..."""
        words = self.usage.split()[1:]
        return " ".join(words[:2] if words[0] == "train" else words[:1])


@cache
def shipped() -> dict[str, Shipped]:
    """All of them by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            meaning, usage = (file.readline().removeprefix("#").strip() for _ in range(2))
        found[path.stem] = Shipped(path.stem, path, meaning, usage)
    return found


def find(given: str | Path, command: str) -> Path:
    """The file that a user means: one on disk, or a shipped one by its name.

    Args:
        given: a path, or a name that `xec recipes` lists.
        command: that will read it, `train`, `simulate` or `prepare`.

    Raises:
        InputError: there is neither, or what is shipped under that name serves another command.
    """
    known = {name: one for name, one in shipped().items() if one.command.split()[0] == command}
    name = str(given)
    mode = mode_of(given, "recipe")
    if name in known and (mode is None or stat.S_ISDIR(mode)):  # a file of that name is what was meant
        return known[name].path
    if mode is None:
        if name in shipped():
            raise InputError(f"'{name}' is for 'xec {shipped()[name].command}'; choose one of {', '.join(known)}.")
        if not Path(name).suffix and len(Path(name).parts) == 1:
            raise InputError(f"There is no file '{name}', and no recipe of that name{_choice(name, known)}.")
        if Path(name).stem in known:
            stem = Path(name).stem
            raise InputError(
                f"No such file: {name}; the recipe of that name that is shipped is: {known[stem].option} {stem}."
            )
    return Path(given)


def copy_recipe(name: str, to: Path | None = None, *, force: bool = False) -> Path:
    """Copy a shipped recipe, to be edited.

    Args:
        name: of the recipe.
        to: file or folder to write to; by default a file of its name in the current folder.
        force: replace a file that is there.

    Raises:
        InputError: there is no such recipe, or a file is there already.
    """
    if name not in shipped():
        raise InputError(f"There is no recipe '{name}'{_choice(name, shipped())}.")
    out = Path(f"{name}.yaml") if to is None else to / f"{name}.yaml" if to.is_dir() else to
    if mode_of(out, "recipe") is not None and not force:
        raise InputError(f"{out} exists; name another file, or give --force to replace it.")
    with atomic_path(out) as temporary:
        shutil.copyfile(shipped()[name].path, temporary)
    return out


def _choice(name: str, known: dict[str, Shipped]) -> str:
    return nearest(name, known) or f"; choose one of {', '.join(known)}"
