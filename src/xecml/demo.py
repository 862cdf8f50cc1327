"""All steps in one command: simulate, train, evaluate, export, predict, draw, and print a table.

It measures the machine in its first seconds, on the test sample, and chooses how many events to train on and how often,
so that all of it ends within the minutes that it is given.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from xecml import cpu_load
from xecml.errors import InputError
from xecml.files import atomic_path

ENERGY_RANGE = (15.0, 60.0)
SIGNAL_ENERGY = 52.8
QUANTITIES = ("theta", "phi", "energy_relative", "timing", "u", "v", "w")


@dataclass(frozen=True)
class Sizes:
    """Events of the samples, and how often those of training are passed over."""

    train: int = 36_000
    val: int = 2_000
    test: int = 4_000
    epochs: int = 8


PICTURES = {
    "event_0.png": "a photon of 52.8 MeV over the six faces, with truth and prediction (event_1, event_2 too)",
    "evaluation_52.8MeV/report.html": "everything at the energy of the experiment on one page, for a browser",
    "evaluation/resolution.pdf": "resolutions between 15 and 60 MeV, a page for each quantity",
    "evaluation_52.8MeV/resolution.pdf": "the same at the energy of the experiment",
}
"""What is worth looking at, by file."""
CHOICES = tuple(
    Sizes(train=train, epochs=epochs)
    for train, epochs in ((36_000, 8), (36_000, 6), (30_000, 6), (30_000, 5), (24_000, 5))
)
"""What the demonstration chooses from, by the time that it has. Less would not show what its checks ask for: 12,000
events in five epochs give v 2.7 times as well as the centroid of the light, not three times.
"""
MINUTES = 9.0
"""For all of it; it is to end in less than ten."""
_TRIAL_EVENTS, _TRIAL_VALIDATED = 1024, 64
"""Of a trial of a training, and how many of them are validated on."""
_AFTER_TRAINING = 60_000.0
"""All steps after the training take as long as the training of so many events."""


class Steps:
    """Say what is being done, and how long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def next(self, name: str, text: str) -> None:
        """Begin a step and end the one before."""
        self.end()
        self._name, self._step = name, time.monotonic()
        print(f"\n[{len(self.seconds) + 1}] {text}", flush=True)

    def end(self) -> None:
        """End the step that runs."""
        if hasattr(self, "_name"):
            self.seconds[self._name] = time.monotonic() - self._step

    def minutes(self) -> float:
        """Minutes since the beginning."""
        return (time.monotonic() - self._started) / 60


@dataclass(frozen=True)
class Speed:
    """What a machine does in a second.

    Attributes:
        simulated: events simulated.
        trained: events of a training.
    """

    simulated: float
    trained: float

    def minutes_for(self, sizes: Sizes) -> float:
        """Minutes that samples of training and validation, training and all that comes after take."""
        simulated = (sizes.train + sizes.val + sizes.test) / self.simulated
        validated = 0.3 * sizes.val  # without a gradient
        trained = sizes.epochs * (sizes.train + validated) + _AFTER_TRAINING
        return (simulated + trained / self.trained) / 60


def choose(speed: Speed, minutes: float) -> Sizes:
    """The largest of `CHOICES` that a machine gets through in so many minutes; the smallest if it gets through none."""
    return next((sizes for sizes in CHOICES if speed.minutes_for(sizes) <= minutes), CHOICES[-1])


def run(
    out: Path,
    recipe: Path,
    *,
    jobs: int = 2,
    sizes: Sizes | None = None,
    minutes: float = MINUTES,
    map_quality: str = "standard",
) -> bool:
    """Run the demonstration in a folder; return whether the network beats the trivial predictors as it should.

    Args:
        out: folder of all that it leaves.
        recipe: of the training.
        jobs: cores for the simulation.
        sizes: of the samples; by default chosen by what the machine does in its first seconds.
        minutes: that all of it may take.
        map_quality: of the light map.

    Raises:
        InputError: the recipe or the folder are unusable.
    """
    from xecml import load_model
    from xecml.figures.event_display import display_event
    from xecml.inference.export import export
    from xecml.inference.predict import predict_files
    from xecml.recipes import load_config
    from xecml.reports.model_evaluation import evaluate_files
    from xecml.training.loop import train

    steps, data = Steps(), out / "data"
    steps.next("measure", "Simulating a sample at 52.8 MeV, and measuring this machine with it")
    with tempfile.TemporaryDirectory() as folder:
        print("Compiling what simulates, which takes longest the first time", flush=True)
        simulate_sample(Path(folder), "mono", 64, jobs, map_quality, said=False)
    simulated = simulate_sample(data, "mono", (sizes or CHOICES[0]).test, jobs, map_quality)
    if sizes is None:
        speed = Speed(simulated, _trained_in_a_second(recipe, data / "mono.root"))
        chosen = choose(speed, minutes - steps.minutes())
        expected = steps.minutes() + speed.minutes_for(chosen)
        print(
            f"This machine simulates {speed.simulated:.0f} and trains {speed.trained:.0f} events/s: chosen are "
            f"{chosen.train} events in {chosen.epochs} epochs; all of it takes about {expected:.0f} minutes"
            + (f", more than {minutes:g}, since less would show nothing." if expected > minutes else "."),
            flush=True,
        )
    else:
        chosen = sizes
    steps.next("simulate", "Simulating photons from the target, 15 to 60 MeV")
    for name, events in (("train", chosen.train), ("val", chosen.val), ("test", chosen.test)):
        simulate_sample(data, name, events, jobs, map_quality)
    steps.next("train", "Training one network for angle, energy, time and position")
    paths = {"data.train_path": str(data / "train.root"), "data.val_path": str(data / "val.root")}
    flags = paths | {"checkpoint.save_dir": str(out.parent), "training.epochs": chosen.epochs}
    config = load_config(recipe, [], flags)
    trained = train(config, name=out.name).to_its_end()
    steps.next("evaluate", "Measuring it on samples it has not seen")
    best = trained.best
    signal = evaluate_files(best, [data / "test.root"], out / "evaluation")
    mono = evaluate_files(best, [data / "mono.root"], out / "evaluation_52.8MeV")
    steps.next("export", "Exporting to ONNX")
    exported = export(best, out / "model.onnx")
    worst = max(exported.largest_difference.values())
    print(f"{exported.out}: {exported.bytes / 1e6:.1f} MB, equal to PyTorch within {worst:.1e} of the target width")
    steps.next("predict", "Predicting with the exported model")
    predicted = predict_files(load_model(out / "model.onnx"), [data / "mono.root"], out / "predictions.root")
    print(f"{predicted.out}: {predicted.events} events, {predicted.events / predicted.seconds:.0f} events/s")
    steps.next("display", "Drawing three events with truth and prediction")
    for event in range(3):
        display_event(str(data / "mono.root"), event, out / f"event_{event}.png", model=out / "model.onnx")
    steps.end()
    summary = _summary(signal.evaluations, mono.evaluations, chosen, steps, trained.seconds)
    with atomic_path(out / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    _show(summary, out)
    return all(check["met"] for check in summary["checks"])


SEEDS = {"train": 1, "val": 2, "test": 3, "mono": 4}
"""Samples by name; at 52.8 MeV the last, over the range of energies the others."""


def simulate_sample(data: Path, name: str, events: int, jobs: int, map_quality: str, *, said: bool = True) -> float:
    """Simulate a sample; returns events per second, without what is compiled first."""
    from xecml.simulation.generate import simulate
    from xecml.simulation.settings import make_settings

    seed, energy = SEEDS[name], SIGNAL_ENERGY if name == "mono" else ENERGY_RANGE
    values = {"energy_mev": energy, "map_quality": map_quality, "relative_branches": False, "run": seed}
    report = simulate(data / f"{name}.root", events, settings=make_settings(values), seed=seed, jobs=jobs)
    rate = report.events / report.seconds
    if said:
        print(f"{name}: {report.events} events, {rate:.0f} events/s", flush=True)
    return rate


def _trained_in_a_second(recipe: Path, sample: Path) -> float:
    """Events that a trial of a training takes in a second."""
    from xecml import rootio
    from xecml.recipes import load_config
    from xecml.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        events, names = next(iter(rootio.read(sample, chunk_events=_TRIAL_EVENTS))), ("train.root", "val.root")
        for name, part in zip(names, (slice(-_TRIAL_VALIDATED), slice(-_TRIAL_VALIDATED, None)), strict=True):
            rootio.write(Path(folder) / name, {branch: values[part] for branch, values in events.items()})
        train_path, val_path = (str(Path(folder) / name) for name in names)
        flags = {"data.train_path": train_path, "data.val_path": val_path, "checkpoint.save_dir": folder}
        settings = ["training.epochs=1", "tasks.energy.enabled=false"]  # of one energy there is none to learn
        trial = train(load_config(recipe, settings, flags), name="trial", quiet=True).to_its_end()
    return float(trial.metrics["system/throughput_events_per_sec"])


def _summary(
    signal: Sequence[Any], mono: Sequence[Any], sizes: Sizes, steps: Steps, training_seconds: float
) -> dict[str, Any]:
    """Everything the table at the end shows, with units, and whether it is what it should be."""
    samples = {"15-60 MeV": signal, "52.8 MeV": mono}
    rows = [_row(sample, q, evaluations) for sample, evaluations in samples.items() for q in QUANTITIES]
    warnings = [w for evaluations in samples.values() for w in evaluations[0].warnings]
    return {
        "events": {"train": sizes.train, "validation": sizes.val, "test": sizes.test, "test at 52.8 MeV": sizes.test},
        "epochs": sizes.epochs,
        "minutes": round(steps.minutes(), 2),
        "training_minutes": round(training_seconds / 60, 2),
        "seconds": {name: round(seconds, 1) for name, seconds in steps.seconds.items()},
        "rows": rows,
        "opening_angle_68_deg": {name: e[0].opening["all"].q68 for name, e in samples.items()},
        "warnings": warnings,
        "checks": _checks(rows, warnings),
    }


def _row(sample: str, quantity: str, evaluations: Sequence[Any]) -> dict[str, Any]:
    from xecml.evaluation.tables import QUANTITIES as KNOWN

    model, *others = evaluations
    figures = model.figures[quantity]["all"]
    beside = {o.name: o.figures[quantity]["all"] for o in others if quantity in o.figures}
    return {
        "sample": sample,
        "quantity": KNOWN[quantity].label,
        "unit": KNOWN[quantity].unit,
        "bias": figures.bias,
        "s68": figures.s68,
        "s68_error": figures.s68_error,
        "fwhm_sigma": figures.fwhm,
        "others": {
            name: {"s68": r.s68, "rms_about_truth": (r.bias**2 + r.rms**2) ** 0.5} for name, r in beside.items()
        },
    }


def _checks(rows: Sequence[dict[str, Any]], warnings: Sequence[str]) -> list[dict[str, Any]]:
    """What must hold for the demonstration to have shown something."""
    from xecml.reports.model_evaluation import CENTROID, CONSTANT

    def value(sample: str, label: str) -> dict[str, Any]:
        return next(r for r in rows if r["sample"] == sample and r["quantity"] == label)

    checks = []
    for sample in ("15-60 MeV", "52.8 MeV"):
        for label in ("u", "v"):
            row = value(sample, label)
            ratio = row["others"][CENTROID]["s68"] / row["s68"]
            checks.append(
                {"what": f"{label} at {sample}: centroid / network at least 3", "value": ratio, "met": ratio >= 3}
            )
    for row in rows:
        # a constant is right by chance on a sample of one energy; its distance to the truth is what counts
        trivial = row["others"].get(CONSTANT)
        if trivial is not None:
            ratio = trivial["rms_about_truth"] / row["s68"]
            text = f"{row['quantity']} at {row['sample']}: constant / network at least 2"
            checks.append({"what": text, "value": ratio, "met": ratio >= 2})
    energy, time_row = value("52.8 MeV", "energy / truth"), value("52.8 MeV", "time")
    checks.append({"what": "energy at 52.8 MeV below 5 %", "value": energy["s68"], "met": energy["s68"] < 5})
    checks.append({"what": "time below 300 ps", "value": time_row["s68"], "met": time_row["s68"] < 300})
    checks.append(
        {"what": "angles not below the limit of the target's size", "value": len(warnings), "met": not warnings}
    )
    return checks


def _show(summary: dict[str, Any], out: Path) -> None:
    from rich import box
    from rich.table import Table

    from xecml.cli.printing import print_table
    from xecml.reports.model_evaluation import CENTROID, CONSTANT

    events = summary["events"]
    title = (
        f"Signal photons: trained {summary['training_minutes']:.1f} minutes on {events['train']} events, "
        f"tested on {events['test']} + {events['test at 52.8 MeV']}; all in all {summary['minutes']:.1f} minutes"
    )
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in (
        "sample",
        "quantity",
        "unit",
        "network s68",
        "FWHM/2.355",
        "bias",
        "knowing nothing",
        "light centroid",
    ):
        table.add_column(name, justify="left" if name in ("sample", "quantity", "unit") else "right")
    previous = ""
    for row in summary["rows"]:
        cells = [_cell(row["others"].get(name)) for name in (CONSTANT, CENTROID)]
        if row["sample"] != previous and previous:
            table.add_section()
        first = row["sample"] if row["sample"] != previous else ""
        previous = row["sample"]
        own = (f"{row['s68']:.3g} ± {row['s68_error']:.1g}", f"{row['fwhm_sigma']:.3g}", f"{row['bias']:.2g}")
        table.add_row(first, row["quantity"], row["unit"], *own, *cells)
    print_table(table, width=150)
    print("s68: half of the central 68 % of prediction - truth. Knowing nothing: the mean of the training truth.")
    print("Light centroid: mean position of the light on the inner face, linearly corrected.")
    for check in summary["checks"]:
        if not check["met"]:
            print(f"NOT MET: {check['what']} (is {check['value']:.3g})")
    print(f"In {out}: summary.json, checkpoint_best.pth, model.onnx, predictions.root. Pictures to open:")
    for name, what in PICTURES.items():
        print(f"  {out / name}: {what}")
    print(
        "This network knows one simulated detector and is not good for data, whose times, gains and optics differ.\n"
        "For data use one that was trained on many: xec predict --pretrained signal FILE --out OUT.root "
        "(docs/robustness.md); make demo PRETRAINED=1 shows it."
    )


def _cell(beside: dict[str, float] | None) -> str:
    """Resolution of a trivial predictor; how far off it is where it is narrow but wrong."""
    if beside is None:
        return "-"
    return f"{beside['s68']:.3g}" if beside["s68"] > 0 else f"off by {beside['rms_about_truth']:.3g}"


app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demonstration.")] = Path("artifacts/demo"),
    recipe: Annotated[Path, typer.Option("--config", help="Recipe to train.")] = Path("demo"),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cores for the simulation.")] = 2,
    minutes: Annotated[float, typer.Option("--minutes", min=1, help="What all of it may take.")] = MINUTES,
) -> None:
    """Simulate, train, evaluate, export, predict and draw."""
    if shutil.disk_usage(out.parent if out.parent.exists() else Path()).free < 3e9:
        raise InputError("The demonstration needs 3 GB of free disk space; make room, or name another folder by --out.")
    cpu_load.follow()
    if not run(out, recipe, jobs=jobs, minutes=minutes):
        sys.exit(1)


def demonstrate(command: typer.Typer) -> None:
    """Run a demonstration from the words of the command line; bad input is one sentence and status 2."""
    from xecml.cli import usage_errors

    try:
        usage_errors.run(command, "demo")
    except InputError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    demonstrate(app)
