"""From settings to ROOT files of simulated events."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xecml import geometry, rootio
from xecml.conditions import record as record_of
from xecml.conditions_file import TREE, as_text
from xecml.errors import InputError
from xecml.limits import LARGEST_INT32, LARGEST_SEED, shown
from xecml.outputs import claim, making
from xecml.progress import progress
from xecml.rootio.treewriter import named_root
from xecml.simulation import blocks, truth
from xecml.simulation.branches import Arrays, Pieces, branches
from xecml.simulation.detectors import DETECTORS_TREE, MOST_EFFORT, Detector, Detectors
from xecml.simulation.light.lightmap import LightMap
from xecml.simulation.manifest import broken_run, make_manifest, manifest_path, write_manifest
from xecml.simulation.settings import SimulationSettings, load_settings
from xecml.simulation.vary import BLOCK

__all__ = ["SimulationReport", "SimulationSettings", "load_settings", "simulate"]

TRIED_BRANCH = "photons_tried"
"""Not written: photons aimed for each event."""
_MOST_JOBS = 1024
_MOST_FILES = 100_000


@dataclass
class SimulationReport:
    """What a run of the simulation did."""

    events: int
    """events written"""
    seconds: float
    """wall time without preparing the light map"""
    files: list[Path] = field(default_factory=list)

    tried: int = 0
    """photons aimed at the fiducial part of the inner face; less than all of them are detected"""

    @property
    def efficiency(self) -> float:
        """Events written over photons aimed at the fiducial part of the inner face."""
        return self.events / max(self.tried, 1)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / max(self.seconds, 1e-9)


@making("simulate")
def simulate(
    out: str | Path,
    n: int,
    *,
    settings: SimulationSettings | None = None,
    seed: int = 0,
    jobs: int = 1,
    chunk: int | None = None,
    resume: bool = True,
    settings_from: Sequence[str | Path | None] = (),
    force: bool = False,
) -> SimulationReport:
    """Simulate n events and write them to one ROOT file, or to numbered ones.

    The same seed and settings give the same bytes whatever `jobs` is, and the same events whatever `chunk`
    is.

    Args:
        out: file to write; with `chunk`, `out_0000.root` and so on stand beside it.
        n: number of events.
        settings: what to simulate; signal photons of 52.83 MeV by default.
        seed: of all random numbers.
        jobs: threads.
        chunk: events a file; one file if None.
        resume: go on with a broken run: where the record beside the numbered files shows the same settings, seed and
            numbers, not finished, keep the complete ones and begin with the first that is missing.
        settings_from: files that the settings were read from, which no output must be.
        force: replace existing files that this function did not make.

    Raises:
        InputError: a wrong number, or the output cannot be written.
    """
    _check_numbers(n=n, seed=seed, jobs=jobs, chunk=chunk)
    chosen, path = settings or SimulationSettings(), named_root(out)
    if chosen.vary is not None and chosen.run + (n - 1) // chosen.vary.events_per_detector > LARGEST_INT32:
        raise InputError(f"run {chosen.run} leaves no numbers for the runs of {n} events; use a lower one.")
    files = _files(path, n, chunk)
    detectors = None if chosen.conditions is None else Detectors(chosen, seed, jobs, n)
    conditions = None if detectors is None else detectors.conditions
    record = make_manifest(chosen, seed, n, chunk or 0, BLOCK)
    record |= {} if conditions is None else {"conditions": conditions.digest}
    done = _complete(files) if chunk is not None and resume and broken_run(path, record) else 0
    outputs = [file for file, _ in files[done:]] + ([manifest_path(path)] if chunk is not None and not done else [])
    claim(outputs, inputs=[*settings_from, chosen.dead_list, chosen.conditions], force=force)
    detectors = detectors or Detectors(chosen, seed, jobs, n)
    if chunk is not None:
        write_manifest(path, record, finished=False)
    start = time.monotonic()
    report = SimulationReport(0, 0.0, [file for file, _ in files])
    first = sum(events for _, events in files[:done])
    with progress(n, "simulate", "events") as bar:
        bar.advance(first)
        stream = Pieces(event_blocks(detectors, chosen, seed, first, n, jobs))
        for file, events in files[done:]:
            with rootio.TreeWriter(file) as writer:
                seen: Counter[int] = Counter()
                for arrays in stream.take(events):
                    report.tried += int(arrays.pop(TRIED_BRANCH).sum())
                    writer.extend(arrays)
                    if conditions is not None:
                        seen.update(conditions.rows(arrays["run"]).tolist())
                    bar.advance(len(arrays["event"]))
                if chosen.vary is not None:
                    begin, each = first + report.events, chosen.vary.events_per_detector
                    numbers = range(begin // each, (begin + events - 1) // each + 1)
                    writer.add_table(DETECTORS_TREE, detectors.rows(numbers))
                if conditions is not None:
                    given = [name for name, rows in conditions.given.items() if rows[list(seen)].any()]
                    writer.add_text(TREE, as_text([record_of(conditions, "simulate", ["dead", *given], seen)]))
            report.events += events
    if chunk is not None:
        write_manifest(path, record, finished=True)
    report.seconds = time.monotonic() - start
    return report


def _check_numbers(*, n: int, seed: int, jobs: int, chunk: int | None) -> None:
    """Refuse numbers that files, random generators or the machine cannot take."""
    for name, value, low, high in (
        ("the number of events n", n, 1, LARGEST_INT32),
        ("seed", seed, 0, LARGEST_SEED),
        ("jobs", jobs, 1, _MOST_JOBS),
        ("chunk", 1 if chunk is None else chunk, 1, LARGEST_INT32),
    ):
        if not low <= value <= high:
            raise InputError(f"Cannot simulate with {name} = {shown(value)}; use a number from {low} to {high}.")
    if chunk is not None and n > _MOST_FILES * chunk:
        raise InputError(f"{n} events in files of {chunk} are more than {_MOST_FILES} files; use a larger chunk.")


def _nothing_kept(settings: SimulationSettings, number: int) -> str:
    low, high = settings.energy_range
    return (
        f"No photon was kept for event {number} after {MOST_EFFORT:.0e} were drawn; settings that leave too few are "
        f"depth_cm = {list(settings.depth_cm)}, min_deposit_mev = {settings.min_deposit_mev:g} at energies from "
        f"{low:g} to {high:g} MeV, and the width of the target: widen them."
    )


def _files(out: Path, n: int, chunk: int | None) -> list[tuple[Path, int]]:
    """Files to write and their numbers of events."""
    if chunk is None:
        return [(out, n)]
    counts = [min(chunk, n - first) for first in range(0, n, chunk)]
    digits = max(4, len(str(len(counts) - 1)))
    return [(out.with_name(f"{out.stem}_{k:0{digits}d}{out.suffix}"), c) for k, c in enumerate(counts)]


def _complete(files: list[tuple[Path, int]]) -> int:
    """Count the leading files that exist with the right number of events."""
    for k, (path, events) in enumerate(files):
        if not path.exists() or rootio.count_events(path) != events:
            return k
    return len(files)


# ------------------------------------------------------------------------------------------- blocks of events


def event_blocks(
    detectors: Detectors, settings: SimulationSettings, seed: int, first: int, last: int, jobs: int = 1
) -> Iterator[Arrays]:
    """Yield the events first..last of a run, in order, as dictionaries of branches, one a block.

    At most a few pieces a thread are in flight, so memory does not grow with the number of events. A piece is a block,
    or all blocks of a detector where these differ, because a light map is made for each detector.
    """
    each = detectors.blocks_each or 1
    free: deque[tuple[blocks.Work, LightMap | None]] = deque(
        (blocks.new_work(), detectors.new_map()) for _ in range(jobs)
    )
    same = None if detectors.blocks_each else detectors.detector(0, None)

    def piece(number: int) -> list[Arrays]:
        work, own_map = free.popleft()
        try:
            used = detectors.detector(number, own_map) if same is None else same
            begin, end = max(number * each, first // BLOCK), min((number + 1) * each, (last + BLOCK - 1) // BLOCK)
            return [_one_block(used, seed, block, first, last, work) for block in range(begin, end)]
        finally:
            free.append((work, own_map))

    numbers = range(first // BLOCK // each, (last + BLOCK * each - 1) // (BLOCK * each))
    if jobs == 1:
        # no thread beside: one job keeps one core busy, writing included
        for number in numbers:
            yield from piece(number)
        return
    with ThreadPoolExecutor(jobs) as pool:
        running: deque[Future[list[Arrays]]] = deque()
        try:
            for number in numbers:
                running.append(pool.submit(piece, number))
                if len(running) > 2 * jobs:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # where one block failed, those after it are not begun


def _one_block(detector: Detector, seed: int, block: int, first: int, last: int, work: blocks.Work) -> Arrays:
    """Events of one block that lie in first..last. Events before `first` are simulated and dropped."""
    settings = detector.settings
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, block))))
    begin, end = block * BLOCK, min((block + 1) * BLOCK, last)
    n = end - begin
    npho, times = (np.empty((n, geometry.N_SENSORS), np.float32) for _ in range(2))
    expected, pileup = (
        np.empty((n if wanted else 0, geometry.N_SENSORS), np.float32)
        for wanted in (settings.expected_counts, settings.pileup_counts)
    )
    columns = np.empty((n, truth.TRUTH_COLUMNS))
    done = blocks.simulate_block(rng, detector.physics, detector.source, work, npho, times, expected, pileup, columns)
    if done < n:
        raise InputError(_nothing_kept(settings, begin + done))
    arrays = branches(settings, npho, times, columns, np.arange(begin, end))
    arrays[TRIED_BRANCH] = columns[:, truth.TRIED]
    if settings.expected_counts:
        arrays["npho_expected"] = expected
    if settings.pileup_counts:
        arrays["npho_pileup"] = pileup
    return {name: values[max(first - begin, 0) :] for name, values in arrays.items()}
