"""The worker of a trial: a file that only one process can create, updated while it works, shows whether it still runs.

A journal of optuna has no heartbeat: a trial whose process was killed would be running in it for ever. So each start of
a trial has a file `start_<n>.json` in the folder of the trial, which says by whom and where.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from xecml.cluster import slurm
from xecml.errors import InputError
from xecml.outputs import mark

_TOUCH_S = 30.0
SILENT_S = 900.0
"""A worker of another machine, of no batch system that could be asked, is gone when its file is untouched so long."""
MOST_STARTS = 3
_NAME = re.compile(r"start_(\d+)\.json")
_GONE = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL",
         "DEADLINE", "PENDING", "REQUEUED", "REQUEUE_HOLD")  # fmt: skip
"""States of a job in which no process of it runs; that which waits runs anew from its beginning."""


@dataclass(frozen=True)
class Start:
    """A start of a trial.

    Attributes:
        number: of the start, from 1.
        host: machine.
        process: its number there.
        began: what tells the process from a later one of this number.
        job: of the batch system, with the task of an array; none outside of one.
        cluster: of SLURM that the job is in.
        saved: when the trial's checkpoint was written that this start goes on from, ns; 0 without one.
        released: whether it has ended in an orderly way, leaving the trial to others.
    """

    number: int
    host: str
    process: int
    began: str
    job: str | None
    cluster: str | None
    saved: int
    released: bool = False


def claim(folder: Path, checkpoint: Path) -> Start | None:
    """Take a trial for this process; None if another process has taken it meanwhile.

    Args:
        folder: of the trial's files.
        checkpoint: that the trial goes on from, if it is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = last_start(folder)
    saved = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    environment = os.environ
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    task = environment.get("SLURM_ARRAY_TASK_ID")
    start = Start(
        number=1 if last is None else last.number + 1,
        host=platform.node(),
        process=os.getpid(),
        began=_began(os.getpid()) or "",
        job=f"{job}_{task}" if job and task else job,
        cluster=environment.get("SLURM_CLUSTER_NAME") if job else None,
        saved=saved,
    )
    temporary = folder / f".start.{start.host}.{start.process}.{time.monotonic_ns()}"
    temporary.write_text(json.dumps({"made": mark(), **asdict(start)}) + "\n", encoding="utf-8")
    try:
        # a link is there whole or not at all, and only one process can make it, on shared folders too
        os.link(temporary, _path(folder, start.number))
    except FileExistsError:
        return None
    finally:
        temporary.unlink()
    return start


def release(folder: Path, start: Start) -> None:
    """Leave a trial to whoever takes it next."""
    path = _path(folder, start.number)
    temporary = path.with_name(f".{path.name}.released")
    values = asdict(start) | {"released": True}
    temporary.write_text(json.dumps({"made": mark(), **values}) + "\n", encoding="utf-8")
    temporary.replace(path)


@contextmanager
def at_work(folder: Path, start: Start) -> Iterator[None]:
    """While active, the file of a start is touched now and then."""
    done = threading.Event()

    def touch() -> None:
        while not done.wait(_TOUCH_S):
            with suppress(OSError):
                os.utime(_path(folder, start.number))

    thread = threading.Thread(target=touch, daemon=True, name="at work")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def last_start(folder: Path) -> Start | None:
    """The last start of a trial; None if it was never started."""
    found = starts(folder)
    return found[-1] if found else None


def starts(folder: Path) -> list[Start]:
    """All starts of a trial, the first one first."""
    found = []
    for path in folder.glob("start_*.json") if folder.is_dir() else ():
        if (name := _NAME.fullmatch(path.name)) is None:
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found.append(Start(**{key: values[key] for key in Start.__dataclass_fields__}))
        except (OSError, ValueError, KeyError, TypeError):
            found.append(Start(int(name[1]), "", 0, "", None, None, 0, released=True))
    return sorted(found, key=lambda start: start.number)


def leads_nowhere(folder: Path) -> bool:
    """Whether the last starts of a trial all began at the same place, and but for this one were killed there."""
    last = starts(folder)[-MOST_STARTS:]
    killed = not any(start.released for start in last)
    return killed and len(last) == MOST_STARTS and len({start.saved for start in last}) == 1


def is_alive(folder: Path, start: Start) -> bool:
    """Whether the process of a start may still work on its trial."""
    if start.released:
        return False
    if start.host == platform.node():
        return _began(start.process) == start.began
    if start.job is not None and (known := _job_runs(start)) is not None:
        return known
    try:
        touched = _path(folder, start.number).stat().st_mtime
    except OSError:
        return False
    return _now(folder) - touched < SILENT_S


def _job_runs(start: Start) -> bool | None:
    """Whether SLURM runs the job of a start; None where it cannot be asked, or knows nothing of it."""
    assert start.job is not None
    number, _, task = start.job.partition("_")
    own = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if number == own and task == os.environ.get("SLURM_ARRAY_TASK_ID", ""):
        return False  # this very job, put back to its queue and begun anew
    here = os.environ.get("SLURM_CLUSTER_NAME")
    asked = start.cluster if start.cluster != here else None
    try:
        queued = slurm.squeue([asked]).get((asked, number))
    except InputError:
        return None
    own_task = [one for one in queued or () if not task or one.task == start.job]
    return any(one.state not in _GONE for one in own_task) if own_task else None


def _path(folder: Path, number: int) -> Path:
    return folder / f"start_{number}.json"


def _now(folder: Path) -> float:
    """The time of day by the clock that stamps files of a folder."""
    path = folder / f".now.{platform.node()}.{os.getpid()}"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def _began(process: int) -> str | None:
    """When a process of this machine began, in its own count; None where there is none."""
    if not Path("/proc/self/stat").exists():  # not Linux: the number has to do
        try:
            os.kill(process, 0)
        except OSError:
            return None
        return ""
    try:
        # the name in parentheses may hold blanks
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]
