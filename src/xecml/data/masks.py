"""Which sensors are hidden from a network that learns to reconstruct them: exact numbers, realistic patterns.

A pattern is drawn for each event. Every pattern hides exactly floor(ratio x valid) sensors of its event, never an
invalid one:

- `random`: every valid sensor alike;
- `light`: flat in the logarithm of the light, so that the few bright sensors are learnt too;
- `clusters`: round patches of neighbours, in three dimensions and so across faces;
- `boards`: whole blocks of 4 x 4 neighbours on a face, of a row on top and bottom;
- `face`: one whole face that is small enough, and others at random;
- `spot`: about the brightest SiPM one of the five nearest, itself among them, and a share of others, or one to four
  blocks there, and others at random. Which one is the brightest depends little on the count of any other, so that a
  sensor is hidden hardly says how bright it is.
- `listed`: those of a list, as of the dead sensors that the network will have to fill, and others at random.

`light` likewise goes by the mean light of a sensor's neighbours: hidden by its own, it would be brighter than it looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.choices import MASK_PATTERNS
from xecml.compiled import compiled
from xecml.data.damage import block_table
from xecml.errors import InputError

Marks = NDArray[np.bool_]
Ids = NDArray[np.int32]
Counts = NDArray[np.float32]
State = NDArray[np.uint64]

PATTERNS = tuple(MASK_PATTERNS)
_RANDOM, _LIGHT, _CLUSTERS, _BOARDS, _FACE, _SPOT, _LISTED = range(len(PATTERNS))
_N_CLUSTER = 24
"""Nearest sensors of which a cluster is made, itself included."""
_LIGHT_BINS = 12
_BINS_A_DECADE = 2.5
_AROUND = 7
"""Nearest sensors, itself included, whose light is that of a sensor's surroundings."""
_BOARD = 4
_N_SIPM = geometry.N_SIPM
_SPOT_NEAR = 5
"""Nearest to the brightest, itself included, of which one is hidden."""
_SPOT_SHARES = (0.01, 0.3)
"""Of the others about it that are hidden too; log-uniform, for most often a dead sensor has live neighbours."""
_SPOT_BLOCKS = 0.8
"""Of the events of that pattern that hide blocks there instead."""
_MORE_BLOCKS = 0.35
"""How often there is one more of them."""
_MOST_BLOCKS = 4
_SPOT_CENTRES = 36
"""The block of any of so many sensors about the brightest; it holds the brightest for sixteen of them."""


@dataclass(frozen=True)
class Masking:
    """How sensors are hidden.

    Attributes:
        ratio: share of an event's valid sensors that is hidden.
        patterns: share of events of each pattern; any sum above zero.
        ratio_start: share at the first epoch, from which it goes to `ratio` in `ramp_epochs`; none for `ratio`.
        ramp_epochs: epochs of that ramp.
        listed: sensors of the pattern of that name.

    Raises:
        InputError: unknown pattern, or shares that do not make sense.
    """

    ratio: float
    patterns: Mapping[str, float] = field(default_factory=lambda: {"random": 1.0})
    ratio_start: float | None = None
    ramp_epochs: float = 0.0
    listed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.patterns) - set(PATTERNS)):
            raise InputError(f"Unknown mask pattern '{unknown[0]}'; choose among {', '.join(PATTERNS)}.")
        if min(self.patterns.values()) < 0 or sum(self.patterns.values()) <= 0:
            raise InputError("Shares of mask patterns must be 0 or more, and one of them above 0.")
        if not 0 < self.ratio < 1:
            raise InputError(
                f"The masked share is {self.ratio}, but must be between 0 and 1; set model.mask_ratio to such a number."
            )

    def ratio_at(self, epoch: float) -> float:
        """Share hidden at a fractional epoch, 0 at the start of the training."""
        if self.ratio_start is None or epoch >= self.ramp_epochs:
            return self.ratio
        return self.ratio_start + (self.ratio - self.ratio_start) * epoch / self.ramp_epochs

    def __call__(
        self, npho: Counts, valid: Marks, seed: tuple[int, ...], *, epoch: float = np.inf, first: int = 0
    ) -> Marks:
        """Choose what to hide; a function of the arguments, so that a resumed training hides the same sensors.

        Args:
            npho: counts (B, 4760).
            valid: whether they were measured (B, 4760).
            seed: of all draws; an event's are those of its number.
            epoch: fractional, for the share hidden.
            first: number of the first event, where a batch is part of a larger one or of a sample.

        Returns:
            Hidden sensors (B, 4760).
        """
        names = [name for name in PATTERNS if self.patterns.get(name, 0) > 0]
        shares = np.cumsum([self.patterns[name] for name in names])
        # a counter of the generator yields four numbers; a jump to any event takes no time
        draws = np.random.Philox(np.random.SeedSequence(seed)).advance(first).random_raw(4 * len(npho)).reshape(-1, 4)
        uniform = (draws[:, 1] >> np.uint64(11)) / 2.0**53
        places = np.searchsorted(shares, uniform * shares[-1], side="right")
        chosen = np.array([PATTERNS.index(name) for name in names], np.int8)[np.minimum(places, len(names) - 1)]
        hidden = np.zeros(valid.shape, np.bool_)
        seeds = draws[:, 0] | np.uint64(1)  # a state of zero would stay zero
        _hide(npho, valid, chosen, seeds, self.ratio_at(epoch), *_tables(), np.array(self.listed, np.int32), hidden)
        return hidden


@cache
def nearest_sensors(k: int = 64) -> Ids:
    """The `k` sensors nearest to each in three dimensions, itself first, (4760, k)."""
    from scipy.spatial import cKDTree

    xyz = geometry.positions()
    return np.asarray(cKDTree(xyz).query(xyz, k)[1], np.int32)


@cache
def boards() -> Ids:
    """Number of the board of each sensor (4760,): 4 x 4 blocks on the grids, parts of rows on top and bottom."""
    board = np.full(geometry.N_SENSORS, -1, np.int32)
    grids = (
        geometry.outer_coarse_map().T,
        geometry.outer_centre_map().T,  # after the coarse map, whose displaced sensors stand here
        geometry.inner_map(),
        geometry.us_map(),
        geometry.ds_map(),
    )
    for grid in grids:
        row, column = np.indices(grid.shape)
        wide = -(-grid.shape[1] // _BOARD)
        board[grid] = board.max() + 1 + (row // _BOARD) * wide + column // _BOARD
    for rows in (geometry.top_rows(), geometry.bottom_rows()):
        for ids in rows:
            # a row of 11 to 14 sensors in three parts
            board[np.asarray(ids)] = board.max() + 1 + np.arange(len(ids)) * 3 // len(ids)
    return board


@cache
def _tables() -> tuple[Ids, Ids, Ids, Ids, Ids, Ids]:
    """Nearest sensors; sensors by board and by face, each with the groups' edges; block about each sensor."""
    faces = np.asarray(geometry.face_codes(), np.int32)
    blocks = np.asarray(block_table(), np.int32)
    return nearest_sensors(), *_groups(boards()), *_groups(faces), blocks


def _groups(group: Ids) -> tuple[Ids, Ids]:
    """Sensors sorted by group, and where each group begins."""
    edges = np.searchsorted(np.sort(group), np.arange(group.max() + 2))
    return np.argsort(group, kind="stable").astype(np.int32), edges.astype(np.int32)


@compiled
def _draw(state: State) -> float:
    """Uniform in [0, 1): xorshift64* (Vigna 2016)."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@compiled
def _hide(
    npho: Counts,
    valid: Marks,
    patterns: NDArray[np.int8],
    seeds: State,
    ratio: float,
    nearest: Ids,
    board_sensors: Ids,
    board_edges: Ids,
    face_sensors: Ids,
    face_edges: Ids,
    blocks: Ids,
    listed: Ids,
    hidden: Marks,
) -> None:
    """Hide floor(ratio x valid) sensors of every event by its pattern."""
    bins = np.zeros(npho.shape[1], np.int8)
    state = np.zeros(1, np.uint64)
    for event in range(npho.shape[0]):
        state[0] = seeds[event]
        ok, out, n = valid[event], hidden[event], npho[event]
        # a hair above, for ratios that have no exact binary form
        k = int(ratio * ok.sum() + 1e-9)
        if patterns[event] == _LIGHT:
            k -= _by_light(n, ok, k, (1 + ratio) / 2, nearest, bins, state, out)
        elif patterns[event] == _CLUSTERS:
            k -= _by_cluster(ok, k, nearest, state, out)
        elif patterns[event] == _BOARDS:
            k -= _by_group(ok, k, board_sensors, board_edges, True, state, out)
        elif patterns[event] == _FACE:
            k -= _by_group(ok, k, face_sensors, face_edges, False, state, out)
        elif patterns[event] == _SPOT:
            k -= _by_spot(n, ok, k, nearest, blocks, state, out)
        elif patterns[event] == _LISTED:
            k -= _by_list(ok, k, listed, state, out)
        _at_random(ok, k, state, out)


@compiled
def _at_random(ok: Marks, k: int, state: State, out: Marks) -> None:
    """Hide `k` more valid sensors, all choices alike (selection sampling, Knuth 3.4.2 S)."""
    left = 0
    for s in range(len(ok)):
        left += ok[s] and not out[s]
    for s in range(len(ok)):
        if k == 0:
            break
        if ok[s] and not out[s]:
            if _draw(state) * left < k:
                out[s] = True
                k -= 1
            left -= 1


@compiled
def _by_light(
    n: Counts, ok: Marks, k: int, most: float, nearest: Ids, bins: NDArray[np.int8], state: State, out: Marks
) -> int:
    """Hide up to `k` sensors, alike many in each bin of log light but no more than a share `most`; returns how many."""
    filled = np.zeros(_LIGHT_BINS, np.int64)
    for s in range(len(ok)):
        if ok[s]:
            light, number = 0.0, 0
            for other in nearest[s, 1:_AROUND]:
                if ok[other]:
                    light += n[other]
                    number += 1
            light = max(light / max(number, 1), 1.0)
            bins[s] = min(max(int(_BINS_A_DECADE * np.log10(light)), 0), _LIGHT_BINS - 1)
            filled[bins[s]] += 1
    # hidden all at once, bright sensors would leave nothing to tell them by
    limit = (most * filled).astype(np.int64)
    wanted = np.zeros(_LIGHT_BINS, np.int64)
    k = min(k, limit.sum())
    rest = k
    while rest > 0:
        share = max(rest // max(int(np.sum(wanted < limit)), 1), 1)
        for b in range(_LIGHT_BINS):
            more = min(share, limit[b] - wanted[b], rest)
            wanted[b] += more
            rest -= more
    for s in range(len(ok)):
        if ok[s]:
            b = bins[s]
            if _draw(state) * filled[b] < wanted[b]:
                out[s] = True
                wanted[b] -= 1
            filled[b] -= 1
    return k


@compiled
def _by_cluster(ok: Marks, k: int, nearest: Ids, state: State, out: Marks) -> int:
    """Hide patches of 4 to 24 sensors about random ones; returns how many sensors."""
    done = 0
    for _ in range(20 * len(ok)):
        if done >= k:
            break
        centre = int(_draw(state) * len(ok))
        if not ok[centre]:
            continue
        size = min(4 + int(_draw(state) * (_N_CLUSTER - 3)), _N_CLUSTER)
        for s in nearest[centre, :size]:
            if done < k and ok[s] and not out[s]:
                out[s] = True
                done += 1
    return done


@compiled
def _by_group(ok: Marks, k: int, sensors: Ids, edges: Ids, broken: bool, state: State, out: Marks) -> int:
    """Hide whole groups in random order while they fit into `k`, the last one in part if `broken`; how many sensors."""
    order = np.arange(len(edges) - 1)
    for i in range(len(order) - 1, 0, -1):
        j = int(_draw(state) * (i + 1))
        order[i], order[j] = order[j], order[i]
    done = 0
    for group in order:
        members = sensors[edges[group] : edges[group + 1]]
        size = 0
        for s in members:
            size += ok[s]
        if done + size > k and not broken:
            continue
        for s in members:
            if done < k and ok[s]:
                out[s] = True
                done += 1
        if done >= k or not broken:
            break
    return done


@compiled
def _by_spot(n: Counts, ok: Marks, k: int, nearest: Ids, blocks: Ids, state: State, out: Marks) -> int:
    """Hide some of the sensors about the brightest valid SiPM, or blocks near it; returns how many sensors."""
    brightest = -1
    # a PMT has the area of eleven SiPMs, and would be the brightest of every deep event
    for s in range(_N_SIPM):
        if ok[s] and (brightest < 0 or n[s] > n[brightest]):
            brightest = s
    if brightest < 0:
        return 0
    near = nearest[brightest]
    done = 0
    if _draw(state) < _SPOT_BLOCKS:
        for i in range(_MOST_BLOCKS):
            if i > 0 and _draw(state) >= _MORE_BLOCKS:
                break
            for s in blocks[near[int(_draw(state) * _SPOT_CENTRES)]]:
                if done < k and s < len(ok) and ok[s] and not out[s]:
                    out[s] = True
                    done += 1
        return done
    chosen = near[int(_draw(state) * _SPOT_NEAR)]
    share = _SPOT_SHARES[0] * (_SPOT_SHARES[1] / _SPOT_SHARES[0]) ** _draw(state)
    for s in near[:_N_CLUSTER]:
        if done < k and ok[s] and (s == chosen or _draw(state) < share):
            out[s] = True
            done += 1
    return done


@compiled
def _by_list(ok: Marks, k: int, listed: Ids, state: State, out: Marks) -> int:
    """Hide the sensors of a list, or `k` of them at random if they are more; returns how many."""
    left = 0
    for s in listed:
        left += ok[s]
    done = 0
    for s in listed:
        if ok[s]:
            if not out[s] and _draw(state) * left < k - done:
                out[s] = True
                done += 1
            left -= 1
    return done
