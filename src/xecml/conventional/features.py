"""What a learner sees of an event: 222 numbers made with the conventional reconstruction. cm, ns.

Positions are relative to the reconstructed first interaction, times to the reconstructed time, so that a learner has
the corrections to learn and not the answers. The numbers are those that trees of a yardstick learn from: light and
its faces, fits in windows and of two points, moments, rings and a square of the inner face, the faces of PMTs, times.
NaN stands for what is not known, such as a share of a dead sensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.compiled import side_by_side
from xecml.conventional import feature_sums as sums
from xecml.conventional.direction import AXES, local_axes
from xecml.conventional.local_fit import CHI2, COLUMN_PITCH, LOG_LIGHT, ROW_PITCH, U
from xecml.conventional.reconstruction import Reconstruction, Seen, look
from xecml.conventional.two_points import BACKGROUND, LOG_LIGHT_1, LOG_LIGHT_2, U_1, U_2
from xecml.conventional.two_points import CHI2 as CHI2_OF_PAIR
from xecml.conventional.window_ladder import WINDOWS
from xecml.events import photoelectrons
from xecml.geometry import FACES, N_SENSORS, face_codes, positions, xyz_from_uvw

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Marks = NDArray[np.bool_]

_DEEPEST, _LONGEST = 30.0, 40.0
"""Limits (cm) on the second of two points and on their distance, which may run away."""
_LEAST = 1e-9


def _names() -> tuple[str, ...]:
    found = ["log light", "log energy", *(f"share of {face}" for face in FACES), *AXES, "phase u", "phase v"]
    for window in WINDOWS:
        found += [f"window {window:g} {what}" for what in (*AXES, "log light", "log chi2")]
    found += [f"point {k} {axis}" for k in (1, 2) for axis in AXES] + [f"axis {axis}" for axis in AXES]
    found += ["axis length", "axis light", "axis background", "axis log chi2"]
    found += [f"light^{power} {what}" for power, what in product(sums.POWERS, sums.MOMENTS)]
    found += ["brightest share", "brightest u", "brightest v", *(f"brightest {n} share" for n in sums.BRIGHTEST)]
    found += [f"ring {ring} {what}" for ring, what in product(range(sums.RINGS), sums.RING_SUMS)]
    found += [f"ring {ring} time gradient {axis}" for ring, axis in product(range(sums.GRADIENTS), "uv")]
    found += [f"patch {row} {column}" for row, column in product(range(sums.PATCH), repeat=2)]
    _, kinds = sums.face_axes()
    for code, face in enumerate(FACES):
        if face in sums.PMT_FACES:
            of_axes = product(("uvr"[k] for k in kinds[code]), ("mean", "width", "mean of squares"))
            found += [f"{face} {what} {axis}" for axis, what in of_axes] + [f"{face} largest", f"{face} time"]
    return (*found, *sums.TIMES)


FEATURES = _names()
"""Names of the numbers, in their order."""


@dataclass(frozen=True)
class Described:
    """Events as a learner sees them, and the answers that it corrects.

    Attributes:
        features: (N, 222), NaN for what is not known.
        uvw: first interactions (N, 3), cm.
        energy: (N,), GeV.
        timing: (N,), seconds.
        angles: theta, phi (N, 2), degrees.
    """

    features: Floats32
    uvw: Floats
    energy: Floats
    timing: Floats
    angles: Floats


def describe(method: Reconstruction, npho: ArrayLike, time: ArrayLike, dead: Marks | None = None) -> Described:
    """Reconstruct events and describe them.

    Args:
        method: the reconstruction, with constants for all quantities.
        npho: photons (N, 4760), 1e10 where not measured.
        time: seconds (N, 4760), 1e10 where not measured.
        dead: (N, 4760) or (4760,) sensors that take no part, besides those that were not read.
    """
    counts, times = np.ascontiguousarray(npho, np.float32), np.ascontiguousarray(time, np.float32)
    seen = look(counts, dead, threads=method.threads)
    light, uvw = method.first_interactions(seen)
    _, energy = method.energies(seen, uvw)
    moments = method.times(counts, times, seen, light, uvw)
    found = features(counts, times, seen, uvw, energy, moments, method.threads)
    return Described(found, uvw, energy, moments, method.angles(seen, uvw))


def features(
    npho: Floats32, time: Floats32, seen: Seen, uvw: Floats, energy: Floats, moments: Floats, threads: int = 1
) -> Floats32:
    """The numbers (N, 222) of `FEATURES`.

    Args:
        npho: photons (N, 4760).
        time: seconds (N, 4760).
        seen: what is measured of the events before constants are used, two points of light among it.
        uvw: reconstructed first interactions (N, 3), cm.
        energy: reconstructed energies (N,), GeV.
        moments: reconstructed times (N,), seconds.
        threads: to work in.
    """
    total = np.maximum(seen.sums.sum(1), _LEAST)
    parts = [
        np.stack([np.log(total), np.log(np.maximum(energy, _LEAST))], 1),
        seen.sums / total[:, None],
        uvw,
        np.stack([(uvw[:, 0] / COLUMN_PITCH + 0.5) % 1, (uvw[:, 1] / ROW_PITCH) % 1], 1),
        _windows(seen, uvw, total),
        _pairs(seen, uvw),
        _sums(npho, time, seen.live, uvw, moments, threads),
    ]
    return np.concatenate(parts, 1).astype(np.float32)


def _windows(seen: Seen, uvw: Floats, total: Floats) -> Floats:
    """Each window's point off the first interaction, logarithms of its share of the light and of chi2 (N, 30)."""
    found = np.empty((len(uvw), len(WINDOWS), 5))
    found[:, :, :3] = seen.fits[:, :, U : U + 3] - uvw[:, None]
    found[:, :, 3] = seen.fits[:, :, LOG_LIGHT] - np.log(total)[:, None]
    found[:, :, 4] = np.log(np.maximum(seen.fits[:, :, CHI2], _LEAST))
    return found.reshape(len(uvw), -1)


def _pairs(seen: Seen, uvw: Floats) -> Floats:
    """Two points off the first interaction, their axis, its length, the balance of light, background, chi2 (N, 13)."""
    assert seen.pairs is not None
    first, second = seen.pairs[:, U_1 : U_1 + 3], seen.pairs[:, U_2 : U_2 + 3]
    between = xyz_from_uvw(second) - xyz_from_uvw(first)
    length = np.linalg.norm(between, axis=1)
    axis = np.einsum("nak,nk->na", local_axes(uvw[:, 1]), between / np.maximum(length, 1e-6)[:, None])
    last = np.stack(
        [
            np.minimum(length, _LONGEST),
            seen.pairs[:, LOG_LIGHT_1] - seen.pairs[:, LOG_LIGHT_2],
            seen.pairs[:, BACKGROUND],
            np.log(np.maximum(seen.pairs[:, CHI2_OF_PAIR], _LEAST)),
        ],
        1,
    )
    return np.concatenate([first - uvw, np.clip(second - uvw, -_DEEPEST, _DEEPEST), axis, last], 1)


def _sums(npho: Floats32, time: Floats32, live: Marks, uvw: Floats, moments: Floats, threads: int) -> Floats:
    """Sums over sensors (N, 166)."""
    axes, kinds = sums.face_axes()
    codes, efficiency = face_codes().astype(np.int64), photoelectrons(np.ones(N_SENSORS))
    where, late = np.ascontiguousarray(uvw), np.ascontiguousarray(1e9 * moments)
    points = np.ascontiguousarray(xyz_from_uvw(where))
    found = np.empty((len(npho), sums.N_SUMS))

    def work(e: slice) -> None:
        sums.fill_sums(
            npho[e], time[e], live[e], where[e], points[e], late[e], axes, kinds, codes, positions(), efficiency,
            found[e],
        )  # fmt: skip

    side_by_side(work, len(npho), threads)
    return found
