"""The record of a model's corrections: their values, their errors, and the events that they were measured on.

The corrections themselves are buffers of the network (`xecml.models.corrections`). Beside them a checkpoint, and an
exported file in its metadata, has a record by task. The two must agree: a file with one and not the other is damaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from xecml.errors import InputError
from xecml.events import TASKS, number_of
from xecml.models.corrections import CORRECTABLE, FACTORS, PREFIX, buffer_of, nothing
from xecml.schema import Described, Text

Against = Literal["line", "truth", "reco", "points"]
"""What a correction was measured against: a line's energy, branches of truth or of a reconstruction, known points."""
_STATES = ("model_state", "ema_state")
_MOST_FILES = 1000
_LARGEST_FACTOR = 100.0


class Correction(Described):
    """A correction that stands in a model, and the sample that it was last measured on.

    Attributes:
        values: the whole correction, one number or three, in the units of files: a factor; s; cm.
        errors: their statistical errors.
        before: what stood in the model before.
        against: what it was measured against.
        lines_mev: energies of the lines.
        events: that it was measured on.
        date: of the measurement, as 2026-01-31.
        files: their names, without folders.
    """

    values: list[float] = Field(min_length=1, max_length=3)
    errors: list[float] = Field(min_length=1, max_length=3)
    before: list[float] = Field(min_length=1, max_length=3)
    against: Against
    lines_mev: list[float] = Field([], max_length=_MOST_FILES)
    events: int = Field(ge=1, lt=2**53)
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    files: list[Text] = Field([], max_length=_MOST_FILES)

    def source(self) -> str:
        """What it was measured on, in a few words."""
        names = ", ".join(self.files[:2]) + (f" and {len(self.files) - 2} more" if len(self.files) > 2 else "")
        of_files = f" of {names}" if names else ""
        return f"{said_against(self.against, self.lines_mev)}, {number_of(self.events)}{of_files}, {self.date}"


def _of_tasks(calibration: dict[str, Correction]) -> dict[str, Correction]:
    for task, one in calibration.items():
        if task not in CORRECTABLE:
            raise ValueError(f"there are corrections of {', '.join(CORRECTABLE)} alone")
        if any(len(numbers) != TASKS[task].size for numbers in (one.values, one.errors, one.before)):
            raise ValueError(f"'{task}' must have {number_of(TASKS[task].size, 'value')}")
        if task in FACTORS and not all(1 / _LARGEST_FACTOR <= f <= _LARGEST_FACTOR for f in one.values):
            raise ValueError(f"the factor of '{task}' must lie between {1 / _LARGEST_FACTOR:g} and {_LARGEST_FACTOR:g}")
    return calibration


Calibration = Annotated[dict[Text, Correction], AfterValidator(_of_tasks)]
"""Corrections by task; empty for a model that was not calibrated."""


# ------------------------------------------------------------------------------------------------------ in words


def said_against(against: Against, lines_mev: list[float]) -> str:
    """What a correction was measured against, in words."""
    if against == "line":
        energies = ", ".join(f"{energy:g}" for energy in lines_mev)
        return f"line{'s' if len(lines_mev) > 1 else ''} of {energies} MeV"
    return {"truth": "truth", "reco": "reconstruction", "points": "known points"}[against]


def with_error(value: float, error: float, *, sign: bool = False) -> str:
    """A number with its error, both to the second digit of the error: `1.0123 ± 0.0011`."""
    plus = "+" if sign else ""
    if not (math.isfinite(error) and error > 0):
        return f"{value:{plus}.4g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 12)
    return f"{value:{plus}.{digits}f} ± {error:.{digits}f}"


def corrections_in_words(task: str, values: list[float], errors: list[float]) -> list[str]:
    """A correction as people say it, one text for each column: `energy x 1.012 ± 0.001`, `time +12 ± 2 ps`, `u ...`."""
    what = TASKS[task]
    if task in FACTORS:
        return [f"{name} x {with_error(v, e)}" for name, v, e in zip(what.columns, values, errors, strict=True)]
    names = ("time",) if task == "timing" else what.columns
    scaled = [(v * what.plot_scale, e * what.plot_scale) for v, e in zip(values, errors, strict=True)]
    return [
        f"{name} {with_error(v, e, sign=True)} {what.plot_unit}" for name, (v, e) in zip(names, scaled, strict=True)
    ]


def facts(calibration: Mapping[str, Correction]) -> dict[str, str]:
    """Corrections in words by task, for `xec info`: what they were measured on, and what stood in the model before."""
    said = {}
    for task, one in calibration.items():
        zero = [0.0] * len(one.before)
        stood = "" if one.before == nothing(task).tolist() else corrections_in_words(task, one.before, zero)
        before = f"; before: {', '.join(stood)}" if stood else ""
        said[task] = f"{', '.join(corrections_in_words(task, one.values, one.errors))} ({one.source()}{before})"
    return said


def line(calibration: Mapping[str, Correction]) -> str:
    """One line on how a model is calibrated; empty if it is not."""
    by_source: dict[str, list[str]] = {}
    for task, one in calibration.items():
        by_source.setdefault(one.source(), []).extend(corrections_in_words(task, one.values, one.errors))
    parts = [f"{', '.join(said)} ({source})" for source, said in by_source.items()]
    return f"Calibrated: {'; '.join(parts)}." if parts else ""


# ------------------------------------------------------------------------------------------------- in checkpoints


def check_corrections(content: Mapping[str, Any], path: str | Path) -> None:
    """See that the corrections of a checkpoint's networks are those that its record states.

    Raises:
        InputError: they are not.
    """
    record = content.get("calibration") or {}
    for key in _STATES:
        for task in CORRECTABLE:
            found: Tensor | None = (content.get(key) or {}).get(f"{PREFIX}.{buffer_of(task)}")
            if found is None and task not in record:
                continue
            said = torch.tensor(record[task]["values"]) if task in record else nothing(task)
            if content.get(key) is not None and (found is None or not torch.equal(found.float(), said)):
                raise InputError(
                    f"{path} is damaged: what it says of its calibration and what its network corrects in '{task}' "
                    "differ; calibrate the model anew."
                )


def calibrated(content: Mapping[str, Any], calibration: Mapping[str, Correction]) -> dict[str, Any]:
    """A checkpoint's content with these corrections in place of those that it has."""
    changed = dict(content)
    for key in _STATES:
        if content.get(key) is None:
            continue
        own = {
            f"{PREFIX}.{buffer_of(task)}": torch.tensor(calibration[task].values)
            if task in calibration
            else nothing(task)
            for task in CORRECTABLE
        }
        changed[key] = {**content[key], **own}
    changed["calibration"] = {task: one.model_dump() for task, one in calibration.items()}
    return changed


def calibration_of(content: Mapping[str, Any]) -> dict[str, Correction]:
    """The record of a checkpoint that was checked."""
    return {task: Correction.model_validate(said) for task, said in (content.get("calibration") or {}).items()}


def without_calibration(content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A checkpoint's content as it was before any calibration, and what was left behind, in one sentence."""
    said = [text for task, one in calibration_of(content).items()
            for text in corrections_in_words(task, one.values, one.errors)]  # fmt: skip
    if not said:
        return content, ""
    return calibrated(content, {}), (
        f" Its calibration ({', '.join(said)}) is left behind: it holds for the network as it was, so calibrate anew."
    )
