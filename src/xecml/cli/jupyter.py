"""The command `xec jupyter`: JupyterLab on this machine, for `xec submit jupyter`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xecml.cli.printing import Debug


def jupyter(
    session: Annotated[
        Path, typer.Option("--session", help="File to write with the address of the server; only you can read it.")
    ] = Path("jupyter.json"),
    debug: Debug = False,
) -> None:
    """Start JupyterLab in this folder with a token; 'xec submit jupyter' does so on a compute node."""
    from xecml.cluster.notebooks import serve

    serve(session)
