"""Constants of the conventional reconstruction from events with truth, in two passes over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.conventional import direction, energy, position, timing, uncertainty
from xecml.conventional.constants import (
    VERSION,
    Constants,
    DirectionConstants,
    EnergyConstants,
    PositionConstants,
    Sample,
    TimingConstants,
    WidthConstants,
)
from xecml.conventional.reconstruction import Seen, look
from xecml.conventional.window_ladder import WIDEST, points
from xecml.errors import InputError
from xecml.events import TASKS, Chunk, measured, number_of
from xecml.outputs import mark

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]
Events = Iterable[tuple[Chunk, Marks | None]]

FEWEST, MOST = 500, 100_000
"""Events that a calibration needs, and that it looks at."""
_TIMED = 2000
"""Events whose counts and times are kept to find the walk and the velocity."""
TRUTHS = ("uvwTruth", "energyTruth", "timeTruth", "emiVec", "emiAng")


class Calibration:
    """A calibration on events that can be gone through twice.

    Args:
        events: gives the chunks anew at each call, with masks of dead sensors (N, 4760) or (4760,) besides those that
            were not read; chunks have `npho`, `time`, `uvwTruth`, and what there is of the other truths.
        with_direction: fit two points of light as well, the slower part.
        threads: to work in.

    Raises:
        InputError: there are too few events with truth and light.
    """

    def __init__(self, events: Callable[[], Events], *, with_direction: bool = True, threads: int = 1) -> None:
        self._events, self._threads = events, threads
        seen, truth, kept = self._first_pass(with_direction)
        self.seen = seen
        self.truth = truth
        self._kept = kept
        known = np.isfinite(seen.fits[:, 0, 0]) & measured(truth["uvwTruth"]).all(1)
        for name in set(truth) - {"uvwTruth"}:
            values = truth[name].reshape(len(known), -1)
            known &= measured(values).all(1) & ((values > 0).all(1) if name == "energyTruth" else True)
        if known.sum() < FEWEST:
            raise InputError(
                f"Only {number_of(int(known.sum()))} have truth and light; give {FEWEST} or more to calibrate on."
            )
        self.known: Marks = known

    def constants(self, files: Sequence[str] = ()) -> Constants:
        """Calibrate one quantity after the other, using the constants that were found before."""
        ok, truth = self.known, self.truth
        uvw_true = truth["uvwTruth"].astype(np.float64)
        windows = position.best_windows(self.seen.fits[ok], uvw_true[ok])
        light = position.light(self.seen.fits, windows)
        of_position = position.calibrate(_rows(light, ok), uvw_true[ok])
        uvw = position.corrected(light, of_position)
        u, v, w = of_position
        found: dict[str, Any] = {"position": PositionConstants(windows=list(windows), u=u, v=v, w=w)}
        residuals = {axis: uvw[ok, k] - uvw_true[ok, k] for k, axis in enumerate("uvw")}
        size = np.full(len(uvw), np.nan)
        if "energyTruth" in truth:
            found["energy"], size = self._energy(uvw)
            residuals["energy"] = size[ok] / truth["energyTruth"][ok] - 1
        if "timeTruth" in truth:
            found["timing"], residuals["timing"] = self._timing(uvw, light)
        if self.seen.pairs is not None and (name := _direction_of(truth)) is not None:
            found["direction"], off = self._direction(uvw, name)
            residuals |= {axis: off[:, k] for k, axis in enumerate(TASKS["angle"].columns)}
        x = uncertainty.columns(_rows(light, ok), size[ok])
        found["widths"] = {name: _width(x, values) for name, values in residuals.items()}
        return Constants(
            format="xecml-conventional",
            version=VERSION,
            geometry_hash=geometry.geometry_hash(),
            made_by=mark(),
            sample=Sample(files=list(files), events=int(ok.sum()), energy_mev=_range(truth, ok)),
            **found,
        )

    def _first_pass(self, with_direction: bool) -> tuple[Seen, dict[str, NDArray[Any]], list[NDArray[Any]]]:
        """Points of light, sums and truth of all events; counts, times and live sensors of the first ones."""
        parts: list[tuple[Seen, dict[str, NDArray[Any]]]] = []
        kept: list[list[NDArray[Any]]] = []
        for chunk, dead in self._events():
            seen = look(chunk["npho"], dead, with_direction=with_direction, threads=self._threads)
            if len(kept) == 0 or sum(len(k[0]) for k in kept) < _TIMED:
                kept.append([np.asarray(chunk[b], np.float32) for b in ("npho", "time")] + [seen.live])
            # of live sensors nothing is kept: they are as large as the counts
            none = np.zeros((len(seen.fits), 0), bool)
            parts.append((Seen(none, seen.fits, seen.sums, seen.pairs), {t: chunk[t] for t in TRUTHS if t in chunk}))
        if not parts:
            raise InputError(f"There are no events; give {FEWEST} or more to calibrate on.")
        seen_parts = [p for p, _ in parts]
        pairs = [p.pairs for p in seen_parts if p.pairs is not None]
        whole = Seen(
            np.concatenate([p.live for p in seen_parts]),
            np.concatenate([p.fits for p in seen_parts]),
            np.concatenate([p.sums for p in seen_parts]),
            np.concatenate(pairs) if pairs else None,
        )
        shared = [name for name in parts[0][1] if all(name in truth for _, truth in parts)]
        truths = {name: np.concatenate([truth[name] for _, truth in parts]) for name in shared}
        return whole, truths, [np.concatenate([k[i] for k in kept])[:_TIMED] for i in range(3)]

    def _energy(self, uvw: Floats) -> tuple[EnergyConstants, Floats]:
        """Constants, and energies (N,) in GeV in the second form."""
        ok, sums = self.known, self.seen.sums
        goal = self.truth["energyTruth"][ok].astype(np.float64)
        plain = energy.powers(uvw)
        more = plain | energy.light_centre(sums, points(self.seen.fits, WIDEST))
        found = EnergyConstants(
            weighted_sum=energy.calibrate(sums[ok], uvw[ok], _chosen(plain, ok), goal),
            light_centre=energy.calibrate(sums[ok], uvw[ok], _chosen(more, ok), goal),
        )
        return found, energy.energies(sums, uvw, more, found.light_centre)

    def _timing(self, uvw: Floats, light: position.Light) -> tuple[TimingConstants, Floats]:
        """Constants, and residuals in seconds; every event is read once more for its times."""
        ok, truth = self.known, self.truth["timeTruth"].astype(np.float64)
        npho, time, live = self._kept
        few = np.flatnonzero(ok[: len(npho)])
        sums = self.seen.sums
        velocity, walk = timing.calibrate(
            npho[few], time[few], live[few], uvw[few], _rows(light, few), sums[few], truth[few]
        )
        parts, begin = [], 0
        for chunk, dead in self._events():
            end = begin + len(chunk["npho"])
            alive = measured(chunk["npho"]) if dead is None else measured(chunk["npho"]) & ~dead
            parts.append(
                timing.mean_times(chunk["npho"], chunk["time"], alive, uvw[begin:end], velocity, walk, self._threads)
            )
            begin = end
        means = np.concatenate(parts)
        timed = ok & np.isfinite(means[:, 0])
        if timed.sum() < FEWEST:
            raise InputError(f"Only {number_of(int(timed.sum()))} of the sample have times; give {FEWEST} or more.")
        x = timing.columns(uvw, means[:, 2], light, sums)
        correction = timing.calibrate_correction(means[timed], _chosen(x, timed), truth[timed])
        found = TimingConstants(velocity=velocity, walk=walk.tolist(), correction=correction)
        return found, timing.times(means[ok], _chosen(x, ok), correction) - truth[ok]

    def _direction(self, uvw: Floats, name: str) -> tuple[DirectionConstants, Floats]:
        """Constants, and residuals of the angles (n, 2) in degrees."""
        ok, values = self.known, self.truth[name].astype(np.float64)
        truth = values if name == "emiVec" else geometry.direction_from_angles(values)
        assert self.seen.pairs is not None
        x = _chosen(direction.columns(uvw, self.seen.fits, self.seen.pairs), ok)
        fitted = np.isfinite(next(iter(x.values())))
        coefficients = direction.calibrate(uvw[ok][fitted], _chosen(x, fitted), truth[ok][fitted])
        vectors = direction.directions(uvw[ok], x, coefficients)
        angles, true_angles = geometry.angles_from_direction(vectors), geometry.angles_from_direction(truth[ok])
        u, v, w = coefficients
        return DirectionConstants(u=u, v=v, w=w), angles - true_angles


def _rows(light: position.Light, where: Marks | NDArray[np.int64]) -> position.Light:
    return position.Light(light.point[where], light.near[where], light.far[where])


def _chosen(columns: dict[str, Floats], where: Marks) -> dict[str, Floats]:
    return {name: values[where] for name, values in columns.items()}


def _width(x: dict[str, Floats], residuals: Floats) -> WidthConstants:
    there = np.isfinite(residuals)
    found = uncertainty.calibrate(_chosen(x, there), residuals[there])
    return WidthConstants(coefficients=found.coefficients, least=found.least, most=found.most)


def _direction_of(truth: dict[str, NDArray[Any]]) -> str | None:
    """The branch of the true direction, a vector before angles."""
    return next((name for name in ("emiVec", "emiAng") if name in truth), None)


def _range(truth: dict[str, NDArray[Any]], where: Marks) -> list[float]:
    if "energyTruth" not in truth:
        return []
    mev = 1e3 * truth["energyTruth"][where].astype(np.float64)
    return [float(mev.min()), float(mev.max())]
