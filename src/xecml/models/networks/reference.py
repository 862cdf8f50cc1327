"""The reference encoder: ConvNeXt V2 on the faces, HexNeXt on top and bottom, a transformer over their tokens.

ConvNeXt V2: Woo et al. 2023. Raw counts and times in, a token a face out; the heads see all tokens side by side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from xecml.data.batch import full
from xecml.models.cpu import linear
from xecml.models.networks.faces import FaceNetwork
from xecml.models.networks.fusion import Fusion
from xecml.models.networks.hexagons import HexNetwork
from xecml.models.networks.views import FaceViews, Views
from xecml.models.normalise import Normaliser

TOKENS = {
    "finegrid": ("inner", "us", "ds", "outer", "top", "bottom"),
    "split": ("inner", "outer_coarse", "outer_center", "us", "ds", "top", "bottom"),
}


class Glance(NamedTuple):
    """What targets refer to, for a batch of B events."""

    features: Tensor
    """(B, 0): this encoder gives no numbers of its own to fit anchors on."""
    light_time: Tensor
    """(B,) seconds: light-weighted mean time; 0 where the encoder sees times as they are."""

    @property
    def event_time(self) -> Tensor:
        """(B,) seconds: the reference time of each event."""
        return self.light_time


def light_weighted_time(npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Tensor:
    """Mean time (B,) in seconds of the timed sensors (B, 4760), weighted by their counts; 0 without any."""
    weight = torch.where(timed & valid, full(npho), 0.0)
    total = weight.sum(1, keepdim=True).clamp_min(1e-6)
    seconds = torch.where(timed, full(time), 0.0)
    rough = (seconds * weight).sum(1, keepdim=True) / total
    # about the rough mean, so that the sum of 4760 absolute times in float32 does not lose digits
    beyond = (torch.where(timed, seconds - rough, 0.0) * 1e9 * weight).sum(1, keepdim=True) / total
    return (rough + beyond * 1e-9).squeeze(1)


class ReferenceEncoder(nn.Module):
    """Raw counts and times to one token a face, side by side.

    Args:
        views: how sensors become maps.
        hex_mixing: `depthwise` or `attention`.
        event_time: see times relative to the event's light-weighted time; false takes them as they are, as is right
            for relative inputs.
        drop_path: rate in the blocks of the faces.
        dropout: rate in the transformer.
        hex_neighbours: table (73, 7) in place of the detector's.
        width: of the tokens, a multiple of 32.
        feed_forward: width within the transformer's layers; 4 times that of the tokens by default.
        layers: of the transformer.
    """

    n_features = 0
    from_times = torch.zeros(0, dtype=torch.bool)

    def __init__(
        self,
        views: FaceViews,
        *,
        hex_mixing: str = "depthwise",
        event_time: bool = True,
        drop_path: float = 0.0,
        dropout: float = 0.1,
        hex_neighbours: Tensor | None = None,
        width: int = 1024,
        feed_forward: int | None = None,
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.event_time = event_time
        self.views = views
        self.token_names = TOKENS[views.outer_mode]
        channels = views.channels
        # the last map of 4 x 4 cells is the token
        self.faces = FaceNetwork(channels=channels, widths=(width // 32, width // 16), drop_path=drop_path)
        self.hexagons = HexNetwork(
            channels=channels, out_width=width, mixing=hex_mixing, neighbours=hex_neighbours, drop_path=drop_path
        )
        self.fusion = Fusion(width, layers=layers, feed_forward=feed_forward or 4 * width, dropout=dropout)
        self.positions = nn.Parameter(0.02 * torch.randn(1, len(self.token_names), width))
        self.out_width = width * len(self.token_names)

    @property
    def normaliser(self) -> Normaliser:
        """The transform of counts and times."""
        return self.views.normaliser

    def look(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Glance:
        """The event's own time, from raw values and masks, each (B, 4760)."""
        with torch.autocast(npho.device.type, enabled=False):
            if self.event_time:
                origin = light_weighted_time(npho, time, valid, timed)
            else:
                origin = torch.zeros_like(full(npho)[:, 0])
            return Glance(origin.new_zeros(npho.shape[0], 0), origin)

    def first_guess(self, task: str, features: Tensor) -> Tensor | None:
        """Nothing: there is no quick look."""
        return None

    def fit_features(self, features: Tensor) -> None:
        """Do nothing: there are no numbers to standardise."""

    def standard_features(self, features: Tensor) -> Tensor:
        """Return the (B, 0) numbers as they are."""
        return features

    def head(self, size: int, *, hidden_dim: int = 256, dropout: float = 0.2) -> nn.Sequential:
        """A head on the code (B, out_width), with `size` answers."""
        return reference_head(self.out_width, size, hidden_dim=hidden_dim, dropout=dropout)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, Glance]:
        """Encode raw counts, times (s) and masks, each (B, 4760), to (B, tokens * width)."""
        look = self.look(npho, time, valid, timed)
        return self.tokens(npho, time, valid, timed, look).flatten(1), look

    def tokens(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, look: Glance | None = None) -> Tensor:
        """Tokens (B, T, width) in the order of `token_names`; a hidden sensor enters as invalid."""
        origin = (look or self.look(npho, time, valid, timed)).light_time
        with torch.autocast(npho.device.type, enabled=False):
            views = self.views(full(npho), full(time) - origin[:, None], valid, timed)
        return self.fuse(views)

    def fuse(self, views: Views) -> Tensor:
        """Tokens (B, T, width) of the faces' maps."""
        B = views.inner.shape[0]
        # us with ds, top with bottom: maps of equal shape share a batch
        ends = self.faces(views.ends.flatten(0, 1)).reshape(B, 2, -1)
        hexagons = self.hexagons(views.hexagons.flatten(0, 1)).reshape(B, 2, -1)
        inner, *outer = (self.faces(face)[:, None] for face in (views.inner, *views.outer))
        parts = [inner, ends, *outer, hexagons] if len(outer) == 1 else [inner, *outer, ends, hexagons]
        tokens: Tensor = self.fusion(torch.cat([part.to(inner.dtype) for part in parts], 1) + self.positions)
        return tokens


class CodeLinear(nn.Linear):
    """nn.Linear by the fastest route."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x, self.weight, self.bias)


def reference_head(width: int, size: int, *, hidden_dim: int = 256, dropout: float = 0.2) -> nn.Sequential:
    """Linear, norm, GELU, dropout, linear, GELU, linear: code (B, width) to answers (B, size)."""
    return nn.Sequential(
        CodeLinear(width, hidden_dim),
        nn.LayerNorm(hidden_dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_dim, hidden_dim),
        nn.GELU(),
        nn.Linear(hidden_dim, size),
    )


def reference(
    normaliser: Normaliser,
    *,
    outer_mode: str = "finegrid",
    outer_fine_pool: tuple[int, int] | None = (3, 3),
    validity_channel: bool = False,
    hex_mixing: str = "depthwise",
    event_time: bool = True,
    drop_path: float = 0.0,
) -> ReferenceEncoder:
    """The preset `reference`: 25,743,104 parameters; see `FaceViews` and `ReferenceEncoder`."""
    views = FaceViews(
        normaliser, outer_mode=outer_mode, outer_fine_pool=outer_fine_pool, validity_channel=validity_channel
    )
    return ReferenceEncoder(views, hex_mixing=hex_mixing, event_time=event_time, drop_path=drop_path)
