"""An open rec file: the quantities of its map, by entry range, in units and shapes of this package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.errors import InputError, nearest
from xecml.geometry import Floats, Ints
from xecml.limits import LARGEST_INT32
from xecml.realdata.branch_map import BranchEntry, RecMap
from xecml.realdata.shapes import of_events, of_photons, of_sensors
from xecml.rootio.nested import BranchFinder, Nested, Place
from xecml.rootio.opening import listing
from xecml.rootio.treereader import TreeReader

PHOTON_NUMBERS = ("energyReco", "timeReco")
PHOTON_VECTORS = ("xyzRecoFI", "uvwRecoFI")
_STANDING_IN = {
    "run": "the run number is taken from the file's name",
    "event": "events are numbered by their entries",
    "nphe": "photoelectrons are taken from counts, with the nominal efficiencies",
}
"""Quantities that a file may lack though the map names them, and what is done then."""


@dataclass
class Light:
    """What of a chunk of N events is read before any cut.

    Attributes:
        first: entry of the first event.
        run: (N,) int64.
        event: (N,) int64.
        photons: numbers (N, P) and vectors (N, P, 3) by name, NaN where not measured.
        vertices: (N, V, 3) cm, NaN where not measured; none if the map names none.
        numbers: what cuts look at, as in the file: `trigger` and `n_photons` (N,), `pileup`, `pair_photon`,
            `pair_vertex` (N, P).
    """

    first: int
    run: Ints
    event: Ints
    photons: dict[str, Floats] = field(default_factory=dict)
    vertices: Floats | None = None
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)


class RecFile:
    """An open rec file.

    Args:
        reader: of its tree.
        names: the map.

    Attributes:
        notices: what stands in for quantities that the file lacks.

    Raises:
        InputError: a branch that is needed is not there; a run number is neither in the file nor in its name.
    """

    def __init__(self, reader: TreeReader, names: RecMap) -> None:
        self.path, self.n_events, self.notices = reader.path, reader.n_events, list[str]()
        self._reader, self._map, self._finder = reader, names, BranchFinder(reader)
        self._places: dict[str, tuple[Place, ...]] = {}
        for name in _needed(names):
            self._find(name, getattr(names.branches, name))
        self._run = None if "run" in self._places or not self.n_events else run_of_name(self.path)

    def _find(self, name: str, entry: BranchEntry) -> None:
        if not entry.given:
            if name in _STANDING_IN and name != "nphe":
                self.notices.append(_STANDING_IN[name])
            return
        for candidate in entry.branch:
            if (place := self._finder.find(candidate)) is not None:
                self._places[name] = (place,)
                return
        parts = [self._finder.find(part) for part in entry.parts or ()]
        if parts and all(parts):
            self._places[name] = tuple(place for place in parts if place is not None)
        elif name in _STANDING_IN:
            self.notices.append(f"there is no branch {entry.named()}: {_STANDING_IN[name]}")
        else:
            raise InputError(self._missing(name, entry))

    def _missing(self, name: str, entry: BranchEntry) -> str:
        wanted = [*entry.branch, *(entry.parts or ())]
        objects = {n.split(".")[0] for n in wanted if "." in n}
        whole = next((n for n in objects if any(self._reader.has(key) for key in (n, f"{n}."))), None)
        if whole is not None and not any(
            key.startswith(f"{whole}.") for key in self._finder.names if key != f"{whole}."
        ):
            why = f"; '{whole}' holds whole objects, which need their own code: write it with split branches"
        else:
            first = next((hint for hint in (nearest(n, self._finder.names) for n in wanted) if hint), "")
            why = f"{first}; it has {listing(self._finder.names)}"
        without = "" if name in ("npho", "time") else f", or write '{name}: null' if there is none"
        return (
            f"{self.path} has no branch {entry.named()}, which the map names for {name}, in "
            f"'{self._reader.tree_name}'{why}; name it in a map (xec recipes copy prepare){without}."
        )

    def chunks(self, most: int) -> list[tuple[int, int]]:
        """Ranges of at most so many events, along the file's baskets, or equal parts of large ones."""
        branches = [self._places[name][0].branch for name in ("npho", "time", "nphe") if name in self._places]
        edges = self._reader.boundaries(branches)
        found, start = list[tuple[int, int]](), edges[0]
        for here, after in zip(edges[1:], [*edges[2:], None], strict=True):
            if after is None or after - start > most:
                parts = -(-(here - start) // most)
                found += pairwise(start + (here - start) * i // parts for i in range(parts + 1))
                start = here
        return found

    def has(self, name: str) -> bool:
        """Whether the file holds a quantity."""
        return name in self._places

    # --------------------------------------------------------------------------------------------------- reading

    def light(self, start: int, stop: int) -> Light:
        """Everything but sensors of events `start` to `stop`.

        Raises:
            InputError: a branch has another shape than its quantity; a number does not fit the files' int32.
        """
        light = Light(start, self._number("run", start, stop), self._number("event", start, stop))
        for name in PHOTON_NUMBERS:
            if self.has(name):
                light.photons[name] = self._measured(name, self._of_photons(name, start, stop))
        for name in PHOTON_VECTORS:
            if self.has(name):
                light.photons[name] = self._measured(name, self._of_photons(name, start, stop, 3))
        if self.has("xyzVTX"):
            light.vertices = self._measured("xyzVTX", self._of_photons("xyzVTX", start, stop, 3))
        for name in ("trigger", "n_photons"):
            if self.has(name):
                light.numbers[name] = of_events(self._nested(name, start, stop), self._what(name))
        for name in ("pileup", "pair_photon", "pair_vertex"):
            if self.has(name):
                light.numbers[name] = self._of_photons(name, start, stop)
        return light

    def sensors(self, name: str, start: int, stop: int, rows: Ints, photon: Ints) -> NDArray[Any]:
        """A quantity of all sensors, (R, 4760) in the file's unit and type, NaN where there is none.

        Args:
            name: of the quantity.
            start: first event of the chunk.
            stop: event after the last.
            rows: events of the chunk, (R,), counted from its first.
            photon: photon of each, (R,).
        """
        return of_sensors(self._nested(name, start, stop), self._what(name), rows, photon)

    def _what(self, name: str) -> str:
        return f"{self.path}: '{self._places[name][0].branch}', {name} of the map,"

    def _nested(self, name: str, start: int, stop: int, part: int = 0) -> Nested:
        return self._finder.nested(self._places[name][part], start, stop)

    def _of_photons(self, name: str, start: int, stop: int, size: int = 0) -> Floats:
        places = self._places[name]
        if len(places) == 1:
            return of_photons(self._nested(name, start, stop), self._what(name), size)
        parts = [of_photons(self._nested(name, start, stop, i), self._what(name)) for i in range(len(places))]
        if len({part.shape for part in parts}) != 1:
            raise InputError(f"{self._what(name)} has parts of different lengths; name branches that belong together.")
        return np.stack(parts, -1)

    def _measured(self, name: str, values: Floats) -> Floats:
        """In this package's unit; NaN where not measured, a vector as a whole."""
        entry: BranchEntry = getattr(self._map.branches, name)
        values = values * entry.factor
        with np.errstate(invalid="ignore"):
            missing = ~(np.abs(values) < entry.limit)
        values[missing.any(-1) if values.ndim == 3 else missing] = np.nan
        return values

    def _number(self, name: str, start: int, stop: int) -> Ints:
        if not self.has(name):
            return np.arange(start, stop) if name == "event" else np.full(stop - start, self._run, np.int64)
        values = of_events(self._nested(name, start, stop), self._what(name))
        with np.errstate(invalid="ignore"):
            fits = (np.abs(values.astype(np.float64)) <= LARGEST_INT32) & (values == np.trunc(values))
        if not fits.all():
            raise InputError(
                f"{self._what(name)} reaches {values[~fits][0]}, which int32 does not hold; number the events anew."
            )
        return values.astype(np.int64)


def _needed(names: RecMap) -> list[str]:
    """Quantities that are read, in the order of messages about them; those of cuts that are off are not."""
    off = {"trigger": names.selection.trigger is None, "pileup": names.selection.pileup is None}
    order = ("npho", "time", "nphe", "run", "event", *PHOTON_NUMBERS, *PHOTON_VECTORS, "xyzVTX", "pair_photon",
             "pair_vertex", "trigger", "pileup", "n_photons", "dead")  # fmt: skip
    return [name for name in order if not off.get(name)]


@contextmanager
def open_rec(path: str | Path, names: RecMap) -> Iterator[RecFile]:
    """Open a rec file.

    Raises:
        InputError: it cannot be read, has no such tree, or lacks a branch.
    """
    with rootio.open_tree(path, names.tree) as reader:
        yield RecFile(reader, names)


def run_of_name(path: str | Path) -> int:
    """Run number in a file's name: behind `rec` or `run`, else the only number of four digits or more.

    Raises:
        InputError: there is none, or several could be it.
    """
    stem = Path(path).name.removesuffix(".root")
    patterns = (r"rec[_-]?(\d+)", r"run[_-]?(\d+)", r"(\d{4,})")
    found = next((texts for pattern in patterns if (texts := re.findall(pattern, stem, re.IGNORECASE))), [])
    numbers = {int(text[:20]) for text in found}
    if len(numbers) != 1 or max(numbers) > LARGEST_INT32:
        raise InputError(
            f"{path} has no run numbers, and none can be taken from its name; name their branch in a map "
            "(xec recipes copy prepare), or call the file rec012345.root."
        )
    return numbers.pop()
