"""Events as an analyser has them, several photons in some, and what becomes of them, said in plain loops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from tests.conftest import point_sources
from xecml import geometry

N = geometry.N_SENSORS
INVALID = np.float32(1e10)
BRANCHES = {
    "run", "event", "npho", "time", "relative_npho", "relative_time", "energyReco", "timeReco", "xyzRecoFI",
    "uvwRecoFI", "xyzVTX", "emiAng", "emiVec",
}  # fmt: skip


@dataclass
class Photon:
    """A reconstructed photon with the counts, photoelectrons and times of its sensors."""

    energy: float
    time: float
    xyz: np.ndarray
    pileup: int
    npho: np.ndarray
    nphe: np.ndarray
    tpm: np.ndarray


@dataclass
class Event:
    """An event of a rec file."""

    run: int
    number: int
    trigger: int
    vertex: np.ndarray
    photons: list[Photon] = field(default_factory=list)


def events(n: int = 40, seed: int = 1, photons: tuple[int, ...] = (1, 1, 2, 0, 1), first: int = 0) -> list[Event]:
    """Events with these numbers of photons in turn; sensors are dark, dead, untimed, NaN, infinite here and there."""
    rng = np.random.default_rng(seed)
    light = point_sources(2 * n, seed, dead=0.02)
    light["npho"][:, 17], light["npho"][:, 18], light["npho"][:, 19] = np.nan, np.inf, -0.5
    light["time"][:, 20], light["time"][:, 21] = np.nan, -np.inf
    nphe = np.where(light["npho"] < 9e9, light["npho"] * np.float32(0.13), INVALID).astype(np.float32)
    found = []
    for i in range(n):
        event = Event(430000 + seed, first + i, 0 if i % 7 else 51, rng.normal(0, 3, 3).astype(np.float32))
        for j in range(photons[i % len(photons)]):
            k = 2 * i + j
            energy = float(np.float32(rng.uniform(0.030, 0.070)))
            numbers = (light["npho"][k], nphe[k], light["time"][k])
            photon = (float(light["timeTruth"][k]), light["xyzTruth"][k], int(rng.integers(8) == 0))
            event.photons.append(Photon(energy, *photon, *numbers))
        found.append(event)
    return found


# ------------------------------------------------------------------------------------------------------ expected


def chosen(event: Event) -> list[int]:
    """The photon of highest energy, if there is one."""
    energies = [p.energy for p in event.photons]
    return [energies.index(max(energies))] if energies else []


def row(event: Event, photon: Photon, bad: set[int] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """What one photon becomes, in plain loops."""
    npho, time = np.full(N, INVALID), np.full(N, INVALID)
    relative_npho, relative_time = np.full(N, INVALID), np.full(N, INVALID)
    largest, earliest, earliest_bright = np.float32(0), math.inf, math.inf
    for s in range(N):
        n, t = photon.npho[s], photon.tpm[s]
        if s in bad or not abs(n) < 9e9:
            continue
        npho[s] = n
        if abs(t) < 9e9:
            time[s] = t
        if n > 0:
            largest = max(largest, n)
            if abs(t) < 9e9:
                earliest = min(earliest, t)
                earliest_bright = min(earliest_bright, t) if photon.nphe[s] > 50 else earliest_bright
    begin = earliest_bright if earliest_bright < math.inf else earliest
    for s in range(N):
        if 0 < npho[s] < 9e9:
            relative_npho[s] = npho[s] / largest
            if abs(time[s]) < 9e9:
                relative_time[s] = time[s] - np.float32(begin)
    line = photon.xyz.astype(np.float64) - event.vertex.astype(np.float64)
    line = line / np.linalg.norm(line)
    x, y, z = photon.xyz.astype(np.float64)
    angles = [math.degrees(math.acos(line[2])), math.degrees(math.atan2(line[1], -line[0]))]
    return {
        "run": event.run, "event": event.number, "npho": npho, "time": time, "relative_npho": relative_npho,
        "relative_time": relative_time, "energyReco": np.float32(photon.energy), "timeReco": np.float32(photon.time),
        "xyzRecoFI": photon.xyz, "uvwRecoFI": [z, 64.97 * math.atan2(y, -x), math.hypot(x, y) - 64.97],
        "xyzVTX": event.vertex, "emiVec": line, "emiAng": angles,
    }  # fmt: skip


EXACT = ("run", "event", "npho", "time", "relative_npho", "relative_time", "energyReco", "timeReco", "xyzRecoFI",
         "xyzVTX")  # fmt: skip


def assert_rows(path: Path, wanted: list[dict[str, Any]], *, branches: set[str] = BRANCHES) -> None:
    """The file holds these rows: numbers that are copied or rounded once bit for bit, computed ones to 2e-6."""
    with uproot.open(path) as file:
        assert file["tree"].num_entries == len(wanted)
        assert set(file["tree"].keys()) == branches
        columns = file["tree"].arrays(library="np")
    for name in branches - {"dead"}:
        expected = np.array([one[name] for one in wanted])
        assert columns[name].shape == expected.shape, name
        assert columns[name].dtype == (np.int32 if name in ("run", "event") else np.float32), name
        if name in EXACT:
            np.testing.assert_array_equal(columns[name], expected.astype(columns[name].dtype), err_msg=name)
        else:
            np.testing.assert_allclose(columns[name], expected, rtol=2e-6, atol=2e-6, err_msg=name)


# -------------------------------------------------------------------------------------------------------- writing


def fill(event: Event, name: str) -> np.ndarray:
    """A sensor quantity of the only photon, NaN in an event without any."""
    values: np.ndarray = getattr(event.photons[0], name) if event.photons else np.full(N, np.nan, np.float32)
    return values


def columns(found: list[Event]) -> dict[str, Any]:
    """Lists of photons, and one number a sensor: of the first photon."""
    return {
        "run": np.array([e.run for e in found], np.int32),
        "event": np.array([e.number for e in found], np.int32),
        "mask": np.array([e.trigger for e in found], np.int16),
        "energyReco": ak.Array([[p.energy for p in e.photons] for e in found]),
        "timeReco": ak.Array([[p.time for p in e.photons] for e in found]),
        "pileup": ak.values_astype(ak.Array([[p.pileup for p in e.photons] for e in found]), np.int32),
        "xyzVTX": np.array([e.vertex for e in found]),
        "npho": np.array([fill(e, "npho") for e in found]),
        "nphe": np.array([fill(e, "nphe") for e in found]),
        "tpm": np.array([fill(e, "tpm") for e in found]),
    }


def write_tree(path: Path, arrays: dict[str, Any], *, tree: str = "rec", pieces: int = 3) -> Path:
    """Write a TTree in some pieces; lists as jagged branches."""
    types: dict[str, Any] = {}
    for name, values in arrays.items():
        if isinstance(values, ak.Array):
            types[name] = f"var * {ak.type(ak.flatten(values)).content}"
        else:
            types[name] = np.dtype((values.dtype, values.shape[1:]))
    with uproot.recreate(path) as file:
        file.mktree(tree, types)
        n = len(next(iter(arrays.values())))
        for piece in np.array_split(np.arange(n), pieces):
            if len(piece):
                file[tree].extend({k: v[piece[0] : piece[-1] + 1] for k, v in arrays.items()})
    return path


def arrays(found: list[Event]) -> dict[str, Any]:
    """The plainest form: one photon an event, all arrays of fixed length under the analyser's names."""
    numbers = columns(found)
    for name in ("energyReco", "timeReco", "pileup"):
        numbers[name] = np.array([first[0] if len(first) else np.nan for first in numbers[name].to_list()])
    none = np.full(3, np.nan, np.float32)
    numbers["xyzRecoFI"] = np.array([e.photons[0].xyz if e.photons else none for e in found], np.float32)
    names = {
        "run": "Info.run", "event": "Info.event", "mask": "eventheader.mask", "npho": "xeccl.npho",
        "nphe": "xeccl.nphe", "tpm": "xeccl.tpm", "energyReco": "reco.EGamma", "timeReco": "xectimefit.time",
        "pileup": "reco.EvstatGamma", "xyzRecoFI": "xecposlfit.xyz[3]",
    }  # fmt: skip
    numbers |= {f"reco.{axis}Positron": numbers["xyzVTX"][:, i].copy() for i, axis in enumerate("XYZ")}
    del numbers["xyzVTX"]
    return {names.get(name, name): values for name, values in numbers.items()}


# ------------------------------------------------------------------------------------------- for C++ ROOT to write


def small_events() -> list[Event]:
    """Five events whose numbers compress well: of two photons, one, none, two and one."""
    found = []
    ids = np.arange(N)
    for i, photons in enumerate((2, 1, 0, 2, 1)):
        event = Event(321, 10 * i, 0, np.array([i, -1, 0.5], np.float32))
        for j in range(photons):
            npho = (100.0 + ids // 100 + 50 * j).astype(np.float32)
            npho[7 + i] = np.nan
            time = (1e-9 * (1 + ids // 500 + j)).astype(np.float32)
            xyz = np.array([-66.0 - i, 3.0 * j, 1.0 + i], np.float32)
            charge = (npho * np.float32(0.45)).astype(np.float32)
            event.photons.append(Photon(0.05 + 0.001 * j, 1e-9 * i, xyz, 0, npho, charge, time))
        found.append(event)
    return found


def as_arrays(found: list[Event]) -> dict[str, np.ndarray]:
    """Events as `root_rec_files.py` takes them: two photons each, of which the first few count."""
    n = len(found)
    arrays = {
        "photons": np.array([len(e.photons) for e in found], np.int32),
        "ids": np.array([[e.run, e.number, e.trigger] for e in found], np.int32),
        "energies": np.zeros((n, 2)), "times": np.zeros((n, 2)), "xyz": np.zeros((n, 2, 3), np.float32),
        "flags": np.zeros((n, 2), np.int32), "vertices": np.array([e.vertex for e in found], np.float32),
        "sensors": np.full((n, 2, 3, N), np.nan, np.float32),
    }  # fmt: skip
    for i, event in enumerate(found):
        for j, photon in enumerate(event.photons):
            arrays["energies"][i, j], arrays["times"][i, j] = photon.energy, photon.time
            arrays["xyz"][i, j], arrays["flags"][i, j] = photon.xyz, photon.pileup
            arrays["sensors"][i, j] = photon.npho, photon.nphe, photon.tpm
    return arrays
