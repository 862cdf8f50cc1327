"""How fast files are predicted, beside the network alone, and how much memory a long file takes.

    python benchmarks/predict.py [MODEL] [-n EVENTS] [--long 1000000] [--precision float32] [--rounds 5]

Two questions, both measured in processes of their own:

- **From file to file.** A file of simulated events is predicted to a file, in turns with the network alone on the same
  events in memory (`model.judge`, batches of the same size, as many side by side), in one process, with the same model,
  precision and jobs. Both rates are medians over the rounds, and so is their ratio round by round; the first round of
  each, which loads and compiles, is not counted. The goal is 0.9. The share of processor time, events a second of it
  from file to file over those of the network alone, depends less on what else the machine does.
- **Memory.** A long file is made by repeating the simulated one, chunk by chunk, up to 100,000 events (a few GB on the
  disk); it is named as often as it takes, and all of it is predicted to one output. The peak of the process is noted
  after each tenth of the events. The goal is 1.5 GB for a million. With `--long` fewer, the peak for a million is
  extrapolated along a line through the second half of these peaks, and this is said.

Without MODEL a network of the shipped recipe is built and its constants fitted; its weights are random, which costs the
same time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

MILLION = 1_000_000
GOAL_SHARE, GOAL_GB = 0.9, 1.5
_TENTHS = 10
_MOST_IN_A_FILE = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="checkpoint or ONNX file")
    parser.add_argument("-n", type=int, default=4096, help="simulated events")
    parser.add_argument("--events", type=Path, help="a file of events in place of simulated ones")
    parser.add_argument("--long", type=int, default=MILLION, help="events of the long file; 0 leaves memory out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, help="batches side by side; free cores by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", help="float32 or bf16; both with 'float32,bf16'")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        given = json.loads(options.one)
        print(json.dumps({"rates": rates, "memory": memory, "make": made}[given.pop("what")](**given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), options)


def report(folder: Path, options: argparse.Namespace) -> None:
    """Two lines a precision."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    given = apart(
        what="make",
        folder=str(folder),
        events=options.n,
        model=str(options.model or ""),
        path=str(options.events or ""),
    )
    for precision in options.precision.split(","):
        shared = {"model": given["model"], "jobs": options.jobs, "device": options.device, "precision": precision}
        found = apart(what="rates", path=given["path"], rounds=options.rounds, **shared)
        print(
            f"{precision}, {found['jobs']} jobs, {found['events']} events, medians of {options.rounds}: network alone "
            f"{found['alone']:.0f} events/s, from file to file {found['files']:.0f} events/s, share "
            f"{found['share']:.3f} ({found['least']:.3f} to {found['most']:.3f}; goal {GOAL_SHARE}), of processor time "
            f"{found['processor']:.3f}; load {found['load']:.1f}"
        )
        if options.long:
            peaks = apart(what="memory", path=given["path"], events=options.long, **shared)["peaks"]
            print(f"{precision}, memory: {in_words(peaks, options.long)}")


def in_words(peaks: list[float], events: int) -> str:
    """Peaks after each tenth of the events, and what they say of a million."""
    half = len(peaks) // 2
    said = f"{peaks[-1] / 1e3:.2f} GB for {events} events ({peaks[half] / 1e3:.2f} after {(half + 1) * events // 10})"
    if events >= MILLION:
        return f"{said}; goal {GOAL_GB} GB"
    done = np.linspace(0, events, _TENTHS + 1)[1:]
    slope = max(float(np.polyfit(done[half:], peaks[half:], 1)[0]), 0.0)
    million = peaks[-1] + slope * (MILLION - events)
    return (
        f"{said}; a million would take {million / 1e3:.2f} GB, extrapolated along the {slope * 1e6:.0f} bytes an event "
        f"by which the peak grows over the second half; goal {GOAL_GB} GB"
    )


def apart(**options: Any) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def made(folder: str, events: int, model: str, path: str) -> dict[str, str]:
    """Events of a file, or simulated ones, in a file of the folder; and a model where none is given."""
    from xecml.simulation.generate import simulate
    from xecml.simulation.settings import load_settings

    file = Path(folder) / "events.root"
    if path:
        repeat(Path(path), file, events)
    else:
        settings = load_settings(None, {"map_quality": "quick", "energy_mev": [15.0, 60.0]})
        simulate(file, events, seed=3, settings=settings)
    return {"path": str(file), "model": model or str(fitted(file, Path(folder) / "model.pth"))}


def fitted(path: Path, out: Path) -> Path:
    """A network whose constants are fitted to the events; its weights are as they begin."""
    import torch

    from xecml import rootio
    from xecml.events import TASKS
    from xecml.models.build import build_regressor
    from xecml.models.normalise import validity
    from xecml.recipes import load_config
    from xecml.training import checkpoint_writing

    config = load_config(None, [f"tasks.{task}.enabled=true" for task in ("angle", "energy", "timing", "uvwFI")])
    network = build_regressor(config)
    chunk = next(rootio.read(path, chunk_events=1024))
    n, t = (torch.from_numpy(chunk[name]) for name in ("npho", "time"))
    inputs = (n, t, *validity(n, t))
    with torch.no_grad():
        look = network.encoder.look(*inputs)
        truth = {task: torch.from_numpy(chunk[TASKS[task].truth]).reshape(len(n), -1) for task in network.tasks}
        network.fit_targets(look.features, look.event_time, truth)
        distribution = network.training_distribution
        distribution.fit(distribution.numbers(*inputs), torch.from_numpy(chunk["run"]))
    content = {"kind": "regress", "config": config.model_dump(mode="json"), "ema_state": network.eval().state_dict()}
    checkpoint_writing.save(out, content | {"run_name": "benchmark"})
    return out


def rates(path: str, model: str, rounds: int, jobs: int | None, device: str, precision: str) -> dict[str, float]:
    """Events a second of the network alone and from file to file, in turns."""
    from xecml import cpu_load, rootio
    from xecml.inference.overlapped import workers
    from xecml.inference.predict import predict_files
    from xecml.inference.prediction_columns import chunk_events
    from xecml.inference.trained_model import load_model

    loaded = load_model(model, device=device, precision=precision, threads=1)
    size, number = chunk_events(loaded), workers(loaded, jobs)
    events = list(rootio.read(path, list(loaded.branches), chunk_events=size))
    total = sum(len(chunk[loaded.branches[0]]) for chunk in events)
    out = Path(path).with_name("predictions.root")

    def alone() -> None:
        with cpu_load.one_thread_each() as begin, ThreadPoolExecutor(number, initializer=begin) as pool:
            list(pool.map(lambda chunk: loaded.judge(*(chunk[branch] for branch in loaded.branches)), events))

    def files() -> None:
        predict_files(loaded, [path], out, jobs=number)

    def timed(work: Callable[[], None]) -> tuple[float, float]:
        start, processor = time.perf_counter(), time.process_time()
        work()
        return total / (time.perf_counter() - start), total / (time.process_time() - processor)

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - progress and what is replaced
    found = [(*timed(alone), *timed(files)) for _ in range(rounds + 1)][1:]
    one, cpu_one, two, cpu_two = (statistics.median(column) for column in zip(*found, strict=True))
    shares = [row[2] / row[0] for row in found]
    return {
        "alone": one, "files": two, "share": statistics.median(shares), "least": min(shares), "most": max(shares),
        "processor": cpu_two / cpu_one, "jobs": number, "events": total, "load": os.getloadavg()[0],
    }  # fmt: skip


def memory(path: str, model: str, events: int, jobs: int | None, device: str, precision: str) -> dict[str, Any]:
    """Peaks of memory (MB) of a process that predicts a long file, after each tenth of its events."""
    times = -(-events // _MOST_IN_A_FILE)
    long = apart_file(Path(path), events // times)
    events = events // times * times
    # what made the file is not to count: this process has not read it
    from xecml.inference import predict
    from xecml.inference.trained_model import load_model

    loaded = load_model(model, device=device, precision=precision, threads=1)
    peaks: list[float] = []
    done = 0
    whole = predict.PredictionFile.extend

    def extend(self: Any, columns: dict[str, Any]) -> None:
        nonlocal done
        whole(self, columns)
        done += len(columns["run"])
        if done >= (len(peaks) + 1) * events // _TENTHS:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)

    predict.PredictionFile.extend = extend  # type: ignore[method-assign]
    predict.predict_files(loaded, [long] * times, long.with_name("predictions_long.root"), jobs=jobs)
    return {"peaks": peaks}


def apart_file(path: Path, events: int) -> Path:
    """A file that repeats another up to so many events; made in another process, so that it leaves no memory."""
    out = path.with_name("long.root")
    code = (
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from predict import repeat\nrepeat(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(out), str(events)], check=True)
    return out


def repeat(path: Path, out: Path, events: int) -> None:
    """Write the events of a file again and again, numbered anew, until there are so many."""
    from xecml import rootio

    done = 0
    with rootio.TreeWriter(out) as writer:
        while done < events:
            for chunk in rootio.read(path, chunk_events=512):
                some = {name: values[: events - done] for name, values in chunk.items()}
                if not len(some["run"]):
                    break
                some["event"] = np.arange(done, done + len(some["run"]), dtype=np.int32)
                writer.extend(some)
                done += len(some["run"])


if __name__ == "__main__":
    main()
