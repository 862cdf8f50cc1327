"""Modules of the folder `benchmarks`, which import one another as those of a script do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@contextmanager
def modules(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Modules by name, in an order in which each finds those it imports; forgotten at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)
