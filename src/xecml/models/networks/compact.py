"""The compact encoder: an event lights a few hundred SiPMs, so look closely there and coarsely elsewhere.

Three views meet in one vector: a 24 x 24 window of the inner face about the hot spot (residual convolutions), the
rest of the detector (the inner face pooled by 4 x 4, every PMT) through dense layers, and the quick look's numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.models.networks.first_guess import first_guess
from xecml.models.networks.layers import ChannelNorm, ConvResidual, DenseResidual, WideLinear
from xecml.models.networks.quick_look import FROM_TIMES, N_FEATURES, WINDOW, Look, QuickLook, log_ratio
from xecml.models.networks.sensor_sums import CELLS, in_cells
from xecml.models.normalise import Normaliser

_INNER_SHAPE = geometry.inner_map().shape
_N_PMT = geometry.N_SENSORS - geometry.N_SIPM
_CHANNELS = 5
_LEAST_WIDTH = 0.05
"""Of a number, over its standard deviation: what hardly ever differs is not blown up."""


class CompactEncoder(nn.Module):
    """Raw counts and times to one vector an event, and the quick look it rests on.

    Args:
        normaliser: transform of counts.
        width: channels of the window's first stage; the second has twice as many.
        blocks: residual blocks in each of the two stages.
        dense: width of the dense layers and of the code.
        fusion_blocks: residual blocks after the views are joined.
        drop_path: rate in all residual blocks.
        positions: surveyed sensor positions (4760, 3) in cm in place of the ideal ones.
    """

    features_mean: Tensor
    features_width: Tensor
    n_features = N_FEATURES
    from_times = torch.from_numpy(FROM_TIMES)

    def __init__(
        self,
        normaliser: Normaliser,
        *,
        width: int = 64,
        blocks: int = 2,
        dense: int = 256,
        fusion_blocks: int = 4,
        drop_path: float = 0.0,
        positions: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.look: QuickLook = QuickLook(None if positions is None else positions.numpy())
        self.register_buffer("features_mean", torch.zeros(N_FEATURES))
        self.register_buffer("features_width", torch.ones(N_FEATURES))
        # two sensors by two become one cell: 24 x 24 -> 12 x 12 -> 6 x 6
        self.window = nn.Sequential(
            nn.Conv2d(_CHANNELS, width, 4, stride=2, padding=1),
            *(ConvResidual(width, drop_path) for _ in range(blocks)),
            ChannelNorm(width),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            *(ConvResidual(2 * width, drop_path) for _ in range(blocks)),
            ChannelNorm(2 * width),
            nn.Flatten(),
            WideLinear(2 * width * (WINDOW // 4) ** 2, dense),
        )
        n_surroundings = 4 * CELLS[0] * CELLS[1] + 5 * _N_PMT
        self.surroundings = nn.Sequential(WideLinear(n_surroundings, dense), nn.GELU(), nn.Linear(dense, dense))
        self.numbers = nn.Linear(N_FEATURES, dense)
        # the numbers lead: the two other views add to them, from nothing at the start
        for view in (self.window, self.surroundings):
            last = view[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
        self.fusion = nn.Sequential(*(DenseResidual(dense, 2 * dense, drop_path) for _ in range(fusion_blocks)))
        self.out_width = dense

    @torch.no_grad()
    def fit_features(self, features: Tensor) -> None:
        """Set the standardisation of the quick look's numbers from a sample (N, N_FEATURES).

        By medians and 68 % half-widths: of a sample with pile-up a few events would decide means and widths.
        """
        low, middle, high = (features.double().quantile(q, dim=0) for q in (0.159, 0.5, 0.841))
        width = torch.maximum((high - low) / 2, _LEAST_WIDTH * features.double().std(0))
        self.features_mean.copy_(middle)
        self.features_width.copy_(width.clamp_min(1e-2))

    def standard_features(self, features: Tensor) -> Tensor:
        """Quick-look numbers with median 0 and width 1, limited to +-6, (B, N_FEATURES)."""
        return ((features - self.features_mean) / self.features_width).clamp(-6.0, 6.0)

    def first_guess(self, task: str, features: Tensor) -> Tensor | None:
        """See `xecml.models.networks.first_guess.first_guess`."""
        return first_guess(task, features)

    def head(self, size: int, *, hidden_dim: int = 256, dropout: float = 0.0) -> nn.Sequential:
        """A head on the code (B, out_width), with `size` answers."""
        return nn.Sequential(
            nn.LayerNorm(self.out_width),
            nn.Linear(self.out_width, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, size),
        )

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, Look]:
        """Encode raw counts (photons), times (s) and masks, each (B, 4760), to (B, out_width)."""
        with torch.autocast(npho.device.type, enabled=False):
            look = self.look(npho, time, valid, timed)
            window = self._window(look, valid)
            surroundings = self._surroundings(look, valid)
            features = self.standard_features(look.features)
        joined = self.numbers(features) + self.window(window) + self.surroundings(surroundings)
        return self.fusion(joined), look

    def _window(self, look: Look, valid: Tensor) -> Tensor:
        """Channels (B, 5, 24, 24) about the hot spot: count, count over that of the peak, time twice, validity."""
        maps = (look.counts, look.residuals, _sharp(look), valid.to(look.counts.dtype))
        inner = [m[:, : geometry.N_SIPM].reshape(-1, *_INNER_SHAPE) for m in maps]
        counts, residuals, sharp, ok = (self.look.window(m, look.row, look.column) for m in inner)
        peak = counts.amax(1, keepdim=True).clamp_min(1.0)
        trusted = counts / (counts + 200.0)  # a dim sensor's time is mostly noise
        channels = [
            self.normaliser.counts(counts, counts > 0),
            # the root has no derivative at zero
            torch.sqrt((counts / peak).clamp_min(1e-12)),
            residuals.clamp(-5.0, 5.0) * trusted,
            sharp,
            ok,
        ]
        grid = torch.stack(channels, 1).reshape(-1, _CHANNELS, WINDOW, WINDOW)
        return grid.contiguous(memory_format=torch.channels_last)

    def _surroundings(self, look: Look, valid: Tensor) -> Tensor:
        """The inner face pooled by 4 x 4 and all PMTs: counts, times, counts over expected ones, validity of PMTs."""
        pooled, point, sharp, precision = look.cells.unbind(1)
        weighted = in_cells(look.residuals[:, : geometry.N_SIPM] * look.counts[:, : geometry.N_SIPM])
        coarse_time = (weighted / pooled.clamp_min(1.0)).clamp(-5.0, 5.0) * (pooled / (pooled + 500.0))
        pmt = look.counts[:, geometry.N_SIPM :]
        pmt_time = look.residuals[:, geometry.N_SIPM :].clamp(-5.0, 5.0) * (pmt / (pmt + 200.0))
        lit = valid[:, geometry.N_SIPM :].to(pmt.dtype)
        some = torch.ones((), dtype=torch.bool, device=pmt.device)
        return torch.cat(
            [
                self.normaliser.counts(pooled, some),
                coarse_time,
                self.normaliser.counts(pmt, some),
                pmt_time,
                (sharp / (precision + 1.0).sqrt() / 5).clamp(-10.0, 10.0),
                _sharp(look)[:, geometry.N_SIPM :],
                log_ratio(pooled, point).clamp(-3.0, 3.0),
                log_ratio(pmt, look.expected[:, geometry.N_SIPM :]).clamp(-3.0, 3.0) * lit,
                lit,
            ],
            1,
        )


def _sharp(look: Look) -> Tensor:
    """Times (B, 4760) after the event's, in their spread if they are those of first photoelectrons, over 5."""
    # the root has no derivative at zero
    return look.residuals.clamp(-2.0, 2.0) * look.sharpness.clamp_min(1e-12).sqrt() / 5


def compact(normaliser: Normaliser, *, drop_path: float = 0.0, positions: Tensor | None = None) -> CompactEncoder:
    """The preset `compact`."""
    return CompactEncoder(normaliser, drop_path=drop_path, positions=positions)


def base(normaliser: Normaliser, *, drop_path: float = 0.0, positions: Tensor | None = None) -> CompactEncoder:
    """The preset `base`: the same network, wider, for samples that `compact` has learnt."""
    return CompactEncoder(
        normaliser, width=80, blocks=2, dense=384, fusion_blocks=4, drop_path=drop_path, positions=positions
    )


def large(normaliser: Normaliser, *, drop_path: float = 0.0, positions: Tensor | None = None) -> CompactEncoder:
    """The preset `large`: wider still; in 16 bits it trains at over 25 times the plain reference's rate."""
    return CompactEncoder(
        normaliser, width=96, blocks=2, dense=512, fusion_blocks=6, drop_path=drop_path, positions=positions
    )


def tiny(normaliser: Normaliser, *, drop_path: float = 0.0, positions: Tensor | None = None) -> CompactEncoder:
    """The preset `tiny`: the same network at a size for tests."""
    return CompactEncoder(
        normaliser, width=8, blocks=1, dense=32, fusion_blocks=1, drop_path=drop_path, positions=positions
    )


PRESETS = {"tiny": tiny, "compact": compact, "base": base, "large": large}
"""Named sizes of this encoder, the smallest first."""
