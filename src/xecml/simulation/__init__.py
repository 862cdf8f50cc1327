"""Simulation of photons in the liquid-xenon detector: cascade, light, sensors, files.

`cascade` makes energy deposits, `light` carries their light to the sensors, `response` turns light into what the
sensors report, `vertices`, `blocks` and `generate` make events and files of them, `validation` compares with what is
known. Lengths are in cm, times in ns and energies in MeV inside this package.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def _forget_stale_code() -> None:
    """Remove compiled code older than any source of this package.

    The compiler's cache looks at the file of a function alone, not at the files of the functions that it
    calls.
    """
    folder = Path(__file__).parent
    newest = max(source.stat().st_mtime for source in folder.rglob("*.py"))
    with suppress(OSError):
        for index in folder.rglob("__pycache__/*.nbi"):
            if index.stat().st_mtime < newest:
                index.unlink(missing_ok=True)


_forget_stale_code()
