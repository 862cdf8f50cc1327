"""Rec files by run number: `430000:100` means the existing files of a hundred runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from xecml.errors import InputError
from xecml.events import number_of
from xecml.files import is_folder, regular_file
from xecml.limits import LARGEST_INT32, cut

DEFAULT_SUFFIX = ".root"
_MOST_RUNS = 1_000_000


@dataclass(frozen=True)
class RunFiles:
    """Files of a range of runs.

    Attributes:
        paths: by run, ascending.
        missing: runs without a file.
    """

    paths: dict[int, str]
    missing: tuple[int, ...]


def parse_runs(text: str) -> tuple[int, int]:
    """Read a range of runs, `START:N`: the first run and how many numbers from there on.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"(\d{1,10}):(\d{1,7})", text.strip())
    start, number = (int(part) for part in found.groups()) if found else (0, 0)
    if not found or number < 1 or number > _MOST_RUNS or start + number - 1 > LARGEST_INT32:
        raise InputError(
            f"'{cut(text)}' is no range of runs; give the first run and how many, such as 430000:100 "
            f"({_MOST_RUNS} at most)."
        )
    return start, number


def files_of_runs(folder: str | Path, start: int, number: int, suffix: str = DEFAULT_SUFFIX) -> RunFiles:
    """Find `rec<run><suffix>` of every run, of six digits or five, in the folder or in `<run // 1000>xxx` there.

    Args:
        folder: where to look.
        start: first run.
        number: of runs.
        suffix: what follows the run in a name, such as `_open.root`.

    Raises:
        InputError: there is no such folder, no file of any run, or the suffix is not that of a ROOT file.
    """
    if not suffix.endswith(".root") or "/" in suffix:
        raise InputError(
            f"The suffix '{cut(suffix)}' must end in .root and name no folder; give one such as _open.root."
        )
    if not is_folder(folder):
        raise InputError(f"There is no folder {folder}; give with --dir where the rec files are.")
    found: dict[int, str] = {}
    for run in range(start, start + number):
        for place in (Path(folder) / f"{run // 1000:03d}xxx", Path(folder)):
            for name in (f"rec{run:06d}{suffix}", f"rec{run:05d}{suffix}"):
                if run not in found and (place / name).exists():
                    found[run] = str(regular_file(place / name))
    if not found:
        raise InputError(
            f"{folder} has no file of the {number_of(number, 'run')} from {start} on, such as rec{start:06d}{suffix}; "
            "check --dir, --runs and --suffix."
        )
    return RunFiles(found, tuple(run for run in range(start, start + number) if run not in found))
