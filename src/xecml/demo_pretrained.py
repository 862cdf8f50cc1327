"""The shipped weights in two minutes: simulate photons of 52.8 MeV, reconstruct them twice, measure, draw, compare.

Nothing is trained. The network that comes with the package and the conventional reconstruction answer the same events,
and one table shows both beside the resolutions that the experiment has published.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml import cpu_load
from xecml.demo import QUANTITIES, Steps, demonstrate, simulate_sample
from xecml.errors import InputError
from xecml.files import atomic_path
from xecml.pretrained import PREFIX

EVENTS = 2_000
MODEL = f"{PREFIX}signal"
PUBLISHED = {"energy_relative": "1.8 to 2.0", "timing": "65", "u": "2.5", "v": "2.5", "w": "5.0"}
"""Resolutions of the experiment at 52.8 MeV, in the units of the table; there are none for the light's direction.

MEG II Collaboration, Eur. Phys. J. C 84 (2024) 190: measured in data, in which there is more than in this simulation.
"""
PICTURES = {
    "event_0.png": "a photon of 52.8 MeV over the six faces, with truth and prediction (event_1, event_2 too)",
    "evaluation/report.html": "everything about the network and the comparison on one page, for a browser",
    "events.html": "fifty events for a browser: turn the detector, play the light as it arrives",
}
"""What is worth looking at, by file."""
_COMPILED_WITH = 64
"""Events that are simulated before the clock of the simulation runs, so that it measures no compiling."""


def run(out: Path, *, jobs: int = 2, events: int = EVENTS, map_quality: str = "standard") -> dict[str, Any]:
    """Run the demonstration of the shipped weights in a folder; return what its table shows.

    Args:
        out: folder of all that it leaves: `summary.json`, the sample in `data/`, `conventional.root`, `evaluation/`,
            and the files of `PICTURES`.
        jobs: cores for the simulation.
        events: of the sample.
        map_quality: of the light map.

    Returns:
        Events, minutes, seconds by step, and a row for each quantity with its unit: bias, s68 with its error and
        FWHM/2.355 of the network, s68 with its error of the conventional reconstruction, published resolution.

    Raises:
        InputError: the folder is unusable.
    """
    from xecml.figures.event_display import display_event
    from xecml.figures.interactive.event_page import write_event_page
    from xecml.inference.baseline import baseline_files
    from xecml.pretrained import model_file
    from xecml.reports.model_evaluation import evaluate_files

    steps, sample, model = Steps(), out / "data" / "mono.root", model_file(MODEL)
    steps.next("simulate", "Simulating photons of 52.8 MeV from the stopping target")
    with tempfile.TemporaryDirectory() as folder:
        print("Compiling the simulation, which takes longest the first time", flush=True)
        simulate_sample(Path(folder), "mono", min(_COMPILED_WITH, events), jobs, map_quality, said=False)
    simulate_sample(sample.parent, "mono", events, jobs, map_quality)
    steps.next("baseline", "Reconstructing them without learning, as the experiment does")
    conventional = out / "conventional.root"
    for line in baseline_files([sample], conventional).lines():
        print(line, flush=True)
    steps.next("evaluate", f"Reconstructing them with the shipped network ({MODEL}), and measuring both")
    report = evaluate_files(model, [sample], out / "evaluation", others=[conventional])
    steps.next("display", "Drawing events with truth and prediction")
    for event in range(min(3, events)):
        display_event(str(sample), event, out / f"event_{event}.png", model=model)
    write_event_page(str(sample), out / "events.html", models=[model])
    steps.end()
    summary = {
        "events": events,
        "model": MODEL,
        "minutes": round(steps.minutes(), 2),
        "seconds": {name: round(seconds, 1) for name, seconds in steps.seconds.items()},
        "rows": _rows(report.evaluations),
        "warnings": list(report.evaluations[0].warnings),
    }
    with atomic_path(out / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary


def _rows(evaluations: Sequence[Any]) -> list[dict[str, Any]]:
    """What the table shows, from the evaluations of the network and of the reconstruction beside it."""
    from xecml.evaluation.tables import QUANTITIES as KNOWN

    network, other = evaluations[:2]  # what stands beside the model comes before the trivial predictors
    rows = []
    for quantity in QUANTITIES:
        own, beside = network.figures[quantity]["all"], other.figures[quantity]["all"]
        rows.append(
            {
                "quantity": KNOWN[quantity].label,
                "unit": KNOWN[quantity].unit,
                "bias": own.bias,
                "s68": own.s68,
                "s68_error": own.s68_error,
                "fwhm_sigma": own.fwhm,
                "conventional_s68": beside.s68,
                "conventional_s68_error": beside.s68_error,
                "published": PUBLISHED.get(quantity),
            }
        )
    return rows


def show(summary: dict[str, Any], out: Path) -> None:
    """Print the table of `run` and what there is to open.

    Args:
        summary: what `run` returned.
        out: its folder.
    """
    from rich import box
    from rich.table import Table

    from xecml.cli.printing import print_table

    title = (
        f"{summary['events']} photons of 52.8 MeV, reconstructed by {summary['model']} and conventionally; all in all "
        f"{summary['minutes']:.1f} minutes"
    )
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("quantity", "unit", "network s68", "FWHM/2.355", "bias", "conventional s68", "published"):
        table.add_column(name, justify="left" if name in ("quantity", "unit") else "right")
    for row in summary["rows"]:
        table.add_row(
            row["quantity"],
            row["unit"],
            _width(row["s68"], row["s68_error"]),
            "-" if row["fwhm_sigma"] is None else f"{row['fwhm_sigma']:.3g}",
            f"{row['bias']:.2g}",
            _width(row["conventional_s68"], row["conventional_s68_error"]),
            row["published"] or "-",
        )
    print_table(table, width=150)
    print("s68: half of the central 68 % of prediction - truth. Published: resolutions of the experiment in its data.")
    print(
        "theta and phi are limited by the size of the target: the line from its centre to the true first interaction "
        "is off by 3.23 and 0.90 degrees."
    )
    for warning in summary["warnings"]:
        print(f"Warning: {warning}")
    print(f"In {out}: summary.json, conventional.root, evaluation/predictions.root. Pictures to open:")
    for name, what in PICTURES.items():
        print(f"  {out / name}: {what}")
    print(f"To use this network on files of your own: xec predict --pretrained {MODEL.removeprefix(PREFIX)} FILE "
          "--out OUT.root (docs/robustness.md).")  # fmt: skip


def _width(value: float, error: float | None) -> str:
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.1g}"


app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demonstration.")] = Path(
        "artifacts/demo_pretrained"
    ),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cores for the simulation.")] = 2,
    events: Annotated[int, typer.Option("--events", min=100, help="Events to simulate.")] = EVENTS,
) -> None:
    """Simulate photons, reconstruct them with the shipped weights and conventionally, and compare."""
    if shutil.disk_usage(out.parent if out.parent.exists() else Path()).free < 1e9:
        raise InputError("The demonstration needs 1 GB of free disk space; make room, or name another folder by --out.")
    cpu_load.follow()
    show(run(out, jobs=jobs, events=events), out)


if __name__ == "__main__":
    demonstrate(app)
