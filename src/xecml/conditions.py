"""Conditions by run: which sensors are dead in a range of runs, their gains, efficiencies, time offsets and noise.

A correction undoes what the sensors did: counts are divided by the gain and multiplied by the nominal efficiency over
the true one, the offset is taken off the times, and dead sensors are not measured. What depends on it in an event
(relative counts and times) is made anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError, nearest
from xecml.events import INVALID, PDE_SIPM, QE_PMT, Chunk, measured, relative_quantities
from xecml.geometry import N_SENSORS, N_SIPM, Floats, Ints

Marks = NDArray[np.bool_]

NOMINAL_EFFICIENCY = np.where(np.arange(N_SENSORS) < N_SIPM, PDE_SIPM, QE_PMT)
"""Photoelectrons for each photon, (4760,), by which counts in files are made of charges."""
RELATIVE = ("relative_npho", "relative_time")
_LISTED = 6


class Quantity(NamedTuple):
    """A quantity of each sensor that conditions may hold: its bounds, its default and its meaning."""

    low: float
    high: float
    default: float | None
    meaning: str


QUANTITIES = {
    "gains": Quantity(0.01, 100.0, 1.0, "charge over what the calibration takes it for"),
    "efficiencies": Quantity(1e-3, 1.0, None, "photoelectrons for each photon"),
    "time_offsets_ns": Quantity(-1e5, 1e5, 0.0, "ns by which a sensor's times are late"),
    "noise_photoelectrons": Quantity(0.0, 1e4, 0.0, "electronic noise of a count, rms, photoelectrons"),
}
"""What conditions may hold of each sensor besides `dead`, by its key in files."""
CORRECTIONS = {"dead": "dead", "gains": "gains", "efficiencies": "efficiencies", "time_offsets": "time_offsets_ns"}
"""What can be corrected for, by its name on the command line, and the key in files that it is of."""


def default_of(quantity: str) -> Floats:
    """Values (4760,) of a quantity where a range of runs does not give it."""
    default = QUANTITIES[quantity].default
    return NOMINAL_EFFICIENCY.astype(np.float64) if default is None else np.full(N_SENSORS, default)


class Factors(NamedTuple):
    """What counts, charges and times are corrected by; a row for each range of runs that occurs.

    Attributes:
        counts: factors (K, 4760).
        charges: factors of photoelectrons (K, 4760).
        offsets: seconds that are taken off (K, 4760).
        efficiency: photoelectrons for each photon of a corrected count (K, 4760).
        of: the row of each event (N,).
    """

    counts: Floats
    charges: Floats
    offsets: Floats
    efficiency: Floats
    of: Ints


@dataclass(frozen=True)
class Conditions:
    """A table of conditions; ranges ascend and do not overlap.

    Attributes:
        path: file that it was read from.
        digest: of its content, 16 hex digits.
        first: first run of each range (R,).
        last: last run of each range (R,).
        dead: masks (R, 4760).
        values: (R, 4760) by quantity.
        given: by quantity, ranges (R,) that give it.
    """

    path: Path
    digest: str
    first: Ints
    last: Ints
    dead: Marks
    values: Mapping[str, NDArray[np.float32]]
    given: Mapping[str, Marks]

    def __len__(self) -> int:
        return len(self.first)

    def named(self, rows: Iterable[int] | None = None) -> str:
        """Ranges in words; the first few of many."""
        chosen = list(range(len(self)) if rows is None else rows)
        said = [run_range(int(self.first[i]), int(self.last[i])) for i in chosen]
        more = f" and {len(said) - _LISTED} more" if len(said) > _LISTED else ""
        return ", ".join(said[:_LISTED]) + more

    def uncovered(self, runs: ArrayLike) -> Ints:
        """Runs, each once and ascending, that are in no range."""
        different = np.unique(np.asarray(runs, np.int64))
        return different[self._find(different) < 0]

    def rows(self, runs: ArrayLike, where: str = "") -> Ints:
        """The range of each run, (N,).

        Args:
            runs: (N,).
            where: file that they are of, for messages.

        Raises:
            InputError: a run is in no range.
        """
        found = self._find(np.asarray(runs, np.int64))
        if (found < 0).any():
            missing = self.uncovered(runs)
            raise InputError(
                f"{_runs_are(missing, where)} in no range of the conditions {self.path} "
                f"({self.named()}); add a range for {'it' if len(missing) == 1 else 'them'}."
            )
        return found

    def _find(self, runs: Ints) -> Ints:
        at = np.searchsorted(self.first, runs, "right") - 1
        return np.where((at >= 0) & (runs <= self.last[at]), at, -1)

    def masks(self, runs: ArrayLike, where: str = "") -> tuple[Marks, Ints]:
        """Masks (K, 4760) of dead sensors of the ranges that occur, and the mask of each event (N,)."""
        rows, of = np.unique(self.rows(runs, where), return_inverse=True)
        return self.dead[rows], of.reshape(-1)

    def factors(self, runs: ArrayLike, what: Collection[str], where: str = "") -> Factors:
        """What events are corrected by.

        Args:
            runs: of the events (N,).
            what: of `CORRECTIONS`; others are left as they are.
            where: file that they are of, for messages.

        Raises:
            InputError: a run is in no range, or its range does not give what is to be corrected for.
        """
        rows, of = np.unique(self.rows(runs, where), return_inverse=True)
        for name in (name for name in what if name != "dead"):
            lacking = [int(row) for row in rows if not self.given[CORRECTIONS[name]][row]]
            if lacking:
                raise InputError(
                    f"{self.path} has no {CORRECTIONS[name]} for the runs {self.named(lacking)}; add them, or leave "
                    f"'{name}' out of --apply."
                )

        def taken(name: str, otherwise: Floats) -> Floats:
            if name in what:
                return self.values[CORRECTIONS[name]][rows].astype(np.float64)
            return np.broadcast_to(otherwise, (len(rows), N_SENSORS))

        gain, efficiency = taken("gains", np.ones(N_SENSORS)), taken("efficiencies", NOMINAL_EFFICIENCY)
        offsets = taken("time_offsets", np.zeros(N_SENSORS)) * 1e-9
        return Factors(NOMINAL_EFFICIENCY / efficiency / gain, 1 / gain, offsets, efficiency, of.reshape(-1))

    def per_run(self, runs: ArrayLike) -> dict[str, NDArray[Any]]:
        """Values by run, for plots against it: number of dead sensors, and means over live SiPMs and PMTs.

        Args:
            runs: each is looked at once, ascending.

        Returns:
            Arrays (N,): `run`, `dead` and, for each quantity, `<quantity>_sipm` and `<quantity>_pmt`; NaN where a
            range does not give it, or has no live sensor of the kind.
        """
        different = np.unique(np.asarray(runs, np.int64))
        rows = self.rows(different)
        found: dict[str, NDArray[Any]] = {"run": different, "dead": self.dead.sum(1)[rows]}
        for name, values in self.values.items():
            for kind, part in (("sipm", slice(0, N_SIPM)), ("pmt", slice(N_SIPM, None))):
                live = ~self.dead[:, part] & self.given[name][:, None]
                sums = np.where(live, values[:, part], 0.0).sum(1, dtype=np.float64)
                mean = np.where(live.any(1), sums / np.maximum(live.sum(1), 1), np.nan)
                found[f"{name}_{kind}"] = mean[rows]
        return found


def run_range(first: int, last: int) -> str:
    """A range of runs in words."""
    return str(first) if first == last else f"{first}-{last}"


def _runs_are(runs: Ints, where: str) -> str:
    of = f" of {where}" if where else ""
    listed = ", ".join(map(str, runs[:_LISTED].tolist()))
    more = f" and {len(runs) - _LISTED} more" if len(runs) > _LISTED else ""
    return f"Run {listed}{of} is" if len(runs) == 1 else f"Runs {listed}{more}{of} are"


def parse_corrections(text: str) -> tuple[str, ...]:
    """Read which corrections to apply, such as `dead gains time_offsets`; dead sensors are always included.

    Raises:
        InputError: a name is none.
    """
    names = text.replace(",", " ").split()
    for name in names:
        if name not in CORRECTIONS:
            raise InputError(
                f"'{name[:40]}' is no quantity that conditions correct{nearest(name, CORRECTIONS)}; give some of "
                f"{', '.join(CORRECTIONS)}."
            )
    return tuple(name for name in CORRECTIONS if name in {"dead", *names})


@dataclass
class Correction:
    """Corrects events by the conditions of their runs, and keeps what was done.

    Attributes:
        conditions: the table.
        what: of `CORRECTIONS`.
        events: corrected, by range.
    """

    conditions: Conditions
    what: tuple[str, ...] = ("dead",)
    events: Counter[int] = field(default_factory=Counter)

    @cached_property
    def changes_live_sensors(self) -> bool:
        """Whether anything but dead sensors is corrected for."""
        return any(name != "dead" for name in self.what)

    def count(self, runs: ArrayLike, where: str = "") -> None:
        """Note that events of these runs were corrected."""
        self.events.update(self.conditions.rows(runs, where).tolist())

    def __call__(self, path: str, chunk: Chunk) -> Chunk:
        """A chunk with its counts and times corrected, in the types that they have.

        Args:
            path: file that it is of, for messages.
            chunk: with `run`, counts and times (absolute, relative or both).

        Raises:
            InputError: there are no run numbers, a run is in no range, or what is asked for cannot be done.
        """
        runs = runs_of(chunk, path)
        self.count(runs, path)
        absolute = "npho" in chunk and "time" in chunk
        if self.changes_live_sensors and not absolute:
            asked = " and ".join(name for name in self.what if name != "dead")
            raise InputError(
                f"{path} has no npho and time, which are needed to correct {asked}; leave these out of --apply."
            )
        factors = self.conditions.factors(runs, self.what, path)
        masks, of = self.conditions.masks(runs, path)
        dead = masks[of] if "dead" in self.what else np.zeros((len(runs), N_SENSORS), bool)
        changed = {
            name: _scaled(chunk[name], scale[factors.of], dead)
            for name, scale in (("npho", factors.counts), ("nphe", factors.charges))
            if name in chunk
        }
        if "time" in chunk:
            moved = _shifted(chunk["time"], factors.offsets[factors.of], dead)
            changed["time"] = moved
        return chunk | changed | self._relative(chunk, changed, factors, dead, absolute=absolute)

    def _relative(self, chunk: Chunk, changed: Chunk, factors: Factors, dead: Marks, *, absolute: bool) -> Chunk:
        """Relative counts and times, where the chunk has them; without absolute ones only dead sensors are left out."""
        there = [name for name in RELATIVE if name in chunk]
        if not there:
            return {}
        if absolute:
            charges = changed.get("nphe", changed["npho"] * factors.efficiency[factors.of].astype(np.float32))
            made = relative_quantities(changed["npho"], changed["time"], charges)
            return {name: values for name, values in zip(RELATIVE, made, strict=True) if name in there}
        left = {name: np.where(dead, INVALID, chunk[name]).astype(chunk[name].dtype) for name in there}
        if "relative_npho" in left:
            counts = left["relative_npho"]
            ok = measured(counts) & (counts > 0)
            largest = np.where(ok, counts, 0).max(1, keepdims=True)
            left["relative_npho"] = np.where(ok, counts / np.where(largest > 0, largest, 1), counts)
        return left

    def record(self, command: str) -> dict[str, Any]:
        """What was done, for the output's metadata.

        Args:
            command: that did it.
        """
        return record(self.conditions, command, self.what, self.events)


def record(conditions: Conditions, command: str, what: Collection[str], events: Mapping[int, int]) -> dict[str, Any]:
    """What conditions were used for: the table, quantities, and the ranges with their events and dead sensors."""
    return {
        "command": command,
        "table": conditions.path.name,
        "digest": conditions.digest,
        "applied": list(what),
        "runs": [
            {
                "first": int(conditions.first[row]),
                "last": int(conditions.last[row]),
                "events": events[row],
                "dead": np.flatnonzero(conditions.dead[row]).tolist(),
            }
            for row in sorted(events)
        ],
    }


def runs_of(chunk: Mapping[str, NDArray[Any]], path: str) -> Ints:
    """Runs (N,) of a chunk of a file.

    Raises:
        InputError: it has none.
    """
    if "run" not in chunk:
        raise InputError(f"{path} has no run numbers, by which conditions are chosen; leave --conditions out.")
    return chunk["run"].astype(np.int64)


def _scaled(counts: NDArray[Any], scale: Floats, dead: Marks) -> NDArray[Any]:
    """Counts times their factors, in their type; what was not measured stays, dead sensors are not measured."""
    with np.errstate(all="ignore"):
        moved = np.where(measured(counts), counts * scale, counts)
    return np.where(dead, INVALID, moved).astype(counts.dtype)


def _shifted(times: NDArray[Any], offsets: Floats, dead: Marks) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        moved = np.where(measured(times), times - offsets, times)
    return np.where(dead, INVALID, moved).astype(times.dtype)
