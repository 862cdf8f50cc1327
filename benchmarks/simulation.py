"""Events a second of the simulation, on one and on all cores, and the share of each stage.

Run: python benchmarks/simulation.py [-n EVENTS] [--jobs J] [--map quick]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xecml import geometry, rootio
from xecml.simulation import blocks, generate
from xecml.simulation.cascade import CALORIMETER, shower
from xecml.simulation.clusters import cluster
from xecml.simulation.direct import direct_light
from xecml.simulation.indirect import indirect_light
from xecml.simulation.response import respond
from xecml.simulation.settings import make_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1000, help="events a measurement")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads of the second measurement")
    parser.add_argument("--map", default="standard", help="quality of the light map")
    options = parser.parse_args()
    for vertex, energy in (("signal", 52.8), ("decoupled", None)):
        settings = make_settings({"vertex": vertex, "energy_mev": energy, "map_quality": options.map})
        rates = [rate(settings, options.n, jobs) for jobs in (1, options.jobs)]
        print(
            f"{vertex}: {rates[0]:.0f} events/s on one core, {rates[1]:.0f} with {options.jobs} threads "
            f"({rates[1] / rates[0]:.2f} times)"
        )
    stages(options.map)


def rate(settings: generate.SimulationSettings, n: int, jobs: int) -> float:
    """Events a second, files included; a short run before compiles and warms up."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "events.root"
        generate.simulate(out, 2 * generate.BLOCK, settings=settings, jobs=jobs)
        return generate.simulate(out, n, settings=settings, jobs=jobs, seed=1).rate


def stages(quality: str, events: int = 200) -> None:
    """Time each stage of signal events at 52.8 MeV from Python, one call a stage and event."""
    settings = make_settings({"energy_mev": 52.8, "map_quality": quality})
    physics, work = generate.prepare(settings), blocks.new_work()
    rng = np.random.default_rng(1)
    entry = geometry.xyz_from_uvw([1.0, 2.0, 1e-6])
    u = geometry.direction_from_angles([90.0, 0.0])
    npho, times = np.zeros(geometry.N_SENSORS, np.float32), np.zeros(geometry.N_SENSORS, np.float32)
    seconds = dict.fromkeys(("cascade", "clusters", "direct light", "indirect light", "response", "write"), 0.0)

    def timed(stage: str, call: Callable[[], int | None]) -> int:
        start = time.perf_counter()
        result = call()
        seconds[stage] += time.perf_counter() - start
        return result or 0

    def one_event() -> None:
        work.direct[:], work.indirect[:] = 0, 0
        x, y, z = entry
        n = timed(
            "cascade",
            lambda: shower(
                rng, physics.tables, 52.8, x, y, z, u[0], u[1], u[2], CALORIMETER, 0.0,
                work.deposits, work.stack, work.first, -1.0,
            )[0],
        )  # fmt: skip
        n_coarse = timed("clusters", lambda: cluster(work.deposits, n, work.clusters))
        timed(
            "direct light",
            lambda: direct_light(work.clusters, n_coarse, physics.sensors, physics.optics, physics.near, work.direct),
        )
        timed(
            "indirect light",
            lambda: indirect_light(work.clusters, n_coarse, physics.light_map, physics.optics, work.indirect),
        )
        work.photons[0] = work.direct[0] + np.maximum(work.direct[1] + work.indirect[0], 0)
        timed(
            "response",
            lambda: respond(
                rng,
                physics.response,
                1,
                work.photons,
                work.arrival,
                work.spread,
                False,
                0.0,
                npho,
                times,
                work.photoelectrons,
            ),
        )

    one_event()
    seconds = dict.fromkeys(seconds, 0.0)
    for _ in range(events):
        one_event()
    arrays = next(generate.event_blocks(physics, settings, 1, 0, generate.BLOCK))
    arrays.pop(generate.TRIED_BRANCH)
    with tempfile.TemporaryDirectory() as folder, rootio.TreeWriter(Path(folder) / "x.root") as writer:
        timed("write", lambda: writer.extend(arrays))
    seconds["write"] *= events / generate.BLOCK
    total = sum(seconds.values())
    for stage, spent in seconds.items():
        print(f"  {stage:15s} {1e3 * spent / events:6.3f} ms an event, {100 * spent / total:4.1f} %")


if __name__ == "__main__":
    main()
