"""Events for a calibration: their reference, the tasks that it calibrates, and predictions beside the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xecml.data import source
from xecml.errors import InputError, nearest
from xecml.events import TASKS, measured, number_of
from xecml.files import regular_file
from xecml.inference.answer_counts import Answered
from xecml.inference.calibration_fit import Sample
from xecml.inference.calibration_record import Against
from xecml.inference.prediction_columns import predict_chunks
from xecml.inference.trained_model import Model
from xecml.models.corrections import CORRECTABLE
from xecml.progress import Progress, progress
from xecml.resolution import Floats

Reference = Literal["truth", "reco"]
_PREFIX: dict[Reference, str] = {"truth": "true_", "reco": "reco_"}
_LINES_MEV = (1.0, 1000.0)


@dataclass(frozen=True)
class Known:
    """The reference that makes events known: lines, a branch, or points.

    Attributes:
        lines: energies in MeV: one for all files, or one for each; empty for none.
        reference: branches of truth or of a reconstruction; none to use neither.
        points: where points of light are (k, 3), u v w in cm; none for no such points.
    """

    lines: tuple[float, ...] = ()
    reference: Reference | None = None
    points: Floats | None = None

    def against(self, task: str) -> Against | None:
        """The reference for a task; None if there is none."""
        if task == "energy" and self.lines:
            return "line"
        return "points" if task == "uvwFI" and self.points is not None else self.reference


def read_points(path: str | Path) -> Floats:
    """Points (k, 3), u v w in cm, of a text file: three numbers a line, # for comments.

    Raises:
        InputError: it holds something else.
    """
    file = regular_file(path, "list of points")
    try:
        text = file.read_text(encoding="utf-8")
        rows = [line.split("#")[0].split() for line in text.splitlines()]
        points = np.array([[float(x) for x in row] for row in rows if row])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a list of points; give three numbers a line, u v w in cm."
        ) from error
    if points.ndim != 2 or points.shape[1] != 3 or not measured(points).all():
        raise InputError(f"{path} must hold three numbers a line, u v w in cm, of one point at least.")
    return points


def check_asked(files: Sequence[str | Path], known: Known, correct: Sequence[str], *, reset: bool) -> None:
    """Check the options before any file is opened.

    Raises:
        InputError: says what to give.
    """
    for task in correct:
        if task not in CORRECTABLE:
            raise InputError(
                f"There is no correction of '{task}'{nearest(task, CORRECTABLE)}; choose among "
                f"{', '.join(CORRECTABLE)}."
            )
    if not files:
        if not reset:
            raise InputError(
                "No event files were named to calibrate on; name some, or give --reset alone to remove corrections."
            )
        if known.lines or known.reference or known.points is not None:
            raise InputError(
                "--line, --reference and --points need event files; name them, or give --reset alone, which needs none."
            )
        return
    if not known.lines and known.reference is None and known.points is None:
        raise InputError(
            "The calibration needs known events; give --line ENERGY, --reference truth or reco, or --points LIST."
        )
    for given, option, task in (
        (bool(known.lines), "--line", "energy"),
        (known.points is not None, "--points", "uvwFI"),
    ):
        if given and correct and task not in correct:
            raise InputError(
                f"{option} calibrates '{task}', which --correct leaves out; name it there, or leave {option} out."
            )
    if known.reference is not None and known.reference not in _PREFIX:
        raise InputError(f"Unknown reference '{known.reference}'; choose truth or reco.")
    for energy in known.lines:
        if not (math.isfinite(energy) and _LINES_MEV[0] <= energy <= _LINES_MEV[1]):
            raise InputError(
                f"A line cannot be at {energy:g} MeV; give its energy in MeV, between {_LINES_MEV[0]:g} and "
                f"{_LINES_MEV[1]:g}."
            )
    if len(known.lines) > 1 and len(known.lines) != len(files):
        raise InputError(
            f"{len(known.lines)} lines are given for {number_of(len(files), 'file')}; give as many FILE as "
            "--line, in their order, or one line for all (a folder or a quoted glob is one FILE)."
        )


def branch_of(task: str, known: Known) -> str:
    """Branch that a task's answers are compared with."""
    branch = TASKS[task].truth if known.reference == "truth" else TASKS[task].reconstructed
    return str(branch)


def tasks_to_correct(
    model: Model, path: str | Path, correct: Sequence[str], known: Known, files: Sequence[str | Path], tree: str
) -> tuple[list[str], list[str]]:
    """Tasks that are to be calibrated, and a sentence on those that cannot be.

    Raises:
        InputError: nothing tells of a task that was asked for, or of any.
    """
    wanted = [task for task in CORRECTABLE if task in (correct or model.tasks)]
    chosen, why = [], {}
    for task in wanted:
        against = known.against(task)
        if against is None:
            why[task] = "give --reference truth or reco"
        elif against in ("line", "points") or _has(files, branch_of(task, known), model, tree):
            chosen.append(task)
        else:
            why[task] = f"there is no {branch_of(task, known)} in {files[0]}"
    said = "; ".join(
        f"{', '.join(t for t in why if why[t] == reason)} ({reason})" for reason in dict.fromkeys(why.values())
    )
    if why and (correct or not chosen):
        raise InputError(f"{path} cannot be calibrated in {said}.")
    return chosen, [f"Not corrected: {said}."] if said else []


def _has(files: Sequence[str | Path], branch: str, model: Model, tree: str) -> bool:
    for path in source.expand(files):
        with source.open_events(path, tree, source.names_here(path, tree, model.names)) as reader:
            if reader.has(branch):
                return True
    return False


# --------------------------------------------------------------------------------------------------------- events


def read_samples(
    model: Model, files: Sequence[str | Path], known: Known, tasks: Sequence[str], tree: str, answered: Answered
) -> dict[str, list[Sample]]:
    """Samples of each task: of lines one for each, else one."""
    samples = {task: [_sample(task, known)] for task in tasks}
    if not files:
        return samples
    several = len(known.lines) > 1
    if several and "energy" in samples:
        samples["energy"] = [_sample("energy", known) for _ in known.lines]
    total = source.count_events(files, tree)
    if not total:
        raise InputError(f"{files[0]} holds no events; nothing was written.")
    with progress(total, "calibrate") as bar:
        for i, group in enumerate([[file] for file in files] if several else [list(files)]):
            own = {task: found[i if len(found) > 1 else 0] for task, found in samples.items()}
            _read_group(model, group, known, own, tree, answered, bar)
    return samples


def _sample(task: str, known: Known) -> Sample:
    against = known.against(task)
    return Sample(2 if task == "energy" and against != "line" else TASKS[task].size)


def _read_group(
    model: Model,
    files: Sequence[str | Path],
    known: Known,
    samples: Mapping[str, Sample],
    tree: str,
    answered: Answered,
    bar: Progress,
) -> None:
    for _, columns in predict_chunks(model, files, tree=tree, answered=answered):
        for task, sample in samples.items():
            _add(task, sample, columns, known)
        bar.advance(len(columns["run"]))


def _add(task: str, sample: Sample, columns: Mapping[str, NDArray[Any]], known: Known) -> None:
    """Add a chunk's events: answers, or answers and what is known of them."""
    names, against = TASKS[task].columns, known.against(task)
    answers = _numbers(columns, [f"pred_{name}" for name in names])
    if against in ("line", "points"):
        sample.add(answers)
        return
    assert known.reference is not None
    wanted = [f"{_PREFIX[known.reference]}{name}" for name in names]
    if not all(name in columns for name in wanted):
        return  # a file among others that has no such branch
    reference = _numbers(columns, wanted)
    if task == "energy":
        sample.add(answers, np.where(reference > 0, reference, np.nan))
    else:
        sample.add(answers - reference)


def _numbers(columns: Mapping[str, NDArray[Any]], names: Sequence[str]) -> Floats:
    """Columns (n, k) in float64, NaN where nothing was measured."""
    values = np.stack([columns[name].astype(np.float64) for name in names], 1)
    return np.where(measured(values), values, np.nan)
