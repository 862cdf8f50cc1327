"""Time of the conventional repairs of dead channels on one core, counts and times, and what they are worth.

Run: python benchmarks/repairs.py [-n EVENTS] [--dead 0.05] [--repeat 3]

The seconds are of this process; seconds by the clock and the machine's load stand beside them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from xecml import rootio
from xecml.choices import REPAIRS
from xecml.conventional.dead_sensor_estimates import ConventionalRepair
from xecml.data.damage import draw_damage
from xecml.simulation import generate
from xecml.simulation.settings import make_settings

GOAL_SECONDS = 5.0
GOAL_EVENTS = 10_000
_SIMULATED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=GOAL_EVENTS, help="events a measurement")
    parser.add_argument("--dead", type=float, default=0.05, help="fraction of dead sensors")
    parser.add_argument("--repeat", type=int, default=3, help="measurements, of which the fastest counts")
    options = parser.parse_args()
    for vertex in ("signal", "decoupled"):
        npho, times, expected = simulated(vertex)
        for method in REPAIRS:
            report(vertex, method, npho, times, expected, options)


def simulated(vertex: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, times and expected counts of undamaged events."""
    settings = make_settings({"vertex": vertex, "expected_counts": True})
    with tempfile.TemporaryDirectory() as folder:
        generate.simulate(Path(folder) / "events.root", _SIMULATED, settings=settings, seed=7)
        names = ("npho", "time", "npho_expected")
        chunk = next(rootio.read(Path(folder) / "events.root", names, chunk_events=_SIMULATED))
    return chunk["npho"], chunk["time"], chunk["npho_expected"]


def report(
    vertex: str,
    method: str,
    npho: np.ndarray,
    times: np.ndarray,
    expected: np.ndarray,
    options: argparse.Namespace,
) -> None:
    """Print the seconds of one repair for the goal's number of events, and its errors."""
    repair = ConventionalRepair(method)  # type: ignore[arg-type]
    dead = draw_damage("scattered", options.dead, len(npho))
    filled, _ = repair.fill(npho, times, dead)  # compiles too
    seconds, clock = np.inf, np.inf
    for _ in range(options.repeat):
        start, begin = time.process_time(), time.perf_counter()
        for first in range(0, options.n, len(npho)):
            most = options.n - first
            repair.fill(npho[:most], times[:most], dead[:most])
        seconds = min(seconds, time.process_time() - start)
        clock = min(clock, time.perf_counter() - begin)
    scale = GOAL_EVENTS / options.n
    error = (filled - expected)[dead]
    print(
        f"{vertex:<9} {method:<14} {options.dead:.0%} dead: {seconds * scale:5.2f} s a core for {GOAL_EVENTS} events "
        f"(goal {GOAL_SECONDS:g}), {clock * scale:5.2f} s by the clock at load {os.getloadavg()[0]:.1f}; against the "
        f"expected count MAE {np.abs(error).mean():.1f}, RMSE {np.sqrt((error**2).mean()):.0f} photons"
    )


if __name__ == "__main__":
    main()
