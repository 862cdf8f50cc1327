"""The commands `xec recipes` and `xec recipes copy`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from xecml.cli.printing import Debug, Force, Json, show, show_table

recipes_app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


def _recipe_names() -> list[str]:
    from xecml.recipes.shipped import shipped

    return list(shipped())


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """List the recipes and settings that are shipped: --config takes each by its name, --map branch maps."""
    if context.invoked_subcommand is not None:
        return
    from xecml.recipes.shipped import shipped

    if as_json:
        print(json.dumps({one.name: {"meaning": one.meaning, "usage": one.usage} for one in shipped().values()}))
        return
    show_table("", ["name", "for", ""], [[o.name, f"xec {o.command}", o.meaning] for o in shipped().values()])
    print("Use one by its name (--config regress); 'xec recipes copy regress' writes one to edit.")


@recipes_app.command("copy")
def recipes_copy(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name that 'xec recipes' lists.", autocompletion=_recipe_names)
    ],
    to: Annotated[
        Path | None, typer.Argument(metavar="TO", help="File or folder to write to; by default NAME.yaml here.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a shipped recipe to a file, to edit it."""
    from xecml.recipes.shipped import copy_recipe, shipped

    out = copy_recipe(name, to, force=force)
    option = shipped()[name].option
    usage = shipped()[name].usage.replace(f"{option} {name}", f"{option} {shlex.quote(str(out))}")
    show(as_json, {"out": out, "usage": usage}, f"Wrote {out}; use it with: {usage}")
