"""Light of detectors whose optics differ, from a few stored maps.

Absorption, Rayleigh scattering and reflectivity decide the map of indirect light. Maps of the eight corners of a box of
these constants are built once and stay in the cache; with the shipped map of the default constants, which lie inside,
they give that of any other constants in the box. The box is cut into pyramids over its faces with the default in their
common tip: a place in a pyramid is a share of the tip and the bilinear weights of the four corners of its base. The
inverse lengths are taken as coordinates, in which light is more nearly linear. What is interpolated is what the near
field leaves, which is smooth; the near field itself is computed with the constants asked for.

Refractive indices change the windows: direct light exactly, indirect light as the mean transmission does. Nothing
else of the optics is in the map: it holds paths, and the group velocity makes times of them.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xecml.compiled import compiled
from xecml.errors import InputError
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.light.lightmap import QUALITIES, LightMap, cache_path, light_map, save_map
from xecml.simulation.light.map_making import build
from xecml.simulation.light.optics import Floats32, NearField, Optics, mean_transmission, near_field

BOX: dict[str, tuple[float, float]] = {
    "absorption_length": (150.0, 500.0),
    "rayleigh_length": (25.0, 45.0),
    "wall_reflectivity": (0.0, 0.4),
}
"""Range of each constant that maps are stored for; lengths in cm."""
_CHUNK = 4096
Halves = NDArray[np.uint16]


class _Half(NamedTuple):
    """Shares, paths and squared paths of all maps (maps, n), upper halves of float32: as exact as their files."""

    share: Halves
    path: Halves
    square: Halves


@dataclass(frozen=True)
class MapFamily:
    """The stored maps, and what all of them share."""

    default: LightMap
    """of the default constants; a blend takes grid and interpolation from it"""
    near: tuple[NearField, ...]
    """of each stored map, the default first"""
    halves: _Half
    """the same order"""

    def blend(self, optics: Optics, into: LightMap) -> NearField:
        """Fill a map with that of other constants; return the near field that goes with it.

        Args:
            optics: constants inside `BOX`; refractive indices and group velocity as they like.
            into: made by `new_map`.
        """
        weights = map_weights(optics)
        used = np.flatnonzero(weights)
        window = mean_transmission(optics) / mean_transmission(Optics())
        for field in _Half._fields:
            target: Floats32 = getattr(into, field).reshape(-1)
            _blend_halves(getattr(self.halves, field), used, (weights[used] * window).astype(np.float32), target)
        shape, excess = (
            sum(weights[k] * getattr(self.near[k], name) for k in used).astype(np.float32) for name in NearField._fields
        )
        return NearField(shape, excess)

    def new_map(self) -> LightMap:
        """A map to fill (84 MB in standard quality)."""
        empty = (np.zeros_like(getattr(self.default, name)) for name in _Half._fields)
        return LightMap(*empty, *self.default[len(_Half._fields) :])


def corners() -> list[Optics]:
    """The constants of the stored maps but the default's."""
    return [Optics(**dict(zip(BOX, ends, strict=True))) for ends in itertools.product(*BOX.values())]


def map_weights(optics: Optics) -> Floats:
    """Weights (9,) of the default's map and of the corners', in the order of `corners`; their sum is 1.

    Raises:
        InputError: a constant lies outside `BOX`.
    """
    for name, (least, most) in BOX.items():
        if not least <= (value := getattr(optics, name)) <= most:
            raise InputError(
                f"Optical constants can vary where light maps are stored: {name} from {least:g} to {most:g}, "
                f"not {value:g}; narrow the range."
            )
    place, middle = _coordinates(optics), _coordinates(Optics())
    low, high = (_coordinates(Optics(**{name: ends[k] for name, ends in BOX.items()})) for k in (0, 1))
    step = place - middle
    # inverse lengths fall where lengths rise
    room = np.where((step > 0) == (high > middle), high, low) - middle
    # how far from the tip to the base: 0 at the default, 1 on the box
    far = float((step / room).max())
    weights = np.zeros(1 + 2 ** len(BOX))
    weights[0] = 1 - far
    if far > 0:
        along = np.clip((middle + step / far - low) / (high - low), 0, 1)
        sides = np.stack([1 - along, along])
        for k, ends in enumerate(itertools.product((0, 1), repeat=len(BOX)), 1):
            weights[k] = far * np.prod([sides[end, axis] for axis, end in enumerate(ends)])
    return weights


def _coordinates(optics: Optics) -> Floats:
    return np.array([1 / optics.absorption_length, 1 / optics.rayleigh_length, optics.wall_reflectivity])


@compiled
def _blend_halves(halves: Halves, used: NDArray[np.int64], weights: Floats32, total: Floats32) -> None:
    """Fill `total` (n,) with the weighted sum of those rows of upper halves (maps, n) that are used.

    Piece by piece, so that sums stay in the cache: the memory is what limits this.
    """
    bits = np.empty(_CHUNK, np.uint32)
    n = halves.shape[1]
    for begin in range(0, n, _CHUNK):
        size = min(_CHUNK, n - begin)
        piece = total[begin : begin + size]
        piece[:] = 0.0
        for j in range(len(used)):
            row = halves[used[j], begin : begin + size]
            for i in range(size):
                bits[i] = np.uint32(row[i]) << np.uint32(16)
            values = bits.view(np.float32)
            weight = weights[j]
            for i in range(size):
                piece[i] += weight * values[i]


def _halves(values: Floats32) -> Halves:
    bits = np.ascontiguousarray(values).view(np.uint32)
    return np.asarray((bits + np.uint32(0x8000)) >> np.uint32(16), np.uint16)


_lock = threading.Lock()
_families: dict[str, MapFamily] = {}


def map_family(quality: str = "standard", jobs: int = 2) -> MapFamily:
    """Return the stored maps; those that are not in the cache are built (six minutes on two cores for all).

    Args:
        quality: a key of `xecml.simulation.light.lightmap.QUALITIES`.
        jobs: threads for building.
    """
    with _lock:
        if quality not in _families:
            every = [Optics(), *corners()]
            missing = [optics for optics in every if not cache_path(optics, quality).exists() and optics != Optics()]
            for number, optics in enumerate(missing, 1):
                label = f"light map {number} of {len(missing)}, kept for later"
                columns = build(optics, QUALITIES[quality], jobs, label=label)
                save_map(cache_path(optics, quality), columns)
            halves = []
            for optics in every:
                found = light_map(optics, quality, jobs)
                halves.append([_halves(getattr(found, name)).reshape(-1) for name in _Half._fields])
            _families[quality] = MapFamily(
                light_map(Optics(), quality, jobs),
                tuple(near_field(optics) for optics in every),
                _Half(*(np.stack(rows) for rows in zip(*halves, strict=True))),
            )
        return _families[quality]
