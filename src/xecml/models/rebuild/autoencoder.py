"""The masked autoencoder: an encoder sees some sensors of an event, a decoder rebuilds all of them.

He et al. 2022, "Masked autoencoders are scalable vision learners". No truth is needed: real data teach the encoder
what light looks like, and a regression starts from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from xecml.data.batch import Batch, full
from xecml.models.encoder import Encoder
from xecml.models.rebuild.point_light import PointLight
from xecml.models.rebuild.sensor_targets import Ground, Rebuilt, hide
from xecml.models.rebuild.shower import Shower
from xecml.models.training_distribution import TrainingDistribution


class Decoder(Protocol):
    """What an autoencoder needs of its decoder."""

    on_point: bool
    """Whether answers are residuals to the light of a point, or to the sensors' means."""

    def __call__(self, code: Tensor, point: PointLight) -> Tensor:
        """Standardised answers (B, 4760, 2)."""


class Autoencoder(nn.Module):
    """Rebuild every sensor from those that are seen.

    Args:
        encoder: see `xecml.models.regressor.Encoder`.
        decoder: see `Decoder`.
        time_threshold: photons above which a time is worth learning.
    """

    parts_of_a_version = ("training_distribution",)
    """Names of modules that checkpoints of other versions lack or have in another form; they are left as they are."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, *, time_threshold: float = 100.0) -> None:
        super().__init__()
        self.encoder: Encoder = cast(Encoder, encoder)
        self.decoder: Decoder = cast(Decoder, decoder)
        self.shower = Shower(self.encoder.out_width) if self.decoder.on_point else None
        self.ground = Ground(self.encoder.normaliser, time_threshold=time_threshold)
        self.training_distribution = TrainingDistribution()

    def fit(self, batches: Iterable[Batch], *, keep_features: bool = False) -> None:
        """Fit the constants of the model, see `Ground.fit`."""
        self.ground.fit(self.encoder, batches, distribution=self.training_distribution, keep_features=keep_features)

    def forward(
        self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, hidden: Tensor
    ) -> tuple[Rebuilt, Tensor]:
        """Rebuild the sensors at flat positions `hidden` (n,) from the others, raw values and masks (B, 4760).

        Returns:
            Answers, and the light-weighted time (B,) in seconds that their times refer to.
        """
        counts, nanoseconds, light_time = self._all(*hide(npho, time, valid, timed, hidden))
        return Rebuilt(counts.flatten()[hidden], nanoseconds.flatten()[hidden]), light_time

    def _all(self, npho: Tensor, time: Tensor, seen: Tensor, timed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Transformed counts and times in ns of all sensors (B, 4760), and the light-weighted time (B,)."""
        code, look = self.encoder(npho, time, seen, timed)
        point = self.ground.point(npho, time, seen, timed, look)
        if self.shower is not None:
            point = point._replace(photons=self.shower(code, point, self.ground.point, npho, seen)[0])
        z = self.decoder(code, point)
        ground = self.ground
        with torch.autocast(npho.device.type, enabled=False):
            if self.decoder.on_point:
                base, width = ground.expected(point, look.light_time), ground.residual_width
            else:
                base, width = (ground.mean[0], ground.mean[1]), ground.width
            counts, nanoseconds = (b + w * full(z[..., i]) for i, (b, w) in enumerate(zip(base, width, strict=True)))
        return counts, nanoseconds, look.light_time
