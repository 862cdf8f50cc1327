"""Paths: expanding what users type, atomic writing, the cache folder."""

from __future__ import annotations

import glob
import os
import platform
import re
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
    mode = mode_of(path, what)
    if mode is None:
        raise InputError(f"No such {what}: {path}; check the path.")
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise InputError(f"{path} is {kind}, not a {what}; name an ordinary file.")
    return Path(path)


def mode_of(path: str | Path, what: str = "file") -> int | None:
    """Kind and permissions of what is at a path, as `os.stat` has them; None if nothing is there.

    Raises:
        InputError: the name is empty or impossible, or may not be looked at.
    """
    if not str(path):
        raise InputError(f"The name of a {what} is empty; give one, or check the variable that should hold it.")
    try:
        return Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # no permission, a name too long, a NUL in it
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"Cannot read the {what} {str(path)[:200]!r}: {why}; check the path.") from error


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there.

    Raises:
        InputError: the name is empty or impossible, or may not be looked at.
    """
    mode = mode_of(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_url(name: str | Path) -> bool:
    """Whether a name is an address such as `root://...`, and not one of this machine's files."""
    return re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://", str(name)) is not None


def _matching(name: str) -> list[str]:
    """What a name means: itself if something is there under it, else the files that it is a pattern of."""
    if mode_of(name) is not None:
        return [name]
    if not glob.has_magic(name):
        raise InputError(f"No such file: {name}; check the path.")
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute patterns too
    if not matches:
        raise InputError(f"No file matches {name}; check the pattern.")
    return matches


_UNFINISHED: set[Path] = set()
"""Temporary files of this process."""
_SWEPT: set[Path] = set()
"""Folders in which this process has looked for what killed ones left."""
_LEFT = re.compile(r"\..*\.xec-(?P<host>[^.]+)-(?P<process>\d+)\.[^.]+(\.\w+)?")
_LONGEST_STEM = 60


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    The suffix is kept, because libraries choose formats by it. Parent folders are made. Temporary files that killed
    processes of this machine left in the folder are removed.

    Raises:
        InputError: the folder cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_special(target)
        _sweep(target.parent)
        prefix = f".{target.stem[:_LONGEST_STEM]}.xec-{_host()}-{os.getpid()}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror}; choose another output path.") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"Cannot write {str(target)!r}: {error}; choose another output path.") from error
    os.close(handle)
    temporary = Path(name)
    _UNFINISHED.add(temporary)
    try:
        yield temporary
        # mkstemp makes private files; results get the permissions of any other new file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
        _UNFINISHED.discard(temporary)


def _refuse_special(target: Path) -> None:
    """Refuse a folder, and a pipe, socket or device, which a file would replace."""
    mode = target.stat().st_mode if target.exists() else 0
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise InputError(f"Cannot write {target}: it is {kind}; give a file name.")


def remove_temporaries() -> None:
    """Remove what this process has not finished writing, before it ends without a chance to do so itself."""
    for path in list(_UNFINISHED):
        path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove temporary files of processes of this machine that are no more, once a folder."""
    if folder in _SWEPT:
        return
    _SWEPT.add(folder)
    for path in folder.glob(".*.xec-*"):
        found = _LEFT.fullmatch(path.name)
        if found and found["host"] == _host() and not _runs(int(found["process"])):
            path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", platform.node())[:40] or "host"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def expand(inputs: str | Path | Iterable[str | Path], suffix: str = ".root") -> list[str]:
    """Expand files, globs, directories and `root://` URLs to a list of file names.

    A directory stands for its files of the given suffix, sorted by name. A file or directory whose name looks like a
    pattern is taken as itself. Order is kept, repeats too.

    Raises:
        InputError: a name matches no file, or something that is no ordinary file.
    """
    names = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    found: list[str] = []
    for given in map(str, names):
        name = re.sub("^file://(?=/)", "", given)
        if is_url(name):
            found.append(name)
        elif is_folder(name):
            found += _inside(name, suffix)
        else:
            found += [str(regular_file(match)) for match in _matching(name)]
    if not found:
        raise InputError("No input file was named; give at least one file, folder or pattern.")
    return found


def _inside(folder: str, suffix: str) -> list[str]:
    try:
        inside = [str(p) for p in Path(folder).iterdir() if p.suffix == suffix and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"Cannot look into the folder {folder}: {error.strerror}; check its permissions.") from error
    if not inside:
        raise InputError(f"The folder {folder} holds no {suffix} file; name a folder of data files.")
    return [str(regular_file(path)) for path in sorted(inside)]
