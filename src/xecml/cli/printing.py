"""What the command line prints: tables, results as text or JSON, and the options that several commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="ROOT files, globs or folders.")]
Tree = Annotated[str, typer.Option("--tree", help="Name of the tree in the files.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an output file even if XECML did not make it.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
"""Looked for by the front door among the words of the command line, whatever the command."""
Select = Annotated[
    str,
    typer.Option(
        "--select",
        metavar="COND",
        help="Use only events that meet this condition, such as 'energyTruth > 0.045 and fiducial'.",
    ),
]
Part = Annotated[
    str,
    typer.Option(
        "--share", metavar="FROM:TO", help="Use only this part of each file, such as 0.8:1 or 0.5 (the first half)."
    ),
]
ByRun = Annotated[
    Path | None,
    typer.Option(
        "--conditions", metavar="T", help="YAML or ROOT file with dead sensors, gains, ... for each range of runs."
    ),
]
Apply = Annotated[
    str,
    typer.Option(
        "--apply",
        metavar="WHAT",
        help="What to apply of the conditions besides dead sensors: 'gains efficiencies time_offsets'.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of random numbers; the same seed gives the same bytes.")]
DeadList = Annotated[
    Path | None,
    typer.Option(
        "--dead-list",
        help="File with ids of dead sensors, one per line; else the branch 'dead', else they are found in the data.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda; auto uses a GPU if there is one.")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="float32, or bf16 if the device supports it; the loss of precision is measured and printed.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Number of batches that are computed at the same time; answers do not depend on it.",
        show_default="free cores",
    ),
]


def show(as_json: bool, values: dict[str, Any], text: str) -> None:
    """Print a result, as one JSON object or as text."""
    print(json.dumps(values, default=str) if as_json else text)


def show_table(title: str, headers: list[str], rows: list[list[str]]) -> None:
    """Print a table, the first two columns to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", show_header=any(headers))
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i < 2 or not header else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    print_table(table, width=200)


def print_table(table: Table, *, width: int) -> None:
    """Print a table as wide as the terminal.

    A file has no width of its own: there it has `width` characters at most, and no blanks at the ends of lines.
    """
    from rich.console import Console

    if sys.stdout.isatty():
        Console(markup=False, emoji=False).print(table)
        return
    console = Console(width=width, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def lines(values: dict[str, Any]) -> str:
    """Values by name as text, a line each, and a line for each item of a dictionary."""
    rows: dict[str, str] = {}
    for key, value in values.items():
        items = {f"{key}: {k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        rows |= {name: plain(item) for name, item in items.items()}
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in rows.items())


def plain(value: Any) -> str:
    """A value as text: items of dictionaries and lists side by side, numbers to six digits, `none` for nothing."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"[{plain(v)}]" if isinstance(v, list | tuple) else plain(v) for v in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
