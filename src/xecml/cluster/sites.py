"""Profiles of sites with batch systems, from YAML; entries of the user's file override the shipped ones."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from xecml.errors import InputError, nearest
from xecml.limits import Count, Counted, error_reason
from xecml.yamlfile import read_yaml

SHIPPED = Path(__file__).parent / "sites.yaml"
_EXAMPLE = "sites such as 'mycluster:' with keys such as 'partition:' and 'account:'"
_DURATION = re.compile(r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?P<rest>\d+(?::\d+){0,2}))")
_MEMORY = re.compile(r"\d{1,9}[KMGT]?")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def seconds_of(text: str) -> int:
    """Seconds of a duration as SLURM writes it: `30` (minutes), `30:00`, `12:00:00`, `2-0`, `2-12:30`, `7-00:00:00`.

    Raises:
        ValueError: it is none, or no time at all.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("it is no duration; write minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    if found["rest"] is None:
        days, hours, minutes, seconds = (int(found[key] or 0) for key in ("d", "dh", "dm", "ds"))
    else:
        parts = [int(part) for part in found["rest"].split(":")]
        # one number is minutes, two are minutes and seconds
        days = 0
        hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < total < 366 * 86400:
        raise ValueError("it is no time between a second and a year")
    return total


def _duration(text: str) -> str:
    seconds_of(text)
    return text


def memory(text: str) -> str:
    """Check an amount of memory as SLURM writes it: `64G`, `4000M`.

    Raises:
        ValueError: it is none.
    """
    if not _MEMORY.fullmatch(text):
        raise ValueError("it is no amount of memory; write it like 64G or 4000M")
    return text


def word(text: str) -> str:
    """Check a name that SLURM has given to something.

    Raises:
        ValueError: it is none, and could be taken for something else in a script.
    """
    if not _WORD.fullmatch(text):
        raise ValueError("it is no name of SLURM's; letters, digits and . _ + - belong there")
    return text


def address(text: str) -> str:
    """Check the name of a machine.

    Raises:
        ValueError: it is none.
    """
    if not _ADDRESS.fullmatch(text):
        raise ValueError("it is no name of a machine; write it like login.example.org")
    return text


def _as_text(value: Any) -> Any:
    """Whole numbers stand for themselves: minutes, megabytes, names of accounts."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Duration = Annotated[str, BeforeValidator(_as_text), AfterValidator(_duration)]
Memory = Annotated[str, BeforeValidator(_as_text), AfterValidator(memory)]
Word = Annotated[str, BeforeValidator(_as_text), AfterValidator(word)]


class Partition(BaseModel):
    """A partition of a site.

    Attributes:
        cluster: of SLURM that has it, where a site has several; named in every call.
        architecture: of its nodes, as `uname -m` says it; the job finds it out itself, this only serves to warn.
        limit: longest time of a job.
        gpus: of a node that a job gets unless told otherwise.
        most_gpus: of all nodes of a job together.
        cpus_per_gpu: processors with each GPU, or of a job without.
        mem_per_gpu: memory with each GPU, or of a job without.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    cluster: Word | None = None
    architecture: Word | None = None
    limit: Duration | None = None
    gpus: Counted = 1
    most_gpus: Counted | None = None
    cpus_per_gpu: Count = 8
    mem_per_gpu: Memory = "32G"


class Site(BaseModel):
    """A site.

    Attributes:
        account: that jobs are counted on.
        partition: where jobs go unless told otherwise; that of SLURM by default.
        time: of a job unless told otherwise; the partition's limit by default.
        partitions: by name; where there are none, any name is taken.
        warning: seconds before the end of its time at which a job is warned.
        environment: Python environment of a job, with `{arch}` for the architecture of its node.
        setup: lines of shell before the command, such as `module load ...`.
        login: address of a login node, by which one reaches compute nodes; that of this machine by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    account: Word | None = None
    partition: Word | None = None
    time: Duration | None = None
    partitions: dict[Word, Partition] = Field(default_factory=dict)
    warning: Annotated[Count, Field(le=65535)] = 300
    environment: str = ".venv-{arch}"
    setup: list[str] = Field(default_factory=list)
    login: Annotated[str, AfterValidator(address)] | None = None

    def find(self, name: str | None) -> tuple[str | None, Partition]:
        """A partition by its name, or the usual one, with its name.

        Raises:
            InputError: the site has no such partition.
        """
        name = name or self.partition
        if name is None or not self.partitions:
            return name, Partition()
        if name not in self.partitions:
            known = ", ".join(self.partitions)
            raise InputError(f"There is no partition '{name}'{nearest(name, self.partitions)}; choose one of {known}.")
        return name, self.partitions[name]


def user_file() -> Path:
    """Where the user's sites are: `xecml/sites.yaml` under `XDG_CONFIG_HOME` or `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "xecml" / "sites.yaml"


def load_sites() -> tuple[dict[str, Site], str]:
    """All sites by name, and the usual one.

    Raises:
        InputError: the user's file cannot be read, or a key or value in it is wrong; names key and place.
    """
    tree, _ = read_yaml(SHIPPED, "file of sites", _EXAMPLE)
    lines: dict[str, int] = {}
    path = user_file()
    if path.exists():
        own, lines = read_yaml(path, "file of sites", _EXAMPLE)
        tree = _laid(tree, own)
    usual = tree.pop("default_site", "generic")
    sites = {}
    for name, values in tree.items():
        try:
            sites[name] = Site.model_validate({} if values is None else values)
        except ValidationError as error:
            raise InputError(_explained(error, name, lines, path)) from error
    if usual not in sites:
        raise InputError(f"{path}: default_site names no site; choose one of {', '.join(sites)}.")
    return sites, str(usual)


def site_of(name: str | None) -> tuple[str, Site]:
    """A site by its name, or the usual one, with its name.

    Raises:
        InputError: there is none of this name, or the user's file is wrong.
    """
    sites, usual = load_sites()
    name = name or usual
    if name not in sites:
        raise InputError(
            f"There is no site '{name}'{nearest(name, sites)}; choose one of {', '.join(sites)}, or describe it in "
            f"{user_file()}."
        )
    return name, sites[name]


def _explained(error: ValidationError, name: str, lines: dict[str, int], path: Path) -> str:
    """What is wrong in the user's file, and where."""
    problem = error.errors(include_url=False)[0]
    parts = [name, *(part for part in problem["loc"] if isinstance(part, str) and part != "[key]")]
    key = ".".join(parts)
    where = f"{path}, line {lines[key]}" if key in lines else str(path)
    if problem["type"] == "extra_forbidden":
        known = (Partition if "partitions" in parts[:-1] else Site).model_fields
        return f"{where}: there is no key '{key}'{nearest(parts[-1], known)}; choose among {', '.join(known)}."
    return f"{where}: {key}: {error_reason(problem)}."


def _laid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One tree over another; sections that both have are laid over one another too."""
    both = {k: _laid(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return below | above | both
