"""The vocabulary of an event: branch names, shapes, units, validity, derived quantities, tasks.

A chunk of events is a dictionary of numpy arrays with the events along the first axis. Whether a sensor was
measured is a boolean mask computed here, once, from the raw values; nothing later compares floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xecml.geometry import N_SENSORS, N_SIPM

Chunk = dict[str, NDArray[Any]]

INVALID = 1e10
"""What files hold where nothing was measured."""
INVALID_ABOVE = 9e9
"""Size from which a number is taken for that."""

PDE_SIPM = 0.12
QE_PMT = 0.16
EXCESS_NOISE_SIPM = 1.2
"""Excess noise factor of SiPMs, from crosstalk and afterpulses."""
RELATIVE_TIME_NPHE = 50.0
"""The earliest time of an event is taken among sensors with more photoelectrons than this."""


@dataclass(frozen=True)
class Branch:
    """Shape of one event's entry, type in files, unit and meaning of a branch."""

    shape: tuple[int, ...]
    dtype: str
    unit: str
    meaning: str


SENSOR_BRANCHES = {
    "npho": Branch((N_SENSORS,), "f4", "photons", "photoelectrons / efficiency"),
    "time": Branch((N_SENSORS,), "f4", "s", "arrival time of the light"),
    "relative_npho": Branch((N_SENSORS,), "f4", "", "npho / largest valid npho of the event"),
    "relative_time": Branch((N_SENSORS,), "f4", "s", "time - earliest time of the event"),
    "nphe": Branch((N_SENSORS,), "f4", "photoelectrons", "photoelectrons"),
}
TRUTH_BRANCHES = {
    "emiAng": Branch((2,), "f4", "deg", "emission angle theta, phi"),
    "energyTruth": Branch((), "f4", "GeV", "photon energy"),
    "timeTruth": Branch((), "f4", "s", "time of the first interaction, on the clock of `time`"),
    "uvwTruth": Branch((3,), "f4", "cm", "first interaction, local frame"),
    "xyzTruth": Branch((3,), "f4", "cm", "first interaction"),
    "emiVec": Branch((3,), "f4", "", "unit vector from the vertex to the first interaction"),
    "xyzVTX": Branch((3,), "f4", "cm", "vertex"),
    "nGamma": Branch((), "i4", "", "photons in the event"),
}
ID_BRANCHES = {
    "run": Branch((), "i4", "", "run number"),
    "event": Branch((), "i4", "", "event number"),
}
RECO_BRANCHES = {
    "energyReco": Branch((), "f4", "GeV", "reconstructed energy"),
    "timeReco": Branch((), "f4", "s", "reconstructed time"),
    "uvwRecoFI": Branch((3,), "f4", "cm", "reconstructed first interaction, local frame"),
    "xyzRecoFI": Branch((3,), "f4", "cm", "reconstructed first interaction"),
}
BRANCHES = {**SENSOR_BRANCHES, **TRUTH_BRANCHES, **ID_BRANCHES, **RECO_BRANCHES}


@dataclass(frozen=True)
class Task:
    """A quantity that models predict.

    Attributes:
        size: numbers it has; of a class, the number of classes.
        unit: in files.
        truth: branch of its truth.
        columns: its names in prediction trees, one for each number, or one for all.
        plot_unit: the unit physicists quote resolutions in.
        plot_scale: multiply by this to go from `unit` to `plot_unit`.
        reconstructed: branch of what a conventional reconstruction says; none where there is no such branch.
        needs: what must be measured in an event for an answer, counts or times.
        absolute: whether it cannot be learnt from relative values of `needs`.
        kind: number, position (u, v, w), angles (theta, phi), unit vector, or class; it says how a mirror changes it.
        loss: by default in recipes.
        enabled: whether recipes predict it by default.
        flattened: whether training samples can be reweighted to be flat in it.
    """

    size: int
    unit: str
    truth: str
    columns: tuple[str, ...]
    plot_unit: str = ""
    plot_scale: float = 1.0
    reconstructed: str | None = None
    needs: Literal["npho", "time"] = "npho"
    absolute: bool = False
    kind: Literal["number", "position", "angles", "vector", "class"] = "number"
    loss: str = "smooth_l1"
    enabled: bool = False
    flattened: bool = False

    @property
    def is_class(self) -> bool:
        """Whether it is one of a few classes."""
        return self.kind == "class"

    @property
    def is_direction(self) -> bool:
        """Whether it is a direction, by angles or by a vector."""
        return self.kind in ("angles", "vector")


TASKS = {
    "angle": Task(2, "deg", "emiAng", ("theta", "phi"), "deg", kind="angles", enabled=True, flattened=True),
    "energy": Task(1, "GeV", "energyTruth", ("energy",), "MeV", 1e3, "energyReco", absolute=True, loss="l1",
                   flattened=True),
    "timing": Task(1, "s", "timeTruth", ("timing",), "ps", 1e12, "timeReco", "time", absolute=True, loss="l1",
                   flattened=True),
    "uvwFI": Task(3, "cm", "uvwTruth", ("u", "v", "w"), "mm", 10.0, "uvwRecoFI", kind="position", loss="mse",
                  flattened=True),
    "angleVec": Task(3, "", "emiVec", ("emiVec",), kind="vector"),
    "n_gamma": Task(5, "", "nGamma", ("n_gamma",), kind="class", loss="cross_entropy"),
}  # fmt: skip
"""Quantities by name; an entry here is a key `tasks.NAME` of recipes, a head of networks and columns of predictions."""

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]


def number_of(n: int, what: str = "event") -> str:
    """A number of things for a sentence: `1 event`, `2 events`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def measured(values: ArrayLike) -> NDArray[np.bool_]:
    """Mask of numbers of any quantity that were measured: finite and below 9e9 in size."""
    return np.asarray(np.abs(np.asarray(values)) < INVALID_ABOVE)  # false for NaN


def valid_counts(npho: ArrayLike) -> NDArray[np.bool_]:
    """Mask of measured counts: finite, above 0 and below 9e9."""
    n = np.asarray(npho)
    return np.asarray((n > 0) & measured(n))


def branch_names(
    npho_branch: str, time_branch: str, branches: Mapping[str, str]
) -> tuple[tuple[str, str], dict[str, str]]:
    """Which branches are a recipe's counts and times, and what the files call branches.

    Args:
        npho_branch: of the counts, by its canonical name or the files'.
        time_branch: of the times, likewise.
        branches: others, canonical name -> name in the files.

    Returns:
        Canonical names of counts and times, and canonical name -> name in the files where it is another.
    """
    names, chosen = dict(branches), []
    for usual, given in (("npho", npho_branch), ("time", time_branch)):
        # a name outside the vocabulary is what the files call a branch of it
        chosen.append(given if given in BRANCHES else usual)
        if given not in BRANCHES:
            names[usual] = given
    return (chosen[0], chosen[1]), names


def read_counts(npho: ArrayLike) -> NDArray[np.bool_]:
    """Mask of sensors that were read: finite counts below 9e9 in size.

    Of these the valid ones saw light. Zero and less (noise about a pedestal) is not valid, but unlike 1e10 or NaN it
    says that there was none.
    """
    return measured(npho)


def valid_times(npho: ArrayLike, time: ArrayLike) -> NDArray[np.bool_]:
    """Mask of measured times: the count is valid, and the time is finite and below 9e9 in size."""
    return np.asarray(valid_counts(npho) & measured(time))


def photoelectrons(npho: ArrayLike) -> NDArray[Any]:
    """Photoelectrons (..., 4760) from counts, by the nominal efficiencies of SiPMs and PMTs."""
    n = np.asarray(npho)
    efficiency = np.full(N_SENSORS, QE_PMT, n.dtype)
    efficiency[:N_SIPM] = PDE_SIPM
    return np.asarray(n * efficiency)


def relative_quantities(
    npho: ArrayLike, time: ArrayLike, nphe: ArrayLike | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Relative counts and times (..., 4760) of events; 1e10 where not measured.

    Counts are divided by the largest valid count of the event. Times are taken from the earliest time among
    sensors with over 50 photoelectrons, or among all timed sensors in an event that has no such sensor.

    Args:
        npho: photons (..., 4760).
        time: seconds (..., 4760).
        nphe: photoelectrons (..., 4760) where the file has them; else they come from `npho`.
    """
    n, t = np.asarray(npho), np.asarray(time)
    counted, timed = valid_counts(n), valid_times(n, t)
    largest = np.where(counted, n, 0).max(-1, keepdims=True)
    bright = timed & ((photoelectrons(n) if nphe is None else np.asarray(nphe)) > RELATIVE_TIME_NPHE)
    bright |= timed & ~bright.any(-1, keepdims=True)
    earliest = np.where(bright, t, np.inf).min(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counted, n / largest, INVALID), np.where(timed, t - earliest, INVALID)


def taken_by(branches: tuple[str, str], npho: NDArray[Any], time: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a model of these branches takes, (..., 4760) each, from photons and seconds; relative ones are made."""
    if not any(name.startswith("relative_") for name in branches):
        return npho, time
    counts, times = relative_quantities(npho, time)
    return (
        counts if branches[0] == "relative_npho" else npho,
        times.astype(time.dtype) if branches[1] == "relative_time" else time,
    )
