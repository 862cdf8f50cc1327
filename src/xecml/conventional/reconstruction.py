"""The conventional reconstruction of events: first interaction, energy, time and direction without learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.compiled import side_by_side
from xecml.conventional import direction, energy, position, timing, uncertainty
from xecml.conventional.constants import RECONSTRUCTED_TASKS, Constants
from xecml.conventional.two_points import fit_two_points
from xecml.conventional.window_ladder import WIDEST, fit_windows, points
from xecml.errors import InputError
from xecml.events import read_counts, valid_counts
from xecml.geometry import angles_from_direction

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Marks = NDArray[np.bool_]

PLAIN_ENERGY = "energy_weighted_sum"
"""Column beside the answers: the energy in its first form, without the point of light in the largest window, GeV."""
_BLOCK = 64


@dataclass(frozen=True)
class Seen:
    """What is measured of N events before any constant is used.

    Attributes:
        live: (N, 4760) sensors that take part.
        fits: (N, 6, 9) points of light in windows.
        sums: (N, 6) photons by face.
        pairs: (N, 10) two points of light; none where no direction is asked for.
    """

    live: Marks
    fits: Floats
    sums: Floats
    pairs: Floats | None


def look(npho: ArrayLike, dead: Marks | None = None, *, with_direction: bool = True, threads: int = 1) -> Seen:
    """Fit points of light and sum faces.

    Args:
        npho: photons (N, 4760).
        dead: (N, 4760) or (4760,) sensors that take no part, besides those that were not read.
        with_direction: fit two points as well, the slower part.
        threads: to work in.
    """
    counts = np.ascontiguousarray(npho, np.float32)
    live = read_counts(counts) & np.asarray(valid_counts(counts).any(1))[:, None]
    if dead is not None:
        live &= ~np.asarray(dead, bool)
    fits, sums = fit_windows(counts, live, threads), np.zeros((len(counts), 6))

    def add(e: slice) -> None:
        sums[e] = energy.face_sums(counts[e], live[e])

    side_by_side(add, len(counts), threads, _BLOCK)
    return Seen(live, fits, sums, fit_two_points(counts, live, fits, threads) if with_direction else None)


@dataclass(frozen=True)
class Reconstruction:
    """The conventional reconstruction with its constants.

    Attributes:
        constants: of a calibration.
        tasks: quantities that are answered.
        threads: to work in.

    Raises:
        InputError: the constants have not been calibrated for a task.
    """

    constants: Constants
    tasks: Sequence[str] = RECONSTRUCTED_TASKS
    threads: int = 1

    def __post_init__(self) -> None:
        if missing := [task for task in self.tasks if task not in self.constants.tasks]:
            raise InputError(
                f"The constants were not calibrated for {', '.join(missing)}; calibrate them on files with this "
                f"truth, or choose among {', '.join(self.constants.tasks)}."
            )

    def answers(
        self, npho: ArrayLike, time: ArrayLike, dead: Marks | None = None
    ) -> tuple[dict[str, NDArray[np.float64]], Floats | None]:
        """Answers by task with `sigma_<task>` beside each, and the energy in its first form (GeV).

        Args:
            npho: photons (N, 4760), 1e10 where not measured.
            time: seconds (N, 4760), 1e10 where not measured.
            dead: (N, 4760) or (4760,) sensors that take no part, besides those that were not read.

        Returns:
            Answers in the units of `xecml.events.TASKS`; NaN where there is no light on the inner face, and in `timing`
            where no bright sensor has a time. The second is None where no energy is asked for.
        """
        counts, times = np.ascontiguousarray(npho, np.float32), np.ascontiguousarray(time, np.float32)
        seen = look(counts, dead, with_direction="angle" in self.tasks, threads=self.threads)
        seen_light, uvw = self.first_interactions(seen)
        plain, size = self.energies(seen, uvw)
        x = uncertainty.columns(seen_light, size)
        found: dict[str, NDArray[np.float64]] = {}
        if "angle" in self.tasks:
            found["angle"] = self.angles(seen, uvw)
            found["sigma_angle"] = np.stack([self._width("theta", x), self._width("phi", x)], 1)
        if "energy" in self.tasks:
            found |= {"energy": size, "sigma_energy": size * self._width("energy", x)}
        if "timing" in self.tasks:
            moments = self.times(counts, times, seen, seen_light, uvw)
            found |= {"timing": moments, "sigma_timing": np.where(np.isnan(moments), np.nan, self._width("timing", x))}
        if "uvwFI" in self.tasks:
            found |= {"uvwFI": uvw, "sigma_uvwFI": np.stack([self._width(axis, x) for axis in "uvw"], 1)}
        return found, plain if "energy" in self.tasks else None

    def first_interactions(self, seen: Seen) -> tuple[position.Light, Floats]:
        """The points of light that corrections see, and first interactions (N, 3) in cm."""
        known = self.constants.position
        light = position.light(seen.fits, tuple(known.windows))
        return light, position.corrected(light, (known.u, known.v, known.w))

    def energies(self, seen: Seen, uvw: Floats) -> tuple[Floats, Floats]:
        """Energies (N,) in GeV in both forms; NaN without constants for them."""
        known = self.constants.energy
        if known is None:
            return np.full(len(uvw), np.nan), np.full(len(uvw), np.nan)
        plain = energy.powers(uvw)
        more = plain | energy.light_centre(seen.sums, points(seen.fits, WIDEST))
        return (
            energy.energies(seen.sums, uvw, plain, known.weighted_sum),
            energy.energies(seen.sums, uvw, more, known.light_centre),
        )

    def times(self, npho: Floats32, time: Floats32, seen: Seen, light: position.Light, uvw: Floats) -> Floats:
        """Times (N,) in seconds."""
        known = self.constants.timing
        assert known is not None
        walk = np.array(known.walk)
        means = timing.mean_times(npho, time, seen.live, uvw, known.velocity, walk, self.threads)
        return timing.times(means, timing.columns(uvw, means[:, 2], light, seen.sums), known.correction)

    def angles(self, seen: Seen, uvw: Floats) -> Floats:
        """Theta and phi (N, 2) in degrees."""
        known = self.constants.direction
        assert known is not None
        assert seen.pairs is not None
        x = direction.columns(uvw, seen.fits, seen.pairs)
        return angles_from_direction(direction.directions(uvw, x, (known.u, known.v, known.w)))

    def _width(self, column: str, x: Mapping[str, Floats]) -> Floats:
        known = self.constants.widths[column]
        return uncertainty.widths(dict(x), uncertainty.Width(known.coefficients, known.least, known.most))
