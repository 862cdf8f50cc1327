"""Dead sensors filled: raw values in, raw values out, live sensors bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.events import EXCESS_NOISE_SIPM, photoelectrons
from xecml.models.autoencoder import Autoencoder
from xecml.models.inpainter import Inpainter
from xecml.models.normalise import validity

_SPREADING = 0.8
"""How fast, per photoelectron above one, numbers that are not zero come to spread as Poisson numbers do: fitted."""


class Filler(nn.Module):
    """An autoencoder or inpainter as a repair.

    Networks learn from sensors that saw light, so they answer with the mean count of a sensor that did. A dead sensor
    may have seen none: it is filled with the mean that this belongs to, zeros among it. Squares of mean square roots
    are below means, by a quarter of the variance of a photoelectron; they are raised by it.

    Args:
        model: whichever.
        absolute: counts are photons; relative counts do not tell zeros from ones, and are left as they come.
        roots: the model learnt the mean of the square root of counts.
    """

    efficiency: Tensor
    noise: Tensor

    def __init__(self, model: Autoencoder | Inpainter, *, absolute: bool = True, roots: bool = False) -> None:
        super().__init__()
        self.model = model
        self.absolute, self.roots = absolute, roots
        efficiency = photoelectrons(np.ones(geometry.N_SENSORS))
        # a PMT has the noise of counting alone
        noise = np.where(geometry.face_codes() == 0, EXCESS_NOISE_SIPM, 1.0)
        for name, values in (("efficiency", efficiency), ("noise", noise)):
            self.register_buffer(name, torch.tensor(values.astype(np.float32)), persistent=False)

    def forward(self, npho: Tensor, time: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        """Counts and times (B, 4760) with those of `dead` (B, 4760, bool) sensors filled; all others pass.

        What stands at dead sensors is not looked at.
        """
        valid, timed = validity(npho, time)
        hidden = dead.flatten().nonzero().squeeze(1)
        answer, light_time = self.model(npho, time, valid, timed, hidden)
        photons, seconds = self.model.ground.raw(answer, light_time, hidden)
        if self.absolute:
            efficiency, noise = self.efficiency[hidden % geometry.N_SENSORS], self.noise[hidden % geometry.N_SENSORS]
            number = photons * efficiency
            if self.roots:
                number = mean_of_roots(number, noise)
            photons = untruncated_mean(number) / efficiency
        counts, times = (
            x.flatten().index_copy(0, hidden, y.to(x.dtype)).reshape(x.shape)
            for x, y in ((npho, photons), (time, seconds))
        )
        return counts, times


def mean_of_roots(squared: Tensor, noise: Tensor) -> Tensor:
    """Mean number of photoelectrons, where it is not zero, from the square of its mean root and the excess noise.

    The variance of the root of many is a quarter of the excess noise factor. Where there is hardly ever more than one,
    only the noise of that one is left; between both the answer is good to 0.07 photoelectrons (Poisson numbers, normal
    noise).
    """
    poisson = 1 - torch.exp(-_SPREADING * (squared - 1).clamp_min(0.0))
    return squared + (noise - 1 + poisson) / 4


def untruncated_mean(mean: Tensor) -> Tensor:
    """Mean of a Poisson number from its mean where it is not zero: solves m = x / (1 - exp(-x)) for x >= 0."""
    m = mean.clamp_min(1.0)
    # of m = 1 + x / 2 + x2 / 12, and for many photons x is just below m
    x = torch.maximum(torch.sqrt(12 * m - 3) - 3, m - 1)
    for _ in range(4):
        gone = torch.exp(-x)
        x = x - (x - m * (1 - gone)) / (1 - m * gone).clamp_min(1e-3)
    return x.clamp_min(0.0)
