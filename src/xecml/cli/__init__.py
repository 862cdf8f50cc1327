"""The command line."""

from xecml.cli.commands import main

__all__ = ["main"]
