"""HexNeXt: ConvNeXt V2 blocks (Woo et al. 2023) on the hexagonal faces, shared by top and bottom.

A hexagonal lattice is a square one in slanted coordinates: with rows r and half pitches a, q = (a + r) / 2 puts the six
neighbours of a node at (r, q -+ 1), (r - 1, q - 1), (r - 1, q), (r + 1, q), (r + 1, q + 1). Mixing with one weight a
direction is then a depthwise 3 x 3 convolution whose other two corners are zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry
from xecml.models.cpu import depthwise, linear
from xecml.models.networks.faces import PointwiseMlp
from xecml.models.networks.layers import DropPath

N_NODES = len(geometry.hex_neighbours())
# row and column in the 3 x 3 kernel of self and the six directions, in the order of geometry.hex_neighbours
_TAPS = ((1, 1), (1, 0), (1, 2), (0, 0), (0, 1), (2, 1), (2, 2))
MIXINGS = ("depthwise", "attention")


def slanted(neighbours: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Place the nodes of a neighbour table (N, 7) on a grid on which its directions are the taps of a 3 x 3 kernel.

    Returns:
        Cell of every node (N,); node of every cell (rows * columns,), N where the cell is empty; rows and columns.
    """
    table = neighbours.tolist()
    place = {0: (0, 0)}
    queue = [0]
    for node in queue:
        r, q = place[node]
        for other, (dr, dq) in zip(table[node], _TAPS, strict=True):
            if other >= 0 and other not in place:
                place[other] = (r + dr - 1, q + dq - 1)
                queue.append(other)
    where = torch.tensor([place[n] for n in range(len(table))])
    where -= where.amin(0)
    rows, columns = (int(n) + 1 for n in where.amax(0))
    cell = where[:, 0] * columns + where[:, 1]
    node_of_cell = torch.full((rows * columns,), len(table))
    node_of_cell[cell] = torch.arange(len(table))
    return cell, node_of_cell, (rows, columns)


class HexDepthwise(nn.Module):
    """Mix each node with its neighbours: a weight a direction and channel.

    Args:
        width: channels.
        neighbours: table (N, 7), self and the six directions, -1 where there is none.
    """

    cell_of_node: Tensor
    node_of_cell: Tensor

    def __init__(self, width: int, neighbours: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 7, width) / math.sqrt(7))
        self.bias = nn.Parameter(torch.zeros(1, 1, width))
        cell, node, self.grid = slanted(neighbours)
        self.register_buffer("cell_of_node", cell, persistent=False)
        self.register_buffer("node_of_cell", node, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix (B, N, C)."""
        taps = self.weight[0]  # (7, C)
        empty = torch.zeros_like(taps[0])
        places = {row * 3 + column: taps[i] for i, (row, column) in enumerate(_TAPS)}
        kernel = torch.stack([places.get(i, empty) for i in range(9)], 1).reshape(-1, 1, 3, 3)
        # (B, N, C) -> (B, rows, columns, C), zero where no node stands
        cells = F.pad(x, (0, 0, 0, 1)).index_select(1, self.node_of_cell).reshape(x.shape[0], *self.grid, x.shape[2])
        mixed = depthwise(cells, kernel, self.bias.reshape(-1))
        return mixed.flatten(1, 2).index_select(1, self.cell_of_node)


class HexAttention(nn.Module):
    """Mix each node with its neighbours by weights that depend on both, with a bias a direction and head.

    Graph attention over the seven (Velickovic et al. 2018, in the dot-product form of Vaswani et al. 2017).
    """

    neighbours: Tensor
    absent: Tensor

    def __init__(self, width: int, neighbours: Tensor, *, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.direction = nn.Parameter(torch.zeros(heads, 7))
        self.proj = nn.Linear(width, width)
        self.register_buffer("neighbours", neighbours.clamp_min(0).reshape(-1), persistent=False)
        self.register_buffer("absent", neighbours < 0, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix (B, N, C)."""
        B, N, C = x.shape
        qkv = linear(x, self.qkv.weight, self.qkv.bias).reshape(B, N, 3, self.heads, C // self.heads)
        query, key, value = qkv.unbind(2)  # (B, N, heads, d)
        around = (-1, N, 7, self.heads, C // self.heads)
        keys = key.index_select(1, self.neighbours).reshape(around)
        values = value.index_select(1, self.neighbours).reshape(around)
        score = (query[:, :, None] * keys).sum(-1) / math.sqrt(C // self.heads)  # (B, N, 7, heads)
        score = (score + self.direction.t()).masked_fill(self.absent[:, :, None], -torch.inf)
        mixed = (score.softmax(2)[..., None] * values).sum(2).reshape(B, N, C)
        return linear(mixed, self.proj.weight, self.proj.bias)


class HexBlock(PointwiseMlp):
    """x + MLP(mixed neighbours of x) on (B, N, C)."""

    def __init__(self, width: int, neighbours: Tensor, *, mixing: str = "depthwise", drop_path: float = 0.0) -> None:
        super().__init__(width)
        kind = HexDepthwise if mixing == "depthwise" else HexAttention
        self.spatial_conv = kind(width, neighbours)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to the same shape."""
        branch: Tensor = self.drop_path(super().forward(self.spatial_conv(x)))
        return x + branch


class HexNetwork(nn.Module):
    """The 73 sensors of a hexagonal face to one token.

    Args:
        channels: of the input.
        width: of the blocks.
        blocks: how many.
        out_width: size of the token.
        mixing: `depthwise` or `attention`.
        neighbours: table (73, 7); the detector's by default.
        drop_path: rate in all blocks.
    """

    def __init__(
        self,
        *,
        channels: int = 2,
        width: int = 96,
        blocks: int = 4,
        out_width: int = 1024,
        mixing: str = "depthwise",
        neighbours: Tensor | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        table = torch.tensor(geometry.hex_neighbours()) if neighbours is None else neighbours
        self.stem = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width), nn.GELU())
        self.layers = nn.ModuleList(HexBlock(width, table, mixing=mixing, drop_path=drop_path) for _ in range(blocks))
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_width))

    def forward(self, x: Tensor) -> Tensor:
        """Encode (B, 73, channels) to (B, out_width)."""
        # in float32, for the times, as in the faces
        with torch.autocast(x.device.type, enabled=False):
            y = self.stem(x)
        for block in self.layers:
            y = block(y)
        token: Tensor = self.proj(y.mean(1))
        return token
