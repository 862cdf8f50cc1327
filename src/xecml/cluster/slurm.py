"""SLURM's commands sbatch, squeue and scancel, with the name of the cluster if a site has several."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xecml.errors import InputError, printable

_SECONDS = 60
_FIELDS = "%i|%T|%r|%M|%N|%F"
_TOLD = re.compile(r"(\d+)(?:;[\w.-]+)?")


@dataclass(frozen=True)
class Queued:
    """A job, or some tasks of an array, as squeue has it.

    Attributes:
        job: number, that of the array for its tasks.
        task: `12_3` or `12_[4-9]`, or the number again.
        state: such as `RUNNING`, `PENDING`, `COMPLETED`.
        reason: why it waits.
        time: that it has run for.
        nodes: where.
    """

    job: str
    task: str
    state: str
    reason: str
    time: str
    nodes: str

    @property
    def over(self) -> bool:
        """Whether it has ended; SLURM remembers that for some minutes."""
        return self.state not in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "SUSPENDED",
                                  "REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED", "SIGNALING", "STAGE_OUT",
                                  "RESIZING")  # fmt: skip


def sbatch(script: Path) -> str:
    """Submit a script and return the number of its job.

    Raises:
        InputError: SLURM is not here, or refuses the job; says why.
    """
    # what is set for other jobs, or by the job that submits this one, would go before the script's header
    environment = {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith(("SBATCH_", "SLURM_"))}
    said = _call(["sbatch", "--parsable", str(script)], environment)
    found = _TOLD.fullmatch(said.strip().splitlines()[-1] if said.strip() else "")
    if found is None:
        raise InputError(f"sbatch did not say which job it made of {script}, but: {printable(said.strip(), 200)}.")
    return found[1]


def squeue(clusters: Iterable[str | None]) -> dict[tuple[str | None, str], list[Queued]]:
    """What SLURM knows of the user's jobs: by cluster and number, those that wait, run, or ended some minutes ago.

    Args:
        clusters: to ask; None is that of this machine, where a site has one.

    Raises:
        InputError: SLURM is not here, or does not answer.
    """
    found: dict[tuple[str | None, str], list[Queued]] = {}
    for cluster in dict.fromkeys(clusters):
        asked = [f"--user={getpass.getuser()}", "--states=all", "--noheader", f"--format={_FIELDS}"]
        for line in _call(["squeue", *_of(cluster), *asked]).splitlines():
            parts = line.split("|")
            if len(parts) == 6:  # with several clusters a line above the jobs names each
                task, state, reason, time, nodes, job = parts
                one = Queued(job=job, task=task, state=state, reason=reason, time=time, nodes=nodes)
                found.setdefault((cluster, job), []).append(one)
    return found


def scancel(cluster: str | None, jobs: Sequence[str]) -> None:
    """Cancel jobs of a cluster.

    Raises:
        InputError: SLURM is not here, or refuses; says why.
    """
    _call(["scancel", *_of(cluster), *jobs])


def _of(cluster: str | None) -> list[str]:
    return ["-M", cluster] if cluster else []


def _call(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise InputError(
            f"{command[0]} was not found; jobs are submitted where SLURM is, on a login node of the cluster."
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{command[0]} did not answer within {_SECONDS} s; try again when SLURM is less busy."
        ) from None
    except OSError as error:
        raise InputError(
            f"{command[0]} cannot be run: {error.strerror}; ask the administrators of the cluster."
        ) from error
    if done.returncode:
        why = printable(" ".join(done.stderr.split()), 400).rstrip(".") or f"it ended with status {done.returncode}"
        raise InputError(f"{command[0]} refused: {why}; change what it names and try again.")
    return done.stdout
