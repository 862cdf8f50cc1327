"""Calibrate a trained model on events that are known, and write it with its corrections to another file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from xecml import rootio
from xecml.errors import InputError
from xecml.files import atomic_path
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
    warnings_of,
)
from xecml.inference.calibration_record import Correction, calibrated
from xecml.inference.checkpoint_reading import restored
from xecml.inference.known_events import Known, branch_of, check_asked, read_samples, tasks_to_correct
from xecml.inference.trained_model import Model, TorchModel, load_model
from xecml.models.corrections import CORRECTABLE, nothing
from xecml.models.regressor import Regressor
from xecml.outputs import claim, making, mark
from xecml.pretrained import model_file


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
            said.append(
                f"Corrections that are not significant (below {SIGNIFICANT:g} standard errors) are applied as well."
            )
        if self.removed:
            said.append(f"Removed before: {'; '.join(calibration_record.facts(self.removed).values())}.")
        said += [*self.left_out, self.answered.line(), *self.warnings()]
        return [sentence for sentence in said if sentence]

    def warnings(self) -> list[str]:
        """What speaks against trusting a correction."""
        return [warning for one in self.fitted for warning in warnings_of(one)]

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, ready for JSON."""
        return {
            "out": None if self.out is None else str(self.out),
            "events": self.events,
            "fitted": [one.as_dict() for one in self.fitted],
            "calibration": {task: one.model_dump() for task, one in self.calibration.items()},
            "removed": {task: one.model_dump() for task, one in self.removed.items()},
            "left_out": self.left_out,
            "warnings": self.warnings(),
            "answers": self.answered.as_dict(),
        }


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
        model_path: checkpoint, or `pretrained:NAME`; of an exported file the biases can be measured, but not corrected.
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
    check_asked(files, known, correct, reset=reset)
    model_path = model_file(model_path)
    target = None if dry_run else _output(model_path, out, removing=not files)
    if target is not None:
        claim([target], inputs=[model_path, *files], force=force)
    model, removed = _opened(model_path, correct, known, reset=reset, dry_run=dry_run, with_files=bool(files))
    chosen, left_out = tasks_to_correct(model, model_path, correct, known, files, tree) if files else ([], [])
    answered = Answered()
    samples = read_samples(model, files, known, chosen, tree, answered)
    fitted = []
    for task in chosen:
        if not correct and known.against(task) == known.reference and not samples[task][0].events:
            left_out.append(f"Not corrected: {task} (no event that was answered has {branch_of(task, known)}).")
            continue
        fitted.append(_fit(task, samples[task], known, files, _stood(model, task)))
    if files and not fitted:
        raise InputError(f"No event of {files[0]} can serve to calibrate on. {' '.join(left_out)}")
    now = model.calibration | {one.task: _record(one, known, files) for one in fitted}
    if target is not None:
        assert isinstance(model, TorchModel)
        _write(target, model.content, now)
    return Report(target, fitted, now, removed, left_out, answered.events, answered)


# ---------------------------------------------------------------------------------------------------- what is asked


def _output(model: str | Path, out: str | Path | None, *, removing: bool) -> Path:
    if out is None:
        return Path(model).with_name(f"{Path(model).stem}_{'uncalibrated' if removing else 'calibrated'}.pth")
    if Path(out).suffix != ".pth":
        raise InputError(f"The output {out} must end in .pth: it is a checkpoint; export it after with 'xec export'.")
    return Path(out)


def _opened(
    path: str | Path, correct: Sequence[str], known: Known, *, reset: bool, dry_run: bool, with_files: bool
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
            f"{path} is of the replaced system, whose files cannot store corrections; train it further with "
            "--resume_from and calibrate the result."
        )
    removed = {task: one for task, one in model.calibration.items() if reset and task in (correct or CORRECTABLE)}
    if reset and not removed and not with_files:
        raise InputError(f"{path} has no corrections to remove{' of ' + ', '.join(correct) if correct else ''}.")
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
