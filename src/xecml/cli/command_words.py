"""Convert the words of a command line to the values of a command's parameters, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import typer

from xecml.errors import InputError
from xecml.inference.output_parts import Manifest
from xecml.limits import shown


@dataclass(frozen=True)
class Ordinary:
    """An ordinary command, as a job is to run it.

    Attributes:
        words: of the command, after `xec`; in an array TASK and FILES stand for what differs.
        name: of the job.
        folder: where the job's files go.
        several: whether it runs in several processes.
        array: numbers of the tasks as SLURM writes them.
        tasks: one by one.
        files: input files by task, or all of them under `""`.
        run: folder of a training, with TASK where that differs.
        last: checkpoint by which one sees that the job has already saved, where it begins from another.
        manifest: of an output in parts.
        notices: what was understood, a line each.
        done: why there is nothing to submit; empty where there is.
        session: file in which a server says where it is.
    """

    words: list[str]
    name: str
    folder: Path
    several: bool = False
    array: str | None = None
    tasks: list[int] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    run: Path | None = None
    last: Path | None = None
    manifest: Manifest | None = None
    notices: list[str] = field(default_factory=list)
    done: str = ""
    session: Path | None = None


def read(command: str, words: Sequence[str], *, name: str | None = None) -> dict[str, Any]:
    """Values of a command's parameters by name, as it reads them; none for those not given that have no default.

    Args:
        command: after `xec`.
        words: that follow it.
        name: of the job, that of a run too where the command has one and none is given.
    """
    context = command_named(command).make_context(f"xec {command}", list(words))
    values = dict(context.params)
    if name is not None and "name" in values:
        values["name"] = values["name"] or name
    return values


def written(command: str, values: Mapping[str, Any]) -> list[str]:
    """Words of a command line, after `xec`, that give parameters these values; defaults are left out."""
    arguments, options = list[str](), list[str]()
    for parameter in command_named(command).params:
        value = values.get(parameter.name or "")
        if value is None or value == [] or value == () or value == parameter.default or value is False:
            continue
        many = [plain(item) for item in (value if isinstance(value, list | tuple) else [value])]
        if parameter.param_type_name == "argument":
            arguments += many
        elif value is True:
            options.append(parameter.opts[0])
        else:
            options += [word for item in many for word in (parameter.opts[0], item)]
    # what begins with a dash is a file all the same
    separated = ["--", *arguments] if any(word.startswith("-") for word in arguments) else arguments
    return [command, *options, *separated] if separated is not arguments else [command, *arguments, *options]


def plain(value: Any) -> str:
    """A value as a word of a script.

    Raises:
        InputError: it holds a character that cannot be printed.
    """
    text = str(getattr(value, "value", value))
    if not text.isprintable():
        raise InputError(
            f"{shown(text)} cannot stand in the script of a job: it holds a character that cannot be printed."
        )
    return text


def command_named(name: str) -> Any:
    """A command by its name after `xec`."""
    return _commands()[name]


@cache
def _commands() -> Any:
    from xecml.cli.commands import app

    return typer.main.get_command(app).commands  # type: ignore[attr-defined]
