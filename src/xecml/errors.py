"""The exception for wrong input, which users can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong, where, and what to do about it.

    The command line prints it without a traceback and ends with exit status 2.
    """


def printable(text: str, most: int | None = None) -> str:
    r"""Text on one line that every terminal and picture can show: what is no sign is an escape, such as `\n`.

    Args:
        text: of the user or a file.
        most: characters after which it is cut; all by default.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
    return shown[:most]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` for the known name nearest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
