"""The script of a job: a header with the requested resources, the choice of the environment, the command, its end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xecml.cluster.demands import Demands
from xecml.errors import InputError
from xecml.limits import shown

TASK = "{task}"
"""In a word of a command: the number of the task in its array."""
FILES = "{files}"
"""As a word of a command: the files of this task."""
_NOT_IN_HEADERS = frozenset("\"'\\%#$`")


@dataclass(frozen=True)
class Script:
    """What a script is made of.

    Attributes:
        name: of the job.
        demands: of SLURM.
        command: words after `xec`; in an array TASK and FILES stand for what differs.
        folder: where the command runs, absolute.
        stem: of the job's files: script, log, status; absolute, without suffix.
        environment: Python environment, with `{arch}` for the architecture; in `folder` or absolute.
        setup: lines of shell before the command.
        own: `xec` that submitted the job and its architecture, taken on nodes like it where `environment` is missing.
        last: checkpoint by which one sees that this job has already saved, where it begins from another.
    """

    name: str
    demands: Demands
    command: Sequence[str]
    folder: Path
    stem: Path
    environment: str
    setup: Sequence[str] = ()
    own: tuple[str, str] | None = None
    last: Path | None = None

    def text(self) -> str:
        """The script.

        Raises:
            InputError: a folder or name cannot stand in a header.
        """
        return "\n".join(["#!/bin/bash", *self._header(), "", *self._body(), ""])

    def _header(self) -> list[str]:
        asked = self.demands
        options = {
            "job-name": _in_header(self.name),
            "clusters": asked.cluster, "partition": asked.partition, "account": asked.account,
            "time": asked.time, "nodes": asked.nodes, "ntasks-per-node": asked.tasks, "cpus-per-task": asked.cpus,
            "mem": asked.mem, "gres": f"gpu:{asked.gpus}" if asked.gpus else None,
            "signal": f"USR1@{asked.warning}", "requeue": "", "open-mode": "append", "array": asked.array,
            "dependency": f"afterok:{asked.after}" if asked.after else None,
            "kill-on-invalid-dep": "yes" if asked.after else None,
            "chdir": _in_header(str(self.folder)),
            "output": _in_header(str(self.stem), "_%a.log" if asked.array else ".log"),
        }  # fmt: skip
        given = {name: value for name, value in options.items() if value is not None}
        return [f"#SBATCH --{name}{_value(value)}" for name, value in given.items()]

    def _body(self) -> list[str]:
        arch, own = self.environment.replace("{arch}", '"$arch"'), self.own
        clusters = f" -M {self.demands.cluster}" if self.demands.cluster else ""
        array, stem = self.demands.array is not None, shlex.quote(str(self.stem))
        lines = [
            "# made by 'xec submit'",
            "ended=",
            "trap 'ended=1' TERM  # cancelled, or put back by SLURM itself: not to be put back once more",
            "arch=$(uname -m)",
            f"xec={_quoted_around(arch)}/bin/xec",
        ]
        if own is not None:
            lines.append(f'[ -x "$xec" ] || [ "$arch" != {shlex.quote(own[1])} ] || xec={shlex.quote(own[0])}')
        if array:
            lines += ["task=$SLURM_ARRAY_TASK_ID"]
        lines += [
            f"status_file={stem}{'_$task' if array else ''}.status",
            'rm -f "$status_file"',
            'if [ ! -x "$xec" ]; then',
            '  echo "xec submit: there is no $xec in $PWD for this node ($arch); make it on such a node with:'
            ' make install VENV=${xec%/bin/xec}" >&2',
            '  echo 2 > "$status_file"',
            "  exit 2",
            "fi",
            *self.setup,
            'export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"',
            'echo "xec submit: job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST'
            ' ($arch, $SLURM_NTASKS tasks, ${SLURM_JOB_GPUS:+GPUs }${SLURM_JOB_GPUS:-no GPU}), $xec, $(date +%FT%T)"',
        ]
        return [
            *lines,
            *self._command(),
            'echo "xec submit: ended with status $status, $(date +%FT%T)"',
            'echo "$status" > "$status_file"',
            "# 143: SLURM ended the steps and not this script, as before a preemption",
            'if { [ "$status" = 75 ] || [ "$status" = 143 ]; } && [ -z "$ended" ]; then',
            f'  if scontrol{clusters} requeue "$SLURM_JOB_ID"; then',
            '    echo requeued > "$status_file"',
            "  else",
            f'    echo "xec submit: SLURM does not put this job back; go on with: sbatch {stem}.sh" >&2',
            "  fi",
            "fi",
            'exit "$status"',
        ]

    def _command(self) -> list[str]:
        # one process may have more to do than others, and each is to come to its own end
        start = 'srun --wait=0 --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" "$xec"'
        words, lines = list(self.command), list[str]()
        if FILES in words:
            table = shlex.quote(f"{self.stem}.files")
            lines += [f"mapfile -t files < <(awk -F '\\t' -v t=\"$task\" '$1 == t {{ print $2 }}' {table})"]
        if self.last is not None:
            at = words.index("--resume_from")
            given, words[at : at + 2] = words[at + 1], ["{resume}"]
            script, last = shlex.quote(f"{self.stem}.sh"), self._expanded(str(self.last))
            lines += [
                f"resume={self._expanded(given)}",
                f"[ ! {last} -nt {script} ] || resume=auto  # this job has saved: it goes on from there",
            ]
        return [*lines, f"{start} {' '.join(map(self._expanded, words))}", "status=$?"]

    def _expanded(self, given: str) -> str:
        """A word as the shell is to read it."""
        if given == FILES:
            return '"${files[@]}"'
        if given == "{resume}":
            return '--resume_from "$resume"'
        if self.demands.array is None or TASK not in given:
            return shlex.quote(given)
        return '"$task"'.join(shlex.quote(part) if part else "" for part in given.split(TASK))


def _value(value: object) -> str:
    return "" if value == "" else f"={value}"


def _in_header(text: str, suffix: str = "") -> str:
    """A path or name as sbatch reads it, in quotes where it has blanks.

    Args:
        text: of the user.
        suffix: that is put to it, of SLURM's own patterns.

    Raises:
        InputError: it holds characters that sbatch or the script would read as something else.
    """
    if any(letter in _NOT_IN_HEADERS for letter in text) or not text.isprintable():
        raise InputError(
            f"SLURM cannot be told of {shown(text)}: it holds one of \\ % # $ ` or quotes; use another name."
        )
    return f'"{text}{suffix}"' if " " in text else text + suffix


def _quoted_around(pattern: str) -> str:
    """A path with the shell's variable in it, the rest quoted."""
    return '"$arch"'.join(shlex.quote(part) if part else "" for part in pattern.split('"$arch"'))
