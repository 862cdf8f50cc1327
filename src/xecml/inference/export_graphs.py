"""What is exported: networks as functions of plain arrays, which find out themselves what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from xecml.events import INVALID
from xecml.inference.onnx_files import OUTLIER, OUTLIER_NUMBERS
from xecml.inference.repair_models import NetworkRepair
from xecml.inference.training_said import joined
from xecml.models.encoder import Encoder
from xecml.models.newer.inputs import NewerNormaliser
from xecml.models.normalise import Normaliser, validity
from xecml.models.original.network import OriginalModel
from xecml.models.rebuild.filler import Filler
from xecml.models.regressor import Regressor

SENTINEL_WIDTH = 1e-3
"""Normalised times so near the sentinel are not measured: older code computes it in its own way."""

_TERMS = 9


class Answering(Protocol):
    """A part of a network that is exported."""

    names: tuple[str, ...]
    """Of its answers, in order."""

    def __call__(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, ...]:
        """Answers for raw counts, times (s) and masks, each (B, 4760)."""


class Predictions(nn.Module):
    """Answers of tasks in order, and how far events are from training where the model knows and it is asked for."""

    def __init__(self, network: Regressor | OriginalModel, tasks: Sequence[str], *, judges: bool = True) -> None:
        super().__init__()
        self.network, self.answers = network, network.outputs(tasks)
        self.judges = judges and network.training_distribution.fitted
        self.names = (*self.answers, *((OUTLIER, OUTLIER_NUMBERS) if self.judges else ()))

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, ...]:
        """See `Answering`."""
        if not self.judges:
            answers = self.network(npho, time, valid, timed)
            return tuple(answers[name] for name in self.answers)
        answers, judged = self.network.judged(npho, time, valid, timed)
        return (*(answers[name] for name in self.answers), judged.outlier, joined(judged))


class Code(nn.Module):
    """What an encoder makes of an event, for heads of one's own."""

    names = ("code",)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, ...]:
        """See `Answering`."""
        return (cast(Encoder, self.encoder)(npho, time, valid, timed)[0],)


class Raw(nn.Module):
    """From raw counts and times as they stand in files."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, npho: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        """Answers for raw counts and times (B, 4760); 1e10 where nothing was measured."""
        answers: tuple[Tensor, ...] = self.part(npho, time, *validity(npho, time))
        return answers


class Packed(nn.Module):
    """From counts and times that were normalised outside, in one array, as code for the replaced system has them."""

    def __init__(self, part: nn.Module, normaliser: Normaliser) -> None:
        super().__init__()
        self.part, self.normaliser = part, normaliser

    def forward(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Answers for normalised counts and times (B, 4760, 2); 0 and the sentinel where nothing was measured."""
        counts, times = packed.unbind(2)
        measured = (times - self.normaliser.sentinel).abs() > SENTINEL_WIDTH
        npho = torch.where(self.normaliser.known(counts), self._photons(counts), INVALID)
        time = torch.where(measured, self.normaliser.seconds(times), INVALID)
        if isinstance(self.normaliser, NewerNormaliser):
            # rounding may put a count that is just at the threshold below it, where its time would not be looked at
            npho = torch.where(measured, torch.maximum(npho, self.normaliser.npho_threshold), npho)
        answers: tuple[Tensor, ...] = self.part(npho, time, *validity(npho, time))
        return answers

    def _photons(self, counts: Tensor) -> Tensor:
        """Photons (B, 4760) of normalised counts."""
        if self.normaliser.scheme != "log1p":
            return self.normaliser.photons(counts)
        return small_expm1(counts * self.normaliser.npho_scale2) * self.normaliser.npho_scale


def small_expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, by a series near zero: ONNX has no such operator, and the difference of two ones loses digits."""
    series = torch.ones_like(x)
    for n in range(_TERMS, 1, -1):
        series = 1 + x / n * series
    return torch.where(x.abs() < 0.5, x * series, torch.exp(x) - 1)


class RawRepair(nn.Module):
    """A repair, and how far events are from its training by the sensors that are not dead."""

    def __init__(self, repair: NetworkRepair) -> None:
        super().__init__()
        assert isinstance(repair.filler, Filler)
        self.filler = repair.filler

    def forward(self, npho: Tensor, time: Tensor, dead: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Filled counts and times (B, 4760), `outlier` (B,) and what it is made of."""
        model = self.filler.model
        valid, timed = (mask & ~dead for mask in validity(npho, time))
        inputs = (npho, time, valid, timed)
        judged = model.training_distribution(*inputs, model.encoder.look(*inputs))
        return (*self.filler(npho, time, dead), judged.outlier, joined(judged))
