"""How well each method reconstructs simulated photons that none was trained on: one page of tables and pictures.

    python benchmarks/physics.py [NAME=MODEL ...] [-n 20000] [--out artifacts/bench-physics] [--page PAGE.md]

Methods: the conventional reconstruction with both of its constants, boosted trees (yardstick.py), the networks of the
package, and any models given: base=a.pth, large@signal=b.pth, where the name after @ is the kind of photons that a
model is for. Samples: signal and decoupled photons, lines of 17.6, 54.9 and 82.9 MeV, and varied detectors, with fixed
seeds. Everything that was made stays in the folder and is not made again: samples, features of trees, trees,
predictions. A model whose recipe names a sample is refused. 20,000 events of all samples take 3 GB, the features of
trees 0.9 kB an event.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import physics_numbers as numbers
import physics_text as text
from physics_methods import KINDS, SHIPPED, Method, conventional, network, trees
from physics_samples import SAMPLES, Sample, events_of, make
from xecml.errors import InputError
from xecml.evaluation.tables import Columns, read_table
from xecml.files import atomic_path


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("models", nargs="*", metavar="NAME=MODEL", help="further models: checkpoints or ONNX files")
    found.add_argument("-n", type=int, default=20_000, help="test events of signal and decoupled photons")
    found.add_argument("--further", type=int, help="test events of each other sample; as -n")
    found.add_argument("--samples", default="", help="only these, such as 'signal line17'")
    found.add_argument("--trees", default="10000,400000", help="training events of trees; empty leaves trees out")
    for kind in KINDS:
        found.add_argument(f"--train-{kind}", nargs="+", help=f"training events of trees of {kind} photons, 15-60 MeV")
    found.add_argument("--out", type=Path, default=Path("artifacts/bench-physics"), help="folder of all that is made")
    found.add_argument("--page", type=Path, help="page to write; OUT/performance.md")
    found.add_argument("--jobs", type=int, default=2)
    return found


def chosen_samples(names: str) -> list[Sample]:
    """Samples by their names; all of them where none is named.

    Raises:
        InputError: there is none of a name.
    """
    wanted, known = names.replace(",", " ").split(), {sample.name: sample for sample in SAMPLES}
    for name in wanted:
        if name not in known:
            raise InputError(f"There is no sample '{name}'; choose among {', '.join(known)}.")
    return [sample for sample in SAMPLES if not wanted or sample.name in wanted]


def sizes(given: str) -> list[int]:
    """Numbers of training events, ascending.

    Raises:
        InputError: they are no numbers above 500.
    """
    parts = given.replace(",", " ").split()
    if any(not part.isdigit() or int(part) < 500 for part in parts):
        raise InputError(f"--trees takes numbers of events, 500 or more, such as 10000,400000; not '{given}'.")
    return sorted({int(part) for part in parts})


def methods(options: argparse.Namespace, kinds: Collection[str]) -> list[Method]:
    """All that is measured, in the order of the tables; trees of these kinds of photons."""
    found, wanted = conventional(options.jobs), sizes(options.trees)
    for kind in (kind for kind in KINDS if wanted and kind in kinds):
        files = getattr(options, f"train_{kind}")
        found += [trees(kind, number, files, options.out, jobs=options.jobs) for number in wanted]
    return found + [network(one, options.jobs) for one in (*SHIPPED, *options.models)]


def rivals(names: Sequence[str], kind: str, families: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is compared event by event: the first network with the conventional of its kind, trees, other networks."""
    networks = [name for name in names if families[name] == "network"]
    if not networks:
        return []
    first, *others = networks
    against = [f"conventional ({kind})", *(name for name in names if families[name] == "trees"), *others]
    return [(first, name) for name in against if name in names]


def of_sample(
    sample: Sample, path: Path, every: Sequence[Method], folder: Path
) -> tuple[dict[str, Any], dict[str, Columns]]:
    """Numbers of a sample, and the predictions by method."""
    here = [method for method in every if method.is_for(sample)]
    names = [method.name for method in here]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError(f"Two models are called '{repeated.pop()}'; give each a name of its own.")
    tables = {}
    for method in here:
        said(f"{sample.name}: {method.name}")
        tables[method.name] = read_table(method.predictions(path, folder))
    pairs = rivals(names, sample.kind, {method.name: method.family for method in here})
    found = numbers.measured(tables, pairs)
    found |= {"label": sample.label, "kind": sample.kind, "seed": sample.seed, "varied": sample.varied}
    return found | {"line_mev": sample.line}, tables


def of_peaks(samples: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The slopes of fitted peaks by method, where both lines were measured."""
    if not {"line17", "line54"} <= samples.keys():
        return {}
    low, high = ({**samples[name]} for name in ("line17", "line54"))
    slopes = {
        method: numbers.slope_of_peaks(low | {"line": low["line"][method]}, high | {"line": high["line"][method]})
        for method in low["line"]
        if method in high["line"]
    }
    return {method: slope for method, slope in slopes.items() if slope is not None}


def said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> Path:
    """Measure, write page, pictures and numbers; returns the page."""
    samples = chosen_samples(options.samples)
    if min(options.n, options.further or options.n) < 1:
        raise InputError("-n and --further need at least 1 event.")
    page = options.page or options.out / "performance.md"
    for name, number in (("", options.n), ("further ", options.further or options.n)):
        if number < text.FULL:
            said(f"{number:,} {name}test events: the full tables have {text.FULL:,}.")
    every = methods(options, {sample.kind for sample in samples})
    found: dict[str, Any] = {}
    lines: dict[str, list[Columns]] = {}
    for sample in samples:
        number = options.n if sample.name in KINDS else options.further or options.n
        path = make(sample, number, options.out / "samples", jobs=options.jobs)
        found[sample.name], tables = of_sample(sample, path, every, options.out / "predictions")
        found[sample.name]["n"] = events_of(path)
        if sample.name in ("line17", "line54"):
            for name, table in tables.items():
                lines.setdefault(name, []).append(table)
    slopes = {name: numbers.slope_of_lines(tables) for name, tables in lines.items() if len(tables) == 2}
    result = {
        "samples": found,
        "slope_of_lines": {name: slope for name, slope in slopes.items() if slope is not None},
        "slope_of_peaks": of_peaks(found),
        "methods": {f"{m.name} @ {m.kind or 'all'}": {"name": m.name, "kind": m.kind, "said": m.said} for m in every},
    }
    write(options.out / "performance_all.json", json.dumps(result, indent=1))
    page.parent.mkdir(parents=True, exist_ok=True)
    write(page.with_suffix(".json"), json.dumps(numbers.in_short(found), indent=1))
    write(page, text.page(result, page, options))
    return Path(page)


def write(path: Path, content: str) -> None:
    """Write a text, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(content.rstrip() + "\n", encoding="utf-8")


def main() -> None:
    try:
        print(f"Wrote {run(parser().parse_args())}.")
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
