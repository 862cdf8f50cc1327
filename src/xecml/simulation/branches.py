"""The branches of a file of simulated events, and blocks of events cut to what files want."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.events import INVALID, relative_quantities
from xecml.simulation import truth
from xecml.simulation.settings import SimulationSettings

Arrays = dict[str, NDArray[Any]]
_WRITE_EVENTS = 256
"""Events written to a file at once: 20 MB, which the caches still help with."""


def branches(
    settings: SimulationSettings,
    npho: NDArray[np.float32],
    times: NDArray[np.float32],
    columns: NDArray[np.float64],
    numbers: NDArray[np.int64],
) -> Arrays:
    """Branches of the file, from what the compiled code filled.

    Args:
        settings: which of them.
        npho: (n, 4760) photons.
        times: (n, 4760) seconds.
        columns: (n, TRUTH_COLUMNS); events without a photon have 1e10 where there is no truth.
        numbers: (n,) event numbers.
    """
    first = columns[:, truth.FIRST : truth.FIRST + 3]
    empty = columns[:, truth.N_GAMMA] == 0
    direction = columns[:, truth.DIRECTION : truth.DIRECTION + 3]
    arrays: Arrays = {"npho": npho, "time": times}
    if settings.relative_branches:
        relative = relative_quantities(npho, times)
        arrays |= dict(zip(("relative_npho", "relative_time"), relative, strict=True))
    arrays |= {
        "emiAng": _unless(empty, geometry.angles_from_direction(direction)),
        "energyTruth": columns[:, truth.ENERGY] * 1e-3,
        "timeTruth": np.where(empty, INVALID, columns[:, truth.OFFSET] * 1e-9),
        "uvwTruth": _unless(empty, geometry.uvw_from_xyz(first)),
        "xyzTruth": first,
        "emiVec": direction,
        "xyzVTX": columns[:, truth.VERTEX : truth.VERTEX + 3],
    }
    if settings.extra_truth:
        arrays |= {
            "energyDeposit": columns[:, truth.DEPOSITED] * 1e-3,
            "xyzDeposit": columns[:, truth.CENTROID : truth.CENTROID + 3],
            "axisDeposit": columns[:, truth.AXIS : truth.AXIS + 3],
            "npheFace": columns[:, truth.PHE_FACE : truth.PHE_FACE + 6],
        }
    arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in arrays.items()}
    arrays["run"] = np.full(len(npho), settings.run, np.int32)
    arrays["event"] = numbers.astype(np.int32)
    arrays["nGamma"] = columns[:, truth.N_GAMMA].astype(np.int32)
    return arrays


def _unless(empty: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(empty[:, None], INVALID, values)


class Pieces:
    """Blocks joined to pieces that are good to write, and cut where files end."""

    def __init__(self, stream: Iterator[Arrays]) -> None:
        self._stream = stream
        self._left: list[Arrays] = []

    def take(self, events: int) -> Iterator[Arrays]:
        """Yield pieces of at most `_WRITE_EVENTS` with `events` in all."""
        while events > 0:
            wanted = min(events, _WRITE_EVENTS)
            piece = self._piece(wanted)
            events -= wanted
            yield piece

    def _piece(self, wanted: int) -> Arrays:
        held = sum(len(a["event"]) for a in self._left)
        while held < wanted:
            self._left.append(next(self._stream))
            held += len(self._left[-1]["event"])
        joined = {k: np.concatenate([a[k] for a in self._left]) for k in self._left[0]}
        self._left = [{k: v[wanted:] for k, v in joined.items()}] if held > wanted else []
        return {k: v[:wanted] for k, v in joined.items()}
