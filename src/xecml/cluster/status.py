"""Status of submitted jobs: from squeue, from the exit status that each script leaves, and from a training's log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xecml.cluster import job_records, slurm
from xecml.cluster.batch_script import TASK
from xecml.cluster.job_records import Record
from xecml.cluster.slurm import Queued
from xecml.errors import printable
from xecml.files import mode_of

_TAIL_BYTES = 64 * 1024
_LONGEST_LINE = 300
_ENDS = {"0": "finished", "75": "stopped before its end"}


@dataclass(frozen=True)
class Status:
    """How a job, or a task of an array, stands.

    Attributes:
        record: of the job.
        task: of its array; none without one.
        state: in words: `running`, `pending (Priority)`, `finished`, `failed with status 2`, ...
        open: whether it waits or runs.
        failed: whether it ended otherwise than well.
        time: that it has run for, and nodes where; empty where SLURM does not know it any more.
        nodes: of it.
        epoch: last whole epoch of a training.
        rate: events per second in that epoch.
        log: file of its output.
    """

    record: Record
    task: int | None
    state: str
    open: bool
    failed: bool
    time: str
    nodes: str
    epoch: int | None
    rate: float | None
    log: Path

    @property
    def name(self) -> str:
        """Number of the job, with that of the task."""
        return self.record.id if self.task is None else f"{self.record.id}_{self.task}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        own = {key: value for key, value in vars(self).items() if key != "record"}
        return {"job": self.name, "cluster": self.record.cluster, "name": self.record.name, **own, "log": str(self.log)}


def status(folders: Sequence[Path]) -> list[Status]:
    """How the jobs of folders stand; of an array every task.

    Raises:
        InputError: a record is damaged, or SLURM does not answer.
    """
    jobs = [(folder, record) for folder in folders for record in job_records.read(folder)]
    known = slurm.squeue(record.cluster for _, record in jobs) if jobs else {}
    return [
        _one(folder, record, task, known.get((record.cluster, record.id), []))
        for folder, record in jobs
        for task in (record.tasks if record.array else [None])
    ]


def cancel(folder: Path) -> list[Record]:
    """Cancel the jobs of a folder that wait or run, and return them.

    Raises:
        InputError: a record is damaged, or SLURM refuses.
    """
    found: dict[str | None, dict[str, Record]] = {}
    for one in status([folder]):
        if one.open:
            found.setdefault(one.record.cluster, {})[one.record.id] = one.record
    for cluster, records in found.items():
        slurm.scancel(cluster, list(records))
    return [record for records in found.values() for record in records.values()]


def tail(log: Path, lines: int) -> list[str]:
    """The last lines of a log; of a line that was overwritten, as progress bars are, the last state."""
    return [printable(line.rpartition("\r")[2].rstrip(), _LONGEST_LINE) for line in _last_lines(log, lines)]


def _last_lines(path: Path, lines: int) -> list[str]:
    if mode_of(path) is None or not lines:
        return []
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        text = file.read().decode(errors="replace").rstrip()
    return text.split("\n")[-lines:] if text else []


def _one(folder: Path, record: Record, task: int | None, queued: list[Queued]) -> Status:
    stem = f"job_{record.number}" + ("" if task is None else f"_{task}")
    own = next((one for one in queued if _is_of(one, task)), None)
    state, is_open, failed = _state(own, _text(folder / f"{stem}.status"))
    last = {} if record.run is None else _last_epoch(Path(record.run.replace(TASK, str(task))))
    rate = last.get("system/throughput_events_per_sec")
    return Status(
        record=record,
        task=task,
        state=state,
        open=is_open,
        failed=failed,
        time=own.time if own else "",
        nodes=own.nodes if own else "",
        epoch=last.get("epoch"),
        rate=rate,
        log=folder / f"{stem}.log",
    )


def _is_of(one: Queued, task: int | None) -> bool:
    """Whether what squeue has is of a task: its own, or one of those that wait together."""
    if task is None:
        return True
    numbers = one.task.partition("_")[2].strip("[]").partition("%")[0]
    for part in filter(None, numbers.split(",")):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        numbered = first.isdecimal() and (last or first).isdecimal()
        if numbered and task in range(int(first), int(last or first) + 1, int(step) if step.isdecimal() else 1):
            return True
    return False


def _state(own: Queued | None, left: str) -> tuple[str, bool, bool]:
    """A state in words, whether it goes on, and whether it ended otherwise than well."""
    if own is not None and not own.over:
        waits = own.state == "PENDING" and own.reason not in ("None", "")
        return own.state.lower() + (f" ({own.reason})" if waits else ""), True, False
    ended = own.state.lower().replace("_", " ") if own is not None and own.state != "COMPLETED" else ""
    if left == "0":
        return _ENDS["0"], False, False
    if left.isdecimal():
        how = _ENDS.get(left, f"failed with status {left}")
        return how + (f" ({ended})" if ended not in ("", "failed") else ""), False, True
    if ended:
        return ended, False, True
    if left == "requeued":
        return "requeued, but no longer in the queue", False, True
    return "ended without an exit status: it was killed, or its node failed", False, True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _last_epoch(run: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics."""
    for line in reversed(_last_lines(run / "metrics.jsonl", 2)):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def counted(found: Sequence[Status]) -> str:
    """States of the tasks of an array in a line: `finished 12, running 4`."""
    return ", ".join(f"{state} {n}" for state, n in Counter(one.state for one in found).most_common())
