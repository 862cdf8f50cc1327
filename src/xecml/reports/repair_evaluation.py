"""Evaluate a repair on undamaged files: table, plots and a picture of a repaired event, conventional ones beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xecml import rootio
from xecml.checks.dead_sensors import DEAD, DeadSensors, dead_sensors, without_dead
from xecml.choices import REPAIRS
from xecml.config import RELATIVE_BRANCHES
from xecml.conventional.dead_sensor_estimates import live_sensors
from xecml.data import source
from xecml.data.damage import draw_damage
from xecml.data.selected_events import Chosen, Cut, Left, look_at_files, read_selected
from xecml.errors import InputError
from xecml.evaluation.repair_errors import EXPECTED, RepairReport, compare_repairs, filled_by
from xecml.events import Chunk
from xecml.figures.repair_pages import draw_repaired_event, save_repaired_event, save_repairs
from xecml.files import atomic_path
from xecml.inference.arithmetic import say
from xecml.inference.precision_loss import MEASURED_ON, PrecisionLoss, loss_of_repairs
from xecml.inference.repair_models import NetworkRepair, Repair, is_repair, load_repair
from xecml.inference.trained_model import Model, load_model
from xecml.outputs import claim, making, mark

_PICTURES = 1


@making("evaluate")
def evaluate_repairs(
    checkpoint: str | Path,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    dead_list: str | Path | None = None,
    max_events: int | None = None,
    tree: str = rootio.DEFAULT_TREE,
    cut: Cut | None = None,
    device: str = "cpu",
    precision: str = "float32",
    force: bool = False,
) -> tuple[RepairReport, Left | None, list[Path]]:
    """Damage events, repair them, and write `repair.json`, `repair.pdf` and a picture of the first event.

    Args:
        checkpoint: of `inpaint` or `mae`, or its exported form.
        files: undamaged events; simulated with expected counts, the comparison is free of each sensor's own noise.
            Sensors that are dead in them, by list, flags or sight, are left out of all.
        out: folder for the results.
        others: further repairs, and a regression model for the effect on its resolutions.
        dead_list: text file of sensors that are dead in the files, one id a line.
        max_events: no more than these; all by default.
        tree: name of the tree.
        cut: what is taken of the files; all by default.
        device: where networks are computed, see `xecml.inference.arithmetic`.
        precision: of checkpoints; exported models beside them have their own. What it loses is said on standard error.
        force: replace existing files that this function did not make.

    Returns:
        The report, what the cut leaves where there is one, and the files written.

    Raises:
        InputError: unusable models or files.
    """
    folder = Path(out)
    written = [folder / "repair.json", folder / "repair.pdf"]
    pictures = [folder / f"repaired_event_{event}.png" for event in range(_PICTURES)]
    claim(written + pictures, inputs=[checkpoint, *others, dead_list, *files], force=force)
    repairs: dict[str, Repair] = {name: load_repair(name) for name in REPAIRS}
    repairs[Path(checkpoint).stem] = load_repair(checkpoint, device=device, precision=precision)
    model: Model | None = None
    for other in others:
        if str(other) in REPAIRS:
            continue  # stands there already
        own: dict[str, Any] = {"device": device, "precision": "float32" if Path(other).suffix == ".onnx" else precision}
        if is_repair(other):
            repairs[_distinct(Path(other), repairs)] = load_repair(other, **own)
        elif model is None:
            model = load_model(other, **own)
        else:
            raise InputError(f"{other} is a second regression; name only one whose resolutions are to be compared.")
    names: dict[str, str] = getattr(repairs[Path(checkpoint).stem], "names", {})
    for name, repair in repairs.items():
        if getattr(repair, "branches", ("npho",))[0] in RELATIVE_BRANCHES:
            raise InputError(
                f"{name} fills relative counts, which cannot be compared in photons; train one on npho and time."
            )
    paths = source.expand(files)
    flagged = any(_has(path, tree, names, DEAD) for path in paths)
    dead = dead_sensors(paths, dead_list=dead_list, flagged=flagged, tree=tree, names=names)
    chosen, left = look_at_files(paths, cut, tree, names) if cut else (None, None)
    options: dict[str, Any] = {"model": model, "dead": dead, "max_events": max_events, "tree": tree, "names": names}
    report = compare_repairs(paths, repairs, chosen=chosen, **options)
    content = {"made_by": mark(), "device": getattr(repairs[Path(checkpoint).stem], "device", "cpu")} | report.as_dict()
    if loss := _loss(repairs[Path(checkpoint).stem], paths, tree, names, dead, chosen):
        content["loss"] = loss.as_dict()
        say(loss.line())
    if cut and left is not None:
        content["selected"] = {"cut": cut.named(), **left.as_dict()}
    with atomic_path(written[0]) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    save_repairs(report, written[1])
    return report, left, written + _pictures(paths, tree, names, dead, repairs, folder, chosen)


def _loss(
    repair: Repair,
    paths: Sequence[str],
    tree: str,
    names: Mapping[str, str],
    dead: DeadSensors | None,
    chosen: Mapping[str, Chosen] | None,
) -> PrecisionLoss | None:
    """What a precision below 32 bits loses on sensors that are taken to be dead; none where nothing is lost."""
    if not isinstance(repair, NetworkRepair) or repair.precision == "float32":
        return None
    path, chunk = _first(paths, tree, names, chosen, MEASURED_ON)
    npho, time = without_dead(path, chunk, dead)
    return loss_of_repairs(repair, npho, time, draw_damage("blocks", 0.1, len(npho)))


def _first(
    files: Sequence[str], tree: str, names: Mapping[str, str], chosen: Mapping[str, Chosen] | None, events: int
) -> tuple[str, Chunk]:
    """The first events of the first file that has some, and that file."""
    some = chosen or {}
    path = next(path for path in files if (len(some[path]) if some else source.count_events(path, tree)))
    here = source.names_here(path, tree, names)
    options: dict[str, Any] = {"tree": tree, "names": here, "chunk_events": events, "optional": (EXPECTED, DEAD)}
    return path, next(read_selected(path, ["npho", "time"], some.get(path), **options))[1]


def _has(path: str, tree: str, names: Mapping[str, str], branch: str) -> bool:
    with source.open_events(path, tree, source.names_here(path, tree, names)) as reader:
        return reader.has(branch)


def _distinct(path: Path, taken: dict[str, Repair]) -> str:
    """A short name that is not yet taken."""
    return path.stem if path.stem not in taken else "/".join(path.parts[-2:])


def _pictures(
    files: Sequence[str],
    tree: str,
    names: Mapping[str, str],
    dead: DeadSensors | None,
    repairs: dict[str, Repair],
    folder: Path,
    chosen: Mapping[str, Chosen] | None,
) -> list[Path]:
    """Draw the first event with 10 % of its sensors dead in blocks."""
    path, chunk = _first(files, tree, names, chosen, _PICTURES)
    npho, time = without_dead(path, chunk, dead)
    lost = draw_damage("blocks", 0.1, len(npho)) & live_sensors(npho, dead=False)
    truth = chunk.get(EXPECTED, npho)
    filled = {name: filled_by(repair, npho, time, lost)[0] for name, repair in repairs.items()}
    paths = []
    for event in range(len(npho)):
        shown = {name: np.where(lost[event], values[event], truth[event]) for name, values in filled.items()}
        figure = draw_repaired_event(truth[event], lost[event], shown, title=f"event {event}, 10 % dead in blocks")
        paths.append(folder / f"repaired_event_{event}.png")
        save_repaired_event(figure, paths[-1])
    return paths
