"""Whether conditions by run agree with events: sensors that they call dead have no light, others have some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from xecml.checks.rules import Finding, Marks, listing
from xecml.checks.sensor_occupancy import SensorSums
from xecml.conditions import Correction, run_range, runs_of
from xecml.events import Chunk, number_of
from xecml.geometry import N_SENSORS


class ByRun:
    """Light of the sensors in each range of runs, to compare with the conditions.

    Args:
        correction: the table, and what is corrected for before anything is looked at.
        pair: branches of counts and times.
    """

    def __init__(self, correction: Correction) -> None:
        self.correction = correction
        self._sums: dict[int, SensorSums] = {}

    def add(self, path: str, chunk: Chunk, measured: Mapping[str, Marks], pair: tuple[str, str]) -> None:
        """Add a chunk as the file has it, before its dead sensors are taken out."""
        rows = self.correction.conditions.rows(runs_of(chunk, path), path)
        for row in np.unique(rows).tolist():
            here = rows == row
            sums = self._sums.setdefault(row, SensorSums(*pair))
            part = {branch: chunk[branch][here] for branch in pair if branch in chunk}
            sums.add(part, {branch: measured[branch][here] for branch in part})

    def findings(self) -> Iterator[Finding]:
        """Sensors that are dead and not called so, and those called dead that have light, by range of runs."""
        table = self.correction.conditions
        for row, sums in sorted(self._sums.items()):
            seen, called = sums.statistics(), table.dead[row]
            runs = f"runs {run_range(int(table.first[row]), int(table.last[row]))}"
            lit = np.flatnonzero(called & (seen.occupancy > 0))
            if len(lit):
                text = f"{_sensors(len(lit))} dead by the conditions and have light: {listing(lit)}."
                yield Finding("warning", runs, text)
            missing = [int(sensor) for sensor in seen.dead() if not called[sensor]]
            if missing:
                text = (
                    f"{_sensors(len(missing))} never lit in {number_of(seen.n_events)} and not dead by the conditions: "
                    f"{listing(missing)}."
                )
                yield Finding("warning", runs, text)

    def always_dead(self) -> Marks:
        """Mask (4760,) of sensors that conditions call dead in all runs that there are."""
        masks = [self.correction.conditions.dead[row] for row in self._sums]
        return np.logical_and.reduce(masks) if masks else np.zeros(N_SENSORS, bool)

    def line(self) -> str:
        """The table and its ranges, for the report."""
        table = self.correction.conditions
        parts = [
            f"{run_range(int(table.first[row]), int(table.last[row]))}: {number_of(sums.n_events)}, "
            f"{int(table.dead[row].sum())} dead"
            for row, sums in sorted(self._sums.items())
        ]
        return f"{table.path}; {'; '.join(parts)}"


def _sensors(n: int) -> str:
    return f"{number_of(n, 'sensor')} {'is' if n == 1 else 'are'}"
