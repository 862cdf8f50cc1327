"""Predictors on the same events: differences of their figures of merit, the errors of these differences, and sentences.

Both see the same light, so that their errors go together and a difference is known better than either figure. Its error
is that of the difference of influences, event by event (`xecml.evaluation.influence`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xecml.evaluation.background import background
from xecml.evaluation.event_identity import aligned
from xecml.evaluation.influence import MIN_EVENTS, contained, error_of, half_width, size_of_bias
from xecml.evaluation.metrics import with_error
from xecml.evaluation.tables import QUANTITIES, Reference, Table, opening_angles, quantities, residuals
from xecml.events import number_of
from xecml.resolution import Floats

MORE_THAN_CHANCE = 3.0
"""Standard errors from which a difference is called more than chance. Of twenty figures that differ by chance alone,
one comparison in twenty has one beyond."""


@dataclass(frozen=True)
class Difference:
    """A figure of two predictors on the events that both answer; smaller is better in all of them.

    Attributes:
        label: quantity for people.
        figure: `s68`, `|bias|`, `68 % opening angle`, `background`.
        unit: of the figures.
        first: value of the first predictor.
        second: of the second.
        error: of the difference first - second, paired; NaN for too few events.
        n: events.
    """

    label: str
    figure: str
    unit: str
    first: float
    second: float
    error: float
    n: int

    @property
    def sigmas(self) -> float:
        """Difference over its error: below zero where the first is better; 0 of equal answers, NaN if not known."""
        away = self.first - self.second
        if math.isfinite(self.error) and self.error > 0:
            return away / self.error
        return 0.0 if away == 0 else math.nan

    @property
    def more_than_chance(self) -> bool:
        """Whether the difference is three of its errors or more."""
        return math.isfinite(self.sigmas) and abs(self.sigmas) >= MORE_THAN_CHANCE

    @property
    def name(self) -> str:
        """Quantity and figure."""
        return f"{self.label} {self.figure}"

    @property
    def ratio(self) -> tuple[float, float]:
        """Second over first - 1 is how much worse the second is, with its error; in shares of the first."""
        if self.first <= 0:
            return math.nan, math.nan
        return self.second / self.first - 1, self.error / self.first

    def sentence(self, first: str, second: str) -> str:
        """Which is better by how much, and whether that is more than chance."""
        values = f"{with_error(self.first)} against {with_error(self.second)}{f' {self.unit}' if self.unit else ''}"
        head = f"{self.label}, {self.figure}:"
        if self.first == self.second:
            return f"{head} {first} and {second} are equal ({with_error(self.first)} {self.unit}".rstrip() + ")."
        if not math.isfinite(self.sigmas):
            return f"{head} {values}; {number_of(self.n)} are too few to say which is better."
        better, worse = (first, second) if self.first < self.second else (second, first)
        by = with_error(abs(self.first - self.second), self.error)
        of = 100 * abs(self.first - self.second) / max(self.first, self.second)
        share = f"{of:.2g}" if of < 99.5 else "100"
        said = f"{by}{f' {self.unit}' if self.unit else ''} ({share} %, {values})"
        if self.more_than_chance:
            return f"{head} {better} is better than {worse} by {said}, {abs(self.sigmas):.1f} standard errors."
        return (
            f"{head} the difference may be chance: {better} is lower by {said}, {abs(self.sigmas):.1f} standard errors."
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        values = {"difference": self.first - self.second, "error": self.error, "sigmas": self.sigmas}
        return {
            "quantity": self.label,
            "figure": self.figure,
            "unit": self.unit,
            "first": self.first,
            "second": self.second,
            **{name: value if math.isfinite(value) else None for name, value in values.items()},
            "n": self.n,
            "more_than_chance": self.more_than_chance,
        }


@dataclass(frozen=True)
class Pair:
    """Two predictors and their differences."""

    first: str
    second: str
    differences: tuple[Difference, ...]

    def sentences(self) -> list[str]:
        """One a figure."""
        return [d.sentence(self.first, self.second) for d in self.differences]

    def in_short(self) -> list[str]:
        """Sentences on what differs by more than chance, and one each that names what does not, and what is equal."""
        said = [d.sentence(self.first, self.second) for d in self.differences if d.more_than_chance]
        equal = [d.name for d in self.differences if d.first == d.second]
        chance = [d.name for d in self.differences if not d.more_than_chance and d.name not in equal]
        for names, what in ((chance, "no more than chance"), (equal, "equal")):
            if names:
                said.append(f"{self.first} and {self.second}, {what}: {'; '.join(names)}.")
        return said

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = [d.as_dict() | {"sentence": d.sentence(self.first, self.second)} for d in self.differences]
        return {"first": self.first, "second": self.second, "differences": found}


def compare_paired(tables: Mapping[str, Table], reference: Reference = "truth") -> list[Pair]:
    """Compare the first of several tables with each of the others, event by event.

    Raises:
        InputError: they are not of the same events, which are named.
    """
    found = aligned(tables)
    (first, table), *others = found.items()
    return [Pair(first, name, tuple(_differences(table, other, reference))) for name, other in others]


def _differences(one: Table, other: Table, reference: Reference) -> list[Difference]:
    both = [q for q in quantities(one, reference) if q in quantities(other, reference)]
    found = []
    for quantity in both:
        what = QUANTITIES[quantity]
        values = [residuals(table, quantity, reference) for table in (one, other)]
        for figure, of in (("s68", half_width), ("|bias|", size_of_bias)):
            found += _difference(what.label, figure, what.unit, values, of)
    angles = [opening_angles(table, reference) for table in (one, other)]
    if angles[0] is not None and angles[1] is not None:
        found += _difference("direction", "68 % opening angle", "deg", [angles[0], angles[1]], contained)
    return found + _backgrounds(one, other, reference)


def _difference(label: str, figure: str, unit: str, values: list[Floats], of: Any) -> list[Difference]:
    rows = np.isfinite(values[0]) & np.isfinite(values[1])
    if rows.sum() < 2:
        return []
    (first, moves), (second, moves_other) = (of(v[rows]) for v in values)
    return [Difference(label, figure, unit, first, second, error_of(moves - moves_other), int(rows.sum()))]


def _backgrounds(one: Table, other: Table, reference: Reference) -> list[Difference]:
    found = [background(table, reference) for table in (one, other)]
    a, b = found
    # products of different quantities are no rivals, and those of different events not paired
    if a is None or b is None or a.missing != b.missing or not np.array_equal(a.rows, b.rows) or a.n < MIN_EVENTS:
        return []
    error = error_of(a.value * a.influence - b.value * b.influence)
    return [Difference("accidental background", "photon's part", "of published", a.value, b.value, error, a.n)]
