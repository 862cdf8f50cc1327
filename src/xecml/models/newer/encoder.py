"""The encoder of the replaced system's newest version, and its masked form, which autoencoder and inpainter train.

It is the original network with free sizes. A mask keeps hidden places silent: they are zero before the stem, and in
every block after the depthwise part and in what is added to it. Means over nodes, response norms and the last resize
know nothing of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xecml.data.batch import full
from xecml.models.cpu import chunks
from xecml.models.networks.faces import ConvNextBlock, FaceNetwork, resize
from xecml.models.networks.hexagons import HexBlock, HexNetwork
from xecml.models.networks.reference import ReferenceEncoder
from xecml.models.newer.inputs import NewerNormaliser, NewerViews
from xecml.models.original.network import hex_neighbours

WIDTHS = 32
"""The width of the tokens is a multiple of this."""


class NewerEncoder(ReferenceEncoder):
    """Raw counts and times to one token a face; what is valid is found from the raw values themselves.

    Args:
        views: how sensors become maps.
        width: of the tokens, `encoder_dim`.
        feed_forward: `dim_feedforward`; 4 times the width by default.
        layers: `num_fusion_layers`.
        drop_path: rate in the blocks of the faces.
    """

    views: NewerViews

    def __init__(
        self,
        views: NewerViews,
        *,
        width: int = 1024,
        feed_forward: int | None = None,
        layers: int = 2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            views,
            event_time=False,
            drop_path=drop_path,
            hex_neighbours=hex_neighbours(),
            width=width,
            feed_forward=feed_forward,
            layers=layers,
        )

    @property
    def normaliser(self) -> NewerNormaliser:
        """The transform of counts and times."""
        return self.views.normaliser

    @property
    def token_width(self) -> int:
        """Numbers of a token."""
        return self.out_width // len(self.token_names)

    def masked_tokens(self, x: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, T, width) of normalised sensors (B, 4760, 2) with those silent where `mask` (B, 4760) is 1."""
        B = x.shape[0]
        views, masks = self.views.maps(x), self.views.masks(full(mask))
        ends, m_ends = views.ends.flatten(0, 1), masks.ends.flatten(0, 1)
        pairs = [(views.inner, masks.inner), *zip(views.outer, masks.outer, strict=True)]
        inner, *outer = (silent_face(self.faces, face, m)[:, None] for face, m in pairs)
        us_ds = silent_face(self.faces, ends, m_ends).reshape(B, 2, -1)
        hexagons = silent_hexagons(self.hexagons, views.hexagons.flatten(0, 1), masks.hexagons.flatten(0, 1))
        hexagons = hexagons.reshape(B, 2, -1)
        parts = [inner, us_ds, *outer, hexagons] if len(outer) == 1 else [inner, *outer, us_ds, hexagons]
        tokens: Tensor = self.fusion(torch.cat(parts, 1) + self.positions)
        return tokens


def newer(
    normaliser: NewerNormaliser,
    *,
    outer_mode: str = "finegrid",
    outer_fine_pool: tuple[int, int] | None = None,
    masked_times: bool = True,
    width: int = 1024,
    feed_forward: int | None = None,
    layers: int = 2,
    drop_path: float = 0.0,
) -> NewerEncoder:
    """The encoder of a form; see `NewerViews` and `NewerEncoder`."""
    views = NewerViews(normaliser, outer_mode=outer_mode, outer_fine_pool=outer_fine_pool, masked_times=masked_times)
    return NewerEncoder(views, width=width, feed_forward=feed_forward, layers=layers, drop_path=drop_path)


def silent_face(network: FaceNetwork, x: Tensor, mask: Tensor) -> Tensor:
    """Token (B, width) of a face's map (B, H, W, 2) whose places with `mask` (B, H, W) 1 are silent."""
    size = 16 * x.shape[1] * x.shape[2] * network.first_width
    parts = [_silent_face(network, a, m) for a, m in zip(chunks(x, size), chunks(mask, size), strict=True)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _silent_face(network: FaceNetwork, x: Tensor, mask: Tensor) -> Tensor:
    y = network.stem((x * (1 - mask)[..., None]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    shown = _shown(mask, y)
    for block in network.stage1:
        y = _silent_block(block, y, shown)
    y = network.downsample(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    shown = _shown(mask, y)
    for block in network.stage2:
        y = _silent_block(block, y, shown)
    return resize(y, network.size).permute(0, 3, 1, 2).flatten(1)


def _silent_block(block: torch.nn.Module, x: Tensor, shown: Tensor) -> Tensor:
    assert isinstance(block, ConvNextBlock)
    branch: Tensor = block.drop_path(block.narrow(block.hidden(block.mixed(x) * shown)))
    return x * shown + branch


def _shown(mask: Tensor, y: Tensor) -> Tensor:
    """1 where the map y (B, H, W, C) is not silent, (B, H, W, 1), from the face's mask of another size."""
    return 1 - F.interpolate(mask[:, None], y.shape[1:3], mode="nearest").permute(0, 2, 3, 1)


def silent_hexagons(network: HexNetwork, x: Tensor, mask: Tensor) -> Tensor:
    """Token (B, width) of a hexagonal face (B, 73, 2) whose nodes with `mask` (B, 73) 1 are silent."""
    shown = (1 - mask)[..., None]
    y = network.stem(x * shown)
    for block in network.layers:
        assert isinstance(block, HexBlock)
        branch = block.drop_path(block.narrow(block.hidden(block.spatial_conv(y) * shown)))
        y = y * shown + branch
    token: Tensor = network.proj(y.mean(1))
    return token
