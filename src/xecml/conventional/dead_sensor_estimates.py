"""The counts and times of dead sensors from the live ones, without learning: three ways, all events at once.

- `neighbour_mean`: the mean count of the live sensors within 20 cm on the same face;
- `solid_angle`: their summed count times the sensor's solid angle over theirs, seen from the fitted point of light;
- `point_source`: the light of the fitted point. Close to it S Omega of the fit; elsewhere direct and once scattered
  light, scaled to what the live sensors nearby see of it.

A live sensor that counted nothing takes part with zero: without these, dim regions would come out bright. Where no
sensor within 20 cm lives, those of the whole face serve; where there are none either, the first two ways leave the
value not measured, and the third goes by the light of the whole event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.choices import REPAIRS
from xecml.conventional.neighbours import RADIUS, neighbour_sums
from xecml.conventional.pointsource import PointSource, fit_point_source
from xecml.conventional.solidangles import light_shares, solid_angles
from xecml.errors import InputError
from xecml.events import INVALID, measured, photoelectrons, read_counts
from xecml.geometry import N_SENSORS, N_SIPM, positions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]

ENOUGH_LIGHT = 50.0
"""With neighbours that sum to this many photons or fewer their mean serves in the place of solid angles."""
NEAR_RADIUS = 6.0
"""SiPMs nearer than this scale the light of the fitted point and give its delay, cm; PMTs have the usual radius."""
GROUP_VELOCITY = 8.0
"""Of the scintillation light, cm/ns."""
_HOT_SPOT, _HOT_SPOT_DEPTHS = 4.0, 1.5
_WHOLE_FACE = 1000.0
_BLOCK = 200


def dead_of_events(dead: ArrayLike, events: int) -> Marks:
    """Mask (events, 4760) from one, or from (4760,) for all events alike.

    Raises:
        InputError: it has another shape.
    """
    mask = np.asarray(dead, bool)
    if mask.shape not in ((N_SENSORS,), (events, N_SENSORS)):
        raise InputError(f"dead has shape {mask.shape}; it must be ({N_SENSORS},) or ({events}, {N_SENSORS}).")
    return np.broadcast_to(mask, (events, N_SENSORS))


def live_sensors(npho: ArrayLike, dead: ArrayLike) -> Marks:
    """Mask (N, 4760) of sensors whose counts may serve: read, dark ones among them, and not dead."""
    return np.asarray(read_counts(npho) & ~np.asarray(dead, bool))


# ----------------------------------------------------------------------------------------------------- counts
#
# Estimates are flat: one for each dead sensor, in the order of np.nonzero(dead), so that npho[dead] = ... places them.


def neighbour_mean(npho: ArrayLike, dead: Marks, live: Marks, source: PointSource | None = None) -> Floats:
    """Mean count of the live sensors within 20 cm on the same face.

    Args:
        npho: photons (N, 4760).
        dead: (N, 4760) sensors to estimate.
        live: (N, 4760) sensors to estimate them from; none of `dead`.
        source: is of no use here.

    Returns:
        Photons of the dead sensors, flat; of the whole face where no neighbour lives, NaN where none of it does.
    """

    def mean(where: Marks, radius: float) -> Floats:
        return _ratio(neighbour_sums(np.asarray(npho), live, where, radius), neighbour_sums(live, live, where, radius))

    return _from_nearest(mean, dead, (RADIUS, _WHOLE_FACE))


def solid_angle(npho: ArrayLike, dead: Marks, live: Marks, source: PointSource) -> Floats:
    """Scale a sensor's solid angle from the point of light by count over solid angle of its neighbours.

    Args:
        npho: photons (N, 4760).
        dead: (N, 4760) sensors to estimate.
        live: (N, 4760) sensors to estimate them from; none of `dead`.
        source: the fitted points.

    Returns:
        Photons of the dead sensors, flat: the mean of the neighbours where these sum to 50 photons or fewer, or see
        none of the point; by the whole face where no neighbour lives, NaN where none of it does.
    """
    omega = solid_angles(source.xyz)

    def scaled(where: Marks, radius: float) -> Floats:
        return _scaled(npho, where, live, omega, source, radius)

    return _from_nearest(scaled, dead, (RADIUS, _WHOLE_FACE))


def point_source(npho: ArrayLike, dead: Marks, live: Marks, source: PointSource) -> Floats:
    """Predict a sensor by the fitted point of light: see the module.

    Args:
        npho: photons (N, 4760).
        dead: (N, 4760) sensors to estimate.
        live: (N, 4760) sensors to estimate them from; none of `dead`.
        source: the fitted points.

    Returns:
        Photons of the dead sensors, flat. On a face without a live sensor the light is scaled to that of the whole
        event; NaN where that has none.
    """
    event, sensor = np.nonzero(dead)
    light = light_shares(source.xyz)

    def scaled(where: Marks, radius: float) -> Floats:
        return _scaled(npho, where, live, light, source, radius)

    filled = _from_nearest(scaled, dead, (NEAR_RADIUS, RADIUS, _WHOLE_FACE))
    everywhere = _ratio(np.where(live, npho, 0.0).sum(1), (light * live).sum(1))
    filled = np.where(np.isnan(filled) & source.found[event], everywhere[event] * light[event, sensor], filled)
    near = source.found[event] & (sensor < N_SIPM)
    near &= _distances(source, event, sensor) < np.maximum(_HOT_SPOT, _HOT_SPOT_DEPTHS * source.uvw[event, 2])
    filled[near] = source.direct_light(event[near], sensor[near])
    return filled


def _from_nearest(estimate: Callable[[Marks, float], Floats], dead: Marks, radii: tuple[float, ...]) -> Floats:
    """Estimates of dead sensors, flat, each from the least radius that has one; below 20 cm SiPMs alone have any."""
    found, left = np.full(dead.shape, np.nan), dead.copy()
    for radius in radii:
        where = left & (np.arange(N_SENSORS) < N_SIPM) if radius < RADIUS else left
        if where.any():
            found[where] = estimate(where, radius)
            left = left & np.isnan(found)
    return found[dead]


def _scaled(npho: ArrayLike, dead: Marks, live: Marks, shape: Floats, source: PointSource, radius: float) -> Floats:
    """`shape` (N, 4760) times the neighbours' count over their shape; their mean where that says nothing."""
    count, seen, number = (neighbour_sums(x, live, dead, radius) for x in (np.asarray(npho), shape, live))
    usable = (count > ENOUGH_LIGHT) & (seen > 1e-12) & source.found[np.nonzero(dead)[0]]
    return np.where(usable, shape[dead] * _ratio(count, seen), _ratio(count, number))


def _ratio(above: Floats, below: Floats, least: float = 1e-12) -> Floats:
    """The quotient; NaN where there is less than `least` below."""
    exists = below > least
    return np.where(exists, above / np.where(exists, below, 1.0), np.nan)


def _distances(source: PointSource, event: Ints, sensor: Ints) -> Floats:
    """Distances in cm from the points of events to sensors, flat."""
    return np.asarray(np.linalg.norm(source.xyz[event] - positions()[sensor], axis=1))


# ------------------------------------------------------------------------------------------------------ times


def neighbour_times(
    npho: ArrayLike, time: ArrayLike, dead: Marks, live: Marks, source: PointSource | None = None
) -> Floats:
    """Times of dead sensors: the light's travel from the point, and the mean delay of the neighbours beyond theirs.

    Each neighbour counts with the inverse of its variance, 6.25 / photoelectrons + 0.04 ns2; scattered light, which
    comes later, delays neighbours alike, the more the farther from the point: of SiPMs those within 6 cm serve, else
    those within 20 cm. Without a point the neighbours' times themselves are averaged.

    Args:
        npho: photons (N, 4760).
        time: seconds (N, 4760).
        dead: (N, 4760) sensors to estimate.
        live: (N, 4760) sensors to estimate them from.
        source: the fitted points.

    Returns:
        Seconds of the dead sensors, flat; the whole event's delay serves where no neighbour has a time, and NaN stands
        where the event has none at all.
    """
    n, t, (event, sensor) = np.asarray(npho), np.asarray(time), np.nonzero(dead)
    timed = live & (n > 0) & measured(t)
    nphe = photoelectrons(np.where(timed, n, 0.0))
    weight = nphe / (6.25 + 0.04 * nphe)
    delay = np.where(timed, t, 0.0) * 1e9
    travel = np.zeros(len(event))
    if source is not None:
        delay -= source.distances() / GROUP_VELOCITY
        travel = _distances(source, event, sensor) / GROUP_VELOCITY
    delay *= weight

    def late(where: Marks, radius: float) -> Floats:
        # differences of running sums leave rounding where there is nothing
        sums, total = (neighbour_sums(x, timed, where, radius) for x in (delay, weight))
        return _ratio(sums, total, least=1e-6)

    found = _from_nearest(late, dead, (NEAR_RADIUS, RADIUS, _WHOLE_FACE))
    whole = _ratio(np.where(timed, delay, 0.0).sum(1), weight.sum(1))[event]
    return (np.where(np.isnan(found), whole, found) + travel) * 1e-9


# ----------------------------------------------------------------------------------------------------- repair


@dataclass(frozen=True)
class ConventionalRepair:
    """Fill dead sensors without learning.

    Attributes:
        method: a name of `xecml.choices.REPAIRS`.

    Raises:
        InputError: another method.
    """

    method: str

    def __post_init__(self) -> None:
        if self.method not in REPAIRS:
            raise InputError(f"There is no repair '{self.method}'; choose one of {', '.join(REPAIRS)}.")

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Fill counts and times of dead sensors; live ones pass bit for bit.

        Args:
            npho: photons (N, 4760).
            time: seconds (N, 4760).
            dead: (N, 4760), or (4760,) for all events alike; what stands at dead sensors is not looked at.

        Returns:
            Copies of both. 1e10 where the event has nothing to go by; times of sensors that come out with less
            than one photoelectron are not measured either, as they would not be in a live sensor.
        """
        n, t = np.array(npho), np.array(time)
        where = dead_of_events(dead, len(n))
        for start in range(0, len(n), _BLOCK):
            block = slice(start, start + _BLOCK)
            n[block][where[block]], t[block][where[block]] = self._estimates(n[block], t[block], where[block])
        return n, t

    def _estimates(self, npho: NDArray[Any], time: NDArray[Any], dead: Marks) -> tuple[Floats, Floats]:
        """Photons and seconds of the dead sensors of a few events, flat; 1e10 where there are none."""
        live = live_sensors(npho, dead)
        method = REPAIRS[self.method]
        source = fit_point_source(npho, live) if method.by_point else None
        counts = method.does(npho, dead, live, source)
        times = neighbour_times(npho, time, dead, live, source)
        known = np.isfinite(counts)
        efficiency = photoelectrons(np.ones(N_SENSORS))[np.nonzero(dead)[1]]
        timed = known & np.isfinite(times) & (np.where(known, counts, 0.0) * efficiency >= 1)
        return np.where(known, np.maximum(counts, 0.0), INVALID), np.where(timed, times, INVALID)
