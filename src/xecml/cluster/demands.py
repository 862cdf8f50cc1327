"""The resources of a job: what the user requests, completed from the site's profile and checked against its limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from xecml.cluster.sites import Partition, Site, memory, seconds_of, word
from xecml.errors import InputError
from xecml.events import number_of

_T = TypeVar("_T")
_ARRAY = re.compile(r"\d+(?:-\d+(?::\d+)?)?(?:,\d+(?:-\d+(?::\d+)?)?)*")
_MOST_TASKS = 10_000
_AMOUNT = re.compile(r"(\d+)([KMGT]?)")


@dataclass(frozen=True)
class Wanted:
    """The resources that a user requests; None where the site's profile decides.

    Attributes:
        partition: of the site.
        time: duration as SLURM writes it.
        gpus: on each node.
        nodes: number of them.
        mem: memory of a node, as SLURM writes it.
        account: that the job is counted on.
        after: job, or jobs with colons between them, that have to end well before.
        array: number of tasks, or their numbers as SLURM writes them (`0-3`, `1,5`, `0-99%4`).
    """

    partition: str | None = None
    time: str | None = None
    gpus: int | None = None
    nodes: int = 1
    mem: str | None = None
    account: str | None = None
    after: str | None = None
    array: str | None = None


@dataclass(frozen=True)
class Demands:
    """What a job asks SLURM for.

    Attributes:
        cluster: of SLURM; none where the site has one.
        partition: of it; none for SLURM's usual one.
        account: none for SLURM's usual one.
        time: duration as SLURM writes it.
        nodes: number of them.
        gpus: on each node.
        tasks: processes on each node.
        cpus: processors of each process.
        mem: memory of a node.
        warning: seconds before its end at which the job is warned.
        architecture: that the nodes should have, where the profile says it.
        after: jobs that have to end well before.
        array: numbers of tasks as SLURM writes them.
    """

    cluster: str | None
    partition: str | None
    account: str | None
    time: str
    nodes: int
    gpus: int
    tasks: int
    cpus: int
    mem: str
    warning: int
    architecture: str | None = None
    after: str | None = None
    array: str | None = None


def demands(site: Site, wanted: Wanted, *, several: bool) -> Demands:
    """What a job demands.

    Args:
        site: where it is to run.
        wanted: what was asked for.
        several: whether the command trains in several processes; others run in one.

    Raises:
        InputError: something is no time, amount or name, or more than the site gives.
    """
    name, partition = site.find(wanted.partition)
    if name is not None:
        _checked("--partition", name, word)
    time = wanted.time or site.time or partition.limit
    if time is None:
        raise InputError(
            "The site has no default time limit; say with --time how long the job may take, such as 1-00:00:00."
        )
    seconds = _checked("--time", time, seconds_of)
    if wanted.time is None and site.time and partition.limit and seconds > seconds_of(partition.limit):
        time, seconds = partition.limit, seconds_of(partition.limit)
    if partition.limit and seconds > seconds_of(partition.limit):
        raise InputError(
            f"--time {time} is more than the {partition.limit} of {name}; {_longer(site, partition, seconds)}."
        )
    gpus = partition.gpus if wanted.gpus is None else wanted.gpus
    if partition.most_gpus is not None and gpus * wanted.nodes > partition.most_gpus:
        raise InputError(
            f"{name} gives a job {number_of(partition.most_gpus, 'GPU')} at most, and {wanted.nodes} x {gpus} are "
            "asked for; lower --nodes or --gpus, or choose another --partition."
        )
    if not several and (wanted.nodes > 1 or gpus > 1):
        raise InputError("This command runs on one node and one GPU; share its work among tasks with --array.")
    if wanted.mem is not None:
        _checked("--mem", wanted.mem, memory)
    for option, value in (
        ("--account", wanted.account),
        *(("--after", job) for job in (wanted.after or "").split(":")),
    ):
        if value:
            _checked(option, value, word)
    return Demands(
        cluster=partition.cluster,
        partition=name,
        account=wanted.account or site.account,
        time=time,
        nodes=wanted.nodes,
        gpus=gpus,
        tasks=max(gpus, 1),
        cpus=partition.cpus_per_gpu,
        mem=wanted.mem or _times(partition.mem_per_gpu, max(gpus, 1)),
        # of a short job a quarter, since the warning is the end of its work
        warning=min(site.warning, max(seconds // 4, 1)),
        architecture=partition.architecture,
        after=wanted.after,
        array=None if wanted.array is None else array_of(wanted.array)[0],
    )


def array_of(text: str) -> tuple[str, list[int]]:
    """An array as SLURM writes it, and the numbers of its tasks; of a single number that many, from 0.

    Raises:
        InputError: it is none.
    """
    numbers, percent, at_once = text.partition("%")
    wrong = InputError(
        f"--array {text} names no tasks; give a number of tasks, or their numbers such as 0-9, 1,5 or 0-99%4."
    )
    if not _ARRAY.fullmatch(numbers) or (percent and not re.fullmatch(r"[1-9]\d{0,4}", at_once)):
        raise wrong
    if numbers.isdecimal():
        if not 0 < int(numbers) <= _MOST_TASKS:
            raise wrong
        return f"0-{int(numbers) - 1}{percent}{at_once}", list(range(int(numbers)))
    found: list[int] = []
    for part in numbers.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        ends = (int(first), int(last or first))
        if ends[1] < ends[0] or ends[1] > 10**6 or (step and not int(step)) or ends[1] - ends[0] >= _MOST_TASKS:
            raise wrong
        found += range(ends[0], ends[1] + 1, int(step or 1))
    if len(set(found)) != len(found) or len(found) > _MOST_TASKS:
        raise wrong
    return text, found


def _checked(option: str, value: str, check: Callable[[str], _T]) -> _T:
    try:
        return check(value)
    except ValueError as error:
        raise InputError(f"{option} {value}: {error}.") from None


def _longer(site: Site, given: Partition, seconds: int) -> str:
    """Partitions of the same nodes that give so much time."""
    same = (given.cluster, given.architecture, given.gpus)
    fit = [
        name
        for name, one in site.partitions.items()
        if (one.cluster, one.architecture, one.gpus) == same and one.limit and seconds_of(one.limit) >= seconds
    ]
    again = "a training goes on by itself when its time is over"
    return f"choose --partition {' or '.join(fit)}, or ask for less: {again}" if fit else f"ask for less: {again}"


def _times(amount: str, factor: int) -> str:
    found = _AMOUNT.fullmatch(amount)
    assert found is not None  # the profile was checked
    return f"{int(found[1]) * factor}{found[2]}"
