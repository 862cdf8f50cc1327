"""Opening of ROOT files, local or by address; problems become one sentence, and reading has a time limit."""

from __future__ import annotations

import math
import mmap
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uproot

from xecml.errors import InputError
from xecml.files import is_url, regular_file

TIMEOUT = "XECML_TIMEOUT"
"""Environment variable: seconds after which a server that does not answer is given up."""
_TIMEOUT_SECONDS = 60.0


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn errors of uproot about a damaged or wrong file into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # uproot raises dozens of types on damaged files
        raise InputError(_reason(path, error)) from error


def _reason(path: str, error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    detail = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if is_url(path):
        return _remote_reason(path, error, first, detail)
    if isinstance(error, FileNotFoundError):
        return f"No such file: {path}; check the path."
    return f"{path} cannot be read as a ROOT file; it is damaged or incomplete ({detail})."


def _remote_reason(path: str, error: Exception, first: str, detail: str) -> str:
    if isinstance(error, ImportError):
        return f"{path} needs a package that is not installed; for root:// addresses: pip install 'xecml[xrootd]'."
    if isinstance(error, TimeoutError) or "expired" in first:
        return (
            f"{path} did not answer within {timeout_seconds():g} s; check the address and the network, "
            f"or set {TIMEOUT} to more seconds."
        )
    if isinstance(error, OSError | ValueError):
        # what XRootD says follows a description of the call that failed
        said = re.sub(r"^.*(?=\[(?:ERROR|FATAL)\])", "", first) or type(error).__name__
        return f"{path} cannot be opened; check the address and the server ({said})."
    return (
        f"{path} cannot be read as a ROOT file; it is damaged or incomplete, or its server sends no parts of files "
        f"({detail})."
    )


def timeout_seconds() -> float:
    """Seconds to wait for a server: `XECML_TIMEOUT`, or 60.

    Raises:
        InputError: the variable holds no number of seconds.
    """
    text = os.environ.get(TIMEOUT, "")
    try:
        seconds = float(text or _TIMEOUT_SECONDS)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise InputError(f"The environment variable {TIMEOUT} is '{text}'; give seconds, 1 or more.")
    return seconds


def _options(path: str) -> dict[str, Any]:
    """How uproot is to read a file."""
    if not is_url(path):
        # mapped files need no copy of their compressed bytes
        return {"handler": uproot.MemmapSource}
    seconds = timeout_seconds()
    if path.startswith("root"):
        # the client looks at its clock every 15 s unless told otherwise, and asks a server's settings without a limit
        os.environ.setdefault("XRD_TIMEOUTRESOLUTION", "1")
        os.environ.setdefault("XRD_REQUESTTIMEOUT", str(math.ceil(seconds)))
        # at the end of the program it asks every object of others for its type
        warnings.filterwarnings("ignore", module=r"XRootD\.")
        return {"timeout": math.ceil(seconds)}
    return {"timeout": seconds} if path.startswith("http") else {}


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a file for reading: uproot's directory of it.

    Raises:
        InputError: nothing is there, it is no ROOT file, truncated, not closed, or its server does not answer.
    """
    if not is_url(path):
        regular_file(path)
    options = _options(path)
    with readable(path):
        # in a dictionary, for uproot takes other names apart at colons; caches would keep arrays of closed files
        file = uproot.open({path: None}, object_cache=None, array_cache=None, **options)
    with file:
        _check_whole(path, file)
        yield file


def forget_pages(file: Any) -> None:
    """Give back the memory of what was read of a mapped file, which counts as the process's own while it is mapped.

    What is read of it again comes from the disk, or the system's cache; nothing that was read changes.
    """
    mapped = getattr(getattr(getattr(file, "source", None), "file", None), "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _check_whole(path: str, file: Any) -> None:
    size, end = _size(path), file.file.fEND  # where the file ended when its header was written
    if size is not None and size < end:
        raise InputError(
            f"{path} is truncated: {size} of {end} bytes are there; it is damaged or incomplete, copy it again."
        )
    # ROOT writes the list of contents last
    if file.fSeekKeys <= file.file.fBEGIN or (size is not None and size > end and not file.keys()):
        raise InputError(
            f"{path} was not closed, as when its job is killed, and has no list of its contents; open it once for "
            f'update in ROOT, which recovers what it can: TFile f("{Path(path).name}", "UPDATE").'
        )


def _size(path: str) -> int | None:
    return None if is_url(path) else Path(path).stat().st_size


def bytes_after_end(path: str, file: Any) -> int:
    """Bytes behind the end that a file's header tells, of a file that was not closed: no tree knows of them."""
    size = _size(path)
    return 0 if size is None else max(0, size - int(file.file.fEND))


def tree_names(path: str, file: Any) -> list[str]:
    """Names of the TTrees and RNTuples in an open file."""
    with readable(path):
        classes = file.classnames(cycle=False)
    return [key for key, kind in classes.items() if kind == "TTree" or kind.endswith("RNTuple")]


def listing(names: Iterable[str], most: int = 12) -> str:
    """Names in a row, for messages."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "") or "none"
