"""Records of submitted jobs: `jobs.json` in the folder of a run, and the files of each job beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xecml.errors import InputError
from xecml.files import atomic_path
from xecml.inference.output_parts import SUFFIX
from xecml.outputs import mark

__all__ = ["RECORDS", "SUFFIX", "Record", "add", "claim_number", "folder_of", "folders_below", "read"]
RECORDS = "jobs.json"


class Record(BaseModel):
    """A job that was submitted.

    Attributes:
        id: number that SLURM gave it.
        cluster: of SLURM; none where the site has one.
        name: of the job.
        site: where it runs.
        command: words after `xec`.
        submitted: time of day, ISO 8601.
        number: of the job in its folder, from 1; its files are `job_<number>...`.
        array: numbers of its tasks as SLURM writes them; none without an array.
        tasks: the same numbers one by one.
        run: folder of the training; `{task}` stands for the number of a task.
        files: input files by task, or all of them under `""`; empty for trainings.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str
    cluster: str | None = None
    name: str
    site: str
    command: list[str]
    submitted: str
    number: int
    array: str | None = None
    tasks: list[int] = Field(default_factory=list)
    run: str | None = None
    files: dict[str, list[str]] = Field(default_factory=dict)


def folder_of(named: str | Path) -> Path:
    """Folder with the job records of a run's folder or an output file.

    Raises:
        InputError: no job was submitted for it.
    """
    given = Path(named)
    for folder in (given, given.with_name(f"{given.name}{SUFFIX}") if given.name else given):
        if (folder / RECORDS).is_file():
            return folder
    raise InputError(f"There are no jobs of {given}; name the folder of a run or the output file that was submitted.")


def folders_below(start: Path) -> list[Path]:
    """Folders with records in a folder and two levels below it, those last submitted to first."""
    found = [path for pattern in ("", "*/", "*/*/") for path in start.glob(f"{pattern}{RECORDS}") if path.is_file()]
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def read(folder: Path) -> list[Record]:
    """Jobs of a folder, the first one first; none where there is no record.

    Raises:
        InputError: the record is damaged.
    """
    path = folder / RECORDS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Record.model_validate(job) for job in content["jobs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}); move it away, and use squeue to see the jobs."
        ) from error


def add(folder: Path, record: Record) -> None:
    """Write down a job."""
    jobs: list[dict[str, Any]] = [one.model_dump(mode="json") for one in [*read(folder), record]]
    with atomic_path(folder / RECORDS) as temporary:
        temporary.write_text(json.dumps({"made": mark(), "jobs": jobs}, indent=1) + "\n", encoding="utf-8")


def claim_number(folder: Path) -> int:
    """A number that no other job of a folder has; its script stands there empty from now on.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in _numbers(folder):
            try:
                os.close(os.open(folder / f"job_{number}.sh", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            except FileExistsError:
                continue
            return number
    except OSError as error:
        raise InputError(f"Jobs cannot be kept in {folder}: {error.strerror}; choose another output.") from error
    raise AssertionError("numbers do not end")


def _numbers(folder: Path) -> Iterator[int]:
    number = max((one.number for one in read(folder)), default=0)
    while True:
        number += 1
        yield number
