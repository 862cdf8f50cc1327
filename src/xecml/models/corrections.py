"""Corrections of a trained model's answers that were measured on data: what `xec calibrate` writes into it.

They are buffers, so that they go wherever the weights go: into checkpoints, copies and exported graphs. A new network
corrects nothing, and a training never sees them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xecml.events import TASKS

FACTORS = ("energy",)
"""Tasks whose answers are multiplied."""
OFFSETS = ("timing", "uvwFI")
"""Tasks to whose answers something is added, in the units of files: s, cm."""
CORRECTABLE = (*FACTORS, *OFFSETS)


def buffer_of(task: str) -> str:
    """Name of a task's correction among the buffers of `Corrections`."""
    return f"{task}_factor" if task in FACTORS else f"{task}_offset"


PREFIX = "corrections"
"""Name of the corrections in a network."""
BUFFERS = tuple(f"{PREFIX}.{buffer_of(task)}" for task in CORRECTABLE)
"""Their names in the states of networks; files of older versions lack them."""


def nothing(task: str) -> Tensor:
    """The correction (size,) that changes no answer."""
    size = TASKS[task].size
    return torch.ones(size) if task in FACTORS else torch.zeros(size)


class Corrections(nn.Module):
    """A factor on the energy, offsets of the time (s) and of the position (cm), in float32.

    Buffers: `energy_factor` (1,), `timing_offset` (1,), `uvwFI_offset` (3,); 1 and 0 in a model without calibration.
    """

    def __init__(self) -> None:
        super().__init__()
        for task in CORRECTABLE:
            self.register_buffer(buffer_of(task), nothing(task))

    def corrected(self, task: str, answer: Tensor) -> Tensor:
        """The answer (B, size) of a task, in the units of files, corrected; of other tasks as it is."""
        if task not in CORRECTABLE:
            return answer
        correction = self.get_buffer(buffer_of(task))
        return answer * correction if task in FACTORS else answer + correction

    def corrected_width(self, task: str, sigma: Tensor) -> Tensor:
        """The predicted width (B, size) that belongs to a corrected answer: an offset leaves it as it is."""
        return sigma * self.get_buffer(buffer_of(task)) if task in FACTORS else sigma
