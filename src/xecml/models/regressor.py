"""The regressor: an encoder and a head a task; raw values in, physical values out.

Heads predict standardised targets. A target is standardised as its difference to an anchor: for the time the
light-weighted time of the event, so that a constant added to all times is added to the answer; for the others a
linear function of the quick look, fitted to the training sample. The network learns what the anchor leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from xecml.errors import InputError
from xecml.events import TASKS
from xecml.models.compact import CompactEncoder
from xecml.models.quicklook import N_FEATURES, Look

_RIDGE = 1e-3
# directions as vectors and classes have no linear anchor
_ANCHORED = ("angle", "energy", "timing", "uvwFI")
# a residual this many times smaller than the target's own width is as good as exact
_TINY = 1e-6


class Regressor(nn.Module):
    """Predict physical quantities of photons from raw sensor values.

    Args:
        encoder: gives a vector (B, out_width) and a quick look.
        tasks: names out of `xecml.events.TASKS`.
        hidden_dim: width of the heads.
        dropout: rate in the heads.
    """

    def __init__(
        self, encoder: CompactEncoder, tasks: Sequence[str], *, hidden_dim: int = 256, dropout: float = 0.0
    ) -> None:
        super().__init__()
        unknown = [t for t in tasks if t not in _ANCHORED]
        if unknown or not tasks:
            raise InputError(f"Cannot predict {unknown or 'nothing'}; choose tasks among {', '.join(_ANCHORED)}.")
        self.encoder = encoder
        self.tasks = tuple(tasks)
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.LayerNorm(encoder.out_width),
                    nn.Linear(encoder.out_width, hidden_dim),
                    nn.GELU(),
                    nn.Dropout(dropout),
                    nn.Linear(hidden_dim, TASKS[task].size),
                )
                for task in tasks
            }
        )
        for task in tasks:
            size = TASKS[task].size
            self.register_buffer(f"{task}_slope", torch.zeros(N_FEATURES, size))
            self.register_buffer(f"{task}_mean", torch.zeros(size))
            self.register_buffer(f"{task}_width", torch.ones(size))
            self.register_buffer(f"{task}_truth_mean", torch.zeros(size))

    @torch.no_grad()
    def fit_targets(self, features: Tensor, light_time: Tensor, truth: Mapping[str, Tensor]) -> None:
        """Fit anchors, means and widths on a training sample.

        Args:
            features: quick-look numbers (N, N_FEATURES).
            light_time: light-weighted times (N,), seconds.
            truth: targets (N, size) of every task, physical units.

        Raises:
            InputError: a target has zero width in the sample.
        """
        self.encoder.fit_features(features)
        x = self.encoder.standard_features(features).double()
        gram = x.T @ x / len(x) + _RIDGE * torch.eye(N_FEATURES, dtype=torch.float64)
        for task in self.tasks:
            y = truth[task].double()
            spread = y.std(0)
            if not bool((spread > _TINY * y.abs().mean(0).clamp_min(1e-30)).all()):
                raise InputError(
                    f"Task '{task}' has the same truth in every training event; train it on a sample where it varies, "
                    "or leave it out."
                )
            self.get_buffer(f"{task}_truth_mean").copy_(y.mean(0))
            if task == "timing":
                y = y - light_time.double()[:, None]
            mean = y.mean(0)
            slope = torch.linalg.solve(gram, x.T @ (y - mean) / len(x))
            rest = y - mean - x @ slope
            low, high = torch.quantile(rest, torch.tensor([0.159, 0.841], dtype=torch.float64), dim=0)
            width = torch.maximum((high - low) / 2, _TINY * spread)
            for name, value in (("slope", slope), ("mean", mean), ("width", width)):
                self.get_buffer(f"{task}_{name}").copy_(value)

    def anchor(self, task: str, look: Look) -> Tensor:
        """What the quick look alone says of a task, (B, size) in physical units, less the event's time."""
        # never in 16 bits: it carries the absolute position
        with torch.autocast(look.features.device.type, enabled=False):
            x = self.encoder.standard_features(look.features)
            return x @ self.get_buffer(f"{task}_slope") + self.get_buffer(f"{task}_mean")

    def standardised(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[dict[str, Tensor], Look]:
        """Standardised answers (B, size) of every task in float32, and the quick look they refer to."""
        code, look = self.encoder(npho, time, valid, timed)
        with torch.autocast(code.device.type, enabled=False):
            return {task: self.heads[task](code.float()) for task in self.tasks}, look

    def targets(self, truth: Mapping[str, Tensor], look: Look) -> dict[str, Tensor]:
        """Standardise truth (B, size) of physical units, as the heads should answer."""
        standard = {}
        for task in self.tasks:
            y = truth[task].float()
            if task == "timing":
                y = y - look.light_time[:, None]
            standard[task] = (y - self.anchor(task, look)) / self.get_buffer(f"{task}_width")
        return standard

    def physical(self, standard: Mapping[str, Tensor], look: Look) -> dict[str, Tensor]:
        """Physical answers (B, size) from standardised ones."""
        answers = {}
        for task, z in standard.items():
            y = z * self.get_buffer(f"{task}_width") + self.anchor(task, look)
            answers[task] = y + look.light_time[:, None] if task == "timing" else y
        return answers

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> dict[str, Tensor]:
        """Predict from raw counts, times (s) and masks, each (B, 4760).

        Returns:
            Task name to (B, size), or (B,) for scalars, in the physical units of `xecml.events.TASKS`.
        """
        answers = self.physical(*self.standardised(npho, time, valid, timed))
        return {task: y.squeeze(1) if TASKS[task].size == 1 else y for task, y in answers.items()}
