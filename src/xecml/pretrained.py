"""Trained models that come with the package: found by their names, and made from a finished training.

A shipped model is a checkpoint of its averaged weights alone, in the folder `weights`. Matrices are kept in 16 bits,
which changes answers by far less than a percent of their resolution; constants of the input and of the targets keep
their 32. Beside it stand the recipe it was trained with and the record of its training (`NAME.yaml`, `NAME.jsonl`).
"""

from __future__ import annotations

import re
from pathlib import Path

from xecml.errors import InputError, nearest

FOLDER = Path(__file__).parent / "weights"
PREFIX = "pretrained:"
"""Begins the name of a shipped model where a file could be named: `pretrained:signal`."""
_SUFFIX = ".pth"


def names() -> list[str]:
    """Names of the shipped models."""
    return sorted(path.stem for path in FOLDER.glob(f"*{_SUFFIX}"))


def pretrained_file(name: str) -> Path:
    """The checkpoint of a shipped model.

    Raises:
        InputError: there is none of that name.
    """
    known = names()
    if name not in known:
        hint = nearest(name, known) or (f"; choose one of {', '.join(known)}" if known else "; this package has none")
        raise InputError(f"There is no shipped model '{name}'{hint}.")
    return FOLDER / f"{name}{_SUFFIX}"


def model_file(given: str | Path) -> Path:
    """The file that a user means: one on disk, or a shipped model by `pretrained:NAME`.

    Raises:
        InputError: there is no shipped model of that name.
    """
    text = str(given)
    return pretrained_file(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else Path(given)


def is_shipped(path: str | Path) -> bool:
    """Whether a file is one of the shipped models."""
    return Path(path).resolve().parent == FOLDER.resolve() and bool(re.fullmatch(r"[\w-]+\.pth", Path(path).name))
