"""Which photons of which events are kept, before any sensor is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.geometry import FIDUCIAL_U, FIDUCIAL_V, Floats, Ints, is_fiducial, uvw_from_xyz, xyz_from_uvw
from xecml.realdata.branch_map import RecMap
from xecml.realdata.cut_flow import CutFlow
from xecml.realdata.rec_file import Light

Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Photons that are kept, R of them, an entry of the output each.

    Attributes:
        event: event of the chunk, (R,), ascending.
        photon: which of the event's, (R,).
        quantities: reconstructed ones by branch, (R,) or (R, 3), float64, NaN where not measured.
    """

    event: Ints
    photon: Ints
    quantities: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.event)

    def kept(self, marks: Marks) -> Rows:
        """Those that are marked."""
        return Rows(self.event[marks], self.photon[marks], {k: v[marks] for k, v in self.quantities.items()})


class Selector:
    """Applies the cuts of a map to chunks in their order, and counts what each leaves.

    Args:
        names: the map.
        flow: where numbers of events are counted; those of cuts in the order of the first chunk.
    """

    def __init__(self, names: RecMap, flow: CutFlow) -> None:
        self._map, self._flow, self._seen = names, flow, Seen()

    def choose(self, light: Light, path: str) -> Rows:
        """Photons of a chunk that pass all cuts but the one on sensors.

        Raises:
            InputError: photons cannot be told apart, or pairs point to none.
        """
        cuts, n = self._map.selection, len(light.run)
        self._flow.count("events read", n)
        keep = np.ones(n, bool)
        if cuts.repeated:
            keep &= ~self._seen.repeats(light.run, light.event)
            self._flow.count("not read before", int(keep.sum()))
        if cuts.trigger is not None:
            keep &= np.isin(light.numbers["trigger"], cuts.trigger)
            self._flow.count(f"trigger {_listed(cuts.trigger)}", int(keep.sum()))
        present = _photons_of(light)
        if cuts.one_photon:
            number = light.numbers["n_photons"] if "n_photons" in light.numbers else present.sum(1)
            keep &= number == 1
            self._flow.count("one photon", int(keep.sum()))
        rows = self._rows(light, present & keep[:, None], path)
        return self._cut(rows, light)

    def _rows(self, light: Light, present: Marks, path: str) -> Rows:
        """An entry for each photon, or for the one of highest energy."""
        if self._map.photons == "all":
            event, photon = np.nonzero(present)
            self._flow.count("photons", len(event))
        else:
            energy = light.photons.get("energyReco")
            if energy is None and (present.sum(1) > 1).any():
                raise InputError(
                    f"{path} has events of several photons but the map has no energyReco, which is needed to find the "
                    "highest energy; name its branch, or write 'photons: all'."
                )
            event = np.flatnonzero(present.any(1))
            choice = present.astype(np.float64) if energy is None else np.where(present, energy, -1.0)
            photon = choice.argmax(1)[event]
            self._flow.count("a photon", len(event))
        quantities = {name: picked(values, event, photon) for name, values in light.photons.items()}
        if light.vertices is not None:
            quantities["xyzVTX"] = picked(light.vertices, event, _vertex_of(light, event, photon))
        return Rows(event, photon, _both_frames(quantities))

    def _cut(self, rows: Rows, light: Light) -> Rows:
        """Cuts on the chosen photons."""
        cuts, quantities = self._map.selection, rows.quantities
        keep = np.ones(len(rows), bool)
        if cuts.energy_mev is not None:
            mev = 1e3 * quantities["energyReco"]
            # a hair wider than the range, for 0.035 GeV is not 35 MeV to the last bit
            low, high = np.nextafter(cuts.energy_mev[0], 0), np.nextafter(cuts.energy_mev[1], np.inf)
            keep &= (mev >= low) & (mev <= high)
            self._flow.count(f"energy {cuts.energy_mev[0]:g} to {cuts.energy_mev[1]:g} MeV", int(keep.sum()))
        if cuts.fiducial:
            keep &= is_fiducial(quantities["uvwRecoFI"])
            self._flow.count(f"|u| < {FIDUCIAL_U:g}, |v| < {FIDUCIAL_V:g}, w >= 0 cm", int(keep.sum()))
        if cuts.pileup is not None:
            flags = light.numbers["pileup"]
            photon = np.zeros_like(rows.photon) if flags.shape[1] == 1 else rows.photon
            keep &= np.isin(picked(flags, rows.event, photon), cuts.pileup)
            self._flow.count(f"pile-up flag {_listed(cuts.pileup)}", int(keep.sum()))
        if cuts.vertex:
            keep &= np.isfinite(quantities["xyzVTX"]).all(-1)
            self._flow.count("a vertex", int(keep.sum()))
        return rows.kept(keep)


def picked(values: Floats, event: Ints, index: Ints) -> Floats:
    """Of arrays (N, P, ...) the numbers of one photon of each event, (R, ...); NaN where there is none."""
    there = (index >= 0) & (index < values.shape[1])
    out = np.full((len(event), *values.shape[2:]), np.nan)
    out[there] = values[event[there], index[there]]
    return out


def _photons_of(light: Light) -> Marks:
    """Which photons an event has, (N, P): of an energy above 0; without energies those with a position or a time.

    Of an event without any such quantity one photon is taken.
    """
    n = len(light.run)
    energy = light.photons.get("energyReco")
    present: Marks
    if energy is not None:
        present = np.asarray(energy > 0)
    elif light.photons:
        values = next(iter(light.photons.values()))
        present = np.isfinite(values if values.ndim == 2 else values.sum(-1))
    else:
        present = np.ones((n, 1), bool)
    if "n_photons" in light.numbers:  # arrays of fixed length go on beyond what an event has
        present = np.asarray(present & (np.arange(present.shape[1]) < light.numbers["n_photons"][:, None]))
    return present


def _vertex_of(light: Light, event: Ints, photon: Ints) -> Ints:
    """Vertex of each photon: that of the first pair with the photon in it, else the first of the event."""
    if "pair_photon" not in light.numbers:
        return np.zeros(len(event), np.int64)
    pairs, vertices = light.numbers["pair_photon"][event], light.numbers["pair_vertex"][event]
    shared = min(pairs.shape[1], vertices.shape[1])
    match = pairs[:, :shared] == photon[:, None]
    chosen = picked(vertices[:, :shared], np.arange(len(event)), match.argmax(1) if shared else photon)
    return np.where(match.any(1) & np.isfinite(chosen), np.nan_to_num(chosen), -1).astype(np.int64)


def _both_frames(quantities: dict[str, Floats]) -> dict[str, Floats]:
    """The first interaction in both frames, from the one that is there."""
    if "xyzRecoFI" in quantities and "uvwRecoFI" not in quantities:
        quantities["uvwRecoFI"] = uvw_from_xyz(quantities["xyzRecoFI"])
    elif "uvwRecoFI" in quantities and "xyzRecoFI" not in quantities:
        quantities["xyzRecoFI"] = xyz_from_uvw(quantities["uvwRecoFI"])
    return quantities


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


class Seen:
    """Which events were read before; eight bytes an event."""

    def __init__(self) -> None:
        self._sorted: list[NDArray[np.int64]] = []

    def repeats(self, run: Ints, event: Ints) -> Marks:
        """Marks (N,) of events that were there before, in this chunk or an earlier one; all are remembered."""
        keys = (run << 32) + event
        unique, first = np.unique(keys, return_index=True)
        again = np.ones(len(keys), bool)
        again[first] = False
        for known in self._sorted:
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            again |= known[at] == keys
        self._remember(unique)
        return again

    def _remember(self, keys: NDArray[Any]) -> None:
        """Keep sorted arrays of which each is at least twice as long as the next, so that there are few."""
        if len(keys):
            self._sorted.append(keys)
        while len(self._sorted) > 1 and len(self._sorted[-2]) < 2 * len(self._sorted[-1]):
            self._sorted[-2:] = [np.union1d(*self._sorted[-2:])]
