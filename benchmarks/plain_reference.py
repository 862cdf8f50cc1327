# ruff: noqa: D101, D102
"""The reference network written plainly, as the yardstick of `benchmarks/networks.py`; nothing else uses it.

Channels first, two permutations around each block, LayerNorm over channels in Python operations, hexagons by
scatter-add over an edge list, the faces one by one, torch's own transformer. It loads the weights of
`xecml.models.networks.reference.ReferenceEncoder` and gives the same numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry
from xecml.models.networks.reference import light_weighted_time
from xecml.models.normalise import Normaliser


class ChannelsFirstNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        normed = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class GlobalResponseNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.norm(x, p=2, dim=tuple(range(1, x.ndim - 1)), keepdim=True)
        return self.gamma * (x * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.grn = GlobalResponseNorm(4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def mlp(self, x: Tensor) -> Tensor:
        return self.pwconv2(self.grn(F.gelu(self.pwconv1(self.norm(x)))))


class ConvBlock(Block):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.dwconv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + y


class Faces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 32, 4, padding=1), ChannelsFirstNorm(32))
        self.stage1 = nn.Sequential(ConvBlock(32), ConvBlock(32))
        self.downsample = nn.Sequential(ChannelsFirstNorm(32), nn.Conv2d(32, 64, 2, stride=2))
        self.stage2 = nn.Sequential(ConvBlock(64), ConvBlock(64), ConvBlock(64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stage2(self.downsample(self.stage1(self.stem(x))))
        return F.interpolate(y, (4, 4), mode="bilinear", align_corners=False).flatten(1)


class Mixing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 7, width))
        self.bias = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target, kind = edges
        messages = x[:, source] * self.weight[:, kind]
        return torch.zeros_like(x).index_add(1, target, messages) + self.bias


class HexBlock(Block):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.spatial_conv = Mixing(width)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return x + self.mlp(self.spatial_conv(x, edges))


class Hexagons(nn.Module):
    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, 96), nn.LayerNorm(96), nn.GELU())
        self.layers = nn.ModuleList(HexBlock(96) for _ in range(4))
        self.proj = nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 1024))
        table = torch.tensor(geometry.hex_neighbours())
        target, kind = torch.nonzero(table >= 0).unbind(1)
        self.register_buffer("edges", torch.stack([table[target, kind], target, kind]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for layer in self.layers:
            y = layer(y, self.edges)
        return self.proj(y.mean(1))


def plain_head(width: int, size: int) -> nn.Sequential:
    first = [nn.Linear(width, 256), nn.LayerNorm(256), nn.GELU(), nn.Dropout(0.2)]
    return nn.Sequential(*first, nn.Linear(256, 256), nn.GELU(), nn.Linear(256, size))


class PlainReference(nn.Module):
    """Raw counts, times and masks (B, 4760) to tokens (B, 6, 1024); the fine grid pooled 3 x 3."""

    def __init__(self, normaliser: Normaliser) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.faces, self.hexagons = Faces(), Hexagons()
        layer = nn.TransformerEncoderLayer(1024, 8, 4096, 0.1, "gelu", batch_first=True)
        self.fusion = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.positions = nn.Parameter(torch.zeros(1, 6, 1024))
        for name, table in (
            ("inner", geometry.inner_map()),
            ("us", geometry.us_map()),
            ("ds", geometry.ds_map()),
            ("fine", geometry.outer_fine_ids()),
            ("top", np.arange(4596, 4669)),
            ("bottom", np.arange(4669, 4742)),
            ("shares", geometry.outer_fine_shares()),
        ):
            self.register_buffer(name, torch.tensor(np.array(table)), persistent=False)

    def face(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Tensor:
        return torch.stack([self.normaliser.counts(npho, valid), self.normaliser.times(time, timed)], 1)

    def outer(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Tensor:
        n = torch.where(valid, npho, 0.0)[:, self.fine] * self.shares.float()
        ok, clocked = valid[:, self.fine].float(), timed[:, self.fine].float()
        t = torch.where(timed, time, 0.0)[:, self.fine]
        pool = lambda x: F.avg_pool2d(x[:, None], 3)[:, 0] * 9  # noqa: E731
        mean = pool(t * clocked) / pool(clocked).clamp_min(1.0)
        maps = (pool(n), mean, pool(ok) > 0, pool(clocked) > 0)
        return self.face(*(m.transpose(1, 2) for m in maps))

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Tensor:
        time = time - light_weighted_time(npho, time, valid, timed)[:, None]
        sensors = (npho, time, valid, timed)
        grids = [self.face(*(x[:, ids] for x in sensors)) for ids in (self.inner, self.us, self.ds)]
        nodes = [self.face(*(x[:, ids] for x in sensors)).transpose(1, 2) for ids in (self.top, self.bottom)]
        tokens = [self.faces(grid) for grid in (*grids, self.outer(*sensors))]
        tokens += [self.hexagons(x) for x in nodes]
        return self.fusion(torch.stack(tokens, 1) + self.positions)
