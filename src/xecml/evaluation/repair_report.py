"""Evaluate a repair on undamaged files: table, plots and a picture of a repaired event, conventional ones beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xecml import rootio
from xecml.conventional.deadchannels import METHODS, live_sensors
from xecml.data import source
from xecml.data.damage import draw_damage
from xecml.errors import InputError
from xecml.evaluation.fillers import is_repair, load_repair
from xecml.evaluation.predictions import Model, load_model
from xecml.evaluation.repair import EXPECTED, Repair, RepairReport, compare_repairs
from xecml.evaluation.repair_plots import draw_repaired_event, save_repaired_event, save_repairs
from xecml.files import atomic_path

_PICTURES = 1


def evaluate_repairs(
    checkpoint: str | Path,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    max_events: int | None = None,
    tree: str = rootio.DEFAULT_TREE,
) -> tuple[RepairReport, list[Path]]:
    """Damage events, repair them, and write `repair.json`, `repair.pdf` and a picture of the first event.

    Args:
        checkpoint: of `inpaint` or `mae`, or its exported form.
        files: undamaged events; simulated with expected counts, the comparison is free of each sensor's own noise.
        out: folder for the results.
        others: further repairs, and a regression model for the effect on its resolutions.
        max_events: no more than these; all by default.
        tree: name of the tree.

    Returns:
        The report, and the files written.

    Raises:
        InputError: unusable models or files.
    """
    repairs: dict[str, Repair] = {name: load_repair(name) for name in METHODS}
    repairs[Path(checkpoint).stem] = load_repair(checkpoint)
    model: Model | None = None
    for other in others:
        if str(other) in METHODS:
            continue  # stands there already
        if is_repair(other):
            repairs[_distinct(Path(other), repairs)] = load_repair(other)
        elif model is None:
            model = load_model(other)
        else:
            raise InputError(f"{other} is a second regression; give one, whose resolutions are looked at.")
    report = compare_repairs(files, repairs, model=model, max_events=max_events, tree=tree)
    folder = Path(out)
    written = [folder / "repair.json", folder / "repair.pdf"]
    with atomic_path(written[0]) as temporary:
        temporary.write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
    save_repairs(report, written[1])
    return report, written + _pictures(files, tree, repairs, folder)


def _distinct(path: Path, taken: dict[str, Repair]) -> str:
    """A short name that is not yet taken."""
    return path.stem if path.stem not in taken else "/".join(path.parts[-2:])


def _pictures(files: Sequence[str | Path], tree: str, repairs: dict[str, Repair], folder: Path) -> list[Path]:
    """Draw the first event with 10 % of its sensors dead in blocks."""
    chunk = next(iter(source.read(files, ["npho", "time"], tree=tree, chunk_events=_PICTURES, optional=(EXPECTED,))))
    npho, time = chunk["npho"], chunk["time"]
    dead = draw_damage("blocks", 0.1, len(npho)) & live_sensors(npho, dead=False)
    truth = chunk.get(EXPECTED, npho)
    filled = {name: repair.fill(npho, time, dead)[0] for name, repair in repairs.items()}
    paths = []
    for event in range(len(npho)):
        shown = {name: np.where(dead[event], values[event], truth[event]) for name, values in filled.items()}
        figure = draw_repaired_event(truth[event], dead[event], shown, title=f"event {event}, 10 % dead in blocks")
        paths.append(folder / f"repaired_event_{event}.png")
        save_repaired_event(figure, paths[-1])
    return paths
