"""All that is to be known of a GPU in one run of a few minutes: rates, memory, agreement, resume, reading, prediction.

    python benchmarks/gpu.py [--out FOLDER] [--minutes 7] [--presets compact reference] [--jobs mae] [--only training]

- training: events a second of a step (forward, backward, clipping, AdamW, averaging) of every network and job at
  several batch sizes, in float32, tf32 and bf16, as written and compiled; share of the rate that a large product
  reaches in the same precision; peak of memory, and from it the batches that fit into the memory of other cards
- agreement: loss and gradient against the processor, with the same weights and events
- resume: whether a training that was stopped ends where an uninterrupted one does, down to the bit
- reading: rate of the whole loop from ROOT files and shards, and how long it waits for data
- prediction: from arrays to arrays, by PyTorch and by ONNX Runtime

What takes long and what matters less comes last, so that a budget that is too short leaves out the least; what was not
reached is listed, and `--presets`, `--jobs` and `--only` name what a second run is to do. Results are in FOLDER
(`artifacts/bench-gpu`) as `gpu.json` and `gpu.md`, written after each part. The exit status is 1 if the device and the
processor disagree in float32, or a measurement failed otherwise than for want of memory. Without a GPU the same code
runs on the processor at a tiny size, as a trial.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import gpu_checks
import gpu_steps
import gpu_tables
from gpu_steps import JOBS, PRECISIONS, Case
from xecml.choices import PRESETS
from xecml.files import atomic_path
from xecml.models import cpu

PARTS = ("agreement", "resume", "training", "reading", "prediction", "compiled")
MEMORY = "out of memory"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        presets: networks.
        batches: events of a training's step, the usual one first.
        matrix: rows and columns of the large product.
        least_s: seconds to time for.
        agreement: events of the comparison with the processor.
        large: events of the files that are read, and the batch in which they are.
        prediction: events of a batch.
        backend: of torch.compile.
    """

    presets: tuple[str, ...] = ("compact", "reference", "base", "large")
    batches: tuple[int, ...] = (1024, 256, 4096)
    matrix: int = 8192
    least_s: float = 0.4
    agreement: int = 16
    large: tuple[int, int] = (16_384, 1024)
    prediction: tuple[int, ...] = (1024, 256)
    backend: str = "inductor"


TINY = Size(("tiny",), (16, 8), 256, 0.01, 8, (96, 16), (16,), "eager")
"""For a machine without a GPU."""
RESERVES = {"agreement": 0.8, "resume": 0.7, "training": 0.45, "reading": 0.35, "prediction": 0.25, "compiled": 0.0}
"""Share of the budget that a part leaves to those after it."""


class TimeIsUp(BaseException):
    """The budget is spent, in the middle of a measurement; compilers, which take any exception for theirs, pass it."""


class Budget:
    """Seconds that a run may take; what would not fit any more is noted.

    Args:
        seconds: from now on.
        clock: that tells seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._start = seconds, clock, clock()
        self.missed: list[str] = []
        self._longest: dict[str, float] = {}

    def spent(self) -> float:
        """Seconds so far."""
        return self._clock() - self._start

    def run(self, part: str, kind: str, what: str, call: Callable[[], Any]) -> Any:
        """Make a measurement if the longest of its kind would still fit; else note it, and return none.

        Args:
            part: whose reserve holds.
            kind: of measurements that take about as long.
            what: it is, in words.
            call: makes it.
        """
        left = self.seconds * (1 - RESERVES[part]) - self.spent()
        if left < max(self._longest.get(kind, 0.0), 1.0):
            self.missed.append(what)
            return None
        began = self._clock()
        try:
            return call()
        except TimeIsUp:
            self.missed.append(f"{what} (begun)")
            return None
        finally:
            self._longest[kind] = max(self._longest.get(kind, 0.0), self._clock() - began)

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """While active, a measurement that goes on beyond the budget is interrupted."""

        def stop(number: int, frame: FrameType | None) -> None:
            raise TimeIsUp

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(self.seconds - self.spent(), 0.1))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class Bench:
    """The parts of a run, and what they found."""

    def __init__(self, options: argparse.Namespace, budget: Budget, device: torch.device, scratch: Path) -> None:
        self.device, self.budget, self.scratch = device, budget, scratch
        self.size = Size() if device.type == "cuda" else TINY
        self.presets = options.presets or self.size.presets
        self.jobs, self.parts = options.jobs or JOBS, options.only or PARTS
        large, batch = self.size.large
        self.files = gpu_checks.Files(scratch, large=large, batch=batch)
        self.flop: dict[tuple[str, str], float] = {}
        names = ("training", "agreement", "resume", "reading", "prediction")
        self.found: dict[str, Any] = {"machine": machine(device), "matrix": {}, **{name: [] for name in names}}

    def run(self, out: Path) -> None:
        """All parts that are wanted, in the order of their worth."""
        size, device = self.size, self.device
        for precision in PRECISIONS:
            rate = gpu_steps.matrix_rate(precision, device, size.matrix, size.least_s)
            self.found["matrix"][precision] = rate
        for part in (name for name in PARTS if name in self.parts):
            print(f"{self.budget.spent():5.0f} s  {part}", flush=True)
            getattr(self, part)()
            self.write(out)

    def agreement(self) -> None:
        """Each network and job against the processor."""
        for preset, job in product(self.presets, self.jobs):
            self._add(
                "agreement", "agreement", f"agreement of {job} {preset}", {"preset": preset, "job": job},
                lambda p=preset, j=job: gpu_checks.agreement(p, j, self.device, self.size.agreement),
            )  # fmt: skip

    def resume(self) -> None:
        """Trainings of the first network; deterministic algorithms for the first job alone."""
        cases = [(job, False) for job in self.jobs] + [(self.jobs[0], True)]
        for job, deterministic in cases:
            preset = self.presets[0]
            self._add(
                "resume", "resume", f"resume of {job} {preset}", {"preset": preset, "job": job, "algorithms": "-"},
                lambda j=job, p=preset, d=deterministic: gpu_checks.resume(
                    self.files, self.scratch, p, j, self.device, deterministic=d
                ),
            )  # fmt: skip

    def training(self) -> None:
        """Steps as they are written: in bf16 at all batch sizes, then in the others at the usual one."""
        batches = [(precision, b) for precision in PRECISIONS for b in self.size.batches]
        ordered = sorted(batches, key=lambda pair: (pair[0] != "bf16", self.size.batches.index(pair[1])))
        for (precision, batch), preset, job in product(ordered, self.presets, self.jobs):
            self._train("training", Case(preset, job, batch, precision))

    def compiled(self) -> None:
        """Steps compiled: every network in bf16, then the other jobs and precisions."""
        batch = self.size.batches[0]
        for precision, job, preset in product(PRECISIONS, self.jobs, self.presets):
            self._train("compiled", Case(preset, job, batch, precision, compiled=True))
        for batch, job, preset in product(self.size.batches[1:], self.jobs, self.presets):
            self._train("compiled", Case(preset, job, batch, "bf16", compiled=True))

    def _train(self, part: str, case: Case) -> None:
        """One row of the training table, unless a smaller batch did not fit."""
        fits = (
            row["batch"] < case.batch and row.get("failed") == MEMORY
            for row in self.found["training"]
            if (row["preset"], row["job"], row["precision"], row["compiled"])
            == (case.preset, case.job, case.precision, case.compiled)
        )
        if any(fits):
            return

        def measure() -> dict[str, Any]:
            key = (case.preset, case.job)
            if key not in self.flop:
                self.flop[key] = gpu_steps.work(*key, self.device)
            peak = self.found["matrix"][case.precision]
            return gpu_steps.measured(case, self.device, self.flop[key], peak, self.size.least_s, self.size.backend)

        self._add(part, f"{part} {case.job}" if case.compiled else part, case.label, vars(case), measure, "training")

    def reading(self) -> None:
        """The whole loop from both kinds of files; hidden sensors are chosen by the processor, so `mae` too."""
        preset = self.presets[0]
        for job, kind in product([job for job in self.jobs if job != "inpaint"] or self.jobs, ("shards", "ROOT")):
            self._add(
                "reading", "reading", f"{job} {preset} from {kind}", {"preset": preset, "job": job, "from": kind},
                lambda j=job, k=kind: gpu_checks.reading(self.files, self.scratch, preset, j, k, self.device),
            )  # fmt: skip

    def prediction(self) -> None:
        """Every network by PyTorch, the first two by ONNX Runtime."""
        size, device = self.size, self.device
        for batch, precision, preset in product(size.prediction, ("float32", "bf16"), self.presets):
            row = {"preset": preset, "by": f"PyTorch, {precision}", "batch": batch}
            self._add(
                "prediction", "prediction", f"prediction by {preset} ({precision}, {batch})", row,
                lambda p=preset, b=batch, a=precision: gpu_checks.prediction(p, b, a, device, size.least_s),
            )  # fmt: skip
        for preset, batch in product(self.presets[:2], size.prediction):
            row = {"preset": preset, "by": "ONNX Runtime", "batch": batch}
            self._add(
                "prediction", f"ONNX {preset}", f"prediction by ONNX Runtime, {preset} ({batch})", row,
                lambda p=preset, b=batch: gpu_checks.onnx_prediction(
                    gpu_checks.onnx_file(self.files, self.scratch, p, device), p, b, device, size.least_s
                ),
            )  # fmt: skip

    def _add(
        self, part: str, kind: str, what: str, row: dict[str, Any], call: Callable[[], Any], table: str = ""
    ) -> None:
        """Make a measurement if there is time, and keep what it found, or why it failed."""
        try:
            result = self.budget.run(part, kind, what, call)
        except Exception as error:  # whatever a device or a library says: the others are measured all the same
            result = row | {"failed": gpu_steps.reason(error)}
        if result is not None:
            self.found[table or part].append(result)

    def write(self, out: Path) -> None:
        """Both files, with what there is."""
        found = self.found | {
            "budget_s": self.budget.seconds, "seconds": self.budget.spent(), "not_measured": self.budget.missed,
        }  # fmt: skip
        texts = {"gpu.json": json.dumps(found, indent=1) + "\n", "gpu.md": gpu_tables.markdown(found)}
        for name, text in texts.items():
            with atomic_path(out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def failures(self) -> list[str]:
        """Measurements that failed otherwise than for want of memory, and disagreements."""
        rows = [row for rows in self.found.values() if isinstance(rows, list) for row in rows]
        failed = [row["failed"] for row in rows if row.get("failed", MEMORY) != MEMORY]
        apart = [f"{row['job']} {row['preset']} disagrees" for row in rows if row.get("agrees") is False]
        # a provider that is not installed is no fault of the device
        return [*(why for why in failed if gpu_checks.ADVICE not in why), *apart]


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"processor, {torch.get_num_threads()} threads",
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory if gpu else None,
        "capability": list(torch.cuda.get_device_capability(device)) if gpu else None,
        "driver": driver() if gpu else None, "torch": torch.__version__, "cuda": torch.version.cuda,
        "architecture": platform.machine(), "cores": os.cpu_count(), "date": date.today().isoformat(),
        "small": not gpu,
    }  # fmt: skip


def driver() -> str | None:
    """Version of the driver, as its own tool says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("artifacts/bench-gpu"))
    parser.add_argument("--minutes", type=float, default=7.0, help="that it may take")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--presets", nargs="+", choices=PRESETS)
    parser.add_argument("--jobs", nargs="+", choices=JOBS)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    options = parser.parse_args()
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted if options.device == "auto" else options.device, 0)
    if device.type == "cpu":
        device = torch.device("cpu")
        print("There is no GPU: this is a trial at a tiny size, and its numbers mean nothing for a GPU.", flush=True)
    elif not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no GPU here; 'xec info --system' says what there is.", file=sys.stderr)
        return 2
    cpu.keep_memory()
    # the compiler looks at the gradients of whatever it meets
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    budget = Budget(60 * options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.out) as scratch:
        bench = Bench(options, budget, device, Path(scratch))
        try:
            with budget.enforced():
                bench.run(options.out)
        except TimeIsUp:  # between two measurements
            budget.missed.append("what comes after")
    bench.write(options.out)
    print((options.out / "gpu.md").read_text(encoding="utf-8"))
    for why in (failures := bench.failures()):
        print(f"Failed: {why}.", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
