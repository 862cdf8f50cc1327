"""What the replaced system's newest version makes of raw values: two sentinels, a domain of counts, a threshold.

    dead       count NaN or above 9e9                              count: `sentinel_npho`, time: `sentinel_time`
    outside    count below the domain of the scheme                count: 0
    untimed    dead, count below `npho_threshold`, no time         time: `sentinel_time`

Dark sensors and noise below zero keep their counts. The masks of this package, which call them invalid, take no part.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from xecml.data.batch import full
from xecml.events import INVALID_ABOVE
from xecml.models.networks.views import cut
from xecml.models.normalise import Normaliser
from xecml.models.original.network import OriginalViews

_ANSCOMBE = 0.375  # Anscombe 1948
_NEARLY_MINUS_ONE = -0.999
_NEARLY_SENTINEL = 1e-3
_COARSE_CELLS = (5, 3)


class NewerNormaliser(Normaliser):
    """Transforms of the newest version, and their exact inverses; `npho_scale2` serves `log1p` alone.

    With s = `npho_scale`: `log1p`: log(1 + n / s) / `npho_scale2`; `sqrt`: sqrt(n / s); `anscombe`:
    sqrt((n + 3/8) / (s + 3/8)); `linear`: n / s.

    Args:
        npho_scale: counts, in the unit of their branch.
        npho_scale2: divides the logarithm.
        time_scale: seconds per unit of normalised time.
        time_shift: subtracted from the normalised time.
        sentinel_npho: normalised count of a dead sensor.
        sentinel_time: normalised time of a sensor without one.
        npho_threshold: count below which a time is not looked at.
        scheme: one of `xecml.models.normalise.COUNT_SCHEMES`.
    """

    said = (
        "input[:, :, 0] = npho by npho_scheme, 0 below its domain, sentinel_npho where dead; input[:, :, 1] = time / "
        "time_scale - time_shift, sentinel where dead, without a time or below npho_threshold"
    )
    sentinel_npho: Tensor
    npho_threshold: Tensor

    def __init__(
        self,
        *,
        npho_scale: float,
        npho_scale2: float,
        time_scale: float,
        time_shift: float,
        sentinel_npho: float = -1.0,
        sentinel_time: float = -1.0,
        npho_threshold: float = 100.0,
        scheme: str = "log1p",
    ) -> None:
        super().__init__(
            npho_scale=npho_scale,
            npho_scale2=npho_scale2,
            time_scale=time_scale,
            time_shift=time_shift,
            sentinel=sentinel_time,
            scheme=scheme,
        )
        for name, value in (("sentinel_npho", sentinel_npho), ("npho_threshold", npho_threshold)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def inputs(self, npho: Tensor, time: Tensor) -> Tensor:
        """Normalised counts and times (..., 2), float32, of raw ones (...), seconds."""
        n, t = full(npho), full(time)
        dead = torch.isnan(n) | (n > INVALID_ABOVE)
        inside = n >= self._least()
        untimed = dead | (n < self.npho_threshold) | ~(t.abs() <= INVALID_ABOVE)
        # a derivative of what is not chosen would be no number
        counts = torch.where(inside & ~dead, self._forward(torch.where(inside & ~dead, n, self.npho_scale)), 0.0)
        counts = torch.where(dead, self.sentinel_npho, counts)
        return torch.stack([counts, self.times(torch.where(untimed, 0.0, t), ~untimed)], -1)

    def known(self, counts: Tensor) -> Tensor:
        """Which normalised counts were measured: all but the sentinel's."""
        return (full(counts) - self.sentinel_npho).abs() > _NEARLY_SENTINEL

    def counts(self, npho: Tensor, valid: Tensor) -> Tensor:
        """Normalised counts of `npho`, of one shape; 0 where not `valid` or outside the domain."""
        n = full(npho)
        inside = valid & (n >= self._least())
        return torch.where(inside, self._forward(torch.where(inside, n, self.npho_scale)), 0.0)

    def photons(self, counts: Tensor) -> Tensor:
        """Inverse of `counts`, in the unit of the branch."""
        y = full(counts)
        if self.scheme == "log1p":
            return torch.expm1(y * self.npho_scale2) * self.npho_scale
        if self.scheme == "linear":
            return y * self.npho_scale
        shift = _ANSCOMBE if self.scheme == "anscombe" else 0.0
        return y.square() * (self.npho_scale + shift) - shift

    def _forward(self, n: Tensor) -> Tensor:
        if self.scheme == "log1p":
            return torch.log1p(n / self.npho_scale) / self.npho_scale2
        if self.scheme == "linear":
            return n / self.npho_scale
        shift = _ANSCOMBE if self.scheme == "anscombe" else 0.0
        ratio = (n + shift) / (self.npho_scale + shift)
        return torch.sqrt(ratio.clamp_min(1e-30))  # the root has no derivative at zero

    def _least(self) -> Tensor:
        """Least count in the domain of the scheme."""
        if self.scheme == "log1p":
            return _NEARLY_MINUS_ONE * self.npho_scale
        least = {"sqrt": 0.0, "anscombe": -_ANSCOMBE, "linear": -torch.inf}[self.scheme]
        return torch.full_like(self.npho_scale, least)


class FaceMasks(NamedTuple):
    """Hidden places of a batch of B events, 1 where hidden, in the order and shapes of `Views` without channels."""

    inner: Tensor
    """(B, 93, 44)"""
    ends: Tensor
    """(B, 2, 24, 6): us, ds"""
    outer: tuple[Tensor, ...]
    """The fine grid, or the coarse and the centre map."""
    hexagons: Tensor
    """(B, 2, 73): top, bottom"""


class NewerViews(OriginalViews):
    """Maps of the faces as the newest version sees them.

    Args:
        normaliser: transform of counts and times.
        outer_mode: `finegrid` or `split`.
        outer_fine_pool: cells of the fine grid that are pooled; None for none.
        masked_times: leave cells without a time out of the pooled mean; false takes the plain mean, sentinels included.
    """

    masked_times: Tensor

    def __init__(
        self,
        normaliser: NewerNormaliser,
        *,
        outer_mode: str,
        outer_fine_pool: tuple[int, int] | None,
        masked_times: bool = True,
    ) -> None:
        super().__init__(normaliser, outer_mode=outer_mode, outer_fine_pool=outer_fine_pool)
        self.normaliser: NewerNormaliser = normaliser
        # goes with the weights, since no recipe says it
        self.register_buffer("masked_times", torch.tensor(masked_times))

    def channels_of(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Tensor:
        """Normalised channels (..., 2), float32; the masks are not looked at, see the module."""
        return self.normaliser.inputs(npho, time)

    def grid_of(self, x: Tensor) -> Tensor:
        """The fine grid (B, rows, columns, 2) of normalised sensors (B, 4760, 2)."""
        plain = super().grid_of(x)
        times = x[:, self.sensors, 1]  # (B, cells, p q)
        timed = times != self.normaliser.sentinel
        mean = torch.where(timed, times, 0.0).sum(2) / timed.sum(2).clamp_min(1)
        mean = torch.where(timed.any(2), mean, self.normaliser.sentinel).reshape(plain.shape[:3])
        return torch.stack([plain[..., 0], torch.where(self.masked_times, mean, plain[..., 1])], -1)

    def masks(self, hidden: Tensor) -> FaceMasks:
        """Hidden places on the maps from hidden sensors (B, 4760), 1 where hidden.

        The fine grid takes them from the coarse map alone, also under the centre map.
        """
        m = hidden[..., None]
        coarse, centre = hidden[:, self.coarse], hidden[:, self.centre]
        outer: tuple[Tensor, ...] = (coarse, centre)
        if self.outer_mode == "finegrid":
            rows, columns = _COARSE_CELLS
            fine = coarse.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
            # left-overs at the end are cut off, as the grid's are
            outer = (F.max_pool2d(fine[:, None], self.outer_fine_pool or (1, 1))[:, 0],)
        inner, ends, _, hexagons = cut(m, outer)
        return FaceMasks(inner[..., 0], ends[..., 0], outer, hexagons[..., 0])
