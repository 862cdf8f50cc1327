"""Decoders of the autoencoder: from what an encoder says of an event to a count and a time of every sensor.

`LightDecoder` is the default: it works on top of the light of a point source, with a pattern about the hot spot and a
few hundred patterns over the whole detector. `ReferenceDecoder` has the sizes of the replaced system.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry
from xecml.models.networks.hexagons import N_NODES, HexBlock
from xecml.models.networks.quick_look import N_FEATURES, WINDOW
from xecml.models.rebuild.point_light import PointLight

CHANNELS = 2
"""Count and time."""
_INNER, _END = geometry.inner_map().shape, geometry.us_map().shape
_FINE = geometry.FINE_SHAPE
_PAD = WINDOW // 2
_N_OUTER = 234


class LightDecoder(nn.Module):
    """Residuals to the light of a point: patterns over the detector, and one that moves with the hot spot.

    Args:
        code_width: of the encoder's code.
        width: number of patterns over the detector.
    """

    window_index: Tensor
    on_point = True

    def __init__(self, code_width: int, *, width: int = 128) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.LayerNorm(code_width + N_FEATURES), nn.Linear(code_width + N_FEATURES, 2 * width), nn.GELU()
        )
        self.patterns = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, CHANNELS * geometry.N_SENSORS)
        )
        # 6 x 6 -> 12 x 12 -> 24 x 24 sensors about the hot spot
        self.seed = nn.Linear(2 * width, width // 2 * (WINDOW // 4) ** 2)
        self.window = nn.Sequential(
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 2, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 4, CHANNELS, 3, padding=1),
        )
        for last in (self.patterns[-1], self.window[-1]):
            assert isinstance(last, nn.Linear | nn.Conv2d)
            assert last.bias is not None
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        i, j = np.mgrid[:WINDOW, :WINDOW]
        index = torch.tensor((i * (_INNER[1] + WINDOW) + j).ravel())
        self.register_buffer("window_index", index, persistent=False)

    def forward(self, code: Tensor, point: PointLight) -> Tensor:
        """Decode codes (B, code_width) to standardised residuals (B, 4760, 2)."""
        # the quick look's numbers are of order one and lead to sub-pitch places
        trunk = self.trunk(torch.cat([code, point.look.features.to(code.dtype)], 1))
        everywhere = self.patterns(trunk).reshape(-1, CHANNELS, geometry.N_SENSORS)
        local = self.window(self.seed(trunk).reshape(-1, self.seed.out_features // 36, WINDOW // 4, WINDOW // 4))
        inner = self._pasted(local.flatten(2), point.look.row, point.look.column)
        both: Tensor = everywhere + F.pad(inner, (0, geometry.N_SENSORS - geometry.N_SIPM))
        return both.transpose(1, 2)

    def _pasted(self, local: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Put windows (B, 2, 24 * 24) about the hot spots into the inner face (B, 2, 4092)."""
        rows, columns = _INNER[0] + WINDOW, _INNER[1] + WINDOW
        place = (row * columns + column)[:, None] + self.window_index
        empty = torch.zeros_like(local[:, :, :1]).repeat(1, 1, rows * columns)
        padded = empty.scatter(2, place[:, None].repeat(1, CHANNELS, 1), local)
        maps = padded.reshape(-1, CHANNELS, rows, columns)
        return maps[:, :, _PAD : _PAD + _INNER[0], _PAD : _PAD + _INNER[1]].flatten(2)


class RectangularDecoder(nn.Sequential):
    """A face's token to a map: linear to 256 x 4 x 4, transposed convolutions to 128, 64, channels, resized.

    Args:
        token_width: of the token.
        shape: rows and columns of the map.
    """

    def __init__(self, token_width: int, shape: tuple[int, int]) -> None:
        super().__init__(
            nn.Linear(token_width, 256 * 4 * 4),
            nn.Unflatten(1, (256, 4, 4)),
            nn.ConvTranspose2d(256, 128, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(64, CHANNELS, 4, stride=2, padding=1),
            nn.Upsample(size=shape, mode="bilinear", align_corners=False),
            nn.Flatten(2),
        )


class HexagonalDecoder(nn.Module):
    """A face's token on every node, with learned positions, through two HexNeXt blocks."""

    def __init__(self, token_width: int, *, blocks: int = 2) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(1, N_NODES, token_width))
        neighbours = torch.tensor(geometry.hex_neighbours())
        self.blocks = nn.Sequential(*(HexBlock(token_width, neighbours) for _ in range(blocks)))
        self.out = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, CHANNELS))

    def forward(self, token: Tensor) -> Tensor:
        """Decode (B, width) to (B, 2, 73)."""
        nodes: Tensor = self.out(self.blocks(token[:, None] + self.positions))
        return nodes.transpose(1, 2)


class ReferenceDecoder(nn.Module):
    """A decoder a face, from the tokens of the reference encoder side by side.

    Args:
        token_names: of the encoder: with `outer` the outer face is decoded as its fine grid, with `outer_coarse` and
            `outer_center` as two maps.
        token_width: of each token.
    """

    cells: Tensor
    shares: Tensor
    on_point = False

    def __init__(self, token_names: tuple[str, ...], token_width: int = 1024) -> None:
        super().__init__()
        self.token_names = token_names
        fine = geometry.outer_fine_ids()
        shapes = {
            "inner": _INNER, "us": _END, "ds": _END, "outer": fine.T.shape,
            "outer_coarse": geometry.outer_coarse_map().T.shape, "outer_center": geometry.outer_centre_map().T.shape,
        }  # fmt: skip
        self.faces = nn.ModuleDict(
            {
                name: RectangularDecoder(token_width, shapes[name]) if name in shapes else HexagonalDecoder(token_width)
                for name in token_names
            }
        )
        ids = {
            "inner": geometry.inner_map(), "us": geometry.us_map(), "ds": geometry.ds_map(), "outer": fine.T,
            "outer_coarse": geometry.outer_coarse_map().T, "outer_center": geometry.outer_centre_map().T,
            "top": np.concatenate(geometry.top_rows()), "bottom": np.concatenate(geometry.bottom_rows()),
        }  # fmt: skip
        cells, shares = sensor_cells([ids[name] for name in token_names])
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("shares", shares, persistent=False)

    def forward(self, code: Tensor, point: PointLight | None = None) -> Tensor:
        """Decode codes (B, tokens * width) to standardised answers (B, 4760, 2)."""
        tokens = code.reshape(code.shape[0], len(self.token_names), -1)
        maps = [self.faces[name](tokens[:, i]) for i, name in enumerate(self.token_names)]
        flat = torch.cat([m.to(code.dtype) for m in maps], 2)  # (B, 2, cells)
        answer: Tensor = (flat[:, :, self.cells] * self.shares).sum(3)
        return answer.transpose(1, 2)


def sensor_cells(maps: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Where each sensor stands among the cells of maps side by side, and with which share of its answer.

    Args:
        maps: sensor numbers in the cells. A sensor in two maps is read from the later.

    Returns:
        Cells (4760, K) and shares (4760, K) that sum to one; K is the largest number of cells of a sensor.
    """
    most = max(int(np.bincount(np.asarray(ids).ravel()).max()) for ids in maps)
    cells = np.zeros((geometry.N_SENSORS, most), np.int64)
    shares = np.zeros((geometry.N_SENSORS, most), np.float32)
    offset = 0
    for ids in maps:
        flat = np.asarray(ids).ravel()
        order = np.argsort(flat, kind="stable")
        sensors, first, count = np.unique(flat[order], return_index=True, return_counts=True)
        shares[sensors] = 0.0
        for i in range(int(count.max())):
            some = count > i
            cells[sensors[some], i] = offset + order[first[some] + i]
            shares[sensors[some], i] = 1 / count[some]
        offset += len(flat)
    return torch.tensor(cells), torch.tensor(shares)
