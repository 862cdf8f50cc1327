"""Dead sensors filled: raw values in, raw values out, live sensors bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.events import photoelectrons
from xecml.models.autoencoder import Autoencoder
from xecml.models.inpainter import Inpainter
from xecml.models.normalise import validity


class Filler(nn.Module):
    """An autoencoder or inpainter as a repair.

    Networks learn from sensors that saw light, so they answer with the mean count of a sensor that did. A dead sensor
    may have seen none: it is filled with the mean that this belongs to, zeros among it.

    Args:
        model: whichever.
        absolute: counts are photons; relative counts do not tell zeros from ones, and are left as they come.
    """

    efficiency: Tensor

    def __init__(self, model: Autoencoder | Inpainter, *, absolute: bool = True) -> None:
        super().__init__()
        self.model = model
        self.absolute = absolute
        efficiency = photoelectrons(np.ones(geometry.N_SENSORS)).astype(np.float32)
        self.register_buffer("efficiency", torch.tensor(efficiency), persistent=False)

    def forward(self, npho: Tensor, time: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        """Counts and times (B, 4760) with those of `dead` (B, 4760, bool) sensors filled; all others pass.

        What stands at dead sensors is not looked at.
        """
        valid, timed = validity(npho, time)
        hidden = dead.flatten().nonzero().squeeze(1)
        answer, light_time = self.model(npho, time, valid, timed, hidden)
        photons, seconds = self.model.ground.raw(answer, light_time, hidden)
        if self.absolute:
            efficiency = self.efficiency[hidden % geometry.N_SENSORS]
            photons = untruncated_mean(photons * efficiency) / efficiency
        counts, times = (
            x.flatten().index_copy(0, hidden, y.to(x.dtype)).reshape(x.shape)
            for x, y in ((npho, photons), (time, seconds))
        )
        return counts, times


def untruncated_mean(mean: Tensor) -> Tensor:
    """Mean of a Poisson number from its mean where it is not zero: solves m = x / (1 - exp(-x)) for x >= 0."""
    m = mean.clamp_min(1.0)
    # of m = 1 + x / 2 + x2 / 12, and for many photons x is just below m
    x = torch.maximum(torch.sqrt(12 * m - 3) - 3, m - 1)
    for _ in range(4):
        gone = torch.exp(-x)
        x = x - (x - m * (1 - gone)) / (1 - m * gone).clamp_min(1e-3)
    return x.clamp_min(0.0)
