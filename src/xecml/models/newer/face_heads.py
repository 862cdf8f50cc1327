"""The newest version's inpainter with a head a face: local context of each sensor, and the token of its face.

Modules have the names of the files. Channels of answers are those that are predicted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry
from xecml.models.cpu import chunks
from xecml.models.networks.faces import ConvNextBlock
from xecml.models.networks.hexagons import HexBlock
from xecml.models.newer.encoder import NewerEncoder
from xecml.models.newer.hiding import Seen
from xecml.models.original.network import coarse_map, hex_neighbours

WIDTH, HEX_WIDTH = 64, 96
_CENTRE = slice(4742, 4760)
N_OUTER = 234
_CORNER = (15, 30)
"""Row and column of the fine grid at which the centre map begins."""


def outer_cells(grid: tuple[int, int], pool: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the pooled fine grid that the 234 outer sensors lie on, in the order of their ids.

    Args:
        grid: rows and columns, pooled.
        pool: fine cells a pooled cell has along each axis.

    Returns:
        Cells (234, K), row by row, and which of them are some (234, K).
    """
    bounds = {int(i): (5 * r, 5 * r + 5, 3 * c, 3 * c + 3) for (r, c), i in np.ndenumerate(coarse_map())}
    # the 12 sensors of both maps have the cells of the centre map
    for (r, c), j in np.ndenumerate(geometry.outer_centre_map()):
        first, left = _CORNER[0] + 3 * r, _CORNER[1] + 2 * c
        bounds[int(j)] = (first, first + 3, left, left + 2)
    p, q = pool or (1, 1)
    cells = []
    for _, (top, bottom, left, right) in sorted(bounds.items()):
        rows, columns = _range(top // p, bottom // p, grid[0]), _range(left // q, right // q, grid[1])
        cells.append([r * grid[1] + c for r in rows for c in columns])
    table = np.zeros((len(cells), max(map(len, cells))), np.int64)
    some = np.zeros(table.shape, bool)
    for i, own in enumerate(cells):
        table[i, : len(own)], some[i, : len(own)] = own, True
    return table, some


def _range(first: int, last: int, size: int) -> range:
    """At least one cell, inside the grid."""
    first = min(first, size - 1)
    return range(first, min(max(last, first + 1), size))


class _Latent(nn.Module):
    """What a token says to a head: GELU of a linear map; parameters `latent_proj.0`."""

    def __init__(self, token_width: int, width: int) -> None:
        super().__init__()
        self.latent_proj = nn.Sequential(nn.Linear(token_width, width), nn.GELU())
        self.width = width

    def said(self, token: Tensor) -> Tensor:
        """Map (B, token_width) to (B, width)."""
        z: Tensor = self.latent_proj(token)
        return z


class _Local(_Latent, ABC):
    """Features of every cell of a map: convolution, group norm, GELU, two ConvNeXt blocks."""

    def __init__(self, token_width: int) -> None:
        super().__init__(token_width, WIDTH)
        self.local_encoder = nn.Sequential(
            nn.Conv2d(2 + WIDTH, WIDTH, 3, padding=1),
            nn.GroupNorm(8, WIDTH),
            nn.GELU(),
            ConvNextBlock(WIDTH),
            ConvNextBlock(WIDTH),
        )

    def features(self, x: Tensor, z: Tensor) -> Tensor:
        """Features (B, H, W, 64) of a map (B, H, W, 2) and what the token says (B, 64)."""
        B, H, W, _ = x.shape
        y = torch.cat([x, z[:, None, None].expand(B, H, W, WIDTH)], 3).permute(0, 3, 1, 2)
        conv, norm, gelu, *blocks = self.local_encoder
        y = gelu(norm(conv(y))).permute(0, 2, 3, 1)
        for block in blocks:
            y = block(y)
        features: Tensor = y
        return features

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Answers (B, ..., channels) of a map (B, H, W, 2) and a token (B, token_width)."""
        size = 16 * x.shape[1] * x.shape[2] * WIDTH  # in parts whose wide middle stays in the cache
        pairs = zip(chunks(x, size), chunks(self.said(token), size), strict=True)
        parts = [self.answers(self.features(a, z), z) for a, z in pairs]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    @abstractmethod
    def answers(self, features: Tensor, z: Tensor) -> Tensor:
        """Answers of features (B, H, W, 64) and what the token says (B, 64)."""


class RectangleHead(_Local):
    """An answer in every cell of a rectangular face, (B, H, W, channels)."""

    def __init__(self, token_width: int, channels: int) -> None:
        super().__init__(token_width)
        self.pred_head = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1), nn.GELU(), nn.Conv2d(WIDTH // 2, channels, 1)
        )

    def answers(self, features: Tensor, z: Tensor) -> Tensor:
        """See `_Local`."""
        answer: Tensor = self.pred_head(features.permute(0, 3, 1, 2))
        return answer.permute(0, 2, 3, 1)


class OuterSensorHead(_Local):
    """An answer for each of the 234 outer sensors by its cells of the fine grid, (B, 234, channels).

    Args:
        token_width: of the token.
        channels: of the answer.
        grid: rows and columns of the fine grid, pooled.
        pool: fine cells a pooled cell has.
    """

    cells: Tensor
    absent: Tensor

    def __init__(self, token_width: int, channels: int, *, grid: tuple[int, int], pool: tuple[int, int] | None) -> None:
        super().__init__(token_width)
        self.attn_weight = nn.Sequential(nn.Linear(WIDTH, 1))
        self.pred_head = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, channels))
        cells, some = outer_cells(grid, pool)
        self.register_buffer("cells", torch.from_numpy(cells), persistent=False)
        self.register_buffer("absent", torch.from_numpy(~some), persistent=False)

    def answers(self, features: Tensor, z: Tensor) -> Tensor:
        """See `_Local`."""
        flat = features.flatten(1, 2)  # (B, cells, 64)
        score = self.attn_weight(flat)[..., 0][:, self.cells].masked_fill(self.absent, -torch.inf)  # (B, 234, K)
        mean = (flat[:, self.cells] * score.softmax(2)[..., None]).sum(2)
        answer: Tensor = self.pred_head(torch.cat([mean, z[:, None].expand_as(mean)], 2))
        return answer


class HexagonHead(_Latent):
    """An answer at every node of a hexagonal face, (B, 73, channels)."""

    def __init__(self, token_width: int, channels: int) -> None:
        super().__init__(token_width, HEX_WIDTH)
        self.input_proj = nn.Linear(2 + HEX_WIDTH, HEX_WIDTH)
        self.gnn_layers = nn.ModuleList(HexBlock(HEX_WIDTH, hex_neighbours()) for _ in range(3))
        self.pred_head = nn.Sequential(
            nn.LayerNorm(HEX_WIDTH),
            nn.Linear(HEX_WIDTH, HEX_WIDTH // 2),
            nn.GELU(),
            nn.Linear(HEX_WIDTH // 2, channels),
        )

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Answers of nodes (B, 73, 2) and a token (B, token_width)."""
        z = self.said(token)[:, None].expand(-1, x.shape[1], -1)
        y = self.input_proj(torch.cat([x, z], 2))
        for block in self.gnn_layers:
            y = block(y)
        answer: Tensor = self.pred_head(y)
        return answer


class FaceHeads(nn.ModuleDict):
    """The heads of all faces, by the names of the files: `head_inner`, ...

    Args:
        encoder: whose tokens and maps they see.
        channels: of the answer.
    """

    def __init__(self, encoder: NewerEncoder, channels: int) -> None:
        width, views = encoder.token_width, encoder.views
        heads: dict[str, nn.Module] = {f"head_{face}": RectangleHead(width, channels) for face in ("inner", "us", "ds")}
        heads |= {f"head_{face}": HexagonHead(width, channels) for face in ("top", "bot")}
        split = views.outer_mode == "split"
        if split:
            heads["head_outer"] = RectangleHead(width, channels)
        else:
            heads["head_outer_sensor"] = OuterSensorHead(width, channels, grid=views.grid, pool=views.outer_fine_pool)
        super().__init__(heads)
        self.split = split

    def every_sensor(self, encoder: NewerEncoder, seen: Seen, tokens: Tensor) -> Tensor:
        """Normalised answers (B, 4760, channels) from what is seen and the encoder's tokens (B, T, width)."""
        views = encoder.views.maps(seen.x)
        place = {name: i for i, name in enumerate(encoder.token_names)}
        token = {face: tokens[:, place[face]] for face in ("inner", "us", "ds", "top", "bottom")}
        inner = self["head_inner"](views.inner, token["inner"]).flatten(1, 2)
        us, ds = (self[f"head_{f}"](views.ends[:, i], token[f]).flatten(1, 2) for i, f in enumerate(("us", "ds")))
        top, bottom = (
            self[f"head_{name}"](views.hexagons[:, i], token[face])
            for i, (name, face) in enumerate((("top", "top"), ("bot", "bottom")))
        )
        coarse, centre = self._outer(views.outer[0], tokens[:, place["outer_coarse" if self.split else "outer"]])
        # in the order of the sensors' ids
        return torch.cat([inner, coarse, us, ds, top, bottom, centre], 1)

    def _outer(self, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Answers of the 216 coarse sensors and of the 18 of the centre map alone, which get 0 in `split`."""
        n_centre = _CENTRE.stop - _CENTRE.start
        if self.split:
            coarse = cast(Tensor, self["head_outer"](x, token)).flatten(1, 2)
            return coarse, F.pad(coarse[:, :0], (0, 0, 0, n_centre))
        every = cast(Tensor, self["head_outer_sensor"](x, token))
        return every[:, :-n_centre], every[:, -n_centre:]

    def forward(self, encoder: NewerEncoder, seen: Seen, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Answers (n, channels) for sensors at flat positions `hidden` (n,) in (B, 4760)."""
        return self.every_sensor(encoder, seen, tokens).flatten(0, 1)[hidden]
