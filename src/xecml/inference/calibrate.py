"""Calibrate a trained model on events that are known, and write it with its corrections to another file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from xecml import rootio
from xecml.data import source
from xecml.errors import InputError, nearest
from xecml.events import TASKS, measured
from xecml.files import atomic_path, regular_file
from xecml.inference import calibration_record
from xecml.inference.answer_counts import Answered
from xecml.inference.calibration_fit import (
    HEADERS,
    LINE_HEADERS,
    SIGNIFICANT,
    Fitted,
    Sample,
    fit_lines,
    fit_offsets,
    fit_points,
    fit_ratio,
    line_rows,
    linearity,
)
from xecml.inference.calibration_record import Correction, calibrated
from xecml.inference.checkpoint_reading import restored
from xecml.inference.prediction_columns import predict_chunks
from xecml.inference.trained_model import Model, TorchModel, load_model
from xecml.models.corrections import CORRECTABLE, nothing
from xecml.models.regressor import Regressor
from xecml.outputs import claim, making, mark
from xecml.progress import Progress, progress
from xecml.resolution import Floats

Reference = Literal["truth", "reco"]
_PREFIX: dict[Reference, str] = {"truth": "true_", "reco": "reco_"}
_LINES_MEV = (1.0, 1000.0)


@dataclass(frozen=True)
class Report:
    """What a calibration found and wrote.

    Attributes:
        out: the calibrated model; none where nothing was to be written.
        fitted: corrections that were measured.
        calibration: all corrections that stand in the model now.
        removed: corrections that were in the model and were taken out first.
        left_out: sentences on what could not be measured.
        events: that were read.
        answered: how many were answered.
    """

    out: Path | None
    fitted: list[Fitted]
    calibration: dict[str, Correction]
    removed: dict[str, Correction]
    left_out: list[str]
    events: int = 0
    answered: Answered = field(default_factory=Answered)

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables to read: title, headers, rows; the corrections, and the lines where there are some."""
        if not self.fitted:
            return []
        found = [("", HEADERS, [row for one in self.fitted for row in one.rows()])]
        return found + [("Lines", LINE_HEADERS, line_rows(one)) for one in self.fitted if one.lines]

    def sentences(self) -> list[str]:
        """What the tables do not say."""
        said = [text for one in self.fitted if (text := linearity(one))]
        if any(s < SIGNIFICANT for one in self.fitted for s in one.significance):
            said.append(f"What is not significant (below {SIGNIFICANT:g} errors) is corrected all the same.")
        if self.removed:
            said.append(f"Taken out before: {'; '.join(calibration_record.facts(self.removed).values())}.")
        return [*said, *self.left_out, *filter(None, [self.answered.line()])]

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        return {
            "out": None if self.out is None else str(self.out),
            "events": self.events,
            "fitted": [one.as_dict() for one in self.fitted],
            "calibration": {task: one.model_dump() for task, one in self.calibration.items()},
            "removed": {task: one.model_dump() for task, one in self.removed.items()},
            "left_out": self.left_out,
            "answers": self.answered.as_dict(),
        }


@dataclass(frozen=True)
class Known:
    """By what the events are known.

    Attributes:
        lines: energies in MeV: one for all files, or one for each; empty for none.
        reference: branches of truth or of a reconstruction; none to use neither.
        points: where points of light are (k, 3), u v w in cm; none for no such points.
    """

    lines: tuple[float, ...] = ()
    reference: Reference | None = None
    points: Floats | None = None

    def against(self, task: str) -> calibration_record.Against | None:
        """What a task is measured against; none where nothing tells of it."""
        if task == "energy" and self.lines:
            return "line"
        return "points" if task == "uvwFI" and self.points is not None else self.reference


@making("calibrate")
def calibrate_files(
    model_path: str | Path,
    files: Sequence[str | Path],
    known: Known,
    *,
    out: str | Path | None = None,
    correct: Sequence[str] = (),
    reset: bool = False,
    dry_run: bool = False,
    tree: str = rootio.DEFAULT_TREE,
    force: bool = False,
) -> Report:
    """Measure the biases of a model on files, and write it with corrections that take them away.

    Corrections come on top of those that the model has. Memory does not grow with the input.

    Args:
        model_path: checkpoint; of an exported file the biases can be measured, but not corrected.
        files: event files; with several lines, one for each (globs and folders count as one).
        known: by what the events are known.
        out: checkpoint to write; by default `<model>_calibrated.pth` beside the model.
        correct: tasks; by default all that can be measured.
        reset: take the corrections of these tasks out of the model first; without files, only this is done.
        dry_run: write nothing.
        tree: name of the tree in the event files.
        force: replace an existing file that this function did not make.

    Raises:
        InputError: unusable model or files, too few events, events that are not known, or a line that is not there.
    """
    _check_asked(files, known, reset=reset)
    target = None if dry_run else _output(model_path, out, removing=not files)
    if target is not None:
        claim([target], inputs=[model_path, *files], force=force)
    model, removed = _opened(model_path, correct, known, reset=reset, dry_run=dry_run)
    chosen, left_out = _tasks(model, model_path, correct, known, files, tree) if files else ([], [])
    answered = Answered()
    samples = _read(model, files, known, chosen, tree, answered)
    fitted = []
    for task in chosen:
        if not correct and task != "energy" and not samples[task][0].events and answered.events:
            left_out.append(f"'{task}' is left out: no event that was answered has {_branch(task, known)}.")
            continue
        fitted.append(_fit(task, samples[task], known, files, _stood(model, task)))
    if files and not fitted:
        raise InputError(f"No event of {files[0]} can serve to calibrate: {' '.join(left_out)}")
    now = model.calibration | {one.task: _record(one, known, files) for one in fitted}
    if target is not None:
        assert isinstance(model, TorchModel)
        _write(target, model.content, now)
    return Report(target, fitted, now, removed, left_out, answered.events, answered)


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


# ---------------------------------------------------------------------------------------------------- what is asked


def _check_asked(files: Sequence[str | Path], known: Known, *, reset: bool) -> None:
    """Refuse what makes no sense, before anything is opened."""
    if not files:
        if not reset:
            raise InputError("Name files of events to calibrate on, or ask for --reset alone to take corrections out.")
        if known.lines or known.reference or known.points is not None:
            raise InputError(
                "Name files of events that --line, --reference or --points tell of; --reset alone needs none."
            )
        return
    if not known.lines and known.reference is None and known.points is None:
        raise InputError(
            "Say what the events are known by: --line ENERGY, --reference truth or reco, or --points LIST."
        )
    if known.reference is not None and known.reference not in _PREFIX:
        raise InputError(f"Unknown reference '{known.reference}'; choose truth or reco.")
    for energy in known.lines:
        if not (math.isfinite(energy) and _LINES_MEV[0] <= energy <= _LINES_MEV[1]):
            raise InputError(
                f"A line of {energy:g} MeV cannot be; give its energy in MeV, between {_LINES_MEV[0]:g} and "
                f"{_LINES_MEV[1]:g}."
            )
    if len(known.lines) > 1 and len(known.lines) != len(files):
        raise InputError(
            f"{len(known.lines)} lines are given for {len(files)} files; give as many FILE as --line, in their order, or "
            "one line for all (a folder or a quoted glob is one FILE)."
        )


def _output(model: str | Path, out: str | Path | None, *, removing: bool) -> Path:
    if out is None:
        return Path(model).with_name(f"{Path(model).stem}_{'uncalibrated' if removing else 'calibrated'}.pth")
    if Path(out).suffix != ".pth":
        raise InputError(f"The output {out} must end in .pth: it is a checkpoint; export it after with 'xec export'.")
    return Path(out)


def _opened(
    path: str | Path, correct: Sequence[str], known: Known, *, reset: bool, dry_run: bool
) -> tuple[Model, dict[str, Correction]]:
    """The model, without the corrections that are to be taken out, and these."""
    model = load_model(path)
    _check_tasks(model, path, correct, known)
    if not isinstance(model, TorchModel):
        if reset or not dry_run:
            raise InputError(
                f"{path} is exported; calibrate its checkpoint and export that again (--dry-run measures this one)."
            )
        return model, {}
    if "format" not in model.content:
        raise InputError(
            f"{path} is of the replaced system, whose files have no place for corrections; train it further with "
            "--resume_from and calibrate the result."
        )
    removed = {task: one for task, one in model.calibration.items() if reset and task in (correct or CORRECTABLE)}
    if not removed:
        return model, {}
    kept = {task: one for task, one in model.calibration.items() if task not in removed}
    content = calibrated(model.content, kept)
    network = restored(content, path)
    assert isinstance(network, Regressor)
    return TorchModel(network, content), removed


def _check_tasks(model: Model, path: str | Path, correct: Sequence[str], known: Known) -> None:
    possible = [task for task in CORRECTABLE if task in model.tasks]
    if not possible:
        raise InputError(
            f"{path} predicts {', '.join(model.tasks)}, none of which can be calibrated; choose a model of "
            f"{', '.join(CORRECTABLE)}."
        )
    for task in correct:
        if task not in CORRECTABLE:
            raise InputError(f"There is no correction of '{task}'{nearest(task, CORRECTABLE)}; choose among "
                             f"{', '.join(possible)}.")  # fmt: skip
        if task not in model.tasks:
            raise InputError(f"{path} does not predict '{task}'; choose among {', '.join(possible)}.")
    if known.lines and "energy" not in possible:
        raise InputError(
            f"--line calibrates the energy, which {path} does not predict; it has {', '.join(model.tasks)}."
        )
    if known.points is not None and "uvwFI" not in possible:
        raise InputError(
            f"--points calibrates the position, which {path} does not predict; it has {', '.join(model.tasks)}."
        )


def _branch(task: str, known: Known) -> str:
    branch = TASKS[task].truth if known.reference == "truth" else TASKS[task].reconstructed
    return str(branch)


def _tasks(
    model: Model, path: str | Path, correct: Sequence[str], known: Known, files: Sequence[str | Path], tree: str
) -> tuple[list[str], list[str]]:
    """Tasks that are to be calibrated, and sentences on those that cannot be."""
    wanted = [task for task in CORRECTABLE if task in (correct or model.tasks)]
    chosen, said = [], []
    for task in wanted:
        against = known.against(task)
        if against in ("line", "points"):
            chosen.append(task)
        elif against is None:
            said.append(
                f"'{task}' is left out: neither --line nor --points tells of it; give --reference truth or reco."
            )
        elif _has(files, _branch(task, known), model, tree):
            chosen.append(task)
        else:
            said.append(f"'{task}' is left out: {files[0]} has no {_branch(task, known)}.")
    if said and (correct or not chosen):
        raise InputError(f"{path} cannot be calibrated on {files[0]}: {' '.join(said)}")
    return chosen, said


def _has(files: Sequence[str | Path], branch: str, model: Model, tree: str) -> bool:
    for path in source.expand(files):
        with source.open_events(path, tree, source.names_here(path, tree, model.names)) as reader:
            if reader.has(branch):
                return True
    return False


# --------------------------------------------------------------------------------------------------------- events


def _read(
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


# ----------------------------------------------------------------------------------------------------- corrections


def _stood(model: Model, task: str) -> list[float]:
    """The correction that is in a model's answers."""
    found = model.calibration.get(task)
    return nothing(task).tolist() if found is None else found.values


def _fit(task: str, samples: list[Sample], known: Known, files: Sequence[str | Path], stood: list[float]) -> Fitted:
    against = known.against(task)
    assert against is not None
    if against == "line":
        names = [Path(str(file)).name for file in files] if len(samples) > 1 else [_names(files)]
        return fit_lines(samples, known.lines, names, stood)
    if against == "points":
        assert known.points is not None
        return fit_points(task, samples[0], known.points, stood)
    if task == "energy":
        return fit_ratio(samples[0], stood, against)
    return fit_offsets(task, samples[0], stood, against)


def _names(files: Sequence[str | Path]) -> str:
    first = Path(str(files[0])).name
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


def _record(fitted: Fitted, known: Known, files: Sequence[str | Path]) -> Correction:
    return Correction(
        values=list(fitted.values),
        errors=list(fitted.errors),
        before=list(fitted.stood),
        against=fitted.against,
        lines_mev=list(known.lines) if fitted.against == "line" else [],
        events=fitted.events,
        date=datetime.now(UTC).date().isoformat(),
        files=[Path(str(file)).name for file in files][:1000],
    )


def _write(out: Path, content: Mapping[str, Any], calibration: Mapping[str, Correction]) -> None:
    """Write the checkpoint with all that it had; its mark comes first, where it is looked for."""
    with atomic_path(out) as temporary:
        torch.save({"made_by": mark()} | calibrated(content, calibration) | {"made_by": mark()}, temporary)
