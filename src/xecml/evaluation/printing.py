"""Tables on a terminal and in files."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table


def print_table(table: Table, *, width: int) -> None:
    """Print a table as wide as the terminal.

    A file has no width of its own: there it has `width` characters at most, and no blanks at the ends of lines.
    """
    if sys.stdout.isatty():
        Console(markup=False, emoji=False).print(table)
        return
    console = Console(width=width, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
