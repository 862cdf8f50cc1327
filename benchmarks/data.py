"""Events a second and peak memory of the ways to feed a network, each in a process of its own, in turns.

Run: python benchmarks/data.py [-n EVENTS] [--rounds R] [--read EVENTS] [--no-million] [--file FILE.root]

Beside the streams of this package stand `uproot.iterate` of counts and times, which is the limit that decompression
sets on one core, and a torch DataLoader whose workers yield one event at a time. Rates are medians over the rounds;
in brackets events a second of processor time. Memory is the peak of what the process holds for itself; maps of files
are the system's and count apart.
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TASKS = ("angle", "energy", "timing", "uvwFI")
BATCH = 256
BUFFER = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=8000, help="events in the file")
    parser.add_argument("--read", type=int, default=48_000, help="events read a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="a ROOT file to use instead of a simulated one")
    parser.add_argument("--no-million", action="store_true", help="leave out the memory of a million events")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepare(Path(folder), options.n, options.file)
        report(in_turns(cases(), inputs, options.read, options.rounds))
        if not options.no_million:
            memory(inputs)


def prepare(folder: Path, n: int, given: Path | None) -> dict[str, str]:
    """The same events in three compressions and as shards of both forms."""
    from xecml import rootio
    from xecml.data.convert import convert
    from xecml.simulation.generate import simulate
    from xecml.simulation.settings import make_settings

    first = given or folder / "first.root"
    if given is None:
        simulate(first, n, settings=make_settings({"vertex": "decoupled", "energy_mev": [15.0, 60.0]}), jobs=2)
    branches = ["npho", "time", "emiAng", "energyTruth", "timeTruth", "uvwTruth", "run", "event"]
    inputs = {}
    for compression in ("lz4", "zlib", "zstd"):
        inputs[compression] = str(folder / f"{compression}.root")
        with rootio.TreeWriter(inputs[compression], compression=compression) as writer:
            for chunk in rootio.read(first, branches, chunk_events=512):
                writer.extend(chunk)
                if writer.n_events >= n:
                    break
    for form in ("float32", "compact"):
        inputs[form] = str(folder / form)
        report = convert(inputs["lz4"], inputs[form], form=form)
        rate, size = report.events / report.seconds, report.bytes / report.events
        print(f"conversion to {form}: {rate:,.0f} events/s, {size:,.0f} bytes an event")
    for name, path in inputs.items():
        if path.endswith(".root"):
            print(f"{name}: {Path(path).stat().st_size / n:.0f} bytes an event")
    return inputs


def cases() -> list[tuple[str, str, int]]:
    """Input, way, workers."""
    found = []
    for compression in ("lz4", "zlib", "zstd"):
        found.append((compression, "uproot.iterate", 0))
        found += [(compression, "stream", workers) for workers in (0, 1, 2)]
    found[4:4] = [("lz4", "one event at a time", workers) for workers in (0, 1, 2)]
    return found + [(form, "stream", workers) for form in ("float32", "compact") for workers in (0, 1, 2)]


Results = dict[tuple[str, str, int], list[dict[str, float]]]


def in_turns(todo: list[tuple[str, str, int]], inputs: dict[str, str], read: int, rounds: int) -> Results:
    """Measure all cases in each round, so that a change of the machine's load meets all of them."""
    results: Results = {case: [] for case in todo}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before, ", end="", flush=True)
    for _ in range(rounds):
        for case in todo:
            name, way, workers = case
            events = read // 6 if way == "one event at a time" else read
            results[case].append(apart(path=inputs[name], way=way, workers=workers, events=events))
    print(
        f"{os.getloadavg()[0]:.1f} after; batches of {BATCH}, buffers of {BUFFER} events, {read} events a measurement"
    )
    return results


def apart(**options: Any) -> dict[str, float]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(results: Results) -> None:
    """One line a case, with its ratio to `uproot.iterate` of the same input in the same rounds."""
    titles = f"{'workers':>8}{'events/s':>12}{'(processor)':>13}{'/ iterate':>11}{'memory MB':>11}{'maps MB':>9}"
    print(f"{'input':9}{'way':22}{titles}")
    for (name, way, workers), runs in results.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        beside = results.get((name, "uproot.iterate", 0))
        ratios = [run["rate"] / other["rate"] for run, other in zip(runs, beside, strict=True)] if beside else []
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        print(
            f"{name:9}{way:22}{workers:8}{middle['rate']:12,.0f}{'(' + format(middle['cpu_rate'], ',.0f') + ')':>13}"
            f"{ratio:>11}{middle['own_mb']:11.0f}{middle['mapped_mb']:9.0f}"
        )


def memory(inputs: dict[str, str]) -> None:
    """Peak memory of ten thousand and of a million events, the file repeated in the list."""
    for name in ("lz4", "float32"):
        for events in (10_000, 1_000_000):
            run = apart(path=inputs[name], way="stream", workers=1, events=events)
            print(
                f"{name}: {events:9,} events: {run['own_mb']:.0f} MB of its own, {run['above_mb']:.0f} MB above start, "
                f"{run['mapped_mb']:.0f} MB of maps; {run['rate']:,.0f} events/s"
            )


# --------------------------------------------------------------------------------------- inside one measurement


def measure(path: str, way: str, workers: int, events: int) -> dict[str, float]:
    """Read about so many events, twice where that is quick; time the second reading."""
    import torch

    torch.set_num_threads(1)
    torch.zeros(1)
    ways = {"stream": stream, "uproot.iterate": iterate, "one event at a time": one_by_one}
    # a first pass loads compiled code, fills the page cache and looks at the checksums
    sum(ways[way](path, workers, 1 if way != "one event at a time" else BATCH))
    with Memory(children=way == "one event at a time" and workers > 0) as watched:
        start, processor = time.perf_counter(), used()
        read = sum(ways[way](path, workers, events))
        seconds, processor = time.perf_counter() - start, used() - processor
    return {
        "rate": read / seconds,
        "cpu_rate": read / processor,
        "own_mb": watched.own / 1e6,
        "above_mb": (watched.own - watched.start) / 1e6,
        "mapped_mb": watched.mapped / 1e6,
    }


def used() -> float:
    """Processor seconds of this process and its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def count(path: str) -> int:
    from xecml.data.source import count_events

    return count_events(path)


def stream(path: str, workers: int, events: int) -> Iterator[int]:
    from xecml.data.stream import EventStream

    times = max(1, round(events / count(path)))
    source = EventStream(
        [path] * times, tasks=TASKS, batch_size=BATCH, buffer_events=BUFFER, workers=workers, background=workers > 0
    )
    for batch in source.epoch(1):
        yield len(batch)


def iterate(path: str, workers: int, events: int) -> Iterator[int]:
    import uproot

    times = max(1, round(events / count(path)))
    for chunk in uproot.iterate([f"{path}:tree"] * times, ["npho", "time"], step_size=512, library="np"):
        yield len(chunk["npho"])


def one_by_one(path: str, workers: int, events: int) -> Iterator[int]:
    import uproot
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Events(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, Any]]:
            worker = get_worker_info()
            index, of = (worker.id, worker.num_workers) if worker else (0, 1)
            with uproot.open(path) as file:
                tree = file["tree"]
                first, last = (min(events, tree.num_entries) * i // of for i in (index, index + 1))
                branches, ends = ["npho", "time", "emiAng", "energyTruth"], {"entry_start": first, "entry_stop": last}
                for chunk in tree.iterate(branches, step_size=512, library="np", **ends):
                    for i in range(len(chunk["npho"])):
                        yield {name: values[i] for name, values in chunk.items()}

    for batch in DataLoader(Events(), batch_size=BATCH, num_workers=workers):
        yield len(batch["npho"])


class Memory:
    """Watches the peak of anonymous memory and of mapped files, of this process and its children."""

    def __init__(self, children: bool) -> None:
        import psutil

        self._self, self._children = psutil.Process(), children

    def __enter__(self) -> Memory:
        self.own = self.mapped = 0
        self.start = self._now()[0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            own, mapped = self._now()
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)

    def _now(self) -> tuple[int, int]:
        import psutil

        own = mapped = 0
        for process in [self._self, *(self._self.children() if self._children else [])]:
            try:
                info = process.memory_info()
            except psutil.NoSuchProcess:
                continue
            own += info.rss - info.shared
            mapped += info.shared
        return own, mapped


if __name__ == "__main__":
    main()
