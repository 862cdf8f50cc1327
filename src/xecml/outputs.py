"""Which files commands may write: never their inputs, and existing files only if the same command made them.

Every product carries a mark, `made by 'xec COMMAND'`: the title of a tree, the metadata of an ONNX file, the creator of
a PDF, a key of JSON. It is looked for in the first and last bytes of a file, so that asking costs nothing.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from xecml.errors import InputError
from xecml.files import is_url

_MAKER: ContextVar[str] = ContextVar("maker", default="")
_LOOKED_AT = 256 * 1024
_MARK = re.compile(rb"made by 'xec ([a-z]+)'")
# files whose form has no place for a mark
_BEGINNINGS = (
    (".csv", re.compile(rb"run,event,(true|pred)_"), "train"),
    (".csv", re.compile(rb"run,event,n_valid,n_timed,"), "predict"),
    (".jsonl", re.compile(rb'\{"epoch": |\A\Z'), "train"),  # empty before the end of the first epoch
    (".pth", re.compile(rb"xecml-checkpoint"), "train"),
)


@contextmanager
def making(command: str) -> Iterator[None]:
    """While active, files are marked as made by a command; serves as a decorator too.

    What a command uses of others (a training exports and draws) is made by the command.
    """
    token = _MAKER.set(_MAKER.get() or command)
    try:
        yield
    finally:
        _MAKER.reset(token)


def mark() -> str:
    """The mark that goes into files written now."""
    command = _MAKER.get()
    return f"made by 'xec {command}'" if command else "made by xecml"


def made_by(path: str | Path) -> str | None:
    """The command that made a file, as far as the file says; None for files of other origin."""
    file = Path(path)
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        head = opened.read(_LOOKED_AT)
        opened.seek(max(size - _LOOKED_AT, 0))
        found = _MARK.search(head) or _MARK.search(opened.read(_LOOKED_AT))
    if found:
        return found.group(1).decode()
    for suffix, beginning, command in _BEGINNINGS:
        if file.suffix == suffix and beginning.search(head):
            return command
    return None


def claim(
    outputs: Iterable[str | Path],
    *,
    inputs: Iterable[str | Path | None] = (),
    force: bool = False,
) -> tuple[Path, ...]:
    """Make sure that the command that is `making` may write its outputs; name on standard error what it will replace.

    Args:
        outputs: all files that will be written.
        inputs: whatever the command reads: files, globs, folders, shards, URLs, models, lists; None is nothing.
        force: replace files of other origin too; inputs are never replaced.

    Returns:
        The outputs that stand there already.

    Raises:
        InputError: an output is one of the inputs, under whatever name, or was not made by this command.
    """
    there = refuse_inputs(outputs, inputs)
    for path in there:
        if not force:
            may_replace(path)
    if there:
        print(f"xec: replacing {_listed(there)} of an earlier 'xec {_MAKER.get()}'", file=sys.stderr, flush=True)
    return tuple(there)


def may_replace(path: Path) -> None:
    """Make sure that a file that stands there already was made by the command that is `making`.

    Raises:
        InputError: it was not.
    """
    command = _MAKER.get()
    if path.is_file() and made_by(path) != command:
        raise InputError(
            f"{path} exists and was not made by 'xec {command}'; choose another output path, or give --force to "
            "replace it."
        )


def refuse_inputs(outputs: Iterable[str | Path], inputs: Iterable[str | Path | None]) -> list[Path]:
    """Return the outputs that stand there already, unless one of them is an input under whatever name.

    Raises:
        InputError: an output is an input, or lies in a folder that is one.
    """
    there = [path for path in map(Path, outputs) if _exists(path)]
    read = _identities(str(name) for name in inputs if name is not None) if there else {}
    for path in there:
        if (name := read.get(_identity(path))) is not None:
            raise InputError(f"Cannot write {path}: it is the input {name}; choose another output path.")
    return there


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL: whoever opens it says so
        return False


def _identity(path: str | Path) -> tuple[int, int]:
    """What is the same for all names of a file: links of both kinds, ways through other folders."""
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _identities(names: Iterable[str]) -> dict[tuple[int, int], str]:
    """Inputs by identity: files, and those in folders that are named."""
    found: dict[tuple[int, int], str] = {}
    for name in names:
        if is_url(name):
            continue
        matches = [name] if _exists(Path(name)) else glob.glob(name, recursive=True)  # noqa: PTH207
        for path in map(Path, matches):
            inside = path.iterdir() if path.is_dir() else ()
            found |= {_identity(p): str(p) for p in (path, *inside) if p.exists()}
    return found


def _listed(paths: list[Path], most: int = 6) -> str:
    names = ", ".join(map(str, paths[:most]))
    return f"{names} and {len(paths) - most} more" if len(paths) > most else names
