"""The runs in files, and whether conditions cover them; checked before any computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xecml.conditions import Conditions
from xecml.data import source
from xecml.errors import InputError
from xecml.geometry import Ints

_AT_ONCE = 1_000_000


def runs_in(path: str, tree: str, names: Mapping[str, str] | None = None, *, needs: str = "--conditions") -> Ints:
    """Runs of a file's events, each once and ascending.

    Args:
        path: of the file.
        tree: name of its tree.
        names: its names of branches, where they are others.
        needs: option that runs are needed for, for the message.

    Raises:
        InputError: it cannot be read, or has no run numbers.
    """
    found = np.empty(0, np.int64)
    with source.open_events(path, tree, source.names_here(path, tree, names)) as reader:
        if not reader.has("run"):
            raise InputError(f"{path} has no run numbers, which {needs} needs; leave {needs} out.")
        for start in range(0, reader.n_events, _AT_ONCE):
            stop = min(start + _AT_ONCE, reader.n_events)
            found = np.union1d(found, reader.arrays(["run"], start, stop)["run"].astype(np.int64))
    return found


def check_covered(
    conditions: Conditions, paths: Sequence[str], tree: str, names: Mapping[str, str] | None = None
) -> None:
    """Make sure that every event's run is in a range of the conditions.

    Raises:
        InputError: names the runs that are in none, or a file without run numbers.
    """
    for path in dict.fromkeys(paths):
        conditions.rows(runs_in(path, tree, names), path)
