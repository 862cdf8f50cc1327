"""The solid angles of a few weighted points summed at every sensor: on a CPU one compiled pass each way.

With PyTorch's operations some twenty arrays of (B, 4760) a point would go through memory, and more for the gradient;
compiled, only the sum and its gradient do. Elsewhere, and while a model is exported, the operations are PyTorch's.

Sensors are taken for small, but for the 7 x 7 chips about a point: light in front of a chip's edge is seen by it nearly
as well as light in front of its middle, which only the square's own solid angle says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from xecml import geometry
from xecml.compiled import fast
from xecml.models.cpu import in_parts

Floats32 = NDArray[np.float32]
_LEAST = 1e-6
"""Square of the shortest distance in cm2."""
_TWO_PI = 2 * math.pi
_PATCH = 3
"""Chips to each side of a point whose solid angles are exact."""
_LEAST_HEIGHT = 0.01
_ROWS, _COLUMNS = geometry.inner_map().shape


def solid_angles(points: Tensor, positions: Tensor, normals: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
    """Solid angles and distances (cm), (B, S), of sensors from points (B, 3).

    Args:
        points: cm.
        positions: of the sensors (S, 3), cm.
        normals: unit vectors (S, 3) into the xenon.
        areas: (S,) cm2.
    """
    # axis by axis: sums over an axis of three are slow
    away = [points[:, i, None] - positions[:, i] for i in range(3)]  # (B, S) each
    square = _dot(away, away)
    small, distance = _small(square, _dot(away, normals.unbind(1)), areas)
    chips, more = _squares_less_small(points[:, None], positions, normals, areas)
    return small.scatter_add(1, chips.flatten(1), more.flatten(1)), distance


def _small(square: Tensor, along: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
    """Solid angles of sensors as if small, from squares of distances and heights over their planes; and distances."""
    distance = square.clamp_min(_LEAST).sqrt()
    # nowhere more than half the sky
    facing = areas * (along / distance).clamp_min(0.0)
    return facing / (square + facing / _TWO_PI).clamp_min(_LEAST), distance


def _squares_less_small(points: Tensor, positions: Tensor, normals: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
    """What the chips about points (B, P, 3) see more than if they were small.

    Returns:
        Chips (B, P, 49), and solid angles (B, P, 49) of squares less those of `_small`.
    """
    first, last = positions[0], positions[geometry.N_SIPM - 1]
    turn = torch.atan2(points[..., 1], -points[..., 0])
    start, end = torch.atan2(first[1], -first[0]), torch.atan2(last[1], -last[0])
    row = ((turn - start) / (end - start) * (_ROWS - 1)).round().clamp(_PATCH, _ROWS - 1 - _PATCH)
    column = ((points[..., 2] - first[2]) / (last[2] - first[2]) * (_COLUMNS - 1)).round()
    column = column.clamp(_PATCH, _COLUMNS - 1 - _PATCH)
    middle = (row * _COLUMNS + column).nan_to_num(0.0).long()
    steps = torch.arange(-_PATCH, _PATCH + 1, device=points.device)
    chips = middle[..., None] + (steps[:, None] * _COLUMNS + steps).flatten()
    chips = chips.clamp(0, geometry.N_SIPM - 1)
    away = [points[..., i, None] - positions[:, i][chips] for i in range(3)]
    nx, ny = normals[:, 0][chips], normals[:, 1][chips]
    along = away[0] * nx + away[1] * ny
    small, _ = _small(_dot(away, away), along, areas[chips])
    # a chip's sides lie along z and across
    across, z, height = ny * away[0] - nx * away[1], away[2], along.clamp_min(_LEAST_HEIGHT)
    half = 0.5 * areas[chips].sqrt()
    whole = torch.zeros_like(small)
    for s in (-1.0, 1.0):
        for t in (-1.0, 1.0):
            x, y = across + s * half, z + t * half
            whole = whole + s * t * torch.atan(x * y / (height * torch.sqrt(x * x + y * y + height * height)))
    return chips, torch.where(along > _LEAST_HEIGHT, whole - small, 0.0)


def sum_of_solid_angles(points: Tensor, shares: Tensor, positions: Tensor, normals: Tensor, areas: Tensor) -> Tensor:
    """Sums (B, S) over P points (B, P, 3) of shares (B, P) times solid angles; the rest as in `solid_angles`."""
    plain = points.device.type != "cpu" or points.dtype != torch.float32
    if plain or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        parts = [
            shares[:, i : i + 1] * solid_angles(points[:, i], positions, normals, areas)[0]
            for i in range(points.shape[1])
        ]
        return torch.stack(parts).sum(0)
    sensors = torch.cat([positions.T, normals.T, areas[None]])
    small: Tensor = _Sum.apply(points, shares, sensors)  # type: ignore[no-untyped-call]
    chips, more = _squares_less_small(points, positions, normals, areas)
    return small.scatter_add(1, chips.flatten(1), (shares[..., None] * more).flatten(1))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Scalar products of vectors that are given as their three components."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, shares: Tensor, sensors: Tensor) -> Tensor:
        ctx.save_for_backward(points, shares, sensors)
        total = points.new_empty(points.shape[0], sensors.shape[1])
        in_parts(_add, points, shares, total, table=sensors)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        points, shares, sensors = ctx.saved_tensors
        # contiguous, whatever the points are: the kernel writes into these
        grad_points, grad_shares = points.new_empty(points.shape), shares.new_empty(shares.shape)
        in_parts(_add_gradient, points, shares, grads[0], grad_points, grad_shares, table=sensors)
        return grad_points, grad_shares, None


@fast
def _add(points: Floats32, shares: Floats32, total: Floats32, table: Floats32) -> None:
    """Write sums (B, S); `table` (7, S) has positions, normals and areas of the sensors."""
    n = table.shape[1]
    least, inverse = np.float32(_LEAST), np.float32(1 / _TWO_PI)
    for b in range(points.shape[0]):
        out = total[b]
        out[:] = 0
        for p in range(points.shape[1]):
            px, py, pz, share = points[b, p, 0], points[b, p, 1], points[b, p, 2], shares[b, p]
            for s in range(n):
                x, y, z = px - table[0, s], py - table[1, s], pz - table[2, s]
                square = x * x + y * y + z * z
                along = x * table[3, s] + y * table[4, s] + z * table[5, s]
                facing = table[6, s] * max(along, np.float32(0)) / np.sqrt(max(square, least))
                out[s] += share * facing / max(square + facing * inverse, least)


@fast
def _add_gradient(
    points: Floats32, shares: Floats32, grad: Floats32, of_points: Floats32, of_shares: Floats32, table: Floats32
) -> None:
    """Write gradients of points (B, P, 3) and shares (B, P) for the gradient (B, S) of the sums.

    With a the vector from a sensor with normal n and area A to the point, d its length, f = A (a n) / d and
    D = d2 + f / 2 pi, the solid angle f / D has the gradient (A d n - 3 f a) / D2.
    """
    n = table.shape[1]
    least, inverse = np.float32(_LEAST), np.float32(1 / _TWO_PI)
    for b in range(points.shape[0]):
        g = grad[b]
        for p in range(points.shape[1]):
            px, py, pz, share = points[b, p, 0], points[b, p, 1], points[b, p, 2], shares[b, p]
            gx = gy = gz = total = np.float32(0)
            for s in range(n):
                x, y, z = px - table[0, s], py - table[1, s], pz - table[2, s]
                square = max(x * x + y * y + z * z, least)
                along = x * table[3, s] + y * table[4, s] + z * table[5, s]
                lit = np.float32(1) if along > 0 else np.float32(0)
                distance = np.sqrt(square)
                facing = lit * table[6, s] * along / distance
                under = np.float32(1) / max(square + facing * inverse, least)
                weight = g[s] * under
                total += weight * facing
                outward = weight * under * lit * table[6, s] * distance
                inward = np.float32(3) * weight * under * facing
                gx += outward * table[3, s] - inward * x
                gy += outward * table[4, s] - inward * y
                gz += outward * table[5, s] - inward * z
            of_points[b, p, 0], of_points[b, p, 1], of_points[b, p, 2] = share * gx, share * gy, share * gz
            of_shares[b, p] = total
