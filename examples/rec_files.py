"""Write simulated events as rec files of the analyser, to try `xec prepare` and what follows it without data.

    python examples/rec_files.py SIMULATED.root... --out FOLDER [--run N] [--seed S]

Each run becomes a file `rec<run>.root` with a tree `rec`, in the analyser's names. What the analyser would have
reconstructed is the truth smeared by what is published of it (52.8 MeV: 2.5, 2.5 and 5.0 mm in u, v and w, 2.0 % of the
energy in the first 2 cm and 1.8 % behind, 65 ps), the vertex by 1 mm. It is a stand-in: it has no tails, it does not
suffer from dead sensors or pile-up, and its errors do not depend on the light. Four of five events with a further
photon are flagged as pile-up.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from xecml import geometry, rootio
from xecml.events import INVALID, PDE_SIPM, QE_PMT, valid_counts

BRANCHES = ["npho", "time", "energyTruth", "timeTruth", "uvwTruth", "xyzVTX", "nGamma", "run", "event"]
UVW_CM, VERTEX_CM, TIME_S, FOUND_PILEUP = (0.25, 0.25, 0.5), 0.1, 65e-12, 0.8
EFFICIENCY = np.where(np.arange(geometry.N_SENSORS) < geometry.N_SIPM, PDE_SIPM, QE_PMT).astype(np.float32)


def as_rec(chunk: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Events of a simulated file under the analyser's names; seconds, GeV, cm."""
    n = len(chunk["run"])
    uvw = chunk["uvwTruth"] + rng.normal(0, UVW_CM, (n, 3))
    share = np.where(uvw[:, 2] < 2, 0.020, 0.018)
    vertex = chunk["xyzVTX"] + rng.normal(0, VERTEX_CM, (n, 3))
    flagged = (chunk["nGamma"] > 1) & (rng.random(n) < FOUND_PILEUP)
    charge = np.where(valid_counts(chunk["npho"]), chunk["npho"] * EFFICIENCY, INVALID)
    return {
        "Info.run": chunk["run"].astype(np.int32),
        "Info.event": chunk["event"].astype(np.int32),
        "eventheader.mask": np.zeros(n, np.int16),
        "xeccl.npho": chunk["npho"],
        "xeccl.nphe": charge.astype(np.float32),
        "xeccl.tpm": chunk["time"],
        "reco.EGamma": chunk["energyTruth"] * (1 + share * rng.standard_normal(n)),
        "reco.EvstatGamma": flagged.astype(np.int32),
        "xectimefit.time": chunk["timeTruth"].astype(np.float64) + rng.normal(0, TIME_S, n),
        "xecposlfit.xyz[3]": geometry.xyz_from_uvw(uvw).astype(np.float32),
        **{f"reco.{axis}Positron": vertex[:, i].copy() for i, axis in enumerate("XYZ")},
    }


def runs(files: list[str], run: int | None, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield runs and rec-like events of them, chunk by chunk; with `run` all events are of it, numbered on."""
    rng, before = np.random.default_rng(seed), 0
    for chunk in rootio.read(files, BRANCHES):
        n = len(chunk["run"])
        if run is not None:
            chunk |= {"run": np.full(n, run), "event": before + np.arange(n)}
        before += n
        rec = as_rec(chunk, rng)
        for number in np.unique(rec["Info.run"]).tolist():
            own = rec["Info.run"] == number
            yield number, {name: values[own] for name, values in rec.items()}


def main() -> None:
    """Read the command line, and write a file for each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", help="simulated files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rec files")
    parser.add_argument("--run", type=int, help="number all events anew, as events of this run")
    parser.add_argument("--seed", type=int, default=1, help="of the smearing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    written: dict[int, Any] = {}
    with contextlib.ExitStack() as stack:
        for run, rec in runs(given.files, given.run, given.seed):
            if run not in written:
                path = given.out / f"rec{run:06d}.root"
                if path.exists():
                    sys.exit(f"{path} exists; name another folder, or remove it.")
                written[run] = stack.enter_context(uproot.create(path, compression=uproot.LZ4(4)))
                types = {name: np.dtype((v.dtype, v.shape[1:])) for name, v in rec.items()}
                written[run].mktree("rec", types)
            written[run]["rec"].extend(rec)
    print(f"Wrote {len(written)} files to {given.out}: " + ", ".join(f"{run:06d}" for run in sorted(written)))


if __name__ == "__main__":
    main()
