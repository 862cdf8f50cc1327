"""Validation of the simulation: a report with tables and plots.

    python -m xecml.simulation.validation --out DIR             cascade, and light on showers and points
    python -m xecml.simulation.validation --out DIR --optics    light alone, with more photons

writes `validation.pdf`, `validation.json` and `validation.txt` to DIR, and exits with 1 if a number is beyond its
tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from xecml.files import atomic_path
from xecml.simulation.light.lightmap import light_map
from xecml.simulation.validation import optics_against_photons as optics
from xecml.simulation.validation import shower_against_penelope as shower
from xecml.simulation.validation.shower_against_penelope import Check, SlabShowers

POINT_DEPTHS = (1.0, 2.0, 5.0, 10.0, 20.0)  # cm


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m xecml.simulation.validation", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--optics", action="store_true", help="the light alone, with more photons")
    parser.add_argument("--events", type=int, default=100_000, help="showers of 52.8 MeV in the slab")
    parser.add_argument("--showers", type=int, default=10, help="showers whose light is traced")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    showers = [] if options.optics else slabs(options.events, options.jobs)
    comparisons = compare_light(options.showers, 8.0 if options.optics else 4.0, options.jobs)
    checks = {} if options.optics else {"cascade": cascade_checks(showers)}
    checks |= {f"light of {kind}": optics.light_checks(result, kind) for kind, result in comparisons.items()}
    text = table(checks)
    write(options.out, checks, text, showers, comparisons)
    print(text)
    failed = sum(not check.passed for group in checks.values() for check in group)
    seconds = time.monotonic() - start
    print(f"{failed or 'none'} beyond tolerance; {seconds:.0f} s; report in {options.out}")
    return 1 if failed else 0


def slabs(events: int, jobs: int) -> list[SlabShowers]:
    """Showers in the slab at all energies; threads share the work."""
    shower.slab(1.0, 1)  # compiles before the threads start
    counts = {17.6: events // 2, 52.8: events, 130.0: events // 5}
    with ThreadPoolExecutor(jobs) as pool:
        return list(
            pool.map(
                lambda E: shower.slab(E, counts[E], seed=round(10 * E)),
                shower.ENERGIES,
            )
        )


def cascade_checks(showers: list[SlabShowers]) -> list[Check]:
    """All checks of the cascade."""
    checks = shower.coefficient_checks()
    for sample in showers:
        checks += shower.shower_checks(sample) if sample.energy == 52.8 else [shower.deposit_check(sample)]
    return checks


def compare_light(showers: int, multiple: float, jobs: int) -> dict[str, optics.Comparison]:
    """Fast optics and traced photons, on showers and on points."""
    found = light_map(jobs=jobs)
    real = {f"shower {k}": optics.shower_deposits(k) for k in range(showers)}
    points = {f"{w:g} cm": optics.point_deposits(w) for w in POINT_DEPTHS}
    return {
        "showers": optics.compare(real, found, multiple=multiple, jobs=jobs),
        "points": optics.compare(points, found, multiple=2 * multiple, jobs=jobs),
    }


def table(checks: dict[str, list[Check]]) -> str:
    """Readable table of ours, reference, tolerance and verdict."""
    lines = []
    for group, members in checks.items():
        lines += ["", f"{group:70s} {'ours':>10s} {'error':>9s} {'reference':>10s} {'tolerance':>10s}"]
        for c in members:
            verdict = "ok" if c.passed else "BEYOND"
            lines.append(
                f"{c.name:70s} {c.ours:10.4g} {c.error:9.2g} {c.reference:10.4g} {c.tolerance:10.2g}  {verdict}"
            )
    return "\n".join(lines).lstrip("\n")


def write(
    out: Path,
    checks: dict[str, list[Check]],
    text: str,
    showers: list[SlabShowers],
    comparisons: dict[str, optics.Comparison],
) -> None:
    """Write the three files."""
    from xecml.simulation.validation.plots import draw

    values = {k: [asdict(c) | {"passed": c.passed} for c in group] for k, group in checks.items()}
    with atomic_path(out / "validation.json") as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    with atomic_path(out / "validation.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_path(out / "validation.pdf") as temporary:
        draw(temporary, showers, comparisons)
