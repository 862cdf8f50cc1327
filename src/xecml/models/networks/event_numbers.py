"""Numbers of an event that tell whether it is like those of a training sample, from the quick look at it.

`xecml.data.event_numbers` says in words what they are. All of them bear scattered dead sensors: they are means over the
sensors that have something, not sums. Exportable; everything runs in float32.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import full
from xecml.data.event_numbers import BRIGHTNESS, CONDITIONS, KEYS, SQUARES
from xecml.events import PDE_SIPM, QE_PMT
from xecml.models.networks.quick_look import (
    GROUP_VELOCITY,
    WINDOW,
    Look,
    QuickLook,
    face_sums,
    local_spot,
    mean_around,
)

N_NUMBERS, N_CONDITIONS = len(KEYS), len(CONDITIONS)
_INNER_SHAPE = geometry.inner_map().shape
_SIPM, _PMT = slice(0, geometry.N_SIPM), slice(geometry.N_SIPM, None)
_FEW = 3.0
"""Fewer sensors say nothing."""
_RELATIVE, _LIGHT = 1.001, 2e6
"""Counts that never exceed 1 are relative; they are taken to be of an event of so many photons."""
_VARIANCE_SINGLE, _VARIANCE_CONSTANT = 6.25, 0.04
"""Of a sensor's time, ns2: 6.25 / photoelectrons + 0.04."""
_BRIGHT = 20.0
"""Photoelectrons of SiPMs that are compared with their neighbours."""
_DIM = 10.0


class Numbers(NamedTuple):
    """Of a batch of B events."""

    values: Tensor
    """(B, N_NUMBERS), see `xecml.data.event_numbers.NUMBERS`; 0 where not known"""
    known: Tensor
    """(B, N_NUMBERS) bool: whether there are sensors enough to say"""
    conditions: Tensor
    """(B, N_CONDITIONS), see `xecml.data.event_numbers.CONDITIONS`"""


class EventNumbers(nn.Module):
    """See the module. Its buffers come from geometry and do not train."""

    efficiency: Tensor
    sizes: Tensor
    lever: Tensor
    squares: Tensor
    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        codes = geometry.face_codes()
        away = np.indices((WINDOW, WINDOW)).reshape(2, -1).T - WINDOW // 2
        ring = np.abs(away).max(1)
        for name, values in (
            ("efficiency", np.where(codes == 0, PDE_SIPM, QE_PMT)),
            ("sizes", np.bincount(codes)),
            # columns are u, rows run against v
            ("lever", away[:, ::-1] * np.array([1.5098, -1.5305])),
            ("squares", np.stack([ring <= side // 2 for side in (*SQUARES, WINDOW - 1)], 1)),
        ):
            self.register_buffer(name, torch.tensor(np.asarray(values, np.float32).copy()), persistent=False)
        self.register_buffer("codes", torch.tensor(codes.astype(np.int64)), persistent=False)

    def forward(self, npho: Tensor, valid: Tensor, timed: Tensor, look: Look, own: QuickLook) -> Numbers:
        """Numbers of events from raw counts and masks (B, 4760) and the quick look at them.

        Args:
            npho: raw counts.
            valid: mask of counts.
            timed: mask of times.
            look: what the quick look found.
            own: the quick look itself, which knows where sensors are and cuts windows out of the inner face.
        """
        largest = look.counts.amax(1, keepdim=True)
        light = face_sums(look.counts)
        total = light.sum(1, keepdim=True)
        # relative counts have no scale: all events are taken to be of one brightness
        scale = torch.where(largest <= _RELATIVE, _LIGHT / total.clamp_min(1e-6), 1.0)
        nphe = torch.where(valid, full(npho), 0.0) * scale * self.efficiency
        u, v, w = local_spot(look.features)
        conditions = torch.stack([u / 25, v / 70, torch.log(w), torch.log(total.squeeze(1) * scale.squeeze(1) + 1)], 1)
        read = valid.to(nphe.dtype)
        groups = [
            self._light(nphe, read, light * scale),
            self._coverage(nphe, read, timed),
            self._uneven(look.counts * scale, valid),
            self._times(nphe, timed, look, own.positions, torch.stack([u, v, w], 1)),
            self._shape(look.counts * scale, look, own),
        ]
        values, known = (torch.cat(parts, 1) for parts in zip(*groups, strict=True))
        return Numbers(torch.where(known, values, 0.0), known, conditions)

    def _light(self, nphe: Tensor, read: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of a PMT's light on each face to all light."""
        number = face_sums(read)[:, 1:]
        mean = face_sums(nphe)[:, 1:] / number.clamp_min(1.0)
        return torch.log((mean + 0.1) / (light.sum(1, keepdim=True) + 1.0) * 1e4), number >= _FEW

    def _coverage(self, nphe: Tensor, read: Tensor, timed: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of sensors with a count by face, of these with a time, of SiPMs that are dim."""
        number = face_sums(read)
        clocked = face_sums(timed.to(read.dtype))
        lit = torch.stack([number[:, 0], number[:, 1:].sum(1)], 1)
        with_time = torch.stack([clocked[:, 0], clocked[:, 1:].sum(1)], 1) / lit.clamp_min(1.0)
        sipm = nphe[:, _SIPM]
        dim = torch.stack([_rows((sipm < edge) & (sipm > 0)) for edge in (1.5, 3.0)], 1) / lit[:, :1].clamp_min(1.0)
        some = lit >= _FEW
        return (
            torch.cat([number / self.sizes, with_time, dim], 1),
            torch.cat([torch.ones_like(number, dtype=torch.bool), some, some[:, :1], some[:, :1]], 1),
        )

    def _uneven(self, counts: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the mean square by which a bright SiPM differs from its neighbours, over its photoelectrons."""
        inner = (counts[:, _SIPM] * PDE_SIPM).reshape(-1, 1, *_INNER_SHAPE)
        around = (mean_around(inner, 3) * 9 - inner) / 8
        # beside the edges of the face neighbours are missing
        inner, around, ok = (
            x[..., 1:-1, 1:-1].flatten(1)
            for x in (inner, around, valid[:, _SIPM].reshape(-1, 1, *_INNER_SHAPE).to(counts.dtype))
        )
        bright = ok * (around > _BRIGHT)
        number = bright.sum(1, keepdim=True)
        square = ((inner - around).square() / around.clamp_min(1.0) * bright).sum(1, keepdim=True)
        return torch.log(square / number.clamp_min(1.0) + 0.1) / 2, number >= 2 * _FEW

    def _times(self, nphe: Tensor, timed: Tensor, look: Look, positions: Tensor, spot: Tensor) -> tuple[Tensor, Tensor]:
        """Times of PMT faces against the inner one, of dim SiPMs against bright ones, over the travel; spreads."""
        clocked = timed.to(nphe.dtype)
        precision = nphe / (_VARIANCE_SINGLE + _VARIANCE_CONSTANT * nphe) * clocked
        residual = look.residuals
        weighted = residual * precision
        number, weights, sums = face_sums(clocked), face_sums(precision), face_sums(weighted)
        means = sums / weights.clamp_min(1e-3)
        faces = means[:, 1:] - means[:, :1]
        known = (number[:, 1:] >= _FEW) & (number[:, :1] >= _FEW)

        sipm, p, q, ok = (x[:, _SIPM] for x in (nphe, precision, weighted, clocked))
        below = [sipm < edge for edge in BRIGHTNESS]
        parts = [[_rows(x * b) for b in below] + [_rows(x)] for x in (p, q, ok)]
        weight, light, many = (torch.stack([part[0], *_steps(part)], 1) for part in parts)
        binned = light / weight.clamp_min(1e-3)
        # each bin against the brightest light there is: all that is brighter
        above, over, seen = (x.flip(1).cumsum(1).flip(1)[:, 1:] for x in (weight, light, many))
        binned = binned[:, :-1] - over / above.clamp_min(1e-3)
        dims = (many[:, :-1] >= _FEW) & (seen >= _FEW)

        travel = (positions - _cartesian(spot)[:, None, :]).square().sum(2).sqrt() / GROUP_VELOCITY
        slopes, spreads = [], []
        for part in (_SIPM, _PMT):
            a, r, t = (x[:, part] for x in (precision, residual, travel))
            n = a.sum(1, keepdim=True).clamp_min(1e-3)
            t = t - (a * t).sum(1, keepdim=True) / n
            at = a * t
            slopes.append((at * r).sum(1) / (at * t).sum(1).clamp_min(1e-3))
        # of a mean zero within each group of sensors; pulls, so that a dim sensor counts as a bright one does
        dim = (sipm < _DIM).to(ok.dtype) * ok
        pull = (residual - means[:, self.codes]).abs() * precision.sqrt()
        inner, outer = pull[:, _SIPM], pull[:, _PMT]
        counts = [_rows(dim), _rows(ok) - _rows(dim), number[:, 1:].sum(1)]
        totals = [_rows(inner * dim), _rows(inner) - _rows(inner * dim), outer.sum(1)]
        for total, count in zip(totals, counts, strict=True):
            spreads.append(torch.log((total.clamp_min(0.0) + 0.1) / (count.clamp_min(0.0) + 0.1)))
        n_slope = torch.stack([number[:, 0], number[:, 1:].sum(1)], 1)
        return (
            torch.cat([faces, binned, torch.stack(slopes, 1), torch.stack(spreads, 1)], 1),
            torch.cat([known, dims, n_slope >= 2 * _FEW, torch.stack(counts, 1) >= 2 * _FEW], 1),
        )

    def _shape(self, counts: Tensor, look: Look, window: QuickLook) -> tuple[Tensor, Tensor]:
        """Logarithms of light in squares and of widths, and lean, of the light about the hot spot."""
        inner = counts[:, _SIPM].reshape(-1, *_INNER_SHAPE)
        light = window.window(inner, look.row, look.column)
        inside = light @ self.squares
        block = inside[:, -1:]
        whole = inner.sum(-1).sum(-1)[:, None]
        weight = light * self.squares[:, -1]
        n = block.clamp_min(1e-3)
        mean = weight @ self.lever / n
        square = (weight @ self.lever.square() / n - mean.square()).clamp_min(1e-2)
        values = torch.cat(
            [
                torch.log((inside[:, :-1] + 1.0) / (block + 1.0)),
                torch.log((block + 1.0) / (whole + 1.0)),
                torch.log(square) / 2,
                mean / square.sqrt(),
            ],
            1,
        )
        return values, (block > 0).expand(-1, values.shape[1])


def _rows(values: Tensor) -> Tensor:
    """Sums (B,) over the SiPMs (B, 4092), row by row of the inner face: one long float32 sum would lose digits."""
    return values.to(torch.float32).reshape(-1, *_INNER_SHAPE).sum(-1).sum(-1)


def _steps(cumulated: list[Tensor]) -> list[Tensor]:
    return [(b - a).clamp_min(0.0) for a, b in pairwise(cumulated)]


def _cartesian(spot: Tensor) -> Tensor:
    u, v, w = spot.unbind(1)
    r, angle = w + geometry.INNER_RADIUS, v / geometry.INNER_RADIUS
    return torch.stack([-r * torch.cos(angle), r * torch.sin(angle), u], 1)
