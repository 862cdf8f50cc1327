"""What the autoencoder and the inpainter share: how sensors are hidden, and the ground on which they are rebuilt.

Counts are compared after the model's own transform, times in ns after the event's light-weighted time. Both are
standardised with the mean of each sensor and one width a channel over the training sample, so that a mean squared
error of one is that of the sensors' means as predictor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import Batch, event_and_sensor, full
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.models.encoder import Encoder
from xecml.models.normalise import Normaliser
from xecml.models.rebuild.point_light import PointLight, PointSource
from xecml.models.training_distribution import Gathered, TrainingDistribution

CHANNELS = ("npho", "time")
_FIT_EVENTS = 20_000
# so many events' worth of the mean over all sensors steadies the mean of one that is seldom lit
_PRIOR_EVENTS = 5.0


class Rebuilt(NamedTuple):
    """Answers for n sensors out of B events."""

    counts: Tensor
    """(n,): transformed counts."""
    nanoseconds: Tensor
    """(n,): times after the event's light-weighted time."""


def hide(
    npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts, times and masks (B, 4760) in which sensors at flat positions `hidden` (n,) look as dead ones do."""
    seen = torch.ones_like(valid).flatten().index_fill(0, hidden, False).reshape(valid.shape)
    return (
        torch.where(seen, full(npho), INVALID),
        torch.where(seen, full(time), INVALID),
        valid & seen,
        timed & seen,
    )


@dataclass(frozen=True)
class Truth:
    """What n hidden sensors are compared to.

    Attributes:
        counts: transformed counts (n,).
        nanoseconds: times (n,) after the event's light-weighted time.
        photons: counts (n,).
        counted: whether the count is one to learn, (n,).
        time_weight: weight of the time, sqrt(photons) where there is a time and light enough, else 0; (n,).
        sensor: sensor number, (n,).
    """

    counts: Tensor
    nanoseconds: Tensor
    photons: Tensor
    counted: Tensor
    time_weight: Tensor
    sensor: Tensor


class Moments:
    """Weighted means a sensor and widths a channel, of values that come batch by batch."""

    def __init__(self) -> None:
        self.n, self.first, self.second = torch.zeros(3, 2, geometry.N_SENSORS, dtype=torch.float64)

    def add(self, values: Tensor, weights: Tensor) -> None:
        """Add values with weights, both (2, B, 4760)."""
        values, weights = values.double(), weights.double()
        self.n += weights.sum(1)
        self.first += (weights * values).sum(1)
        self.second += (weights * values.square()).sum(1)

    def mean(self) -> Tensor:
        """Means (2, 4760), drawn a little to the mean over all sensors."""
        overall = self.first.sum(1, keepdim=True) / self.n.sum(1, keepdim=True).clamp_min(1)
        mean: Tensor = (self.first + _PRIOR_EVENTS * overall) / (self.n + _PRIOR_EVENTS)
        return mean

    def width(self) -> Tensor:
        """Root mean squares (2,) about the means."""
        mean = self.mean()
        spread: Tensor = (self.second - 2 * mean * self.first + self.n * mean.square()).sum(1)
        width: Tensor = (spread / self.n.sum(1).clamp_min(1)).clamp_min(0).sqrt().clamp_min(1e-4)
        return width


class Ground(nn.Module):
    """Means and widths over a training sample, plain and after subtraction of the light of a point, as buffers.

    Args:
        normaliser: transform of counts.
        time_threshold: photons above which a time is worth learning.
    """

    mean: Tensor
    width: Tensor
    residual_mean: Tensor
    residual_width: Tensor

    def __init__(self, normaliser: Normaliser, *, time_threshold: float) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.time_threshold = time_threshold
        self.point = PointSource()
        for name, values in (
            ("mean", torch.zeros(2, geometry.N_SENSORS)),
            ("width", torch.ones(2)),
            ("residual_mean", torch.zeros(2, geometry.N_SENSORS)),
            ("residual_width", torch.ones(2)),
        ):
            self.register_buffer(name, values)

    def truth(self, batch: Batch, light_time: Tensor, hidden: Tensor) -> Truth:
        """What the sensors at flat positions `hidden` (n,) of a batch are compared to."""
        photons, seconds, valid, timed = (x.flatten()[hidden] for x in batch.inputs())
        event, sensor = event_and_sensor(hidden)
        bright = timed & (photons > self.time_threshold)
        later = torch.where(bright, (full(seconds) - light_time[event]) * 1e9, 0.0)
        photons = torch.where(valid, full(photons), 0.0)
        weight = torch.where(bright, photons.sqrt(), 0.0)
        counts = self.normaliser.counts(photons, valid)
        return Truth(counts, later, photons, valid, weight, sensor)

    def expected(self, point: PointLight, light_time: Tensor) -> tuple[Tensor, Tensor]:
        """Transformed counts and times in ns after `light_time`, (B, 4760): the point's light, and the mean beyond."""
        some = torch.ones((), dtype=torch.bool, device=point.photons.device)
        # the encoder's event time and the point's may differ by what the encoder filled up
        shift = (point.look.light_time - light_time)[:, None] * 1e9
        counts = self.normaliser.counts(point.photons, some)
        return counts + self.residual_mean[0], point.nanoseconds + shift + self.residual_mean[1]

    @torch.no_grad()
    def fit(
        self,
        encoder: Encoder,
        batches: Iterable[Batch],
        *,
        distribution: TrainingDistribution,
        keep_features: bool = False,
    ) -> None:
        """Fit everything on training events, all of whose sensors are seen.

        Args:
            encoder: whose numbers are standardised too.
            distribution: of the training sample, fitted too.
            batches: of the training sample; enough of them are used.
            keep_features: keep the constants of the encoder, which was trained with them.

        Raises:
            InputError: no sensor of the sample has counts.
        """
        features, plain, residual, events = [], Moments(), Moments(), 0
        gathered = Gathered(distribution)
        for batch in batches:
            look = encoder.look(*batch.inputs())
            features.append(look.features)
            gathered.add(batch, look)
            every = torch.arange(batch.npho.numel(), device=batch.npho.device)
            truth = self.truth(batch, look.light_time, every)
            shape = (2, len(batch), -1)
            values = torch.stack([truth.counts, truth.nanoseconds]).reshape(shape)
            weights = torch.stack([truth.counted.float(), (truth.time_weight > 0).float()]).reshape(shape)
            plain.add(values, weights)
            ground = self.expected(self.point(*batch.inputs(), look), look.light_time)
            residual.add(values - torch.stack(ground), weights)
            events += len(batch)
            if events >= _FIT_EVENTS:
                break
        if not plain.n[0].sum():
            raise InputError("No sensor of the training sample has a valid count; check the files with 'xec check'.")
        gathered.fit()
        if not keep_features:
            encoder.fit_features(torch.cat(features))
        self.mean.copy_(plain.mean())
        self.width.copy_(plain.width())
        self.residual_mean.add_(residual.mean())  # what was there is subtracted already
        self.residual_width.copy_(residual.width())

    def raw(self, answer: Rebuilt, light_time: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Photons and seconds (n,) of answers for flat positions `hidden` (n,) in (B, 4760)."""
        event, _ = event_and_sensor(hidden)
        # a transform below zero would be less than no light
        photons = self.normaliser.photons(answer.counts.clamp_min(0.0))
        return photons, light_time[event] + answer.nanoseconds * 1e-9
