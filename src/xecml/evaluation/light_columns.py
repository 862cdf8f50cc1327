"""What an event's light was like, as columns of a table: by it the opening angle is sliced."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.events import read_counts, valid_counts


def light_columns(npho: ArrayLike) -> dict[str, NDArray[np.generic]]:
    """`n_dead`, sensors that were not read, and `total_npho`, the sum of valid counts, of counts (N, 4760)."""
    counts = np.asarray(npho)
    total = np.sum(counts, axis=1, where=valid_counts(counts), dtype=np.float64)
    return {"n_dead": (~read_counts(counts)).sum(1, dtype=np.int32), "total_npho": total.astype(np.float32)}
