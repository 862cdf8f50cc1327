"""Each sensor over a sample: occupancy, mean counts, and which sensors are dead or hot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from xecml.checks.rules import Finding, Marks, Severity, listing
from xecml.events import Chunk, number_of
from xecml.geometry import FACES, N_SENSORS, Floats, Ints, face_codes, face_sensors, positions

MIN_EVENTS_SENSOR = 100
"""With fewer events a sensor without light may just be dim; no sensor is called dead or hot."""
MIN_EVENTS_FACE = 5
_EXPECTED_LIT = 20.0
_HOT_RATIO = 5.0
_HOT_MIN_LIT = 30
_ALWAYS_LIT, _NEARLY_ALWAYS = 0.99, 0.95
_MOSTLY_INVALID = 0.9


@dataclass(frozen=True)
class SensorStatistics:
    """What each of the 4760 sensors did over all events; arrays (4760,).

    Attributes:
        branch: where the counts come from.
        n_events: events read.
        occupancy: fraction of events with a valid count.
        timed: fraction of events with a valid time; NaN where there is no branch of times.
        mean_count: mean of the valid counts, in the branch's unit; NaN for a sensor never lit.
        geometric_mean: geometric mean of the valid counts, which no single bright event dominates.
        without_count: events without any valid count.
        without_time: events with a valid count, but without any valid time; none where there is no branch of times.
    """

    branch: str
    n_events: int
    occupancy: Floats
    timed: Floats
    mean_count: Floats
    geometric_mean: Floats
    without_count: int = 0
    without_time: int = 0

    def dead(self) -> Ints:
        """Ids of dead sensors: never lit in at least 100 events, where 20 were to be expected.

        Expected are the events times the median occupancy of the face's other sensors.
        """
        dead = self.occupancy == 0
        if self.n_events < MIN_EVENTS_SENSOR:
            return np.array([], np.int64)
        for face in range(len(FACES)):
            alive = self.occupancy[(face_codes() == face) & ~dead]
            typical = float(np.median(alive)) if len(alive) else 1.0
            dead &= (face_codes() != face) | (typical * self.n_events >= _EXPECTED_LIT)
        return np.flatnonzero(dead)

    def hot(self) -> Ints:
        """Ids of hot sensors, in at least 100 events, compared with the eight nearest of their face, where these live.

        Hot is a geometric mean count above five times the median of theirs, or light in over 99 % of events where
        none of them has it in 95 %.
        """
        if self.n_events < MIN_EVENTS_SENSOR:
            return np.array([], np.int64)
        lit = self.occupancy * self.n_events >= _HOT_MIN_LIT
        near = _neighbours()
        living = self.occupancy[near] > 0
        count = np.where(lit, self.geometric_mean, 0.0)
        around = _median_of(count[near], living)
        occupied = np.where(living, self.occupancy[near], 0.0).max(axis=1)
        bright = lit & (around > 0) & (count > _HOT_RATIO * around)
        always = (self.occupancy > _ALWAYS_LIT) & (occupied < _NEARLY_ALWAYS) & living.any(axis=1)
        return np.flatnonzero(bright | always)

    def dead_fraction(self) -> dict[str, float]:
        """Fraction of dead sensors by face."""
        dead = self.dead()
        return {f: len(np.intersect1d(dead, face_sensors(f))) / len(face_sensors(f)) for f in FACES}

    def invalid_fraction(self) -> dict[str, float]:
        """Fraction of invalid counts by face."""
        return {face: 1 - float(self.occupancy[face_sensors(face)].mean()) for face in FACES}


def _median_of(values: Floats, some: Marks) -> Floats:
    """Median (N,) of some of the values of each row (N, K); 0 where there are none."""
    number = some.sum(axis=1)
    ordered = np.sort(np.where(some, values, np.inf), axis=1)
    middle = np.stack([(np.maximum(number, 1) - 1) // 2, np.maximum(number, 1) // 2], 1)
    return np.where(number > 0, np.take_along_axis(ordered, middle, axis=1).mean(axis=1), 0.0)


@cache
def _neighbours() -> Ints:
    """The eight nearest sensors of the same face, (4760, 8)."""
    nearest = np.empty((N_SENSORS, 8), np.int64)
    for face in FACES:
        ids = face_sensors(face)
        _, index = cKDTree(positions()[ids]).query(positions()[ids], k=9)
        nearest[ids] = ids[index[:, 1:]]
    return nearest


class SensorSums:
    """Sums over events, by sensor, of the counts and times of one pair of branches."""

    def __init__(self, npho: str, time: str) -> None:
        self.npho, self.time = npho, time
        self.n_events = 0
        self.n_timed = 0
        self.without_count = self.without_time = 0
        self.valid, self.timed, self.total, self.log = (np.zeros(N_SENSORS) for _ in range(4))

    def add(self, chunk: Chunk, measured: Mapping[str, Marks]) -> None:
        """Add a chunk, unless its file lacks the counts."""
        if self.npho not in chunk:
            return
        valid = measured[self.npho]
        counts = np.where(valid, chunk[self.npho], 1.0)
        self.n_events += len(valid)
        self.valid += valid.sum(axis=0)
        self.total += np.where(valid, counts, 0.0).sum(axis=0, dtype=np.float64)
        self.log += np.log(counts).sum(axis=0, dtype=np.float64)
        counted = valid.any(axis=1)
        self.without_count += int((~counted).sum())
        if self.time in chunk:
            self.n_timed += len(valid)
            self.timed += measured[self.time].sum(axis=0)
            self.without_time += int((counted & ~measured[self.time].any(axis=1)).sum())

    def statistics(self) -> SensorStatistics:
        """Fractions and means of what was summed."""
        n, lit = max(self.n_events, 1), np.where(self.valid > 0, self.valid, np.nan)
        timed = self.timed / n if self.n_timed else np.full(N_SENSORS, np.nan)
        means = (self.total / lit, np.exp(self.log / lit))
        numbers = (self.without_count, self.without_time)
        return SensorStatistics(self.npho, self.n_events, self.valid / n, timed, *means, *numbers)


def sensor_findings(s: SensorStatistics, known: Marks | None = None) -> list[Finding]:
    """Judge the sensors: dark faces, missing times, dead and hot sensors; of dead ones those not in `known` (4760,)."""
    found = []
    for face, share in s.invalid_fraction().items():
        if share == 1 and s.n_events:
            severity: Severity = "error" if s.n_events >= MIN_EVENTS_FACE else "warning"
            found.append(Finding(severity, face, f"The face {face} has no light in any of {number_of(s.n_events)}."))
        elif share > _MOSTLY_INVALID:
            found.append(Finding("warning", face, f"{100 * share:.3g} % of the counts of face {face} are invalid."))
    lit, timed = s.occupancy.sum(), s.timed.sum()
    if timed < 0.5 * lit:
        text = f"Only {100 * timed / lit:.3g} % of the sensors with light have a time."
        found.append(Finding("warning" if timed else "error", s.branch, text))
    return found + _event_findings(s) + _single_findings(s, np.zeros(N_SENSORS, bool) if known is None else known)


def _event_findings(s: SensorStatistics) -> list[Finding]:
    """Events that a model cannot answer; where it is all of them, the faces or times say so."""
    found = []
    if 0 < s.without_count < s.n_events:
        text = f"{s.without_count} of {number_of(s.n_events)} without any valid count: a model answers NaN."
        found.append(Finding("warning", s.branch, text))
    if 0 < s.without_time < s.n_events - s.without_count:
        text = f"{s.without_time} of {number_of(s.n_events)} without any valid time: a model answers no time."
        found.append(Finding("warning", s.branch, text))
    return found


def _sensors_are(n: int) -> str:
    return f"{number_of(n, 'sensor')} {'is' if n == 1 else 'are'}"


def _single_findings(s: SensorStatistics, known: Marks) -> list[Finding]:
    dark = {face for face, share in s.invalid_fraction().items() if share == 1}
    dead = np.array([i for i in s.dead() if FACES[face_codes()[i]] not in dark and not known[i]], np.int64)
    found = []
    if len(dead):
        text = f"{_sensors_are(len(dead))} dead, never lit in {s.n_events} events: {listing(dead)}."
        found.append(Finding("warning", "sensors", text))
    for face, share in s.dead_fraction().items():
        if share > 0.5 and face not in dark:
            text = f"{100 * share:.3g} % of the sensors of face {face} are dead."
            found.append(Finding("error", face, text))
    hot = s.hot()
    if len(hot):
        text = f"{_sensors_are(len(hot))} hot, brighter or more often lit than their neighbours: {listing(hot)}."
        found.append(Finding("warning", "sensors", text))
    return found
