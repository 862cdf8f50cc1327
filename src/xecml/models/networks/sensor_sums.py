"""Sums over sensors: by face, by cell of the inner face, by class of a number, about each sensor.

Each is written so that a graph of it runs fast in ONNX Runtime, too, and so that float32 loses no digits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xecml import geometry

INNER_SHAPE = geometry.inner_map().shape
"""Rows and columns of the inner face."""
_CELL = 4
CELLS = (-(-INNER_SHAPE[0] // _CELL), INNER_SHAPE[1] // _CELL)
"""Rows and columns of the cells of 4 x 4 SiPMs of the inner face."""


def face_sums(values: Tensor) -> Tensor:
    """Sums (..., 6) over the faces of (..., 4760), in the order of face codes.

    In slices, and the inner face row by row: one long float32 sum would lose digits, and differently in every library.
    """
    inner = values[..., : geometry.N_SIPM].reshape(*values.shape[:-1], *INNER_SHAPE).sum(-1).sum(-1)
    outer = values[..., 4092:4308].sum(-1) + values[..., 4742:].sum(-1)
    others = [values[..., a:b].sum(-1) for a, b in ((4308, 4452), (4452, 4596), (4596, 4669), (4669, 4742))]
    return torch.stack([inner, others[0], others[1], outer, others[2], others[3]], -1)


def in_cells(maps: Tensor) -> Tensor:
    """Sums (..., 264) over cells of 4 x 4 SiPMs of (..., 4092)."""
    rows, columns = INNER_SHAPE
    grid = maps.reshape(-1, 1, rows, columns)
    # three more rows below make 96 = 24 x 4
    return (F.avg_pool2d(F.pad(grid, (0, 0, 0, -rows % _CELL)), _CELL) * _CELL**2).reshape(*maps.shape[:-1], -1)


def sums_by_class(values: Tensor, what: Tensor, edges: tuple[float, ...], soft: float = 0.0) -> Tensor:
    """Sums (B, n, k + 1) of quantities (B, n, S) over sensors whose number `what` (B, S) lies between k edges.

    With soft edges a sensor passes from one class to the next over this range, so that rounding decides nothing.
    """
    edge = what.new_tensor(edges)[:, None]
    if soft:
        beyond = ((what / soft)[:, None, :] + (0.5 - edge / soft)).clamp_(0.0, 1.0)
    else:
        beyond = (what[:, None, :] >= edge).to(values.dtype)
    # classes, not differences of sums: what is left of a large sum would be its rounding
    inside = torch.cat([1.0 - beyond[:, :1], beyond[:, :-1] - beyond[:, 1:], beyond[:, -1:]], 1)
    return values @ inside.transpose(1, 2)


def mean_around(grid: Tensor, side: int) -> Tensor:
    """Means over squares of side x side cells about each cell of (B, 1, H, W), with zeros beyond the edge.

    Rows, then columns, are added in slices: the library's pooling takes five times as long.
    """
    rows, columns = grid.shape[2:]
    framed = F.pad(grid, (side // 2,) * 4)
    across = sum((framed[..., i : i + columns] for i in range(1, side)), framed[..., :columns])
    return sum((across[..., i : i + rows, :] for i in range(1, side)), across[..., :rows, :]) / side**2
