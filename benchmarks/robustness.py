"""What trained models keep on detectors that differ: median and half-width (68 %) of every quantity, by constant.

Run: python benchmarks/robustness.py NAME=MODEL [NAME=MODEL ...] [--vertex signal|decoupled] [--vary varied] [-n EVENTS]

Every constant of a `vary` section is put at both ends of its range, or at each of its choices, with all others
nominal; then come some shifts that were seen to matter, and all constants drawn together. Each row is a file of its
own, simulated once and kept. Half-widths are shown over those of the same model on nominal events; a row is marked
where it misses a limit: half-widths 1.15 times, positions biased by a quarter of the half-width, energy by 2 %, time
by 150 ps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xecml import load_model, rootio
from xecml.choices import REPAIRS
from xecml.conventional.dead_sensor_estimates import ConventionalRepair
from xecml.evaluation.tables import opening_angles, residuals, truth_columns
from xecml.inference.trained_model import Model
from xecml.resolution import s68
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_vary, make_settings
from xecml.simulation.vary import Changes, Vary, merged

QUANTITIES = {"u": "mm", "v": "mm", "w": "mm", "energy_relative": "%", "timing": "ps"}
SEED = 271828
SHIFTS: dict[str, Changes] = {
    "gains spread by 5 %": {"response": {"gain_spread": 0.05}},
    "3 % of sensors dead": {"dead_fraction": 0.03},
    "3 photoelectrons threshold": {"response": {"threshold_photoelectrons": 3.0}},
    "PMT times 0.2 ns early": {"response": {"pmt_delay_ns": -0.2}},
    "times 5 % further apart": {"response": {"time_stretch": 1.05}},
    "time_model first": {"response": {"time_model": "first"}},
    "real-like": {
        "response": {
            "time_model": "first",
            "gain_spread": 0.05,
            "threshold_photoelectrons": 1.0,
            "sipm_noise_photoelectrons": 0.2,
            "pmt_delay_ns": -0.2,
            "sensor_delay_ns": 0.1,
        },
        "dead_fraction": 0.03,
        "dead_clusters": 1,
        "dead_cluster_size": 36,
        "pileup_fraction": 0.05,
    },
}
BESIDE: dict[str, Changes] = {
    "below_threshold": {"response": {"threshold_photoelectrons": 4.0}},
    "hot_photoelectrons": {"response": {"hot_fraction": 0.002}},
    "time_edge_photoelectrons": {"response": {"time_model": "edge"}},
    "time_fraction": {"response": {"time_model": "fraction"}},
    "decay_time_ns": {"response": {"time_model": "first"}},
    "dead_cluster_size": {"dead_clusters": 3},
}
"""What is changed too where a constant alone does nothing."""
LIMITS = {"u": 0.25, "v": 0.25, "w": 0.25, "energy_relative": 2.0, "timing": 150.0}
"""Largest bias: share of the half-width for positions, % and ps."""
WIDTH_LIMIT = 1.15
WIDER = {"3 photoelectrons threshold": 1.3}


def rows(vary: Vary) -> Iterator[tuple[str, Changes]]:
    """Labels of detectors and their constants: nominal, both ends of each range or each choice, the shifts."""
    yield "nominal", {}
    for name, choices in vary.constants():
        beside = BESIDE.get(name[-1], {})
        others = [v for values in beside.values() for v in (values.items() if isinstance(values, dict) else ())]
        others += [(key, v) for key, v in beside.items() if not isinstance(v, dict)]
        said = "".join(f" ({key} {v})" for key, v in others)
        for value in dict.fromkeys(choices):
            text = f"{value:g}" if isinstance(value, int | float) else str(value)
            own: Changes = {name[0]: {name[1]: value}} if len(name) > 1 else {name[0]: value}
            yield f"{name[-1]} {text}{said}", merged(beside, own)
    yield from SHIFTS.items()


def fixed(changes: Changes) -> dict[str, Any]:
    """A `vary` section that draws these constants every time."""
    return {
        name: {key: [v, v] for key, v in value.items()} if isinstance(value, dict) else [value, value]
        for name, value in changes.items()
    }


def file_of(folder: Path, vertex: str, energy: str, vary: dict[str, Any], n: int, jobs: int) -> Path:
    """The file of a row, simulated where it is not there yet."""
    values = {"vertex": vertex, "energy_mev": energy, "vary": vary or None, "relative_branches": False}
    settings = make_settings(values)
    key = hashlib.sha256(f"{settings.model_dump_json()} {n} {SEED}".encode()).hexdigest()[:16]
    path = folder / f"{vertex}_{key}.root"
    if not path.exists():
        simulate(path, n, settings=settings, seed=SEED, jobs=jobs)
    return path


def measured(model: Model, path: Path, repair: str | None = None) -> dict[str, tuple[float, float]]:
    """Median and 68 % half-width of each quantity; of the opening angle 0 and the angle that holds 68 %."""
    truth = ("emiAng", "energyTruth", "timeTruth", "uvwTruth")
    parts: list[dict[str, np.ndarray]] = []
    for chunk in rootio.read(path, (*model.branches, *truth), chunk_events=512):
        npho, time = (chunk[name] for name in model.branches)
        if repair is not None:
            dead = npho > 9e9
            npho, time = ConventionalRepair(repair).fill(npho, time, dead)  # type: ignore[arg-type]
        said = model.predict(npho, time)
        table = {f"true_{name}": values for name, values in truth_columns(chunk).items()}
        table |= {f"pred_{c}": said["uvwFI"][:, i] for i, c in enumerate("uvw")} if "uvwFI" in said else {}
        table |= {f"pred_{c}": said["angle"][:, i] for i, c in enumerate(("theta", "phi"))} if "angle" in said else {}
        parts.append(table | {f"pred_{name}": said[name] for name in ("energy", "timing") if name in said})
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found = {}
    for quantity in QUANTITIES:
        if f"pred_{quantity.removesuffix('_relative')}" in table:
            values = residuals(table, quantity)
            values = values[np.isfinite(values)]
            found[quantity] = (float(np.median(values)), s68(values))
    if (angles := opening_angles(table)) is not None:
        found["opening_angle"] = (0.0, float(np.nanquantile(angles, 0.68)))
    return found


def misses(label: str, quantity: str, value: tuple[float, float], nominal: tuple[float, float]) -> bool:
    """Whether a figure misses its limit."""
    bias, width = value
    most = LIMITS.get(quantity, np.inf) * (width if quantity in "uvw" else 1.0)
    return width > WIDER.get(label, WIDTH_LIMIT) * nominal[1] or abs(bias) > most


def table_of(model: Model, files: dict[str, Path], quiet: bool = False) -> dict[str, dict[str, tuple[float, float]]]:
    """Figures of all rows; rows with dead sensors once more for each conventional repair."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for label, path in files.items():
        found[label] = measured(model, path)
        if "dead" in label:
            for repair in REPAIRS:
                found[f"{label}, {repair}"] = measured(model, path, repair)
    return found


def show(name: str, found: dict[str, dict[str, tuple[float, float]]]) -> None:
    """Print a table: bias and half-width over nominal, `!` where a limit is missed."""
    nominal = found["nominal"]
    heads = " | ".join(nominal)
    print(f"\n{name}\n\n| detector | {heads} |\n|{'---|' * (len(nominal) + 1)}")
    cells = " | ".join(f"{b:+.1f}, {w:.2f}" for b, w in nominal.values())
    print(f"| nominal (median, half-width) | {cells} |")
    missed, same = 0, []
    for label, figures in found.items():
        if figures == nominal:
            same += [label] if label != "nominal" else []
            continue
        parts = []
        for quantity, (bias, width) in figures.items():
            wrong = misses(label, quantity, (bias, width), nominal[quantity])
            missed += wrong
            parts.append(f"{bias:+.1f}, x{width / nominal[quantity][1]:.2f}{' !' if wrong else ''}")
        print(f"| {label} | {' | '.join(parts)} |")
    print(f"\n{missed} of {(len(found) - 1) * len(nominal)} figures miss their limit.", flush=True)
    if same:
        print(f"Nothing changes by: {', '.join(same)}.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="NAME=checkpoint or ONNX file")
    parser.add_argument("--vertex", default="signal", choices=("signal", "decoupled"))
    parser.add_argument("--energy", help="MeV, or a range; 52.83 for signal, 15:60 for decoupled by default")
    parser.add_argument("--vary", default="varied", help="settings file with a section 'vary'")
    parser.add_argument("-n", type=int, default=2048, help="events a row")
    parser.add_argument("--folder", type=Path, default=Path("artifacts/robustness"), help="of the simulated files")
    parser.add_argument("--only", help="rows whose label holds this text, beside nominal")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    given = load_vary(options.vary)
    vary = make_settings({"vary": given}).vary
    assert vary is not None
    energy = options.energy or ("52.83" if options.vertex == "signal" else "15:60")
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = {label: fixed(changes) for label, changes in rows(vary)}
    chosen["all together"] = given | {"nominal_share": 0.0, "unchanged_share": 0.0}
    files = {
        label: file_of(options.folder, options.vertex, energy, one, options.n, options.jobs)
        for label, one in chosen.items()
        if not options.only or options.only in label or label == "nominal"
    }
    figures = {}
    for name, _, path in (text.partition("=") for text in options.models):
        figures[name] = table_of(load_model(path), files)
        show(name, figures[name])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
