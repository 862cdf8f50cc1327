"""Kinds of models that are exported: what goes into their graphs, comes out, and how answers are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from xecml.events import TASKS, measured, photoelectrons
from xecml.inference.example_events import analogue, example_dead, example_events, without_measurement
from xecml.inference.export_graphs import Answering, Code, Packed, Predictions, Raw, RawRepair
from xecml.inference.onnx_files import FILLED, OUTLIER, OUTLIER_NUMBERS, PACKED_INPUT, packed_names
from xecml.inference.repair_models import NetworkRepair
from xecml.inference.trained_model import TorchModel
from xecml.models.normalise import Normaliser

Arrays = dict[str, NDArray[Any]]
_NEARLY = 1e-3
"""Photoelectrons from one within which a sensor may have a time or not."""
_LEAST_WIDTH = 1e-3
"""ns; a training sample has times if they spread by more."""


class Subject(Protocol):
    """What is exported."""

    module: nn.Module
    """From the arrays of a feed, in order, to the answers in order."""
    names: tuple[str, ...]
    """Of the answers."""

    def feed(self, npho: NDArray[np.float32], time: NDArray[np.float32], *, seed: int = 0) -> Arrays:
        """What the graph takes for raw counts and times (B, 4760); `seed` chooses sensors that are taken to be dead."""

    def example(self, events: int) -> Arrays:
        """A feed of example events."""

    def apart(self, feed: Arrays, ours: Arrays, theirs: Arrays) -> Arrays:
        """Differences of answers by name, in widths of the target; infinite between NaN and a number."""


class _OfEvents:
    """A network that sees raw or packed events."""

    def __init__(self, part: nn.Module, normaliser: Normaliser, *, packed: bool, tasks: Sequence[str]) -> None:
        self.normaliser, self.packed = normaliser, packed
        self.module: nn.Module = (Packed(part, normaliser) if packed else Raw(part)).eval()
        names = part_names(part)
        self.named = packed_names(names, tasks) if packed else {name: name for name in names}
        self.names = tuple(self.named.values())

    def feed(self, npho: NDArray[np.float32], time: NDArray[np.float32], *, seed: int = 0) -> Arrays:
        """See `Subject`."""
        return {PACKED_INPUT: pack(self.normaliser, npho, time)} if self.packed else {"npho": npho, "time": time}

    def example(self, events: int) -> Arrays:
        """See `Subject`."""
        npho, time = without_measurement(*example_events(events, seed=events))
        # rounding puts a whole number of photoelectrons on either side of a limit
        return self.feed(analogue(npho) if self.packed else npho, time)


def part_names(part: nn.Module) -> tuple[str, ...]:
    """Names of a part's answers."""
    answering: Answering = part  # type: ignore[assignment]  # by its docstring
    return answering.names


def pack(normaliser: Normaliser, npho: NDArray[np.float32], time: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalised counts and times (B, 4760, 2) of raw ones (B, 4760): the input of packed graphs."""
    packed: NDArray[np.float32] = normaliser.inputs(torch.from_numpy(npho), torch.from_numpy(time)).numpy()
    return packed


class PredictionSubject(_OfEvents):
    """Answers of tasks."""

    def __init__(self, model: TorchModel, tasks: Sequence[str], *, packed: bool) -> None:
        self.network = model.network
        part = Predictions(model.network, tasks, judges=not packed)
        super().__init__(part, model.network.encoder.normaliser, packed=packed, tasks=tasks)

    def apart(self, feed: Arrays, ours: Arrays, theirs: Arrays) -> Arrays:
        """See `Subject`; `outlier`, which is 1 at its limit, against its size where it is larger."""
        found: Arrays = {}
        for plain, name in self.named.items():
            if plain == OUTLIER:
                width = np.maximum(np.nan_to_num(ours[name]), 1.0)
            elif plain == OUTLIER_NUMBERS:
                continue
            else:
                width = self.network.get_buffer(f"{plain.removeprefix('sigma_')}_width").numpy()
                width = width.reshape(ours[name].shape[1:])
            found[name] = _differences(ours[name], theirs[name], width)
        return found


class CodeSubject(_OfEvents):
    """The code of an encoder; its width is that of all its numbers together."""

    def __init__(self, encoder: nn.Module, normaliser: Normaliser, *, packed: bool) -> None:
        super().__init__(Code(encoder), normaliser, packed=packed, tasks=())

    def apart(self, feed: Arrays, ours: Arrays, theirs: Arrays) -> Arrays:
        """See `Subject`."""
        (name,) = self.names
        return {name: _differences(ours[name], theirs[name], np.nanstd(ours[name]).clip(1e-6))}


@dataclass
class RepairSubject:
    """An autoencoder or inpainter that fills dead sensors."""

    repair: NetworkRepair
    module: nn.Module = field(init=False)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        judges = self.repair.training is not None
        self.module = RawRepair(self.repair).eval() if judges else self.repair.filler
        self.names = (*FILLED, *((OUTLIER, OUTLIER_NUMBERS) if judges else ()))

    def feed(self, npho: NDArray[np.float32], time: NDArray[np.float32], *, seed: int = 0) -> Arrays:
        """See `Subject`; one sensor in twenty is dead."""
        return {"npho": npho, "time": time, "dead": example_dead(len(npho), seed)}

    def example(self, events: int) -> Arrays:
        """See `Subject`."""
        return self.feed(*example_events(events, seed=events), seed=events)

    def apart(self, feed: Arrays, ours: Arrays, theirs: Arrays) -> Arrays:
        """See `Subject`: of dead sensors, in widths of counts (transformed) and times over the training sample."""
        normaliser, dead = self.repair.network.encoder.normaliser, feed["dead"]
        count_width, time_width = self.repair.widths
        (n, t), (n2, t2) = ([answers[name][dead] for name in FILLED] for answers in (ours, theirs))
        some = torch.ones((), dtype=torch.bool)
        counts, counts2 = (normaliser.counts(torch.from_numpy(x), some).numpy() for x in (n, n2))
        # a sensor of one photoelectron may have a time in one answer and none in the other
        known, known2 = measured(t), measured(t2)
        odd = (known != known2) & (np.abs(photoelectrons(ours[FILLED[0]])[dead] - 1) > _NEARLY)
        late = np.where(known & known2, t - t2, np.where(odd, np.inf, 0.0))
        # times of a sample that has none are not learnt, and have no width
        has_times = time_width > _LEAST_WIDTH
        found: Arrays = {
            FILLED[0]: np.abs(counts - counts2) / count_width,
            FILLED[1]: np.abs(late) * 1e9 / time_width if has_times else np.zeros(len(late)),
        }
        if OUTLIER in self.names:
            width = np.maximum(np.nan_to_num(ours[OUTLIER]), 1.0)
            found[OUTLIER] = _differences(ours[OUTLIER], theirs[OUTLIER], width)
        return found


def _differences(ours: NDArray[Any], theirs: NDArray[Any], width: NDArray[Any] | float) -> NDArray[Any]:
    """Differences in widths; none between NaN and NaN, infinite ones between NaN and a number."""
    one, two = np.isnan(ours), np.isnan(theirs)
    away: NDArray[Any] = np.where(one, 0.0, np.abs(ours - theirs) / width)
    return np.where(one == two, away, np.inf)


@torch.no_grad()
def of_torch(subject: Subject, feed: Arrays) -> Arrays:
    """Answers of the network itself, by name."""
    answers: tuple[torch.Tensor, ...] = subject.module(*(torch.from_numpy(array) for array in feed.values()))
    return {name: answer.numpy() for name, answer in zip(subject.names, answers, strict=True)}


def units_of(tasks: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Units by task of the answers, under the names that a graph gives them."""
    return {named[task]: TASKS[task].unit for task in tasks if task in named}
