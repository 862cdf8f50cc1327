"""From 4760 sensors to the maps of the faces that networks see, channels last.

Inner, us, ds, top and bottom are slices of the sensors in order; only the outer face is gathered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.errors import InputError
from xecml.models.normalise import Normaliser

OUTER_MODES = ("finegrid", "split")
_INNER_SHAPE, _END_SHAPE = geometry.inner_map().shape, geometry.us_map().shape
_N_HEXAGONS = len(geometry.hex_neighbours())
_ENDS = slice(4308, 4596)
_HEXAGONS = slice(4596, 4742)


class Views(NamedTuple):
    """Maps of a batch of B events with C channels: count, time, and validity where asked for."""

    inner: Tensor
    """(B, 93 phi, 44 z, C)"""
    ends: Tensor
    """(B, 2, 24 phi, 6 r, C): us, ds"""
    outer: tuple[Tensor, ...]
    """One map (B, phi, z, C), or the coarse and the centre map."""
    hexagons: Tensor
    """(B, 2, 73, C): top, bottom"""


def fine_grid_members(ids: np.ndarray, pool: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which sensors lie under each cell of a pooled fine grid, and in how many of its fine cells.

    Args:
        ids: sensor under each fine cell (rows, columns).
        pool: fine cells a pooled cell has along each axis.

    Returns:
        Sensors (cells, K) and numbers of fine cells (cells, K), 0 where fewer than K sensors take part.

    Raises:
        InputError: the pool does not divide the grid.
    """
    (rows, columns), (p, q) = ids.shape, pool
    if rows % p or columns % q:
        raise InputError(
            f"model.outer_fine_pool {list(pool)} does not divide the fine grid {list(ids.shape)}; choose divisors, "
            "such as [3, 3]."
        )
    cells = ids.reshape(rows // p, p, columns // q, q).swapaxes(1, 2).reshape(-1, p * q)
    members = [np.unique(cell, return_counts=True) for cell in cells]
    most = max(len(sensors) for sensors, _ in members)
    sensors, numbers = np.zeros((2, len(cells), most), np.int64)
    for i, (who, count) in enumerate(members):
        sensors[i, : len(who)], numbers[i, : len(who)] = who, count
    return torch.from_numpy(sensors), torch.from_numpy(numbers)


class FineGrid(nn.Module):
    """The outer face as one grid, optionally pooled, computed from raw values.

    A cell's count is the sum of the shares that its sensors have in it, before any logarithm; its time is the mean
    over its timed fine cells.
    """

    sensors: Tensor
    cells: Tensor
    shares: Tensor

    def __init__(self, pool: tuple[int, int] | None = (3, 3)) -> None:
        super().__init__()
        along_z, along_phi = pool or (1, 1)
        members = fine_grid_members(geometry.outer_fine_ids(), (along_z, along_phi))
        rows, columns = geometry.FINE_SHAPE
        self.shape = (columns // along_phi, rows // along_z)
        # (z, phi) -> (phi, z) as on the other faces
        sensors, cells = (m.reshape(*self.shape[::-1], -1).transpose(0, 1).flatten(0, 1) for m in members)
        share = torch.zeros(geometry.N_SENSORS)
        share[torch.from_numpy(geometry.outer_fine_ids().ravel().copy())] = torch.from_numpy(
            geometry.outer_fine_shares().ravel().astype(np.float32)
        )
        self.register_buffer("sensors", sensors, persistent=False)
        self.register_buffer("cells", cells.float(), persistent=False)
        self.register_buffer("shares", share[sensors] * cells, persistent=False)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[Tensor, ...]:
        """Counts, times and the two masks, each (B, phi, z), from those of the sensors, each (B, 4760)."""
        counted, clocked = valid[:, self.sensors], timed[:, self.sensors]  # (B, cells, K)
        shared = torch.where(counted, npho[:, self.sensors], 0.0) * self.shares
        weight = clocked * self.cells
        mean = (torch.where(clocked, time[:, self.sensors], 0.0) * weight).sum(2) / weight.sum(2).clamp_min(1.0)
        # a member of no cells fills the table up; it must not make a cell valid
        member = self.cells > 0
        found = (shared.sum(2), mean, (counted & member).any(2), (clocked & member).any(2))
        return tuple(x.reshape(-1, *self.shape) for x in found)


class FaceViews(nn.Module):
    """Raw values to normalised maps of the faces.

    Args:
        normaliser: transform of counts and times.
        outer_mode: `finegrid`: the outer face as one grid; `split`: as the coarse and the centre map.
        outer_fine_pool: cells (z, phi) of the fine grid that are pooled; None for none.
        validity_channel: give the mask as a third channel.
    """

    coarse: Tensor
    centre: Tensor

    def __init__(
        self,
        normaliser: Normaliser,
        *,
        outer_mode: str = "finegrid",
        outer_fine_pool: tuple[int, int] | None = (3, 3),
        validity_channel: bool = False,
    ) -> None:
        super().__init__()
        if outer_mode not in OUTER_MODES:
            raise InputError(f"Unknown outer_mode '{outer_mode}'; choose {' or '.join(OUTER_MODES)}.")
        self.normaliser = normaliser
        self.outer_mode = outer_mode
        self.validity_channel = validity_channel
        self.channels = 3 if validity_channel else 2
        self.fine = FineGrid(outer_fine_pool) if outer_mode == "finegrid" else None
        self.register_buffer("coarse", torch.tensor(geometry.outer_coarse_map().T.copy()), persistent=False)
        self.register_buffer("centre", torch.tensor(geometry.outer_centre_map().T.copy()), persistent=False)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Views:
        """Maps from raw counts, times (s) and masks, each (B, 4760)."""
        x = self.channels_of(npho, time, valid, timed)
        outer: tuple[Tensor, ...]
        if self.fine is not None:
            outer = (self.channels_of(*self.fine(npho, time, valid, timed)),)
        else:
            outer = (x[:, self.coarse], x[:, self.centre])
        return cut(x, outer)

    def channels_of(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Tensor:
        """Normalised channels (..., C), float32."""
        normed = [self.normaliser.counts(npho, valid), self.normaliser.times(time, timed)]
        return torch.stack([*normed, valid.to(normed[0].dtype)] if self.validity_channel else normed, -1)


def cut(x: Tensor, outer: tuple[Tensor, ...]) -> Views:
    """The maps of normalised sensors (B, 4760, C), with those of the outer face given."""
    C = x.shape[2]
    inner = x[:, : geometry.N_SIPM].reshape(-1, *_INNER_SHAPE, C)
    ends = x[:, _ENDS].reshape(-1, 2, *_END_SHAPE, C)
    return Views(inner, ends, outer, x[:, _HEXAGONS].reshape(-1, 2, _N_HEXAGONS, C))
