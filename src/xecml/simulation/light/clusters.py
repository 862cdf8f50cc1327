"""Deposits gathered to a few hundred points of light, on two levels. Compiled. cm, ns, MeV.

Fine clusters serve the sensors close to them, coarse clusters all others: the error of a cluster at its
centre of gravity is of second order in its size over the distance. Fine cells are small where sensors can be
close.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.compiled import compiled, inner
from xecml.geometry import INNER_RADIUS
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.cascade.transport import MAX_DEPOSITS

COARSE_CELL = 0.7
# fine cells: size for depths (distance from the inner face) below the limit
_FINE_CELLS = ((1.0, 0.2), (3.0, 0.35), (7.0, 0.5))
_BUCKETS = 1 << 17
_SPAN = 1024  # cells along an axis; the detector spans 1000 cells of 0.2 cm in y


class Clusters(NamedTuple):
    """Work space: points of light, and hash tables to make them."""

    fine: Floats
    """(M, 5) x, y, z, t, E, sorted by the coarse cluster they belong to"""
    coarse: Floats
    """(M, 5)"""
    first_fine: NDArray[np.int64]
    """(M + 1,) where the fine clusters of a coarse one begin"""
    unsorted: Floats
    """(M, 5)"""
    parent: NDArray[np.int64]
    """(M,)"""
    bucket: NDArray[np.int64]
    """(B,) index of the cluster in a bucket, -1 if free"""
    key: NDArray[np.int64]
    """(B,)"""


def new_clusters() -> Clusters:
    """Allocate work space for one event."""
    m = MAX_DEPOSITS
    return Clusters(
        np.zeros((m, 5)),
        np.zeros((m, 5)),
        np.zeros(m + 1, np.int64),
        np.zeros((m, 5)),
        np.zeros(m, np.int64),
        np.full(_BUCKETS, -1, np.int64),
        np.zeros(_BUCKETS, np.int64),
    )


@inner
def _key(x: float, y: float, z: float, size: float, level: int) -> int:
    # int() truncates, so the offset comes first
    i, j, k = int(x / size + _SPAN // 2), int(y / size + _SPAN // 2), int(z / size + _SPAN // 2)
    return ((level * _SPAN + i) * _SPAN + j) * _SPAN + k


@inner
def _fine_level(x: float, y: float) -> tuple[int, float]:
    depth = math.sqrt(x * x + y * y) - INNER_RADIUS
    for level in range(len(_FINE_CELLS)):
        if depth < _FINE_CELLS[level][0]:
            return level, _FINE_CELLS[level][1]
    return len(_FINE_CELLS), COARSE_CELL


@inner
def _find(bucket: NDArray[np.int64], keys: NDArray[np.int64], key: int) -> int:
    """Place of a key in the hash table, or the free place where it belongs."""
    place = ((key * 2177342782468422677) >> 20) & (_BUCKETS - 1)
    while bucket[place] >= 0 and keys[place] != key:
        place = (place + 1) & (_BUCKETS - 1)
    return place


@inner
def _gather(points: Floats, n: int, fine: bool, out: Floats, member: NDArray[np.int64], work: Clusters) -> int:
    """Merge points (n, 5) that share a cell to their centre of gravity; `member` says where each went."""
    used = np.empty(n, np.int64)
    m = 0
    for p in range(n):
        x, y, z, t, E = points[p, 0], points[p, 1], points[p, 2], points[p, 3], points[p, 4]
        level, size = -1, COARSE_CELL
        if fine:
            level, size = _fine_level(x, y)
        place = _find(work.bucket, work.key, _key(x, y, z, size, level + 1))
        c = work.bucket[place]
        if c < 0:
            c = m
            work.bucket[place] = m
            work.key[place] = _key(x, y, z, size, level + 1)
            used[m] = place
            out[m, :] = 0.0
            m += 1
        member[p] = c
        out[c, 0] += E * x
        out[c, 1] += E * y
        out[c, 2] += E * z
        out[c, 3] += E * t
        out[c, 4] += E
    for c in range(m):
        work.bucket[used[c]] = -1
        for a in range(4):
            out[c, a] /= out[c, 4]
    return m


@compiled
def cluster(deposits: Floats, n: int, work: Clusters) -> int:
    """Gather n deposits to clusters in `work`; returns the number of coarse clusters."""
    if n == 0:
        return 0
    n_fine = _gather(deposits, n, True, work.unsorted, work.parent, work)
    n_coarse = _gather(work.unsorted, n_fine, False, work.coarse, work.parent, work)
    first = work.first_fine
    first[: n_coarse + 1] = 0
    for p in range(n_fine):
        first[work.parent[p] + 1] += 1
    for c in range(n_coarse):
        first[c + 1] += first[c]
    place = first[:n_coarse].copy()
    for p in range(n_fine):
        c = work.parent[p]
        work.fine[place[c], :] = work.unsorted[p, :]
        place[c] += 1
    return n_coarse
