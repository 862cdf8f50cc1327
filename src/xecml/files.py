"""Paths: expanding what users type, atomic writing, the cache folder."""

from __future__ import annotations

import glob
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xecml.errors import InputError


def cache_dir() -> Path:
    """Return the user's cache folder for derived files such as the light map (made if missing).

    `XECML_CACHE` names it outright; else it is `xecml` under `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        InputError: it cannot be made.
    """
    named = os.environ.get("XECML_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(named) if named else Path(base) / "xecml"
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # a file is there, nothing may be written, there is no such user
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"The cache folder {folder} cannot be made: {why}; set XECML_CACHE to another.") from error
    return folder


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular_file(path: str | Path, what: str = "file") -> Path:
    """Return the path if an ordinary file is there, or a link to one; nothing is opened, so nothing can hang.

    Args:
        path: of the file.
        what: the file is, for messages: "recipe", "checkpoint", ...

    Raises:
        InputError: nothing is there, its name is impossible, or it is a folder, pipe, socket or device.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"No such {what}: {path}; check the path.") from error
    except (OSError, ValueError) as error:  # no permission, a name too long, a NUL in it
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"Cannot read the {what} {str(path)[:200]!r}: {why}; check the path.") from error
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise InputError(f"{path} is {kind}, not a {what}; name an ordinary file.")
    return Path(path)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    The suffix is kept, because libraries choose formats by it. Parent folders are made.

    Raises:
        InputError: the folder cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise InputError(f"Cannot write {target}: it is a folder; give a file name.")
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror}; choose another output path.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; results get the permissions of any other new file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def expand(inputs: str | Path | Iterable[str | Path], suffix: str = ".root") -> list[str]:
    """Expand files, globs, directories and `root://` URLs to a list of file names.

    A directory stands for its files of the given suffix, sorted by name. Order is kept, repeats too.

    Raises:
        InputError: a name matches no file.
    """
    names = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    found: list[str] = []
    for name in map(str, names):
        if "://" in name:
            found.append(name)
        elif Path(name).is_dir():
            inside = sorted(str(p) for p in Path(name).iterdir() if p.suffix == suffix and not p.name.startswith("."))
            if not inside:
                raise InputError(f"The folder {name} holds no {suffix} file; name a folder of data files.")
            found += inside
        elif Path(name).is_file():
            found.append(name)
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute patterns too
            if not matches:
                raise InputError(f"No file matches {name}; check the pattern.")
            found += matches
        else:
            raise InputError(f"No such file: {name}; check the path.")
    if not found:
        raise InputError("No input file was named; give at least one file, folder or pattern.")
    return found
