"""Columns of a table that describe the light of an event; the opening angle is given in bins of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.events import read_counts, valid_counts


def light_columns(npho: ArrayLike) -> dict[str, NDArray[np.generic]]:
    """`n_dead`, sensors that were not read, and `total_npho`, the sum of valid counts, of counts (N, 4760)."""
    counts = np.asarray(npho)
    total = np.sum(counts, axis=1, where=valid_counts(counts), dtype=np.float64)
    return {"n_dead": (~read_counts(counts)).sum(1, dtype=np.int32), "total_npho": total.astype(np.float32)}
