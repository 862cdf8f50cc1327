"""What limits the networks: events, size or information? Resolutions against the number of training events.

    python benchmarks/learning_curve.py [--kind decoupled] [--events 409600] [--passes 409600] [--further base large]

The same network is trained on 1/16, 1/8, 1/4, 1/2 and all of the events, each time for as many passes of events, so
that fewer events are seen more often; then networks of other sizes on all events. The half-widths on test events that
none has seen are fitted with sqrt(limit^2 + (scale / N^power)^2). A limit far below the last point says that more
events help; equal points of two sizes say that the size does not; a limit that is reached is one of the information
in an event, or of the way of training. What was made stays in the folder and is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from physics_samples import SAMPLES, make
from whole_training import seconds_of, train_whole
from xecml.errors import InputError
from xecml.evaluation.metrics import with_error
from xecml.evaluation.tables import QUANTITIES, Columns, read_table, residuals
from xecml.figures.style import STYLE, save_figure
from xecml.files import atomic_path
from xecml.inference.predict import predict_files
from xecml.inference.trained_model import load_model
from xecml.recipes import load_config
from xecml.resolution import figures_of_merit
from xecml.simulation.generate import simulate
from xecml.simulation.settings import load_vary, make_settings

PARTS = 16
"""Files of training events; the curve has one, two, four, eight and all of them."""
_BATCH = 128
"""Events of a step."""
SEEDS = {"signal": 291_801, "decoupled": 291_802}
FIGURES = ("u", "v", "w", "energy_relative", "timing", "theta", "phi")
"""Quantities whose half-width is followed; of the energy the core too."""
Floats = NDArray[np.float64]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--kind", choices=list(SEEDS), default="signal", help="of photons")
    found.add_argument("--events", type=int, default=409_600, help="training events of the last point")
    found.add_argument("--passes", type=int, default=409_600, help="events that each training sees, repeated ones too")
    found.add_argument("--test", type=int, default=10_000, help="test events")
    found.add_argument("--preset", default="compact", help="network of the curve")
    found.add_argument("--further", nargs="*", default=[], help="networks that are trained on all events only")
    found.add_argument("--vary", help="recipe of detectors that differ, such as 'varied'; else the nominal one")
    found.add_argument("--out", type=Path, default=Path("artifacts/learning-curve"), help="folder of all that is made")
    found.add_argument("--set", dest="settings", action="append", default=[], help="settings of all trainings")
    found.add_argument("--jobs", type=int, default=2)
    return found


def training_files(options: argparse.Namespace) -> list[Path]:
    """All training files, simulated where they are not there."""
    folder = options.out / "events"
    stem = f"{options.kind}_{options.vary or 'nominal'}_{options.events}"
    files = [folder / f"{stem}_{k:04d}.root" for k in range(PARTS)]
    if not all(path.exists() for path in files):
        folder.mkdir(parents=True, exist_ok=True)
        settings = _settings(options.kind, options.vary)
        simulate(
            folder / f"{stem}.root", options.events, settings=settings, seed=SEEDS[options.kind], jobs=options.jobs,
            chunk=options.events // PARTS,
        )  # fmt: skip
    return files


def _settings(kind: str, vary: str | None) -> Any:
    values: dict[str, Any] = {"vertex": kind, "energy_mev": (15.0, 60.0), "relative_branches": False}
    return make_settings(values | ({"vary": load_vary(vary)} if vary else {}))


def validation_file(options: argparse.Namespace) -> Path:
    """4,096 events that choose the best epoch."""
    path: Path = options.out / "events" / f"{options.kind}_{options.vary or 'nominal'}_validation.root"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = _settings(options.kind, options.vary)
        simulate(path, 4096, settings=settings, seed=SEEDS[options.kind] + 100, jobs=options.jobs)
    return path


def trained(options: argparse.Namespace, preset: str, files: Sequence[Path], parts: int) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a training on the first parts of the events, and what it took."""
    events = parts * (options.events // PARTS)
    name = f"{options.kind}_{options.vary or 'nominal'}_{preset}_{events}_of_{options.events}_{options.passes}"
    if options.settings:
        name += "_" + hashlib.sha256(" ".join(options.settings).encode()).hexdigest()[:8]
    folder = options.out / "trainings"
    checkpoint, record = folder / name / "checkpoint_best.pth", folder / f"{name}.json"
    if not record.exists():
        epochs = max(round(options.passes / events), 1)
        flags = {
            "data.train_path": [str(path) for path in files[:parts]], "data.val_path": str(validation_file(options)),
            "data.batch_size": _BATCH, "model.preset": preset, "training.epochs": epochs,
            "training.warmup_epochs": 0.05 * epochs, "training.validate_every": max(epochs // 4, 1),
            "checkpoint.save_dir": str(folder),
            "mlflow.enabled": False,
        }  # fmt: skip
        settings = ["mlflow.tensorboard=null", "checkpoint.save_interval=100000", *options.settings]
        seconds = seconds_of(train_whole(load_config("robust", settings, flags), name))
        _write(record, {"preset": preset, "events": events, "epochs": epochs, "seconds": seconds})
    return checkpoint, json.loads(record.read_text(encoding="utf-8"))


def measured(checkpoint: Path, test: Path, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Half-widths with errors on the test events, by quantity; `core` is the energy's FWHM/2.355."""
    out = options.out / "predictions" / f"{test.stem}__{checkpoint.parent.name}.root"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        predict_files(load_model(checkpoint, threads=1), [test], out, jobs=options.jobs)
    return widths(read_table(out))


def widths(table: Columns) -> dict[str, tuple[float, float]]:
    """Half-widths with errors by quantity, in the units of `QUANTITIES`."""
    found = {}
    for name in FIGURES:
        of = figures_of_merit(residuals(table, name))
        found[name] = (of.s68, of.s68_error)
        if name == "energy_relative":
            found["core"] = (of.fwhm, of.fwhm_error)
    return found


def curve(events: Floats, limit: float, scale: float, power: float) -> Floats:
    """Half-width after a training on so many events, over those of the largest training."""
    return np.asarray(np.sqrt(limit**2 + (scale * events**-power) ** 2))


def fitted(events: Sequence[int], values: Sequence[float], errors: Sequence[float]) -> dict[str, float] | None:
    """Limit of a curve with its error, and what twice the events would give; None of fewer than four points."""
    if len(events) < 4:
        return None
    n, y = np.asarray(events, np.float64) / max(events), np.asarray(values)
    try:
        best, covariance = curve_fit(
            curve, n, y, p0=(0.9 * y.min(), 0.5 * y.min(), 0.5), sigma=np.asarray(errors), absolute_sigma=True,
            bounds=([0.0, 0.0, 0.05], [y.max(), 10 * y.max(), 2.0]),
        )  # fmt: skip
    except RuntimeError:
        return None
    return {
        "limit": float(best[0]), "limit_error": float(np.sqrt(covariance[0, 0])),
        "scale": float(best[1]), "power": float(best[2]),
        "twice": float(curve(np.array([2.0]), *best)[0]),
    }  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """All trainings and fits in Markdown."""
    names = [*FIGURES, "core"]
    heads = ["network", "events", "epochs", "minutes", *(_label(name) for name in names)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in result["trainings"]:
        cells = [with_error(*row["widths"][name]) for name in names]
        first = [row["preset"], f"{row['events']:,}", str(row["epochs"]), f"{row['seconds'] / 60:.0f}"]
        lines.append(f"| {' | '.join([*first, *cells])} |")
    for what, key in (("fit at twice the events", "twice"), ("limit of the fit", "limit")):
        cells = []
        for name in names:
            fit = result["fits"].get(name)
            error = float("nan") if fit is None or key == "twice" else fit["limit_error"]
            cells.append("-" if fit is None else with_error(fit[key], error))
        lines.append(f"| {what} | | | | {' | '.join(cells)} |")
    return "\n".join(lines)


def _label(name: str) -> str:
    if name == "core":
        return "energy, FWHM/2.355 [%]"
    return f"{QUANTITIES[name].label} [{QUANTITIES[name].unit}]"


def picture(result: Mapping[str, Any], path: Path) -> None:
    """One panel a quantity: points, fit and limit."""
    names = [*FIGURES, "core"]
    own = [row for row in result["trainings"] if row["preset"] == result["preset"]]
    others = [row for row in result["trainings"] if row["preset"] != result["preset"]]
    most = max(row["events"] for row in own)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        for axes, name in zip(figure.subplots(2, 4).flat, names, strict=True):
            x = np.array([row["events"] for row in own], np.float64)
            y, error = np.array([row["widths"][name] for row in own]).T
            axes.errorbar(x, y, error, fmt="o", label=result["preset"])
            for row in others:
                axes.errorbar(
                    row["events"], *([v] for v in row["widths"][name]), fmt="s", mfc="none", label=row["preset"]
                )
            if fit := result["fits"].get(name):
                axes.axhline(fit["limit"], ls=":", color="grey", label="limit of the fit")
                fine = np.geomspace(x.min(), 2 * most, 60)
                axes.plot(fine, curve(fine / most, fit["limit"], fit["scale"], fit["power"]), color="C0", lw=1)
            axes.set_xscale("log")
            axes.set_xlabel("training events")
            axes.set_ylabel(_label(name))
        axes.legend()
        save_figure(figure, path)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train, measure, fit; writes `learning_curve.json`, `.md` and `.png` in the folder."""
    least = PARTS * _BATCH
    if options.events % PARTS or options.events < least:
        raise InputError(f"--events takes a multiple of {PARTS}, {least} or more; not {options.events}.")
    sample = next(s for s in SAMPLES if s.name == options.kind)
    test, files = make(sample, options.test, options.out / "samples", jobs=options.jobs), training_files(options)
    rows = []
    wanted = [(options.preset, parts) for parts in (1, 2, 4, 8, 16)] + [(name, PARTS) for name in options.further]
    for preset, parts in wanted:
        print(f"{preset}: {parts}/{PARTS} of {options.events:,} events", file=sys.stderr, flush=True)
        checkpoint, record = trained(options, preset, files, parts)
        rows.append(record | {"widths": measured(checkpoint, test, options)})
    own = [row for row in rows if row["preset"] == options.preset]
    fits = {
        name: fitted([r["events"] for r in own], *zip(*(r["widths"][name] for r in own), strict=True))
        for name in (*FIGURES, "core")
    }
    result = {"kind": options.kind, "preset": options.preset, "test": options.test, "trainings": rows, "fits": fits}
    stem = options.out / f"learning_curve_{options.kind}_{options.vary or 'nominal'}"
    _write(stem.with_suffix(".json"), result)
    with atomic_path(stem.with_suffix(".md")) as temporary:
        temporary.write_text(table(result) + "\n", encoding="utf-8")
    picture(result, stem.with_suffix(".png"))
    return result


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def main() -> None:
    try:
        print(table(run(parser().parse_args())))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
