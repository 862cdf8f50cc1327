"""Simulation of photons in the liquid-xenon detector: cascade, light, sensors, files.

`crosssections` and `cascade` make energy deposits, `clusters` gathers them, `direct`, `indirect` and
`lightmap` carry their light to the sensors, `photons` does the same photon by photon, `response` turns light
into what the sensors report, `vertices` and `generate` make events and files of them. Lengths are in cm,
times in ns and energies in MeV inside this package.
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
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    with suppress(OSError):
        for index in (folder / "__pycache__").glob("*.nbi"):
            if index.stat().st_mtime < newest:
                index.unlink(missing_ok=True)


_forget_stale_code()
