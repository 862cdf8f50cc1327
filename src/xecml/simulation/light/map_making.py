"""Making the map of indirect light: places of sensors, backward photons, smoothing, boxes to nodes.

Lengths in cm. See `lightmap` for what the map is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.progress import progress
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.light.backward import SPACING, near_field_in_boxes, radius_at, track_lengths
from xecml.simulation.light.optics import AREA, N_SIPM, Floats32, Optics, near_field, sensor_table
from xecml.simulation.light.photons import raster

_DEPTH_SHARE = 0.5
"""Of the smoothing's widths, in depth."""


class Smoothing(NamedTuple):
    """How the statistical noise of a place is taken out (`smoothed`)."""

    share: tuple[float, ...]
    """widths (sigma) of the Gaussians in turn, in boxes; the last takes out what distrust of few counts has left"""
    path: tuple[float, ...]
    """the same for paths and their squares, which vary less"""
    trusted: float
    """points of tracks at which counts weigh as much as the model"""


SIPM_SMOOTHING = Smoothing((6.0, 3.0, 1.8, 1.0, 0.6, 2.5), (6.0, 3.0, 1.5, 2.5), 300.0)
"""Sources can be close: what light changes over short distances is to stay."""
PMT_SMOOTHING = Smoothing((6.0, 3.0, 1.8, 1.0, 0.6, 2.5), (6.0, 3.0, 2.0), 900.0)
"""Sources are mostly far, and the noise of the spread of times is what is seen: it is a difference of squares."""


@dataclass(frozen=True)
class Quality:
    """How fine the map is and how many photons make it."""

    nodes: tuple[int, int, int]
    """nodes in depth, azimuth and z, at equal steps of `map_coordinates`"""
    lattice: tuple[int, int]
    """places on the inner face in azimuth and z"""
    photons: int
    """backward photons a sensor"""


# ---------------------------------------------------------------------------------------- places and symmetry


class Places(NamedTuple):
    """The lattice on the inner face, then the 668 photomultipliers."""

    xyz: Floats
    normal: Floats
    face: NDArray[np.int64]
    twin: NDArray[np.int64]
    """(n, 3) the place's mirror image in y, in z, in both"""

    @property
    def quarter(self) -> NDArray[np.int64]:
        """Places with y and z not negative."""
        return np.flatnonzero((self.xyz[:, 1] > -1e-6) & (self.xyz[:, 2] > -1e-6))


def _lattice_places(lattice: tuple[int, int]) -> tuple[Floats, Floats]:
    """Positions (n, 3) and normals of the lattice on the inner face; it spans the outermost SiPM centres."""
    corner = geometry.positions()[0]
    half = math.atan2(corner[1], -corner[0])
    azimuth, z = np.meshgrid(
        np.linspace(half, -half, lattice[0]), np.linspace(corner[2], -corner[2], lattice[1]), indexing="ij"
    )
    normal = np.stack([-np.cos(azimuth), np.sin(azimuth), 0 * z], axis=-1).reshape(-1, 3)
    return normal * geometry.INNER_RADIUS + np.stack([0 * z, 0 * z, z], axis=-1).reshape(-1, 3), normal


@cache
def places(lattice: tuple[int, int]) -> Places:
    """Places for which the map is made."""
    from scipy.spatial import KDTree

    inner, inner_normal = _lattice_places(lattice)
    xyz = np.concatenate([inner, geometry.positions()[N_SIPM:]])
    normal = np.concatenate([inner_normal, geometry.normals()[N_SIPM:]])
    face = np.concatenate([np.zeros(len(inner), np.int64), geometry.face_codes()[N_SIPM:].astype(np.int64)])
    tree = KDTree(xyz)
    flips = ((1, -1, 1), (1, 1, -1), (1, -1, -1))
    twin = np.stack([tree.query(xyz * np.array(flip))[1] for flip in flips], axis=1)
    return Places(xyz, normal, face, twin)


def unfold(quarter_columns: Floats32, quality: Quality) -> Floats32:
    """Complete columns of a quarter of the places (..., nodes, quarter) to all places by symmetry."""
    where, nodes = places(quality.lattice), quality.nodes
    quarter = where.quarter
    lead = quarter_columns.shape[:-2]
    part = quarter_columns.reshape(*lead, *nodes, len(quarter))
    for axis in (0, 1):
        # a place on a mirror plane is its own image: its noise is made symmetric too
        own = where.twin[quarter, axis] == quarter
        part[..., own] = 0.5 * (part + np.flip(part, axis - 3))[..., own]
    full = np.empty((*lead, *nodes, len(where.xyz)), np.float32)
    full[..., quarter] = part
    full[..., where.twin[quarter, 0]] = part[..., ::-1, :, :]
    full[..., where.twin[quarter, 1]] = part[..., ::-1, :]
    full[..., where.twin[quarter, 2]] = part[..., ::-1, ::-1, :]
    return full.reshape(*lead, -1, len(where.xyz))


# ------------------------------------------------------------------------------------------------ boxes and nodes


def _box_shape(nodes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Boxes in which tracks are counted: two in each interval between nodes."""
    return 2 * (nodes[0] - 1), 2 * (nodes[1] - 1), 2 * (nodes[2] - 1)


def _box_volumes(shape: tuple[int, int, int]) -> Floats:
    """Volumes of the boxes, cm3."""
    r = np.array([radius_at(k / shape[0]) for k in range(shape[0] + 1)])
    offset = geometry.HALF_LENGTH_INNER - geometry.END_SLOPE * geometry.INNER_RADIUS
    integral = offset * r**2 / 2 + geometry.END_SLOPE * r**3 / 3
    azimuth = 2 * math.radians(geometry.HALF_OPENING_DEG) / shape[1]
    return np.asarray(np.diff(integral)[:, None, None] * azimuth * (2 / shape[2]) * np.ones(shape))


def _box_centres(shape: tuple[int, int, int]) -> Floats:
    """Centres of the boxes (3, boxes), cm."""
    fractions = [(np.arange(n) + 0.5) / n for n in shape]
    r = np.array([radius_at(q) for q in fractions[0]])
    r, a, c = np.meshgrid(r, fractions[1], fractions[2], indexing="ij")
    azimuth = math.radians(geometry.HALF_OPENING_DEG) * (2 * a - 1)
    return np.stack([-r * np.cos(azimuth), r * np.sin(azimuth), geometry.half_length(r) * (2 * c - 1)])


def _projection(nodes: tuple[int, int, int], volume: Floats) -> Callable[[Floats], Floats]:
    """Least-squares fit, weighted by volume, of a function linear between nodes to its means in boxes."""
    inverses = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        root = np.sqrt(volume.sum(others))
        means = _box_means(nodes[axis], len(root))
        inverses.append(np.linalg.pinv(means * root[:, None]) * root)

    def project(boxes: Floats) -> Floats:
        return np.asarray(np.einsum("ai,bj,ck,qijk->qabc", *inverses, boxes, optimize=True).reshape(len(boxes), -1))

    return project


def _box_means(n_nodes: int, n_boxes: int) -> Floats:
    """Mean of each node's hat function over each box, (boxes, nodes)."""
    x = (np.arange(8 * n_boxes) + 0.5) / (8 * n_boxes) * (n_nodes - 1)
    hats = np.maximum(1 - np.abs(x[:, None] - np.arange(n_nodes)), 0)
    return np.asarray(hats.reshape(n_boxes, 8, n_nodes).mean(1))


# ---------------------------------------------------------------------------------------------------- building


def build(optics: Optics, quality: Quality, jobs: int = 2, seed: int = 1, *, label: str = "light map") -> Floats32:
    """Simulate the map for a quarter of the places; progress is shown under the label.

    Returns:
        (3, nodes, quarter of the places): shares, shares times path (cm), shares times squared path, of the indirect
        light without its near field.
    """
    quarter = places(quality.lattice).quarter
    columns = np.empty((3, math.prod(quality.nodes), len(quarter)), np.float32)

    def one(k: int) -> None:
        columns[:, :, k] = one_column(optics, quality, int(quarter[k]), seed)

    one(0)  # compiles before the threads start
    with progress(len(quarter), label, "sensors") as bar, ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(one, range(len(quarter))):
            bar.advance(1)
    return columns


def one_column(optics: Optics, quality: Quality, place: int, seed: int = 1) -> Floats:
    """The map of one place, (3, nodes)."""
    where = places(quality.lattice)
    xyz, normal, area = where.xyz[place], where.normal[place], _area(where, place)
    volume = _box_volumes(_box_shape(quality.nodes))
    sums = _one_place(optics, volume, where, place, quality.photons, seed)
    near = np.zeros_like(sums)
    near_field_in_boxes(optics, near_field(optics), xyz, normal, area, near)
    distance = np.linalg.norm(_box_centres(volume.shape) - xyz[:, None, None, None], axis=0)
    points = quality.photons * 4 / area / SPACING
    smoothing = SIPM_SMOOTHING if where.face[place] == 0 else PMT_SMOOTHING
    smooth = smoothed(sums, volume, -near[0], distance, points, smoothing)
    return _projection(quality.nodes, volume)(smooth + near)


def _area(where: Places, s: int) -> float:
    return float(sensor_table()[AREA, 0 if where.face[s] == 0 else N_SIPM])


def _one_place(optics: Optics, volume: Floats, where: Places, s: int, photons: int, seed: int) -> Floats:
    """Means over boxes of share, share times path, share times squared path (3, boxes) of one place."""
    area = _area(where, s)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, s))))
    sums = np.zeros((3, *volume.shape))
    half = 0.5 * math.sqrt(area) if where.face[s] == 0 else geometry.PMT_RADIUS
    xyz, normal = np.ascontiguousarray(where.xyz[s]), np.ascontiguousarray(where.normal[s])
    track_lengths(rng, optics, raster(), xyz, normal, int(where.face[s]), half, photons, sums)
    # a photon stands for area pi / n of radiance; 4 pi from fluence to emission. The weights hold the window
    return sums * (area * math.pi / (photons * 4 * math.pi)) / volume


# -------------------------------------------------------------------------------------------------- smoothing


def smoothed(
    sums: Floats, volume: Floats, near: Floats, distance: Floats, points: float, smoothing: Smoothing
) -> Floats:
    """Take the statistical noise from the means over boxes of one place.

    Not the light is smoothed, which has a peak at the sensor, but its ratio to a model with that peak: smoothed
    counts over smoothed expectation. The model takes the ratio in, and this is repeated with narrower Gaussians; each
    step trusts the counts, n of them, with the weight n / (n + n0), so that structure is kept where there is
    light enough to see it.

    Args:
        sums: (3, boxes) share, share times path, share times squared path.
        volume: (boxes) cm3.
        near: (boxes) means of the near field's share.
        distance: (boxes) cm to the sensor.
        points: points of tracks that one unit of share times cm3 stands for.
        smoothing: widths and trust.
    """
    broad = np.exp(-distance / 20) / (distance + 8)
    broad *= max(float((sums[0] * volume).sum() - (near * volume).sum()), 0.0) / float((broad * volume).sum())
    n, widths = points / smoothing.trusted, smoothing.path
    share = _ratio_smoothed(sums[0], near + broad, volume, n, smoothing.share)
    path = _ratio_smoothed(sums[1], share * (1.15 * distance + 6), volume, n / 100, widths)
    square = _ratio_smoothed(sums[2], path**2 / np.maximum(share, 1e-30), volume, n / 1e4, widths)
    return np.stack([share, path, square])


def _blurred(values: Floats, widths: tuple[float, float, float]) -> Floats:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(values.astype(np.float32), widths, mode="nearest", truncate=3.0), float)


def _ratio_smoothed(
    counted: Floats, model: Floats, volume: Floats, trust: float, all_widths: tuple[float, ...]
) -> Floats:
    for width in all_widths:
        # there is no symmetry at the inner face: smooth less in depth
        widths = (_DEPTH_SHARE * width, width, width)
        expected = _blurred(model * volume, widths)
        found = _blurred(counted * volume, widths)
        ratio = found / np.maximum(expected, 1e-30)
        # counts wrong in either direction must be able to correct the model; then the squared Gaussian's volume
        n = trust * np.maximum(expected, found) * (2 * math.sqrt(math.pi) * width) ** 3 * _DEPTH_SHARE
        model = np.maximum(model * (1 + n / (n + 1) * (ratio - 1)), 1e-30)
    return model
