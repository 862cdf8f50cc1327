"""What a network looks at: derivatives of its answers with respect to every sensor's count and time.

They are given in widths of the target in the training sample: per relative change of a count (d ln n), and per
nanosecond of a time. Simonyan, Vedaldi, Zisserman 2014; here of physical inputs. A derivative says what a small change
would do. It knows nothing of steps: which SiPM is the brightest, in which class of brightness a sensor is, whether it
was measured at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from xecml.errors import InputError
from xecml.evaluation.hot_spots import REACH, REGIONS, HotSpots, Seen, batches
from xecml.events import TASKS
from xecml.geometry import FACES, N_SENSORS, face_codes
from xecml.inference.trained_model import TorchModel
from xecml.models.networks.quick_look import QuickLook
from xecml.models.normalise import validity
from xecml.resolution import Floats

KINDS = ("counts", "times")
_SIDE = 2 * REACH + 1


@dataclass(frozen=True)
class Saliency:
    """What single sensors, regions and places about the hot spot do to answers, in target widths.

    The unit of derivatives is target widths per relative change of a count, and per nanosecond of a time.

    Attributes:
        outputs: columns of the answers: theta, phi, energy, ...
        tasks: task of each output.
        counts: mean sizes (outputs, 4760) of what counts do.
        times: the same of times.
        measured: sensors (4760,) that were measured in any of the events; the others do nothing.
        events: number of events averaged over, those included in which a sensor was not measured.
        regions: sums over the sensors of `xecml.evaluation.hot_spots.REGIONS`, (2, events, outputs, regions): counts,
            then times. Of derivatives those of sizes.
        maps: means over events about the hot spot, (2, outputs, 17, 17), NaN where there never was a sensor. Of
            derivatives with their signs.
        depth: of the events' hot spots (events,), cm.
    """

    outputs: tuple[str, ...]
    tasks: tuple[str, ...]
    counts: Floats
    times: Floats
    measured: NDArray[np.bool_]
    events: int
    regions: Floats
    maps: Floats
    depth: Floats

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


def saliency(model: TorchModel, npho: ArrayLike, time: ArrayLike, spots: HotSpots | None = None) -> Saliency:
    """Compute the derivatives of all of a model's answers on events.

    Args:
        model: a checkpoint's; of an exported file there are no derivatives.
        npho: counts (N, 4760) as the model takes them.
        time: times (N, 4760), seconds.
        spots: hot spots of these events, if they are known already.

    Raises:
        InputError: there are no events, or a derivative is not finite.
    """
    n, t = (np.ascontiguousarray(a, np.float32) for a in (npho, time))
    if not len(n):
        raise InputError("The derivatives of a model need events to be taken at; give at least one.")
    gathered = Gathered(model, len(n), signed=True)
    spots = spots or HotSpots(n, t, look_of(model))
    for part in batches(len(n)):
        gathered.add(derivatives(model, n[part], t[part]), spots.see(part), part)
    return gathered.found()


def derivatives(model: TorchModel, npho: NDArray[np.float32], time: NDArray[np.float32]) -> Floats:
    """Derivatives with their signs (2, outputs, B, 4760): counts, then times; 0 where nothing was measured.

    Raises:
        InputError: one is not finite.
    """
    n, t = (model.computing.tensor(a) for a in (npho, time))
    valid, timed = validity(n, t)
    by_count, by_time = slopes(model, n, t, valid, timed)
    found = torch.stack([torch.where(valid, by_count * n, 0.0), torch.where(timed, by_time * 1e-9, 0.0)])
    if not bool(found.isfinite().all()):
        raise InputError("A derivative of the model is not a finite number; there is nothing to draw.")
    return found.double().cpu().numpy()


def slopes(model: TorchModel, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (outputs, B, 4760) of answers in target widths by counts (photons) and by times (s)."""
    n, t = npho.detach().clone().requires_grad_(), time.detach().clone().requires_grad_()
    answers = answers_in_widths(model, n, t, valid, timed)
    parts: list[tuple[Tensor, ...]] = []
    for answer in answers.unbind(1):
        # events do not touch one another, so the gradient of the sum holds each event's own
        parts.append(torch.autograd.grad(answer.sum(), (n, t), retain_graph=True, materialize_grads=True))
    by_count, by_time = (torch.stack(part) for part in zip(*parts, strict=True))
    return by_count, by_time


def answers_in_widths(model: TorchModel, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Tensor:
    """All answers (B, outputs) in target widths."""
    found = model.network(npho, time, valid, timed)
    widths = (model.network.get_buffer(f"{task}_width") for task in model.tasks)
    parts = [found[task].reshape(len(npho), -1) / width for task, width in zip(model.tasks, widths, strict=True)]
    return torch.cat(parts, 1)


def outputs_of(model: TorchModel) -> list[tuple[str, int]]:
    """Task and place in it of each answer of a model, in the order of `answers_in_widths`."""
    return [(task, i) for task in model.tasks for i in range(TASKS[task].size)]


def look_of(model: TorchModel) -> QuickLook | None:
    """The quick look that a network begins with; None of other networks."""
    found = getattr(getattr(model.network, "encoder", None), "look", None)
    return found if isinstance(found, QuickLook) else None


class Gathered:
    """What sensors do, batch by batch.

    Args:
        model: whose outputs they are.
        events: how many there will be.
        signed: maps have signs and regions have none; else it is the other way round.
    """

    def __init__(self, model: TorchModel, events: int, *, signed: bool) -> None:
        self._outputs, self._signed = outputs_of(model), signed
        number = len(self._outputs)
        self._sizes = np.zeros((2, number, N_SENSORS))
        self._regions = np.zeros((2, events, number, len(REGIONS)))
        self._maps, self._there = np.zeros((2, number, _SIDE, _SIDE)), np.zeros((_SIDE, _SIDE))
        self._measured, self._depth = np.zeros(N_SENSORS, bool), np.zeros(events)

    def add(self, values: Floats, seen: Seen, part: slice) -> None:
        """Add what sensors do in a part of the events, (2, outputs, B, 4760)."""
        sizes = np.abs(values)
        self._sizes += sizes.sum(2)
        members = (seen.regions()[..., None] == np.arange(len(REGIONS))).astype(np.float64)
        for k, by_sensor in enumerate(sizes if self._signed else values):
            self._regions[k, part] = by_sensor.swapaxes(0, 1) @ members
        for k, by_sensor in enumerate(values if self._signed else sizes):
            windows = seen.windows(by_sensor.swapaxes(0, 1))
            self._maps[k] += np.nansum(windows, 0)
        self._there += np.isfinite(windows[:, 0]).sum(0)
        self._measured |= seen.valid.any(0)
        self._depth[part] = seen.depth

    def found(self) -> Saliency:
        """All of it."""
        counts, times = self._sizes / len(self._depth)
        maps = np.divide(self._maps, self._there, where=self._there > 0, out=np.full_like(self._maps, np.nan))
        names, tasks = tuple(column_of(*output) for output in self._outputs), tuple(task for task, _ in self._outputs)
        return Saliency(names, tasks, counts, times, self._measured, len(self._depth), self._regions, maps, self._depth)


def column_of(task: str, i: int) -> str:
    """Name of an answer as a column."""
    columns = TASKS[task].columns
    return columns[i] if len(columns) == TASKS[task].size else f"{columns[0]}[{i}]"


def units_of(outputs: Sequence[tuple[str, int]], model: TorchModel) -> tuple[Floats, tuple[str, ...]]:
    """What one target width is (outputs,) in quoted units, and these units."""
    widths = model.widths()
    scales = np.array([float(np.atleast_1d(widths[task])[i]) * TASKS[task].plot_scale for task, i in outputs])
    return scales, tuple(TASKS[task].plot_unit for task, _ in outputs)
