"""Events as seen from their hot spots: regions about them, and the light of another event moved there.

What another event has beside the mean light about its hot spot is put about this one's: each count as a share of the
mean count at this distance on this face, each time as nanoseconds after the mean time there. Hot spot, depth, total
light and rough time stay those of the event, so that the result is an event as it could be, and only what a network
finds beyond these is another's. Hot spot, depth and rough time are those of the quick look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.geometry import FACES, N_SENSORS, N_SIPM, face_codes, inner_map, positions, xyz_from_uvw
from xecml.models.networks.first_guess import local_spot
from xecml.models.networks.quick_look import GROUP_VELOCITY, QuickLook
from xecml.models.normalise import validity
from xecml.resolution import Floats

BATCH = 32
"""Events that are looked at together."""
SQUARES = (3, 5, 9, 17)
"""SiPMs along the sides of the squares about the hot spot."""
REGIONS = (*(f"{side} x {side}" for side in SQUARES), "other SiPMs", *FACES[1:])
"""Parts of the detector that share no sensor: a square without those inside it, the rest of the inner face, faces."""
INNER = tuple(range(len(SQUARES) + 1))
"""Which of the regions are on the inner face."""
REACH = 8
"""Rows and columns of a map about the hot spot, to each side of it."""
_SHAPE = inner_map().shape
_KNOTS = np.array([0, 2, 3.5, 5, 7, 10, 14, 20, 27, 35, 45, 55, 70, 100, 160.0])
"""cm from the hot spot, between which mean light and mean times go along straight lines."""
_LATEST = 30.0
"""ns; times further from the mean than this count as this."""
_RELATIVE, _PHOTONS = 1.001, 1e4
"""Counts that do not exceed the first are relative to the brightest sensor, which is given the second."""

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """B events as the quick look sees them.

    Attributes:
        row: of the SiPM at the hot spot, (B,).
        column: of the same.
        depth: (B,), cm.
        event_time: rough time (B,), seconds.
        light: sum of valid counts (B,).
        distance: of sensors from the hot spot at its depth, (B, 4760), cm.
        point: counts of a point of light there, (B, 4760).
        counts: (B, 4760), 0 where not valid.
        after: times after the rough time and the light's travel, (B, 4760), ns; 0 where there is none.
        valid: sensors with a count, (B, 4760).
        timed: sensors with a time, (B, 4760).
    """

    row: Ints
    column: Ints
    depth: Floats
    event_time: Floats
    light: Floats
    distance: Floats
    point: Floats
    counts: Floats
    after: Floats
    valid: Mask
    timed: Mask

    def regions(self) -> Ints:
        """Which of `REGIONS` each sensor (B, 4760) is in."""
        rows, columns = np.divmod(np.arange(N_SIPM), _SHAPE[1])
        away = np.maximum(np.abs(rows - self.row[:, None]), np.abs(columns - self.column[:, None]))
        found = np.broadcast_to(face_codes().astype(np.int64) + len(SQUARES), (len(self.row), N_SENSORS)).copy()
        found[:, :N_SIPM] = np.searchsorted(np.array(SQUARES) // 2, away)
        return found

    def windows(self, values: Floats) -> Floats:
        """Cut maps about the hot spots out of values (B, K, 4760): (B, K, 17, 17); NaN beyond the face.

        Rows go with phi, upwards in a picture, so that v falls along them; columns go with u.
        """
        maps = values[..., :N_SIPM].reshape(*values.shape[:2], *_SHAPE)
        framed = np.pad(maps, ((0, 0), (0, 0), (REACH, REACH), (REACH, REACH)), constant_values=np.nan)
        steps = np.arange(2 * REACH + 1)
        rows = self.row[:, None, None] + steps[:, None]
        columns = self.column[:, None, None] + steps
        found: Floats = np.moveaxis(framed, 1, 3)[np.arange(len(rows))[:, None, None], rows, columns]
        return np.moveaxis(found, 3, 1)


def batches(events: int) -> Iterator[slice]:
    """Slices of so many events that are looked at together."""
    for start in range(0, events, BATCH):
        yield slice(start, min(start + BATCH, events))


class HotSpots:
    """The hot spots of a sample.

    Args:
        npho: counts (N, 4760) as files have them.
        time: times (N, 4760), seconds.
        look: quick look with the sensor positions of a model; by default with the ideal ones.
    """

    def __init__(self, npho: ArrayLike, time: ArrayLike, look: QuickLook | None = None) -> None:
        self.npho, self.time = (np.ascontiguousarray(values, np.float32) for values in (npho, time))
        self._look = QuickLook() if look is None else look
        self._places = positions() if look is None else np.asarray(look.positions.cpu(), np.float64)

    def __len__(self) -> int:
        return len(self.npho)

    @torch.no_grad()
    def see(self, events: slice | Ints) -> Seen:
        """Look at some of the events."""
        npho, time = self.npho[events], self.time[events]
        photons = _as_photons(npho)
        n, t = (torch.from_numpy(a) for a in (photons, time))
        valid, timed = validity(n, t)
        device = self._look.positions.device
        seen = self._look(*(x.to(device) for x in (n, t, valid, timed)))
        spot = np.stack([x.double().cpu().numpy() for x in local_spot(seen.features)], 1)
        centre, places = xyz_from_uvw(spot), self._places
        squared = (centre**2).sum(1)[:, None] + (places**2).sum(1) - 2 * centre @ places.T
        distance = np.sqrt(np.maximum(squared, 1e-4))
        began = seen.event_time.double().cpu().numpy()
        has, clocked = valid.numpy(), timed.numpy()
        after = np.where(clocked, (time - began[:, None]) * 1e9 - distance / GROUP_VELOCITY, 0.0)
        counts = np.where(has, npho, 0.0).astype(np.float64)
        row, column = (x.cpu().numpy() for x in (seen.row, seen.column))
        # in the unit of the file's counts
        unit = counts.sum(1) / np.maximum(np.where(has, photons, 0.0).sum(1), 1e-30)
        point = seen.expected.double().cpu().numpy() * unit[:, None]
        return Seen(row, column, spot[:, 2], began, counts.sum(1), distance, point, counts,
                    after.clip(-_LATEST, _LATEST), has, clocked)  # fmt: skip


class MovedLight(HotSpots):
    """The mean light and times about the hot spots of a sample, and the light of each event moved to another's.

    Args:
        npho: counts (N, 4760) as files have them.
        time: times (N, 4760), seconds.
        look: quick look with the sensor positions of a model; by default with the ideal ones.

    Raises:
        InputError: there are fewer than two events, or one has no valid count or time.
    """

    def __init__(self, npho: ArrayLike, time: ArrayLike, look: QuickLook | None = None) -> None:
        super().__init__(npho, time, look)
        if len(self) < 2:
            raise InputError("What decides an answer is found by comparing events; give at least two.")
        self._slot = face_codes().astype(np.int64) * len(_KNOTS)
        self._light, self._after = np.ones(len(FACES) * len(_KNOTS)), np.zeros(len(FACES) * len(_KNOTS))
        self.depth, self.light = np.empty(len(self)), np.empty(len(self))
        self._fit()
        self.alike = _most_alike(self.light, self.depth)
        """Which event (N,) is most like each in light and depth."""

    def mean_light(self, seen: Seen) -> tuple[Floats, Floats]:
        """Mean counts (B, 4760) about these hot spots at this light, and mean times as `Seen.after`, ns."""
        slot, share = self._between(seen.distance)
        light, after = (values[slot] * (1 - share) + values[slot + 1] * share for values in (self._light, self._after))
        return seen.point * light, after

    def moved(self, events: slice | Ints, seen: Seen) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Counts and times (B, 4760) of the events most alike, moved to the hot spots of these (`seen`).

        Which sensors have a count or a time stays as it is. Where the other event has none, the mean stands.
        """
        other = self.see(self.alike[events])
        mean, late = self.mean_light(seen)
        their_mean, their_late = self.mean_light(other)
        source, inside = _sources(seen, other)
        rows = np.arange(len(source))[:, None]
        share = np.where(other.valid, other.counts / np.maximum(their_mean, 1e-30), 1.0)[rows, source]
        beside = np.where(other.timed, other.after - their_late, 0.0)[rows, source]
        npho, time = self.npho[events].copy(), self.time[events].copy()
        counts = np.where(seen.valid, mean * np.where(inside, share, 1.0), 0.0)
        counts *= (seen.light / counts.sum(1))[:, None]
        # seconds after the rough time, to which they are added last: float32 has few digits for the sum
        after = seen.distance / GROUP_VELOCITY + late + np.where(inside, beside, 0.0)
        np.copyto(npho, counts.astype(np.float32), where=seen.valid)
        np.copyto(time, (seen.event_time[:, None] + after * 1e-9).astype(np.float32), where=seen.timed)
        return npho, time

    def _fit(self) -> None:
        """Mean light over that of a point, and light-weighted mean times, by face and distance."""
        sums = np.zeros((4, len(self._light)))
        for part in batches(len(self)):
            seen = self.see(part)
            if not (seen.valid.any(1) & seen.timed.any(1)).all():
                raise InputError(
                    "Events without a valid count or time have no hot spot to be seen from; leave them out."
                )
            self.depth[part], self.light[part] = seen.depth, seen.light
            slot, share = self._between(seen.distance)
            weight = np.where(seen.timed, seen.counts, 0.0)
            numbers = (seen.counts, np.where(seen.valid, seen.point, 0.0), weight * seen.after, weight)
            for k, values in enumerate(numbers):
                for place, much in ((slot, 1 - share), (slot + 1, share)):
                    sums[k] += np.bincount(place.ravel(), (values * much).ravel(), len(self._light))
        counts, point, late, weight = sums
        np.divide(counts, point, where=(point > 0) & (counts > 0), out=self._light)
        np.divide(late, weight, where=weight > 0, out=self._after)

    def _between(self, distance: Floats) -> tuple[Ints, Floats]:
        """Place of the knot before each distance among those of its face, and the share of the way to the next."""
        knot = np.clip(np.searchsorted(_KNOTS, distance, "right") - 1, 0, len(_KNOTS) - 2)
        share = (distance - _KNOTS[knot]) / (_KNOTS[knot + 1] - _KNOTS[knot])
        return self._slot + knot, np.clip(share, 0.0, 1.0)


def _as_photons(npho: NDArray[np.float32]) -> NDArray[np.float32]:
    """Counts as they are, or relative ones (B, 4760) as if the brightest sensor had ten thousand photons."""
    usual = np.where((npho > 0) & (npho < 9e9), npho, 0.0)
    if not usual.size or usual.max() > _RELATIVE:
        return npho
    return np.where(usual > 0, usual * np.float32(_PHOTONS), npho)


def _sources(seen: Seen, other: Seen) -> tuple[Ints, Mask]:
    """Sensors of the others (B, 4760) that lie about their hot spots as each of these does, and whether there is one.

    On the inner face by rows and columns from the hot spot; on the other faces the sensor itself.
    """
    rows, columns = np.divmod(np.arange(N_SIPM), _SHAPE[1])
    r = rows + (other.row - seen.row)[:, None]
    c = columns + (other.column - seen.column)[:, None]
    inside = np.ones((len(seen.row), N_SENSORS), bool)
    inside[:, :N_SIPM] = (r >= 0) & (r < _SHAPE[0]) & (c >= 0) & (c < _SHAPE[1])
    source = np.broadcast_to(np.arange(N_SENSORS), inside.shape).copy()
    source[:, :N_SIPM] = np.where(inside[:, :N_SIPM], r * _SHAPE[1] + c, 0)
    return source, inside


def _most_alike(light: Floats, depth: Floats) -> Ints:
    """For each event (N,) another one, whose logarithms of light and depth are nearest, in their spreads."""
    from scipy.spatial import KDTree

    both = np.log(np.maximum(np.stack([light, depth], 1), 1e-3))
    width = both.std(0)
    both = both / np.where(width > 0, width, 1.0)
    found = KDTree(both).query(both, k=2)[1]
    mine = np.arange(len(both))
    # of events at one place the tree may name another first
    nearest: Ints = np.where(found[:, 0] == mine, found[:, 1], found[:, 0]).astype(np.int64)
    return nearest
