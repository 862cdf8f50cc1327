"""What validation events say of a network's answers: where the peak of its energies is, how wide its pulls are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from xecml import resolution
from xecml.events import TASKS
from xecml.inference.line_fit import fit_line
from xecml.models import sigma_shape
from xecml.models.regressor import SCALED

_KNOWN = 3e-3
"""Error of a peak that is known well enough; a thousand validation events give half of it."""
_PULLS = 1000
"""Events from which the width of pulls is known well enough, to 3 %."""


def peaks(answers: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """How far the peak of answer over truth (N, 1) is from 1, in percent, as lines are fitted.

    Nothing is said of a task where there is no peak, or too few events to know it.
    """
    found = {}
    for task in (t for t in SCALED if t in answers):
        known = np.isfinite(answers[task]) & (truth[task] > 0)
        ratio = answers[task][known].astype(np.float64) / truth[task][known]
        line = fit_line(ratio)
        if line is not None and line.error < _KNOWN:
            found[f"{task}_peak_percent"] = 100 * (line.peak - 1)
    return found


class Widths(NamedTuple):
    """By what the widths of a task are to be multiplied; see `Regressor.widen`."""

    factors: list[float]
    shape: NDArray[np.float64]


def pull_widths(answers: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Central 68 % half-width of residual over predicted width, by component; 1 if the widths are right.

    Nothing is said where there are too few events to know it.
    """
    found = {}
    for task, pulls in _pulls(answers, truth):
        if np.isfinite(pulls).all(1).sum() < _PULLS:
            continue
        for name, values in zip(pull_names(task), pulls.T, strict=True):
            found[name] = resolution.figures_of_merit(values, replicas=0, with_peak=False).s68
    return found


def fitted_widths(answers: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]) -> dict[str, Widths]:
    """How the pulls' widths depend on energy and depth, of each task with widths; of too few events nothing."""
    known = {name: torch.from_numpy(y) for name, y in answers.items() if name in ("energy", "uvwFI")}
    of = sigma_shape.terms(known)
    if of is None:
        return {}
    found = {}
    for task, pulls in _pulls(answers, truth):
        if np.isfinite(pulls).all(1).sum() >= sigma_shape.LEAST:
            factors, shape = sigma_shape.fit(pulls, of.double().numpy())
            found[task] = Widths(factors.tolist(), shape)
    return found


def _pulls(
    answers: Mapping[str, NDArray[Any]], truth: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Residuals over widths (N, size) of each task with widths."""
    for task in (t for t in truth if f"sigma_{t}" in answers):
        difference = answers[task].astype(np.float64) - truth[task]
        if TASKS[task].kind == "angles":
            difference[:, 1] = (difference[:, 1] + 180) % 360 - 180
        yield task, difference / answers[f"sigma_{task}"]


def pull_names(task: str) -> list[str]:
    """Names of the metrics of each component of a task."""
    columns = TASKS[task].columns
    parts = columns if len(columns) == TASKS[task].size else [f"{columns[0]}_{axis}" for axis in "xyz"]
    return [f"{part}_pull_width" for part in parts]
