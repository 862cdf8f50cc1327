"""Events a second of `xec prepare` beside plain reading of the same files, each in a process of its own, in turns.

Run: python benchmarks/prepare.py [-n EVENTS] [--files F] [--rounds R]

Plain reading is `uproot.iterate` of the same branches on one core, which is the limit that decompression sets there.
Every event passes the selection, so that all of it is computed and written. Rates are medians over the rounds, without
the start of Python and compiled code; in brackets events a second of processor time, which do not depend on what else
the machine does: twice that is what two free cores can do at best. Memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SENSORS = ("npho", "tpm", "nphe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=4000, help="events a file")
    parser.add_argument("--files", type=int, default=4, help="times the file is read")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), options.n, options.files, options.rounds)


def write_rec(path: Path, n: int, form: str, seed: int = 5) -> None:
    """A rec-like file: 4760 numbers an event as arrays, as lists, or as lists of one number for each sensor."""
    import awkward as ak
    import uproot

    from xecml.geometry import xyz_from_uvw

    rng = np.random.default_rng(seed)
    uvw = np.stack([rng.uniform(-20, 20, n), rng.uniform(-60, 60, n), rng.uniform(0, 20, n)], 1)
    light = {
        "run": np.full(n, 430000, np.int32), "event": np.arange(n, dtype=np.int32), "mask": np.zeros(n, np.int32),
        "pileup": np.zeros(n, np.int32), "energyReco": rng.uniform(0.04, 0.06, n), "timeReco": rng.normal(0, 1e-8, n),
        "xyzRecoFI": xyz_from_uvw(uvw), "xyzVTX": rng.normal(0, 2, (n, 3)),
    }  # fmt: skip
    with uproot.recreate(path, compression=uproot.LZ4(1)) as file:
        types: dict[str, Any] = {k: np.dtype((v.dtype, v.shape[1:])) for k, v in light.items()}
        types |= {b: np.dtype((np.float32, (4760,))) if form == "arrays" else "var * float32" for b in SENSORS}
        file.mktree("rec", types)
        for start in range(0, n, 250):
            stop = min(start + 250, n)
            nphe = rng.poisson(rng.exponential(60, (stop - start, 4760))).astype(np.float32)
            time_ = (rng.normal(1e-8, 4e-9, nphe.shape)).astype(np.float32)
            values = {"npho": nphe / np.float32(0.12), "tpm": time_, "nphe": nphe}
            chunk: dict[str, Any] = {k: v[start:stop] for k, v in light.items()}
            file["rec"].extend(
                chunk | {b: v if form == "arrays" else ak.from_regular(ak.Array(v)) for b, v in values.items()}
            )


def report(folder: Path, n: int, files: int, rounds: int) -> None:
    """One line a form and way."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {files} times {n} events")
    print(f"{'form':10}{'way':18}{'events/s':>10}{'(processor)':>13}{'/ plain':>10}{'memory MB':>11}")
    for form in ("arrays", "lists"):
        path = folder / f"rec430000_{form}.root"
        write_rec(path, n, form)
        results: dict[str, list[dict[str, float]]] = {way: [] for way in ("plain reading", "prepare")}
        for _ in range(rounds):
            for way, runs in results.items():
                runs.append(apart(path=str(path), way=way, files=files, out=str(folder / "out.root")))
        for way, runs in results.items():
            ratio = statistics.median(
                a["rate"] / b["rate"] for a, b in zip(runs, results["plain reading"], strict=True)
            )
            rate, cpu, own = (statistics.median(run[key] for run in runs) for key in ("rate", "cpu_rate", "own_mb"))
            print(f"{form:10}{way:18}{rate:10,.0f}{f'({cpu:,.0f})':>13}{ratio:10.2f}{own:11.0f}")
        path.unlink()


def apart(**options: Any) -> dict[str, float]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(path: str, way: str, files: int, out: str) -> dict[str, float]:
    """Read or prepare a file so many times, after once to load what is needed."""
    import resource

    ways = {"plain reading": plainly, "prepare": prepared}
    ways[way](path, 1, out)
    begin, processor = time.perf_counter(), time.process_time()
    events = ways[way](path, files, out)
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"rate": events / seconds, "cpu_rate": events / processor, "own_mb": most}


def plainly(path: str, files: int, out: str) -> int:
    import uproot

    branches = [*SENSORS, "run", "event", "mask", "pileup", "energyReco", "timeReco", "xyzRecoFI", "xyzVTX"]
    return sum(len(c) for c in uproot.iterate([f"{path}:rec"] * files, branches, step_size=256))


def prepared(path: str, files: int, out: str) -> int:
    from xecml.realdata.branch_map import load_map
    from xecml.realdata.prepare import prepare_files

    return prepare_files([path] * files, out, load_map(None, {"selection": {"repeated": False}}), force=True).read


if __name__ == "__main__":
    main()
