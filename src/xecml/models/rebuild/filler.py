"""Dead sensors filled: raw values in, raw values out, live sensors bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import dark, event_and_sensor, was_read
from xecml.events import EXCESS_NOISE_SIPM, INVALID, photoelectrons
from xecml.models.normalise import validity
from xecml.models.rebuild.autoencoder import Autoencoder
from xecml.models.rebuild.inpainter import Inpainter

_AROUND = 44
_REACH = (20.0, 6.0)
"""cm; the sensors of a face whose mean fills a dim one: so many at most, no further away (PMTs, SiPMs)."""
_DIM = (3.0, 6.0)
"""Photoelectrons of a sensor that saw light: below the mean around it is taken, above the network's."""
_TELLING = 2
"""So many sensors around that saw nothing tell that a file has dark sensors."""
_SPREADING = 0.8
"""How fast, per photoelectron above one, numbers that are not zero come to spread as Poisson numbers do: fitted."""


class Filler(nn.Module):
    """An autoencoder or inpainter as a repair.

    Networks learn from sensors that saw light, so they answer with the mean count of a sensor that did. A dead sensor
    may have seen none: it is filled with the mean that this belongs to, zeros among it. Squares of mean square roots
    are below means, by a quarter of the variance of a photoelectron; they are raised by it. Where there is hardly any
    light, that sensors saw some says little of how much it is; there the mean of those around is taken, dark ones too.

    Args:
        model: whichever.
        absolute: counts are photons; relative counts do not tell zeros from ones, and are left as they come.
        roots: the model learnt the mean of the square root of counts.
    """

    efficiency: Tensor
    noise: Tensor
    around: Tensor

    def __init__(self, model: Autoencoder | Inpainter, *, absolute: bool = True, roots: bool = False) -> None:
        super().__init__()
        self.model = model
        self.absolute, self.roots = absolute, roots
        efficiency = photoelectrons(np.ones(geometry.N_SENSORS))
        # a PMT has the noise of counting alone
        noise = np.where(geometry.face_codes() == 0, EXCESS_NOISE_SIPM, 1.0)
        for name, values in (("efficiency", efficiency), ("noise", noise)):
            self.register_buffer(name, torch.tensor(values.astype(np.float32)), persistent=False)
        self.register_buffer("around", torch.tensor(around_on_face()), persistent=False)

    def forward(self, npho: Tensor, time: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        """Counts and times (B, 4760) with those of `dead` (B, 4760, bool) sensors filled; all others pass.

        What stands at dead sensors is not looked at. Times are seconds, 1e10 where the event has none to go by, or the
        sensor less than a photoelectron.
        """
        valid, timed = validity(npho, time)
        hidden = dead.flatten().nonzero().squeeze(1)
        event, sensor = event_and_sensor(hidden)
        answer, light_time = self.model(npho, time, valid, timed, hidden)
        photons, seconds = self.model.ground.raw(answer, light_time, hidden)
        if self.absolute:
            mean, none = self._around(npho, was_read(npho, valid) & ~dead, event, sensor)
            photons = self._with_zeros(photons, mean, none, sensor)
            # where there is hardly a photoelectron there is no pulse to be timed
            seconds = torch.where(photons * self.efficiency[sensor] < 1, INVALID, seconds)
        seconds = torch.where((timed & ~dead).any(1)[event], seconds, INVALID)
        counts, times = (
            x.flatten().index_copy(0, hidden, y.to(x.dtype)).reshape(x.shape)
            for x, y in ((npho, photons), (time, seconds))
        )
        return counts, times

    def _with_zeros(self, photons: Tensor, mean: Tensor, none: Tensor, sensor: Tensor) -> Tensor:
        """Mean photons (n,) of `sensor` with zeros among them.

        Args:
            photons: (n,) as the network answers: of sensors that saw light.
            mean: (n,) photons of the sensors around.
            none: (n,) how many of these saw nothing.
            sensor: (n,) numbers of the sensors.
        """
        efficiency = self.efficiency[sensor]
        number = photons * efficiency
        if self.roots:
            number = mean_of_roots(number, self.noise[sensor])
        # with zeros a mean is below that of sensors that saw light, whatever a hot sensor nearby reads
        mean = torch.minimum(mean, number / efficiency)
        share = ((number - _DIM[0]) / (_DIM[1] - _DIM[0])).clamp(0.0, 1.0)
        # a file may have dark sensors as not measured: then those around are no more than the lit ones
        share = torch.where(none >= _TELLING, share, 1.0)
        return torch.lerp(mean, untruncated_mean(number) / efficiency, share)

    def _around(self, npho: Tensor, read: Tensor, event: Tensor, sensor: Tensor) -> tuple[Tensor, Tensor]:
        """Mean photons (n,) of the read sensors around each `sensor` (n,) of `event`, and how many saw nothing."""
        places = self.around[sensor] + event[:, None] * geometry.N_SENSORS
        number = read.flatten()[places].sum(1)
        light = torch.where(read, npho, 0.0).flatten()[places].sum(1)
        none = (dark(npho) & read).flatten()[places].sum(1)
        return (light / number.clamp_min(1)).clamp_min(0.0), none


def around_on_face() -> NDArray[np.int64]:
    """Up to 44 nearest sensors of each one's face, within 6 cm of a SiPM and 20 cm of a PMT, (4760, 44).

    The sensor itself stands for missing ones.
    """
    from scipy.spatial import cKDTree

    xyz, table = geometry.positions(), np.repeat(np.arange(geometry.N_SENSORS)[:, None], _AROUND, 1)
    for face in geometry.FACES:
        ids, reach = geometry.face_sensors(face), _REACH[face == "inner"]
        near = cKDTree(xyz[ids]).query(xyz[ids], _AROUND + 1, distance_upper_bound=reach)[1][:, 1:]
        table[ids] = np.where(near < len(ids), ids[np.minimum(near, len(ids) - 1)], ids[:, None])
    return table


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
