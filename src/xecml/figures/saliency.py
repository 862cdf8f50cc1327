"""What a network looks at: derivatives of its answers with respect to every sensor's count and time.

The numbers are mean absolute derivatives over events, in widths of the target in the training sample: per relative
change of a count (d ln n), and per nanosecond of a time. Simonyan, Vedaldi, Zisserman 2014; here of physical inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from xecml.errors import InputError
from xecml.events import TASKS, number_of
from xecml.figures.style import COLOURS, MAP, STYLE, named, save_figure, save_pages
from xecml.figures.unfolded_detector import draw_sensors
from xecml.geometry import FACES, N_SENSORS, face_codes
from xecml.inference.trained_model import TorchModel
from xecml.models.normalise import validity
from xecml.resolution import Floats

_BATCH = 32
_DECADES = 1e-3
"""Colours span three decades: what matters less than a thousandth of the largest is as good as nothing."""
_KINDS = {"counts": "target widths per d ln n", "times": "target widths per ns"}


@dataclass(frozen=True)
class Saliency:
    """Mean absolute derivatives of answers.

    Attributes:
        outputs: columns of the answers: theta, phi, energy, ...
        tasks: task of each output.
        counts: (outputs, 4760), target widths per relative change of the count.
        times: (outputs, 4760), target widths per ns.
        measured: sensors (4760,) that were measured in any of the events; the others have no derivative.
        events: number of events averaged over, those included in which a sensor was not measured.
    """

    outputs: tuple[str, ...]
    tasks: tuple[str, ...]
    counts: Floats
    times: Floats
    measured: NDArray[np.bool_]
    events: int

    def by_face(self, kind: str) -> Floats:
        """Sums (outputs, 6) over the sensors of each face, for `counts` or `times`."""
        values: Floats = getattr(self, kind)
        return np.stack([values[:, face_codes() == code].sum(1) for code in range(len(FACES))], 1)

    def face_shares(self, kind: str) -> dict[str, Floats]:
        """Share (6,) of every face in the sum over a task's outputs, by task; NaN where all derivatives are zero."""
        sums, of = self.by_face(kind), np.array(self.tasks)
        totals = {task: sums[of == task].sum(0) for task in dict.fromkeys(self.tasks)}
        with np.errstate(invalid="ignore"):
            return {task: total / total.sum() for task, total in totals.items()}


def saliency(model: TorchModel, npho: ArrayLike, time: ArrayLike) -> Saliency:
    """Compute the derivatives of all of a model's answers on events.

    Args:
        model: a checkpoint's; of an exported file there are no derivatives.
        npho: counts (N, 4760) as the model takes them.
        time: times (N, 4760), seconds.

    Raises:
        InputError: there are no events, or a derivative is not finite.
    """
    n, t = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (npho, time))
    if not len(n):
        raise InputError(
            "The derivatives of a model are computed at events, of which there is none; give at least one."
        )
    outputs = [(task, i) for task in model.tasks for i in range(TASKS[task].size)]
    sums = torch.zeros(2, len(outputs), N_SENSORS, dtype=torch.float64)
    for start in range(0, len(n), _BATCH):
        sums += _absolute_sums(model, outputs, n[start : start + _BATCH], t[start : start + _BATCH])
    if not bool(sums.isfinite().all()):
        raise InputError("A derivative of the model is not a finite number; there is nothing to draw.")
    counts, times = (sums / len(n)).numpy()
    names = tuple(_column(task, i) for task, i in outputs)
    measured = validity(n, t)[0].any(0).numpy()
    return Saliency(names, tuple(task for task, _ in outputs), counts, times, measured, len(n))


def _absolute_sums(model: TorchModel, outputs: Sequence[tuple[str, int]], npho: Tensor, time: Tensor) -> Tensor:
    """Sums over events of absolute derivatives, (counts and times, outputs, 4760)."""
    n, t = npho.clone().requires_grad_(), time.clone().requires_grad_()
    valid, timed = validity(npho, time)
    answers = model.network(n, t, valid, timed)
    sums = torch.zeros(2, len(outputs), N_SENSORS, dtype=torch.float64)
    for k, (task, i) in enumerate(outputs):
        answer = answers[task].reshape(len(n), -1)[:, i]
        # events do not touch one another, so the gradient of the sum holds each event's own
        by_count, by_time = torch.autograd.grad(answer.sum(), (n, t), retain_graph=True)
        width = float(model.network.get_buffer(f"{task}_width")[i])
        sums[0, k] = torch.where(valid, by_count * npho, 0.0).abs().double().sum(0) / width
        sums[1, k] = torch.where(timed, by_time, 0.0).abs().double().sum(0) * (1e-9 / width)
    return sums


def _column(task: str, i: int) -> str:
    columns = TASKS[task].columns
    return columns[i] if len(columns) == TASKS[task].size else f"{columns[0]}[{i}]"


# ------------------------------------------------------------------------------------------------- drawing


def save_saliency(path: str | Path, found: Saliency, *, title: str = "") -> int:
    """Write a PDF, atomically: one page of sums by face, then a map over the sensors for each output.

    Returns:
        The number of pages.

    Raises:
        InputError: the path cannot be written.
    """
    return save_pages(saliency_figures(found, title=title), path)


def saliency_figures(found: Saliency, *, title: str = "") -> Iterator[Figure]:
    """Draw the pages of `save_saliency` one after the other."""
    with mpl.rc_context(STYLE):
        yield _face_page(found, title)
    for k, name in enumerate(found.outputs):
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(17.0, 8.2))
            figure.suptitle(
                f"what moves {name}: mean absolute derivative over {number_of(found.events)}. {named(title)}"
            )
            for axes, (kind, unit) in zip(figure.subplots(1, 2), _KINDS.items(), strict=True):
                values = getattr(found, kind)[k]
                largest = max(float(values.max()), 1e-12)
                scale = LogNorm(largest * _DECADES, largest, clip=True)
                draw_sensors(axes, values, found.measured, scale, MAP, f"{kind}: {unit}, a sensor")
        yield figure


def _face_page(found: Saliency, title: str) -> Figure:
    figure = Figure(figsize=(11.7, 5.0))
    figure.suptitle(
        f"Derivatives of answers, summed over the sensors of a face; {number_of(found.events)}. {named(title)}"
    )
    for axes, (kind, unit) in zip(figure.subplots(1, 2), _KINDS.items(), strict=True):
        for face, colour, sums in zip(FACES, COLOURS, found.by_face(kind).T, strict=True):
            axes.plot(np.where(sums > 0, sums, np.nan), ls="", marker="o", color=colour, label=face)
        axes.set(yscale="log", ylabel=f"{kind}: {unit}", xlim=(-0.5, len(found.outputs) - 0.5))
        axes.set_xticks(range(len(found.outputs)), found.outputs, rotation=30)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(FACES))
    return figure


def save_face_weights(path: str | Path, found: Saliency, *, title: str = "") -> None:
    """Write the shares of the faces in each task's derivatives as bars, atomically.

    Raises:
        InputError: the path cannot be written.
    """
    save_figure(draw_face_weights(found, title=title), path)


def draw_face_weights(found: Saliency, *, title: str = "") -> Figure:
    """Draw the shares of the faces in each task's derivatives with respect to counts and to times."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.7, 1.8 + 0.45 * len(set(found.tasks))))
        figure.suptitle(f"Share of each face in what moves an answer; {number_of(found.events)}. {named(title)}")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, kind in ((left, "counts"), (right, "times")):
            _draw_shares(axes, found.face_shares(kind))
            axes.set(xlabel=f"share of the {kind}' derivatives [%]", xlim=(0, 100))
        left.invert_yaxis()
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(FACES))
    return figure


def _draw_shares(axes: Axes, shares: dict[str, Floats]) -> None:
    table = 100 * np.nan_to_num(np.stack(list(shares.values())))
    ends = np.cumsum(table, 1)
    for i, (face, colour) in enumerate(zip(FACES, COLOURS, strict=True)):
        bars = axes.barh(list(shares), table[:, i], left=ends[:, i] - table[:, i], color=colour, label=face)
        texts = [f"{value:.0f}" if value >= 4 else "" for value in table[:, i]]
        axes.bar_label(bars, texts, label_type="center", color="w", fontsize=8)
    axes.grid(axis="y", visible=False)
