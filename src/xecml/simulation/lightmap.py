"""The map of indirect light: what scattering and reflection bring to each sensor from anywhere in the xenon.

Optics are reciprocal, so light is followed backwards: photons start on a sensor with the directions that its
window accepts, and the length of their tracks in a cell of the xenon, once they have been scattered or
reflected, measures the probability that light from the cell reaches the sensor. One backward photon scores in
many cells, so that the map needs far fewer photons than forward tracing.

The near field of `xecml.simulation.optics` is taken out of the map, and what remains is smooth. It is kept at
nodes of a grid in depth, azimuth and z, between which it is linear, for each photomultiplier and for a coarse
lattice of places on the inner face, between which SiPMs are interpolated. Mirror symmetry in y and z leaves a
quarter to do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.files import atomic_path, cache_dir
from xecml.progress import progress
from xecml.simulation.backward import Grid, near_field_in_boxes, radius_at, track_lengths
from xecml.simulation.crosssections import Floats
from xecml.simulation.optics import (
    AREA,
    N_SIPM,
    Floats32,
    Optics,
    mean_transmission,
    near_field,
    sensor_table,
)
from xecml.simulation.photons import raster

_FORMAT = 3


@dataclass(frozen=True)
class Quality:
    """How fine the map is and how many photons make it."""

    nodes: tuple[int, int, int]
    """nodes in depth, azimuth and z, at equal steps of `map_coordinates`"""
    lattice: tuple[int, int]
    """places on the inner face in azimuth and z"""
    photons: int
    """backward photons a sensor"""


QUALITIES = {
    "quick": Quality((7, 13, 7), (12, 6), 6_000),
    "standard": Quality((11, 25, 13), (24, 12), 150_000),
    "fine": Quality((13, 33, 17), (24, 12), 1_000_000),
}


class LightMap(NamedTuple):
    """The map in use. Its columns are the places on the inner face, then the 668 PMTs."""

    share: Floats32
    """(nodes, columns) share of a source's photons that come indirectly, near field excluded"""
    path: Floats32
    """(nodes, columns) the same times the mean path, cm"""
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
    """Return the light map from the cache, or build it and put it there.

    Args:
        optics: optical constants.
        quality: a key of `QUALITIES`.
        jobs: threads for building.
    """
    return _light_map(optics or Optics(), quality, jobs)


@lru_cache(maxsize=2)
def _light_map(optics: Optics, quality: str, jobs: int) -> LightMap:
    path = cache_path(optics, quality)
    if not path.exists():
        share, track = build(optics, QUALITIES[quality], jobs)
        _save(path, share, track)
    with np.load(path) as stored:
        share, track = (stored[k].astype(np.float32) * stored[f"{k}_scale"] for k in ("share", "path"))
    return _unfold(share, track, QUALITIES[quality])


def cache_path(optics: Optics, quality: str) -> Path:
    """File of a map in the cache; its name depends on all that the map depends on."""
    key = (_FORMAT, tuple(optics), QUALITIES[quality], geometry.geometry_hash())
    return cache_dir() / f"lightmap-{quality}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.npz"


def _save(path: Path, share: Floats, track: Floats) -> None:
    """Store in half precision, each column scaled to its largest value."""
    arrays = {}
    for name, values in (("share", share), ("path", track)):
        scale = np.abs(values).max(axis=0).astype(np.float32)
        arrays[name] = (values / scale).astype(np.float16)
        arrays[f"{name}_scale"] = scale
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


# ---------------------------------------------------------------------------------------- places and symmetry


def _lattice_places(lattice: tuple[int, int]) -> tuple[Floats, Floats]:
    """Positions (n, 3) and normals of the lattice on the inner face; it spans the outermost SiPM centres."""
    corner = geometry.positions()[0]
    half = math.atan2(corner[1], -corner[0])
    azimuth, z = np.meshgrid(
        np.linspace(half, -half, lattice[0]), np.linspace(corner[2], -corner[2], lattice[1]), indexing="ij"
    )
    normal = np.stack([-np.cos(azimuth), np.sin(azimuth), 0 * z], axis=-1).reshape(-1, 3)
    return normal * geometry.INNER_RADIUS + np.stack([0 * z, 0 * z, z], axis=-1).reshape(-1, 3), normal


class _Places(NamedTuple):
    xyz: Floats
    normal: Floats
    face: NDArray[np.int64]
    twin: NDArray[np.int64]
    """(n, 3) the place's mirror image in y, in z, in both"""

    @property
    def quarter(self) -> NDArray[np.int64]:
        """Places with y and z not negative."""
        return np.flatnonzero((self.xyz[:, 1] > -1e-6) & (self.xyz[:, 2] > -1e-6))


def _places(lattice: tuple[int, int]) -> _Places:
    from scipy.spatial import KDTree

    inner, inner_normal = _lattice_places(lattice)
    xyz = np.concatenate([inner, geometry.positions()[N_SIPM:]])
    normal = np.concatenate([inner_normal, geometry.normals()[N_SIPM:]])
    face = np.concatenate([np.zeros(len(inner), np.int64), geometry.face_codes()[N_SIPM:].astype(np.int64)])
    tree = KDTree(xyz)
    flips = ((1, -1, 1), (1, 1, -1), (1, -1, -1))
    twin = np.stack([tree.query(xyz * np.array(flip))[1] for flip in flips], axis=1)
    return _Places(xyz, normal, face, twin)


# --------------------------------------------------------------------------------------------------- building


def build(optics: Optics, quality: Quality, jobs: int = 2, seed: int = 1) -> tuple[Floats, Floats]:
    """Simulate the map for a quarter of the places.

    Returns:
        Shares and shares times path, each (nodes, quarter of the columns).
    """
    places, grid = _places(quality.lattice), _box_grid(quality.nodes)
    quarter = places.quarter
    project = _projection(quality.nodes, grid)
    share, path = (np.empty((math.prod(quality.nodes), len(quarter))) for _ in range(2))

    def one(k: int) -> None:
        share[:, k], path[:, k] = _one_place(optics, grid, project, places, quarter[k], quality.photons, seed)

    one(0)  # compiles before the threads start
    with progress(len(quarter), "light map", "sensors") as bar, ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(one, range(len(quarter))):
            bar.advance(1)
    return share, path


def _one_place(
    optics: Optics,
    grid: Grid,
    project: Callable[[Floats], Floats],
    places: _Places,
    s: int,
    photons: int,
    seed: int,
) -> tuple[Floats, Floats]:
    table = sensor_table()
    sipm = places.face[s] == 0
    area = float(table[AREA, 0 if sipm else N_SIPM])
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, int(s)))))
    share, path = np.zeros(grid.volume.shape), np.zeros(grid.volume.shape)
    half = 0.5 * math.sqrt(area) if sipm else geometry.PMT_RADIUS
    xyz, normal = np.ascontiguousarray(places.xyz[s]), np.ascontiguousarray(places.normal[s])
    track_lengths(rng, optics, raster(), grid, xyz, normal, int(places.face[s]), half, photons, share, path)
    # a photon stands for area pi T / n of the radiance that the window accepts; 4 pi from fluence to emission
    scale = area * math.pi * mean_transmission(optics) / (photons * 4 * math.pi)
    near_share, near_path = near_field_in_boxes(optics, near_field(optics), grid, xyz, normal, area)
    return (
        project(share * scale / grid.volume - near_share),
        project(path * scale / grid.volume - near_path),
    )


def _box_grid(nodes: tuple[int, int, int]) -> Grid:
    """Boxes in which tracks are counted: two in each interval between nodes."""
    n = tuple(2 * (k - 1) for k in nodes)
    r = np.array([radius_at(k / n[0]) for k in range(n[0] + 1)])
    offset = geometry.HALF_LENGTH_INNER - geometry.END_SLOPE * geometry.INNER_RADIUS
    integral = offset * r**2 / 2 + geometry.END_SLOPE * r**3 / 3
    azimuth = 2 * math.radians(geometry.HALF_OPENING_DEG) / n[1]
    volume = np.diff(integral)[:, None, None] * azimuth * (2 / n[2]) * np.ones(n)
    return Grid(np.array(n, np.int64), volume)


def _projection(nodes: tuple[int, int, int], grid: Grid) -> Callable[[Floats], Floats]:
    """Least-squares fit, weighted by volume, of a function linear between nodes to its means in boxes."""
    inverses = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        root = np.sqrt(grid.volume.sum(others))
        means = _box_means(nodes[axis], len(root))
        inverses.append(np.linalg.pinv(means * root[:, None]) * root)

    def project(boxes: Floats) -> Floats:
        return np.asarray(np.einsum("ai,bj,ck,ijk->abc", *inverses, boxes, optimize=True).ravel())

    return project


def _box_means(n_nodes: int, n_boxes: int) -> Floats:
    """Mean of each node's hat function over each box, (boxes, nodes)."""
    x = (np.arange(8 * n_boxes) + 0.5) / (8 * n_boxes) * (n_nodes - 1)
    hats = np.maximum(1 - np.abs(x[:, None] - np.arange(n_nodes)), 0)
    return np.asarray(hats.reshape(n_boxes, 8, n_nodes).mean(1))


# ------------------------------------------------------------------------------------------------ use


def _unfold(share: Floats32, path: Floats32, quality: Quality) -> LightMap:
    """Complete a quarter of the columns to all of them by symmetry."""
    places = _places(quality.lattice)
    quarter = places.quarter
    full = []
    for stored in (share, path):
        nodes = stored.reshape(*quality.nodes, len(quarter))
        columns = np.empty((*quality.nodes, len(places.xyz)), np.float32)
        for axis in (0, 1):
            # a place on a mirror plane is its own image: its noise is made symmetric too
            own = places.twin[quarter, axis] == quarter
            nodes[..., own] = 0.5 * (nodes + np.flip(nodes, axis + 1))[..., own]
        columns[..., quarter] = nodes
        columns[..., places.twin[quarter, 0]] = nodes[:, ::-1]
        columns[..., places.twin[quarter, 1]] = nodes[:, :, ::-1]
        columns[..., places.twin[quarter, 2]] = nodes[:, ::-1, ::-1]
        full.append(columns.reshape(-1, len(places.xyz)))
    rows, columns_z = geometry.inner_map().shape
    row_start, row_weight = _lagrange(rows, quality.lattice[0])
    column_start, column_weight = _lagrange(columns_z, quality.lattice[1])
    return LightMap(
        full[0],
        full[1],
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
