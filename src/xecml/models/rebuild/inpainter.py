"""The inpainter: rebuild single sensors of an event from the others, and fill dead sensors.

An encoder says what the event is; heads with local context say what a sensor would have measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from xecml.data.batch import Batch, full, was_read
from xecml.models.encoder import Encoder
from xecml.models.rebuild.head import Asked, Head
from xecml.models.rebuild.sensor_targets import Ground, Rebuilt, hide
from xecml.models.rebuild.shower import Shower
from xecml.models.training_distribution import TrainingDistribution

_TRUSTED = 200.0  # photons at which a time counts half


class Inpainter(nn.Module):
    """Predict counts and times of asked sensors.

    Args:
        encoder: see `xecml.models.regressor.Encoder`.
        heads: modules that are each a `xecml.models.rebuild.head.Head`; their answers add.
        n_tokens: tokens that the encoder's code is made of.
        time_threshold: photons above which a time is worth learning.
        freeze_encoder: leave the encoder as it is.
    """

    parts_of_a_version = ("training_distribution",)
    """Names of modules that checkpoints of other versions lack or have in another form; they are left as they are."""

    def __init__(
        self,
        encoder: nn.Module,
        heads: Iterable[nn.Module],
        *,
        n_tokens: int = 1,
        time_threshold: float = 100.0,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.encoder: Encoder = cast(Encoder, encoder)
        self.heads = nn.ModuleList(heads)
        self.n_tokens = n_tokens
        self.freeze_encoder = freeze_encoder
        encoder.requires_grad_(not freeze_encoder)
        self.shower = Shower(self.encoder.out_width)
        self.ground = Ground(self.encoder.normaliser, time_threshold=time_threshold)
        self.training_distribution = TrainingDistribution()

    def fit(self, batches: Iterable[Batch], *, keep_features: bool = False) -> None:
        """Fit the constants of the model, see `Ground.fit`."""
        self.ground.fit(self.encoder, batches, distribution=self.training_distribution, keep_features=keep_features)

    def train(self, mode: bool = True) -> Inpainter:
        """Set the mode; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self.freeze_encoder:
            cast(nn.Module, self.encoder).eval()
        return self

    def forward(
        self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, hidden: Tensor
    ) -> tuple[Rebuilt, Tensor]:
        """Rebuild the sensors at flat positions `hidden` (n,) from the others, raw values and masks (B, 4760).

        Returns:
            Answers, and the light-weighted time (B,) in seconds that their times refer to.
        """
        npho, time, seen, timed = hide(npho, time, valid, timed, hidden)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            code, look = self.encoder(npho, time, seen, timed)
        ground = self.ground
        point = ground.point(npho, time, seen, timed, look)
        light, placed = self.shower(code, point, ground.point, npho, seen)
        point = point._replace(photons=light)
        read = was_read(npho, seen)
        with torch.autocast(npho.device.type, enabled=False):
            base = ground.expected(point, look.light_time)
            maps = self._maps(npho, time, read, timed, base, look.light_time)
        tokens = code.reshape(code.shape[0], self.n_tokens, -1)
        about = torch.cat([point.look.features, placed.to(point.look.features.dtype)], 1)
        asked = Asked(hidden, maps, read, tokens, about, point.distance)
        z = torch.stack([full(cast(Head, head)(asked)) for head in self.heads]).sum(0)
        with torch.autocast(npho.device.type, enabled=False):
            counts, nanoseconds = (
                b.flatten()[hidden] + w * z[:, i]
                for i, (b, w) in enumerate(zip(base, ground.residual_width, strict=True))
            )
        return Rebuilt(counts, nanoseconds), look.light_time

    def _maps(
        self,
        npho: Tensor,
        time: Tensor,
        read: Tensor,
        timed: Tensor,
        base: tuple[Tensor, Tensor],
        light_time: Tensor,
    ) -> Tensor:
        """What heads look at, (B, 4760, 5), see `Asked.maps`."""
        ground = self.ground
        expected, expected_time = base
        counts = ground.normaliser.counts(npho.clamp_min(0.0), read)
        nanoseconds = (full(time) - light_time[:, None]) * 1e9
        residual = torch.where(read, (counts - expected) / ground.residual_width[0], 0.0)
        late = torch.where(timed, (nanoseconds - expected_time) / ground.residual_width[1], 0.0)
        trust = torch.where(timed, npho / (npho + _TRUSTED), 0.0)
        scale = ground.width[0]
        return torch.stack([residual.clamp(-8, 8), late.clamp(-8, 8), trust, expected / scale, counts / scale], 2)
