"""Selections on predicted widths and outlier values: resolution against the share of events that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xecml.evaluation.influence import MIN_EVENTS, error_of, half_width
from xecml.evaluation.tables import QUANTITIES, Reference, Table, find_column, residuals
from xecml.resolution import Floats

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
OUTLIER = "outlier"


@dataclass(frozen=True)
class Selection:
    """s68 of a quantity when only the events of the lowest predicted width, or outlier value, are kept.

    Attributes:
        quantity: whose s68.
        by: `sigma`, the quantity's own, or `outlier`.
        efficiency: shares of the events that are kept (k,), up to 1.
        cut: largest value that is kept at each (k,): of sigma in the quantity's unit.
        s68: in the quantity's unit (k,).
        error: of s68 (k,).
    """

    quantity: str
    by: str
    efficiency: Floats
    cut: Floats
    s68: Floats
    error: Floats


def selections(table: Table, found: Sequence[str], reference: Reference = "truth") -> list[Selection]:
    """Curves of every quantity by its predicted width, then by the outlier value, as far as a table has them."""
    curves = []
    for by in ("sigma", OUTLIER):
        for quantity in found:
            what = QUANTITIES[quantity]
            key = find_column(table, f"sigma_{what.column}" if by == "sigma" else OUTLIER)
            if key is None or (by == "sigma" and what.relative):
                continue
            scaled = key * what.scale if by == "sigma" else key
            if (curve := _curve(quantity, by, residuals(table, quantity, reference), scaled)) is not None:
                curves.append(curve)
    return curves


def _curve(quantity: str, by: str, off: Floats, key: Floats) -> Selection | None:
    good = np.isfinite(off) & np.isfinite(key)
    if good.sum() < MIN_EVENTS / SHARES[0] or np.ptp(key[good]) == 0:
        return None
    order = np.argsort(key[good], kind="stable")
    sorted_off, sorted_key = off[good][order], key[good][order]
    numbers = [max(round(share * len(order)), 1) for share in SHARES]
    widths = [half_width(sorted_off[:n]) for n in numbers]
    return Selection(
        quantity,
        by,
        np.array(numbers) / len(order),
        sorted_key[np.array(numbers) - 1],
        np.array([width for width, _ in widths]),
        np.array([error_of(moves) for _, moves in widths]),
    )
