"""Histograms of what an event file holds, filled chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.checks.rules import Marks, normalised
from xecml.events import Chunk
from xecml.geometry import N_SIPM, Floats

_BINS = 60


@dataclass(frozen=True)
class Distribution:
    """A histogram: `contents` (60,) between `low` and `high`; the outermost bins hold what lies beyond, too.

    Attributes:
        name: of the quantity, with its unit.
        part: which values, where several are shown together; else empty.
        low: lower end.
        high: upper end.
        contents: values by bin.
    """

    name: str
    part: str
    low: float
    high: float
    contents: Floats

    @property
    def edges(self) -> Floats:
        """Ends of the bins, (61,)."""
        return np.linspace(self.low, self.high, len(self.contents) + 1)


def _column(branch: str, index: int | None = None, scale: float = 1.0) -> Callable[[Chunk, Mapping[str, Marks]], Any]:
    def values(chunk: Chunk, measured: Mapping[str, Marks]) -> NDArray[Any]:
        good = chunk[branch][measured[branch]]
        return np.asarray((good if index is None else good[:, index]) * scale)

    return values


def _sensors(branch: str, part: slice) -> Callable[[Chunk, Mapping[str, Marks]], Any]:
    def values(chunk: Chunk, measured: Mapping[str, Marks]) -> NDArray[Any]:
        return normalised(branch, chunk[branch][:, part][measured[branch][:, part]])

    return values


def _light(branch: str) -> Callable[[Chunk, Mapping[str, Marks]], Any]:
    def values(chunk: Chunk, measured: Mapping[str, Marks]) -> NDArray[Any]:
        total = np.where(measured[branch], chunk[branch], 0.0).sum(1, dtype=np.float64)
        return np.asarray(np.log10(total[total > 0]))

    return values


def _lit(branch: str) -> Callable[[Chunk, Mapping[str, Marks]], Any]:
    return lambda chunk, measured: measured[branch].sum(1)


_SIPMS, _PMTS = slice(0, N_SIPM), slice(N_SIPM, None)
_KINDS = (("SiPM", _SIPMS), ("PMT", _PMTS))
_QUANTITIES = (
    *(
        (f"normalised {branch}", kind, branch, -1.5, 3.5, _sensors(branch, part))
        for branch in ("npho", "time", "relative_npho", "relative_time")
        for kind, part in _KINDS
    ),
    ("sensors with light", "", "npho", 0, 4760, _lit("npho")),
    ("log10 of photons in an event", "", "npho", 3, 7.5, _light("npho")),
    ("energyTruth [MeV]", "", "energyTruth", 0, 100, _column("energyTruth", None, 1e3)),
    ("timeTruth [ns]", "", "timeTruth", -50, 50, _column("timeTruth", None, 1e9)),
    ("emiAng theta [deg]", "", "emiAng", 0, 180, _column("emiAng", 0)),
    ("emiAng phi [deg]", "", "emiAng", -90, 90, _column("emiAng", 1)),
    ("uvwTruth u [cm]", "", "uvwTruth", -35, 35, _column("uvwTruth", 0)),
    ("uvwTruth v [cm]", "", "uvwTruth", -75, 75, _column("uvwTruth", 1)),
    ("uvwTruth w [cm]", "", "uvwTruth", -2, 42, _column("uvwTruth", 2)),
)


class Distributions:
    """Histograms of all known quantities of a file."""

    def __init__(self) -> None:
        self._contents: dict[int, Floats] = {}

    def add(self, chunk: Chunk, measured: Mapping[str, Marks]) -> None:
        """Add a chunk; `measured` masks the values of each branch."""
        for i, (_, _, branch, low, high, values) in enumerate(_QUANTITIES):
            if branch in chunk:
                inside = np.clip(values(chunk, measured), low, np.nextafter(high, low))
                contents, _ = np.histogram(inside, _BINS, (low, high))
                self._contents[i] = self._contents.get(i, np.zeros(_BINS)) + contents

    def collected(self) -> tuple[Distribution, ...]:
        """What was filled, in a fixed order."""
        return tuple(
            Distribution(name, part, low, high, self._contents[i])
            for i, (name, part, _, low, high, _) in enumerate(_QUANTITIES)
            if i in self._contents and self._contents[i].any()
        )
