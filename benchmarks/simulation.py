"""Events a second of the simulation: on one and on all cores, beside the prototype, and the share of each stage.

Run: python benchmarks/simulation.py [-n EVENTS] [--jobs J] [--rounds R] [--map quick] [--prototype csim.py]

One job does all its work in one thread. What two cores can give on this machine is shown by two separate processes of
one job each. Measurements that are compared take turns, and the machine's load is printed: beside other work only
ratios mean something, and events a second of processor time, which waiting does not enter.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from xecml import geometry, rootio
from xecml.simulation import blocks, detectors, generate
from xecml.simulation.cascade.transport import CALORIMETER, shower
from xecml.simulation.light.clusters import cluster
from xecml.simulation.light.direct import direct_light
from xecml.simulation.light.indirect import indirect_light
from xecml.simulation.response import respond
from xecml.simulation.settings import make_settings

SIGNAL = {"vertex": "signal", "energy_mev": 52.8}
_PROTOTYPE_MAP = (7, 16, 9, 4758)
_PROTOTYPE = """
import time, csim
csim.main("A", 2, 1, "warm.npz")
start = time.process_time()
csim.main("A", {n}, 2, "events.npz")
print("cpu", {n} / (time.process_time() - start))
"""
# the prototype takes its photoelectric table from xraylib, keV and cm2/g; ours is as good where that is not installed
_PHOTOELECTRIC = """
import numpy as np
from xecml.simulation.cascade.cross_sections import DENSITY, photoelectric

def CS_Photo(Z, keV):
    return float(photoelectric(np.array([keV / 1e3]))[0] / DENSITY)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=1000, help="events a measurement")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads of the second measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind; the median counts")
    parser.add_argument("--map", default="standard", help="quality of the light map")
    parser.add_argument("--prototype", type=Path, help="csim.py of the prototype, to run beside")
    parser.add_argument("--alone", action="store_true", help="one measurement with one job, its rate as a number")
    options = parser.parse_args()
    if options.alone:
        print(rate(SIGNAL | {"map_quality": options.map}, options.n, 1)[0])
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for settings in (SIGNAL, {"vertex": "decoupled"}):
        cores(settings | {"map_quality": options.map}, options.n, options.jobs, options.rounds)
    processes(options.n, options.jobs, options.rounds, options.map)
    if options.prototype:
        beside_prototype(options.prototype, options.n, options.map)
    stages(options.map)


def rate(values: dict[str, object], n: int, jobs: int) -> tuple[float, float]:
    """Events a second of wall and of processor time, files included; a short run before compiles and warms up."""
    settings = make_settings(values)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "events.root"
        generate.simulate(out, generate.BLOCK, settings=settings, jobs=jobs)
        start = time.process_time()
        wall = generate.simulate(out, n, settings=settings, jobs=jobs, seed=1).rate
        return wall, n / (time.process_time() - start)


def cores(values: dict[str, object], n: int, jobs: int, rounds: int) -> None:
    """Print rates with one job and with several, in turns."""
    found = [(rate(values, n, 1), rate(values, n, jobs)) for _ in range(rounds)]
    one, many = (statistics.median(pair[k][0] for pair in found) for k in (0, 1))
    ratio = statistics.median(pair[1][0] / pair[0][0] for pair in found)
    work = statistics.median(pair[0][1] / pair[1][1] for pair in found)
    print(
        f"{values['vertex']}: {one:.0f} events/s with one job, {many:.0f} with {jobs} ({ratio:.2f} times); "
        f"processor time an event: {1e3 / found[0][0][1]:.2f} ms with one job, {work:.2f} times that with {jobs}"
    )


def processes(n: int, number: int, rounds: int, quality: str) -> None:
    """Print what separate processes of one job each make, run together, over one alone."""
    command = [sys.executable, __file__, "--alone", "-n", str(n), "--map", quality]

    def together(count: int) -> float:
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(count)]
        return sum(float(process.communicate()[0]) for process in running)

    ratio = statistics.median(together(number) / together(1) for _ in range(rounds))
    print(f"{number} separate processes: {ratio:.2f} times one alone")


def beside_prototype(script: Path, n: int, quality: str) -> None:
    """Print the rates of the prototype and, before and after it, of this package: same events, one core."""
    values = SIGNAL | {"map_quality": quality}
    before = rate(values, n, 1)
    wall, cpu = prototype(script, max(n // 10, 20))
    ours = [sum(pair) / 2 for pair in zip(before, rate(values, n, 1), strict=True)]
    print(f"prototype: {wall:.0f} events/s, {cpu:.0f} a second of processor time; ours {ours[0]:.0f}, {ours[1]:.0f}")
    print(f"ours over the prototype: {ours[0] / wall:.1f} (wall), {ours[1] / cpu:.1f} (processor time)")


def prototype(script: Path, n: int) -> tuple[float, float]:
    """Events a second of wall and of processor time, compiled and warm, in a process of its own.

    It wants the sensors' positions and its map of light beside it; without a map one of equal values takes its place,
    which is as fast.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for source in (*script.parent.glob("*.py"), *script.parent.glob("map2avg.npy")):
            shutil.copy(source, work)
        (work / "lib").mkdir()
        table = np.column_stack([np.arange(geometry.N_SENSORS), geometry.positions()])
        np.savetxt(work / "lib" / "sensor_positions.txt", table, fmt=("%d", "%.4f", "%.4f", "%.4f"))
        if not (work / "map2avg.npy").exists():
            np.save(work / "map2avg.npy", np.full(_PROTOTYPE_MAP, 5e-5, np.float32))
        if find_spec("xraylib") is None:
            (work / "xraylib.py").write_text(_PHOTOELECTRIC, encoding="utf-8")
        command = [sys.executable, "-W", "ignore", "-c", _PROTOTYPE.format(n=n)]
        done = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    wall = next(line for line in reversed(lines) if "ev/s" in line).split("ev/s")[1].split()[0]
    return float(wall), float(lines[-1].split()[1])


def stages(quality: str, events: int = 200) -> None:
    """Processor time of each stage of signal events at 52.8 MeV from Python, one call a stage and event."""
    settings = make_settings({"energy_mev": 52.8, "map_quality": quality})
    physics, work = detectors.prepare(settings), blocks.new_work()
    rng = np.random.default_rng(1)
    x, y, z = (float(v) for v in geometry.xyz_from_uvw([1.0, 2.0, 1e-6]))
    ux, uy, uz = (float(v) for v in geometry.direction_from_angles([90.0, 0.0]))
    npho, times = np.zeros(geometry.N_SENSORS, np.float32), np.zeros(geometry.N_SENSORS, np.float32)
    seconds = dict.fromkeys(("cascade", "clusters", "direct light", "indirect light", "response", "write"), 0.0)

    def timed(stage: str, call: Callable[[], int | None]) -> int:
        start = time.thread_time()
        result = call()
        seconds[stage] += time.thread_time() - start
        return result or 0

    def one_event() -> None:
        work.direct[:], work.indirect[:] = 0, 0
        n = timed(
            "cascade",
            lambda: shower(
                rng, physics.tables, 52.8, (x, y, z), (ux, uy, uz), CALORIMETER, 0.0,
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
