"""Speed of the conventional reconstruction, part by part, in processor time, and what it reaches on simulated photons.

Run: python benchmarks/conventional.py [-n EVENTS] [--repeat 3]

The seconds are of this process on one core, the fastest of some measurements; events a second of two cores are twice
those of one as long as both are free. The figures are those of `xec evaluate`, on photons of other seeds than the
shipped constants were made of.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xecml import rootio
from xecml.conventional import timing
from xecml.conventional.constants import read_constants
from xecml.conventional.reconstruction import Reconstruction, look
from xecml.conventional.two_points import fit_two_points
from xecml.conventional.window_ladder import fit_windows
from xecml.evaluation import metrics
from xecml.evaluation.tables import read_table
from xecml.events import read_counts
from xecml.inference.baseline import baseline_files
from xecml.simulation.generate import simulate
from xecml.simulation.settings import make_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=2000, help="events a sample")
    parser.add_argument("--repeat", type=int, default=3, help="measurements, of which the fastest counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for k, vertex in enumerate(("signal", "decoupled")):
            path = Path(folder) / f"{vertex}.root"
            simulate(path, options.n, settings=make_settings({"vertex": vertex}), seed=7001 + k, jobs=2)
            speed(path, vertex, options.repeat)
            performance(path, vertex)


def fastest(work: Callable[[], Any], events: int, repeat: int) -> str:
    """Milliseconds an event of the fastest of some measurements, the first of which compiles, and events a second."""
    seconds = []
    for _ in range(repeat + 1):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return f"{1e3 * min(seconds[1:]) / events:7.3f} ms {events / min(seconds[1:]):8.0f} events/s of a core"


def speed(path: Path, vertex: str, repeat: int) -> None:
    chunk = next(rootio.read(path, ("npho", "time"), chunk_events=1000))
    npho, times, events = chunk["npho"], chunk["time"], len(chunk["npho"])
    known = read_constants(vertex)
    live, seen = read_counts(npho), look(npho)
    most = ("uvwFI", "energy", "timing")
    method = Reconstruction(known, most)
    _, uvw = method.first_interactions(seen)
    assert known.timing is not None
    walk, velocity = np.array(known.timing.walk), known.timing.velocity
    out = path.with_name("out.root")
    parts: dict[str, Callable[[], Any]] = {
        "points of light in six windows": lambda: fit_windows(npho, live),
        "two points of light": lambda: fit_two_points(npho, live, seen.fits),
        "position, from the fits": lambda: method.first_interactions(seen),
        "energy, from sums and position": lambda: method.energies(seen, uvw),
        "time": lambda: timing.mean_times(npho, times, live, uvw, velocity, walk),
        "position + energy + time": lambda: method.answers(npho, times),
        "all": lambda: Reconstruction(known).answers(npho, times),
    }
    for name, work in parts.items():
        print(f"{vertex:10s} {name:32s} {fastest(work, events, repeat)}", flush=True)
    total = rootio.count_events(path)
    for name, tasks in (("files, without direction", most), ("files, all", ())):
        options: dict[str, Any] = {"constants": vertex, "tasks": tasks, "threads": 1}
        said = fastest(lambda o=options: baseline_files([path], out, **o), total, repeat)
        print(f"{vertex:10s} {name:32s} {said}", flush=True)


def performance(path: Path, vertex: str) -> None:
    out = path.with_name("answers.root")
    baseline_files([path], out, constants=vertex)
    (found,) = metrics.compare({vertex: read_table(out)})
    for depth in found.figures["u"]:
        for name, bins in found.figures.items():
            r = bins[depth]
            pull = f" / pull {found.pulls[name][depth].figures.s68:.2f}" if name in found.pulls else ""
            print(
                f"{vertex:10s} {depth:8s} {name:16s} {r.bias:9.3g} / {r.rms:8.3g} / "
                f"{r.s68:8.3g} +- {r.s68_error:.2g} / "
                f"{r.fwhm:8.3g} +- {r.fwhm_error:.2g} / {100 * r.tail:5.1f} % / up {r.upper:8.3g}{pull}"
            )
        if depth in found.opening:
            angle = found.opening[depth]
            print(f"{vertex:10s} {depth:8s} opening angle    {angle.median:8.3g} / {angle.q68:8.3g}")


if __name__ == "__main__":
    main()
