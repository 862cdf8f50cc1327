"""The map of indirect light: what scattering and reflection bring to each sensor from anywhere in the xenon.

Optics are reciprocal, so light is followed backwards: photons start on a sensor with the directions that its
window accepts, and the length of their tracks in a cell of the xenon, once they have been scattered or
reflected, measures the probability that light from the cell reaches the sensor. One backward photon scores in
many cells, so that the map needs far fewer photons than forward tracing.

The near field of `xecml.simulation.light.optics` is taken out of the map, and what remains is smooth. It is made at
nodes of a grid in depth, azimuth and z, between which it is linear, for each photomultiplier and for a coarse
lattice of places on the inner face, between which SiPMs are interpolated. Mirror symmetry in y and z leaves a
quarter to do. Smoothing takes most of the noise of the photons' number out (`lightmap_making`).

The map of the default constants comes with the package; others are built once and stay in the cache. After a change
of the geometry or of the optics, `python -m xecml.simulation.light.lightmap` puts a new one in the package.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.files import atomic_path, cache_dir
from xecml.simulation.light.map_making import Quality, build, unfold
from xecml.simulation.light.optics import Floats32, Optics

_FORMAT = 8
_CLEARED_BITS = (2, 3, 3)
"""Last bits not stored of shares, paths and squared paths: relative steps of 0.4 and 0.8 %, rounded."""

QUALITIES = {
    "quick": Quality((7, 13, 7), (12, 6), 10_000),
    "standard": Quality((13, 33, 17), (24, 12), 300_000),
    "fine": Quality((15, 41, 21), (24, 12), 2_000_000),
}


class LightMap(NamedTuple):
    """The map in use. Its columns are the places on the inner face, then the 668 PMTs."""

    share: Floats32
    """(nodes, columns) share of a source's photons that come indirectly, near field excluded"""
    path: Floats32
    """(nodes, columns) the same times the path, cm"""
    square: Floats32
    """(nodes, columns) the same times the squared path, cm2"""
    shape: NDArray[np.int64]
    """(3,) nodes in depth, azimuth and z"""
    lattice: NDArray[np.int64]
    """(2,) places on the inner face in azimuth and z"""
    row_start: NDArray[np.int64]
    """(93,) first of the four lattice rows from which a row of SiPMs is interpolated"""
    row_weight: Floats32
    """(93, 4)"""
    column_start: NDArray[np.int64]
    """(44,)"""
    column_weight: Floats32
    """(44, 4)"""


def light_map(optics: Optics | None = None, quality: str = "standard", jobs: int = 2) -> LightMap:
    """Return the light map: of the package, from the cache, or built and put there.

    Args:
        optics: optical constants.
        quality: a key of `QUALITIES`.
        jobs: threads for building.
    """
    return _light_map(optics or Optics(), quality, jobs)


@lru_cache(maxsize=2)
def _light_map(optics: Optics, quality: str, jobs: int) -> LightMap:
    shipped = files("xecml.simulation.light").joinpath(map_name(optics, quality))
    if shipped.is_file():
        with as_file(shipped) as path:
            return load_map(path, QUALITIES[quality])
    path = cache_path(optics, quality)
    if not path.exists():
        save_map(path, build(optics, QUALITIES[quality], jobs))
    return load_map(path, QUALITIES[quality])


def map_name(optics: Optics, quality: str) -> str:
    """Name of a map's file; it depends on all that the map depends on but its statistics."""
    key = (_FORMAT, tuple(optics), QUALITIES[quality].nodes, QUALITIES[quality].lattice, geometry.geometry_hash())
    return f"lightmap-{quality}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.npz"


def cache_path(optics: Optics, quality: str) -> Path:
    """File of a map in the cache."""
    return cache_dir() / map_name(optics, quality)


def save_map(path: Path, columns: Floats32) -> None:
    """Store (3, nodes, places) in half precision, each column scaled to its largest value.

    Bits below the noise are cleared and the two bytes of the numbers stored apart: both help to compress.
    """
    scale = np.abs(columns).max(axis=1, keepdims=True)
    half = np.ascontiguousarray((columns / scale).astype(np.float16).transpose(0, 2, 1))
    bits = half.view(np.uint16).astype(np.uint32)
    for q, cleared in enumerate(_CLEARED_BITS):
        bits[q] = (bits[q] + (1 << cleared >> 1)) >> cleared << cleared
    planes = np.stack([bits & 0xFF, bits >> 8]).astype(np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, planes=planes, scale=scale)


def load_map(path: Path, quality: Quality) -> LightMap:
    """Read what `save_map` wrote and complete it by symmetry."""
    with np.load(path) as stored:
        low, high = stored["planes"].astype(np.uint16)
        scale = stored["scale"]
    half = (low | high << 8).view(np.float16).transpose(0, 2, 1)
    columns = unfold(np.ascontiguousarray(half.astype(np.float32) * scale), quality)
    rows, columns_z = geometry.inner_map().shape
    row_start, row_weight = _lagrange(rows, quality.lattice[0])
    column_start, column_weight = _lagrange(columns_z, quality.lattice[1])
    return LightMap(
        columns[0],
        columns[1],
        columns[2],
        np.array(quality.nodes, np.int64),
        np.array(quality.lattice, np.int64),
        row_start,
        row_weight,
        column_start,
        column_weight,
    )


def _lagrange(n: int, n_nodes: int) -> tuple[NDArray[np.int64], Floats32]:
    """Cubic interpolation of n equidistant points from n_nodes equidistant nodes with the same ends."""
    x = np.arange(n) * (n_nodes - 1) / (n - 1)
    start = np.clip(np.floor(x).astype(np.int64) - 1, 0, n_nodes - 4)
    t = x - start
    weight = np.ones((n, 4))
    for k in range(4):
        for m in range(4):
            if m != k:
                weight[:, k] *= (t - m) / (k - m)
    return start, weight.astype(np.float32)


def ship(jobs: int = 2) -> Path:
    """Build the standard map of the default constants with twice the photons and put it in the package."""
    folder = Path(__file__).parent
    for old in folder.glob("lightmap-*.npz"):
        old.unlink()
    path = folder / map_name(Optics(), "standard")
    standard = QUALITIES["standard"]
    save_map(path, build(Optics(), replace(standard, photons=2 * standard.photons), jobs))
    return path


if __name__ == "__main__":
    print(f"wrote {ship()}")
