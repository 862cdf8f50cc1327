"""Linearity of a prediction: the slope of its mean against the truth, and the resulting shift of a spectrum's edge.

A regression that knows little shrinks its answers towards the mean of its training: the slope is below 1, the edge of a
spectrum moves inwards, and no width tells of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from xecml.evaluation.tables import PREFIX, QUANTITIES, Reference, Table, column, residuals
from xecml.resolution import Floats, without_nan

LINEAR_WITHIN = 0.002
"""How far from 1 a slope may be."""
SIGNAL_ENERGY = 0.0528
"""GeV."""
_MIN_EVENTS = 50
_SURE = 2.0
"""Errors by which a slope must be inside or outside of the limit to be called so."""


@dataclass(frozen=True)
class Linearity:
    """The straight line through the mean of the answers.

    Attributes:
        slope: of the mean answer against the truth; 1 where it goes with it.
        slope_error: standard error, which holds where widths vary with the truth, too (White 1980).
        n: events.
        at: where the shift is taken, in the unit of files: 52.8 MeV of energies if the truth reaches it, else the
            upper end (0.99 quantile) of the truth.
        shift: of the mean answer there, in the unit of quoted resolutions.
        shift_error: its standard error.
    """

    slope: float
    slope_error: float
    n: int
    at: float
    shift: float
    shift_error: float

    def verdict(self) -> str:
        """Whether the slope is 1 within 0.2 %: `yes`, `no`, or `undecided` by so few events."""
        away, sure = abs(self.slope - 1), _SURE * self.slope_error
        if away + sure <= LINEAR_WITHIN:
            return "yes"
        return "no" if away - sure > LINEAR_WITHIN else "undecided"

    def as_dict(self) -> dict[str, float | str | None]:
        """Everything by name, ready for JSON."""
        return {**without_nan(asdict(self)), "within_0.002": self.verdict()}


def linearity(table: Table, quantity: str, reference: Reference = "truth") -> Linearity | None:
    """The line through a quantity's answers against the reference; None without spread, or below 50 events.

    Phi is taken as it lies from the reference, so that it does not jump at 180 degrees.
    """
    what = QUANTITIES[quantity]
    known = column(table, PREFIX[reference] + what.column)
    off = residuals(table, quantity, reference)
    good = np.isfinite(known) & np.isfinite(off)
    x, y = known[good], off[good] / what.scale
    if what.relative or len(x) < _MIN_EVENTS or np.ptp(x) <= 1e-6 * np.abs(x).max():
        return None
    at = _edge(what.column, x)
    slope, slope_error, shift, shift_error = _line(x, y, at)
    return Linearity(1 + slope, slope_error, len(x), at, shift * what.scale, shift_error * what.scale)


def linearities(table: Table, found: Sequence[str], reference: Reference = "truth") -> dict[str, Linearity]:
    """The lines of quantities that have one, by name."""
    lines = {quantity: linearity(table, quantity, reference) for quantity in found}
    return {quantity: line for quantity, line in lines.items() if line is not None}


def _edge(column_name: str, x: Floats) -> float:
    if column_name == "energy" and x.min() <= SIGNAL_ENERGY <= x.max():
        return SIGNAL_ENERGY
    return float(np.quantile(x, 0.99))


def _line(x: Floats, y: Floats, at: float) -> tuple[float, float, float, float]:
    """Slope of y by x, its error, the value at a place, its error: least squares, errors by residuals."""
    centre, height = float(x.mean()), float(y.mean())
    away = x - centre
    square = float(away @ away)
    slope = float(away @ (y - height)) / square
    left = y - height - slope * away
    slope_error = math.sqrt(float(away**2 @ left**2)) / square
    # the influence of each event on the line's value there
    weight = 1 / len(x) + (at - centre) * away / square
    return slope, slope_error, height + slope * (at - centre), math.sqrt(float(weight**2 @ left**2))
