"""Artificial damage: which sensors of undamaged events are treated as dead, to measure a repair.

The mask of an event depends on the seed and the event's number alone, not on how events are read; with a larger
fraction the dead sensors of the smaller one are dead too, so that fractions compare on nearly equal terms.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from xecml import geometry
from xecml.errors import InputError
from xecml.geometry import N_SENSORS

Pattern = Literal["scattered", "blocks"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
Marks = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK_SIDE = 4
_BLOCK_SENSORS = BLOCK_SIDE**2
# a counter of the generator yields four numbers
_COUNTERS = N_SENSORS // 4


def draw_damage(pattern: Pattern, fraction: float, events: int, *, seed: int = 0, first: int = 0) -> Marks:
    """Draw dead sensors for events.

    Args:
        pattern: `scattered`, or `blocks`: 4 x 4 on the lattices of the rectangular faces; on the hexagonal faces and
            in the finer centre of the outer face a sensor with its neighbours.
        fraction: share of the sensors that are dead.
        events: number of events.
        seed: of all masks.
        first: number of the first event.

    Returns:
        Mask (events, 4760): round(4760 fraction) dead sensors an event if scattered; in blocks as many whole blocks
        as it takes to reach that number.

    Raises:
        InputError: an unknown pattern, or a fraction outside 0 to 1.
    """
    if pattern not in PATTERNS:
        raise InputError(f"There is no damage pattern '{pattern}'; choose one of {', '.join(PATTERNS)}.")
    if not 0 <= fraction < 1:
        raise InputError(f"The fraction of dead sensors is {fraction:g}; choose one from 0 to below 1.")
    order = _random_order(events, seed, first)
    wanted = round(fraction * N_SENSORS)
    return _scattered(order, wanted) if pattern == "scattered" else _blocks(order, wanted)


def _random_order(events: int, seed: int, first: int) -> Ints:
    """The sensors in random order, (events, 4760); a counter-based generator jumps to any event."""
    generator = np.random.Generator(np.random.Philox(seed).advance(first * _COUNTERS))
    return np.asarray(np.argsort(generator.random((events, N_SENSORS)), axis=1, kind="stable"))


def _scattered(order: Ints, wanted: int) -> Marks:
    dead = np.zeros(order.shape, bool)
    np.put_along_axis(dead, order[:, :wanted], values=True, axis=1)
    return dead


def _blocks(order: Ints, wanted: int) -> Marks:
    """Take blocks in random order until `wanted` sensors are in one."""
    if wanted == 0:
        return np.zeros(order.shape, bool)
    # the place in the order at which each sensor is first in a block; a column of its own takes the padding
    events = len(order)
    turn = np.full((events, N_SENSORS + 1), N_SENSORS)
    # the own sensors of so many blocks are as many already; earlier blocks overwrite later ones
    for place in range(min(wanted, N_SENSORS) - 1, -1, -1):
        np.put_along_axis(turn, block_table()[order[:, place]], place, axis=1)
    turn = turn[:, :N_SENSORS]
    last = np.partition(turn, wanted - 1, axis=1)[:, wanted - 1, None]
    return turn <= last


@cache
def block_table() -> Ints:
    """The block that belongs to each sensor, (4760, 16) ids, the sensor among them; 4760 fills up smaller blocks.

    On a lattice the sensor is at the middle of its block, except at the edges, where the last full block serves.
    """
    table = np.full((N_SENSORS, _BLOCK_SENSORS), N_SENSORS)
    for lattice in (geometry.inner_map(), geometry.us_map(), geometry.ds_map(), geometry.outer_coarse_map()):
        _lattice_blocks(lattice, table)
    _centre_blocks(geometry.outer_centre_map(), table)
    for first in (int(geometry.top_rows()[0][0]), int(geometry.bottom_rows()[0][0])):
        near = geometry.hex_neighbours()
        table[first : first + len(near), : near.shape[1]] = np.where(near >= 0, near + first, N_SENSORS)
    table.setflags(write=False)
    return table


def _lattice_blocks(lattice: Ints, table: Ints) -> None:
    windows = sliding_window_view(lattice, (BLOCK_SIDE, BLOCK_SIDE))
    row, column = np.indices(lattice.shape)
    row, column = (np.clip(x - 1, 0, n - 1) for x, n in zip((row, column), windows.shape[:2], strict=True))
    block = windows[row, column].reshape(*lattice.shape, _BLOCK_SENSORS)
    # the twelve sensors of the outer face's coarse numbering that stand elsewhere
    table[lattice] = np.where(np.isin(block, geometry.outer_centre_map()), N_SENSORS, block)


def _centre_blocks(lattice: Ints, table: Ints) -> None:
    padded = np.pad(lattice, 1, constant_values=N_SENSORS)
    around = sliding_window_view(padded, (3, 3)).reshape(*lattice.shape, 9)
    table[lattice, :9] = around
    table[lattice, 9:] = N_SENSORS
