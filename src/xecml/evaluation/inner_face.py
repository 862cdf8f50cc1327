"""Patches of the inner face, and residuals in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.evaluation.stability import for_json, summaries
from xecml.evaluation.tables import PREFIX, Reference, Table, find_column, residuals
from xecml.resolution import Floats

HALF_U, HALF_V = 23.9, 67.9
"""Of the fiducial face, cm."""
_GRIDS = ((1, 1), (1, 2), (2, 3), (2, 6), (3, 8), (4, 12), (6, 16), (8, 24))
"""Patches along u and v, so that each is about as wide as high, or twice that."""


@dataclass(frozen=True)
class Patches:
    """A grid on the inner face; edges in cm (nu + 1,), (nv + 1,), and the patch of each event (N,), row by row of v.

    Events beside the grid, or without a position, have -1.
    """

    u: Floats
    v: Floats
    of: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Patches along v and u."""
        return len(self.v) - 1, len(self.u) - 1

    @property
    def number(self) -> int:
        """Of patches."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class FaceMap:
    """Residuals of a quantity by patch: arrays (nv, nu) in its unit, edges in cm; NaN in patches with few events."""

    u: Floats
    v: Floats
    n: Floats
    median: Floats
    median_error: Floats
    s68: Floats
    s68_error: Floats

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        return {name: for_json(values) for name, values in asdict(self).items()}


def patches(table: Table, reference: Reference, least: int) -> Patches:
    """The finest grid with so many events in a patch, on average.

    An event is where the reference says; where that has no position, where it was predicted. Without either the whole
    face is one patch.
    """
    where = position(table, reference)
    inside = np.zeros(len(table["run"]), bool)
    if where is not None:
        inside = (np.abs(where[:, 0]) < HALF_U) & (np.abs(where[:, 1]) < HALF_V)
    few = [shape for shape in _GRIDS if inside.sum() >= least * shape[0] * shape[1]]
    nu, nv = few[-1] if few else _GRIDS[0]
    u, v = np.linspace(-HALF_U, HALF_U, nu + 1), np.linspace(-HALF_V, HALF_V, nv + 1)
    if where is None:
        return Patches(u, v, np.zeros(len(inside), np.int64))
    column, row = (np.searchsorted(edges, x, "right") - 1 for edges, x in zip((u, v), where.T, strict=True))
    return Patches(u, v, np.where(inside, row * nu + column, -1))


def position(table: Table, reference: Reference) -> Floats | None:
    """Where events are on the inner face, u and v (N, 2) in cm: by the reference, or by the prediction; or None."""
    for prefix in (PREFIX[reference], "pred_"):
        found = [find_column(table, prefix + name) for name in ("u", "v")]
        columns = [c for c in found if c is not None and np.isfinite(c).any()]
        if len(columns) == 2:
            return np.stack(columns, 1)
    return None


def face_map(table: Table, quantity: str, grid: Patches, reference: Reference) -> FaceMap:
    """Median and s68 of the residuals in each patch."""
    found = summaries(residuals(table, quantity, reference), grid.of, grid.number)
    return FaceMap(grid.u, grid.v, **{name: values.reshape(grid.shape) for name, values in found.items()})
