"""The photon's part of the accidental background, as one number.

Accidental background is a positron and a photon that have nothing to do with one another. Within windows that keep
the same share of signal its rate goes with sigma_E^2 sigma_angle^2 sigma_t sigma_position^2 of the photon (the energy
twice, since the spectrum of accidental photons falls linearly to the edge; directions and positions in two dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xecml.evaluation.influence import MIN_EVENTS, error_of, half_width
from xecml.evaluation.tables import QUANTITIES, Reference, Table, find_column, residuals
from xecml.resolution import Floats

REFERENCE = {"energy_relative": 1.8, "theta": 3.23, "phi": 0.90, "timing": 65.0, "u": 2.5, "v": 2.5}
"""Resolutions in quoted units that count as 1: the experiment's published ones at 52.8 MeV (energy deeper than 2 cm),
and of the emission angle, for which none is published, what the first interaction and the target's middle tell.
"""
POWERS = {"energy_relative": 2, "theta": 1, "phi": 1, "timing": 1, "u": 1, "v": 1}
WORDS = "sigma_E^2 sigma_theta sigma_phi sigma_t sigma_u sigma_v"


@dataclass(frozen=True)
class Background:
    """Accidental background beside that of a detector of the published resolutions.

    Attributes:
        value: the product; lower is better.
        error: its standard error, which knows that one event's errors go together.
        factors: each quantity's factor, its power included.
        missing: quantities without a resolution here, which do not count.
        n: events that have all of the others.
        influence: of each of these events on the logarithm of the value (n,).
        rows: which events these are (N,), of all of the table.
    """

    value: float
    error: float
    factors: Mapping[str, float]
    missing: tuple[str, ...]
    n: int
    influence: Floats
    rows: Floats

    def as_dict(self) -> dict[str, object]:
        """The number with its parts, ready for JSON."""
        return {
            "value": self.value,
            "error": self.error if math.isfinite(self.error) else None,
            "product_of": WORDS,
            "relative_to": REFERENCE,
            "factors": dict(self.factors),
            "missing": list(self.missing),
            "n": self.n,
        }

    def line(self) -> str:
        """What it is made of, in words."""
        parts = ", ".join(f"{QUANTITIES[q].label} {factor:.3g}" for q, factor in self.factors.items())
        without = ", ".join(QUANTITIES[q].label for q in self.missing)
        return f"factors: {parts}" + (f"; without {without}, which is not predicted" if without else "")


def background(table: Table, reference: Reference = "truth") -> Background | None:
    """The product over what a table predicts; None without energy, or where fewer than 20 events have all of it.

    Resolutions are s68. A sample of one energy tells what the experiment's signal meets; over a spectrum it is a mean.
    """
    parts: dict[str, Floats] = {}
    for quantity in POWERS:
        if _has(table, quantity, reference) and np.isfinite(off := residuals(table, quantity, reference)).any():
            parts[quantity] = off
    if "energy_relative" not in parts:
        return None
    rows = np.logical_and.reduce([np.isfinite(off) for off in parts.values()])
    if rows.sum() < MIN_EVENTS:
        return None
    factors: dict[str, float] = {}
    influence = np.zeros(int(rows.sum()))
    for quantity, off in parts.items():
        width, moves = half_width(off[rows])
        if width <= 0:
            return None
        factors[quantity] = (width / REFERENCE[quantity]) ** POWERS[quantity]
        influence += POWERS[quantity] * moves / width
    value = math.prod(factors.values())
    missing = tuple(quantity for quantity in POWERS if quantity not in parts)
    return Background(value, value * error_of(influence), factors, missing, len(influence), influence, rows)


def _has(table: Table, quantity: str, reference: Reference) -> bool:
    name = QUANTITIES[quantity].column
    prefixes = ("pred_", "true_" if reference == "truth" else "reco_")
    return all(find_column(table, prefix + name) is not None for prefix in prefixes)
