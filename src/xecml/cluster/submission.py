"""Submitting a command: its script, sbatch, and the record of the job."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from xecml.cluster import job_records, slurm
from xecml.cluster.batch_script import Script
from xecml.cluster.demands import Demands
from xecml.cluster.job_records import Record
from xecml.cluster.sites import Site
from xecml.files import atomic_path
from xecml.inference import output_parts
from xecml.inference.output_parts import Manifest
from xecml.outputs import making


@dataclass(frozen=True)
class Submission:
    """A command that is to be a job.

    Attributes:
        name: of the job.
        command: words after `xec`; in an array `batch_script.TASK` and `FILES` stand for what differs.
        folder: where the job's files and its record go.
        demands: of SLURM.
        site: its name and profile.
        tasks: numbers of the array's tasks.
        files: input files by task, or all of them under `""`.
        run: folder of a training, with TASK where that differs.
        last: checkpoint by which one sees that the job has already saved, where it begins from another.
        manifest: of an output in parts; kept in the folder from its first submission on.
    """

    name: str
    command: Sequence[str]
    folder: Path
    demands: Demands
    site: tuple[str, Site]
    tasks: Sequence[int] = ()
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    run: Path | None = None
    last: Path | None = None
    manifest: Manifest | None = None

    def script(self, number: int) -> Script:
        """The script of the job with a number in its folder; it runs in the current one."""
        here = Path.cwd()
        profile = self.site[1]
        return Script(
            name=self.name,
            demands=self.demands,
            command=self.command,
            folder=here,
            stem=here / self.folder / f"job_{number}",
            environment=profile.environment,
            setup=profile.setup,
            own=own_environment(),
            last=self.last,
        )


def own_environment() -> tuple[str, str] | None:
    """The `xec` beside the interpreter of this process, and the architecture of this machine."""
    xec = Path(sys.executable).parent / "xec"
    return (str(xec), platform.machine()) if os.access(xec, os.X_OK) else None


def dry_run(given: Submission) -> str:
    """The script and the line that would submit it; nothing is written."""
    number = max((one.number for one in job_records.read(given.folder)), default=0) + 1
    script = given.script(number)
    return f"{script.text()}\n{line_of(Path(f'{script.stem}.sh'))}"


def line_of(script: Path) -> str:
    """The line by which a script is submitted."""
    return f"sbatch --parsable {shlex.quote(str(script))}"


@making("submit")
def submit(given: Submission) -> Record:
    """Write the script of a job, submit it and record it.

    Raises:
        InputError: the folder cannot be written, or SLURM is not here or refuses the job.
    """
    given.script(1).text()  # what cannot be said in a script leaves nothing behind
    number = job_records.claim_number(given.folder)
    script = given.script(number)
    path = Path(f"{script.stem}.sh")
    table = Path(f"{script.stem}.files")
    known = output_parts.read(given.folder)
    try:
        if given.manifest is not None and given.manifest != known:
            output_parts.write(given.folder, given.manifest)
        with atomic_path(path) as temporary:
            temporary.write_text(script.text(), encoding="utf-8")
        if given.tasks and given.files:
            rows = [f"{task}\t{file}\n" for task, files in given.files.items() for file in files]
            with atomic_path(table) as temporary:
                temporary.write_text("".join(rows), encoding="utf-8")
        job = slurm.sbatch(path)
    except BaseException:
        path.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
        if given.manifest is not None and known is None:
            (given.folder / output_parts.NAME).unlink(missing_ok=True)
        elif given.manifest is not None and known is not None and given.manifest != known:
            output_parts.write(given.folder, known)
        raise
    record = Record(
        id=job,
        cluster=given.demands.cluster,
        name=given.name,
        site=given.site[0],
        command=list(given.command),
        submitted=datetime.now().astimezone().isoformat(timespec="seconds"),
        number=number,
        array=given.demands.array,
        tasks=list(given.tasks),
        run=None if given.run is None else str(Path.cwd() / given.run),
        files={task: list(files) for task, files in given.files.items()},
    )
    job_records.add(given.folder, record)
    return record


def shares(files: Sequence[str], tasks: Sequence[int]) -> dict[str, list[str]]:
    """Files shared among tasks, in their order and about equally large; no task without one.

    Args:
        files: at least as many as tasks.
        tasks: their numbers.
    """
    sizes = [max(_size(file), 1) for file in files]
    total, done, last = sum(sizes), 0, -1
    found: dict[str, list[str]] = {str(task): [] for task in tasks}
    for i, (file, size) in enumerate(zip(files, sizes, strict=True)):
        wanted = int((done + size / 2) / total * len(tasks))  # where the middle of the file lies among all bytes
        last = min(max(wanted, len(tasks) - (len(files) - i)), last + 1)
        found[str(tasks[last])].append(file)
        done += size
    return found


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size  # noqa: PTH116 - addresses too, which are no paths
    except OSError:
        return 1
