"""Models of the replaced system's newest version: raw values in, physical quantities or filled sensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from xecml.events import INVALID, TASKS
from xecml.models.encoder import Glance
from xecml.models.newer.autoencoder import Decoders
from xecml.models.newer.cross_attention import CrossAttentionHead
from xecml.models.newer.encoder import NewerEncoder
from xecml.models.newer.face_heads import FaceHeads
from xecml.models.newer.hiding import Seen, hide_normalised
from xecml.models.regressor import Regressor


class NewerModel(Regressor):
    """A regressor: the numbers of its heads are degrees, GeV, s and cm as they are.

    Args:
        encoder: of the newest version.
        tasks: that it answers.
        hidden_dim: width of the heads.
        nll_tasks: whose heads give a log variance beside each answer.
        log_tasks: that were trained on logarithms, which no file says.
        heads: task to head, in place of new ones.
    """

    branches = ("npho", "time")
    """Branches that hold its counts and times."""
    unit_vectors = False
    log_sigma_limits = (-float("inf"), float("inf"))

    def __init__(
        self,
        encoder: NewerEncoder,
        tasks: Sequence[str],
        *,
        hidden_dim: int = 256,
        nll_tasks: Sequence[str] = (),
        log_tasks: Sequence[str] = (),
        heads: Mapping[str, nn.Module] | None = None,
    ) -> None:
        with_sigma = [task for task in tasks if task in nll_tasks]
        super().__init__(encoder, tasks, hidden_dim=hidden_dim, with_sigma=with_sigma, heads=heads)
        self.log_tasks = frozenset(log_tasks)

    def only(self, tasks: Sequence[str]) -> NewerModel:
        """The same model with the heads of some tasks, which were trained."""
        some = NewerModel(
            cast(NewerEncoder, self.encoder),
            tasks,
            nll_tasks=tuple(self.with_sigma),
            log_tasks=tuple(self.log_tasks),
            heads={task: self.heads[task] for task in tasks},
        )
        some.trained_heads, some.branches = frozenset(tasks), self.branches
        return some

    def standardised(
        self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor
    ) -> tuple[dict[str, Tensor], Glance]:
        """Answers (B, size), or (B, 2 size) with logarithms of their widths; of logarithms their exponentials."""
        answers, look = super().standardised(npho, time, valid, timed)
        for task in self.tasks:
            size = TASKS[task].size
            y, log_variance = answers[task][:, :size], answers[task][:, size:]
            log_sigma = log_variance / 2
            if task in self.log_tasks:
                # the width of a logarithm is relative to the answer
                y, log_sigma = torch.exp(y), log_sigma + y if task in self.with_sigma else log_sigma
            answers[task] = torch.cat([y, log_sigma], 1)
        return answers, look


class NewerRepair(nn.Module):
    """An autoencoder or inpainter as a repair of dead sensors, which it alone sees as hidden.

    Args:
        encoder: of the newest version.
        head: what answers for hidden sensors.
        channels: that are predicted: count, or count and time.
    """

    branches = ("npho", "time")
    """Branches that hold its counts and times."""

    def __init__(
        self, encoder: NewerEncoder, head: Decoders | FaceHeads | CrossAttentionHead, channels: Sequence[str]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.channels = tuple(channels)

    def see(self, npho: Tensor, time: Tensor, hidden: Tensor) -> tuple[Seen, Tensor]:
        """What the encoder sees of raw events (B, 4760) without `hidden` (B, 4760) sensors, and its tokens."""
        normaliser = self.encoder.normaliser
        seen = hide_normalised(normaliser, normaliser.inputs(npho, time), hidden, self.channels)
        return seen, self.encoder.masked_tokens(seen.x, seen.mask)

    def normalised(self, npho: Tensor, time: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised answers (n, channels) for `dead` (B, 4760), and their flat positions (n,)."""
        hidden = dead.flatten().nonzero().squeeze(1)
        seen, tokens = self.see(npho, time, dead)
        answers: Tensor = self.head(self.encoder, seen, tokens, hidden)
        return answers, hidden

    def forward(self, npho: Tensor, time: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        """Counts and times (B, 4760) with those of `dead` (B, 4760, bool) sensors filled; all others pass.

        Counts are in the unit of their branch, times seconds; 1e10 where there is no answer.
        """
        answers, hidden = self.normalised(npho, time, dead)
        normaliser = self.encoder.normaliser
        counts = normaliser.photons(answers[:, 0])
        seconds = normaliser.seconds(answers[:, 1]) if "time" in self.channels else torch.full_like(counts, INVALID)
        known = ~torch.isnan(counts)
        filled = (torch.where(known, counts, INVALID), torch.where(known & ~torch.isnan(seconds), seconds, INVALID))
        counts, times = (
            x.flatten().index_copy(0, hidden, y.to(x.dtype)).reshape(x.shape)
            for x, y in zip((npho, time), filled, strict=True)
        )
        return counts, times
