"""Numbers of an event that tell whether it is like those of a training sample, from the quick look at it.

`xecml.data.event_numbers` says in words what they are. All of them bear scattered dead sensors: they are means over the
sensors that have something, not sums. Exportable; everything runs in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import full
from xecml.data.event_numbers import BRIGHTNESS, CONDITIONS, DIM, KEYS, SQUARES
from xecml.events import PDE_SIPM, QE_PMT
from xecml.models.networks.first_guess import local_spot
from xecml.models.networks.quick_look import GROUP_VELOCITY, WINDOW, Look, QuickLook
from xecml.models.networks.sensor_sums import face_sums, mean_around

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
_EDGES = (*DIM, *BRIGHTNESS)


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
        lit, clocked = valid.to(nphe.dtype), timed.to(nphe.dtype)
        number, with_time = face_sums(lit), face_sums(clocked)
        precision = nphe / (_VARIANCE_SINGLE + _VARIANCE_CONSTANT * nphe) * clocked
        weighted = look.residuals * precision
        # sums over SiPMs below each brightness: of counts, times, precisions, weighted times
        sipms = torch.stack([x[:, _SIPM] for x in (lit, clocked, precision, weighted)], 1)
        below = sipms @ torch.stack([_below(nphe[:, _SIPM], edge) for edge in _EDGES], 1).transpose(1, 2)
        groups = [
            self._light(nphe, number, light * scale),
            self._coverage(number, with_time, below[:, 0]),
            self._uneven(look.counts * scale, valid),
            self._times(precision, weighted, with_time, below[:, 1:, -len(BRIGHTNESS) :]),
            self._slopes_and_spreads(nphe, clocked, precision, weighted, look, own, torch.stack([u, v, w], 1)),
            self._shape(look.counts * scale, look, own),
        ]
        values, known = (torch.cat(parts, 1) for parts in zip(*groups, strict=True))
        return Numbers(torch.where(known, values, 0.0), known, conditions)

    def _light(self, nphe: Tensor, number: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of a PMT's light on each face to all light."""
        mean = face_sums(nphe)[:, 1:] / number[:, 1:].clamp_min(1.0)
        return torch.log((mean + 0.1) / (light.sum(1, keepdim=True) + 1.0) * 1e4), number[:, 1:] >= _FEW

    def _coverage(self, number: Tensor, with_time: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of sensors with a count by face, of these with a time, of SiPMs that are dim."""
        lit, clocked = (torch.stack([x[:, 0], x[:, 1:].sum(1)], 1) for x in (number, with_time))
        some = lit >= _FEW
        return (
            torch.cat(
                [number / self.sizes, clocked / lit.clamp_min(1.0), below[:, : len(DIM)] / lit[:, :1].clamp_min(1.0)], 1
            ),
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

    def _times(self, precision: Tensor, weighted: Tensor, number: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """Times of PMT faces against the inner one, and of dim SiPMs against brighter ones."""
        means = face_sums(weighted) / face_sums(precision).clamp_min(1e-3)
        known = (number[:, 1:] >= _FEW) & (number[:, :1] >= _FEW)
        whole = torch.stack([x[:, _SIPM].reshape(-1, *_INNER_SHAPE).sum(-1).sum(-1) for x in (precision, weighted)], 1)
        cumulated = torch.cat([below, torch.cat([number[:, :1], whole], 1)[:, :, None]], 2)  # (B, 3, bins)
        many, weight, light = torch.diff(cumulated, dim=2, prepend=torch.zeros_like(cumulated[:, :, :1])).unbind(1)
        # each bin against all that is brighter
        seen, above, over = (x.flip(1).cumsum(1).flip(1)[:, 1:] for x in (many, weight, light))
        binned = light[:, :-1] / weight[:, :-1].clamp_min(1e-3) - over / above.clamp_min(1e-3)
        dims = (many[:, :-1] >= _FEW - 0.5) & (seen >= _FEW - 0.5)
        return torch.cat([means[:, 1:] - means[:, :1], binned], 1), torch.cat([known, dims], 1)

    def _slopes_and_spreads(
        self,
        nphe: Tensor,
        clocked: Tensor,
        precision: Tensor,
        weighted: Tensor,
        look: Look,
        own: QuickLook,
        spot: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What times rise by over the light's travel, and logarithms of their spreads, of SiPMs and PMTs."""
        travel = _distance(spot, own.positions) / GROUP_VELOCITY
        slopes, totals, numbers = [], [], []
        for part in (_SIPM, _PMT):
            p, q, r, t, ok, n = (x[:, part] for x in (precision, weighted, look.residuals, travel, clocked, nphe))
            weight = p.sum(1, keepdim=True).clamp_min(1e-3)
            mean = q.sum(1, keepdim=True) / weight
            t = t - (p * t).sum(1, keepdim=True) / weight
            at = p * t
            slopes.append((at * r).sum(1) / (at * t).sum(1).clamp_min(1e-3))
            # pulls, so that a dim sensor counts as a bright one does
            pull = (r - mean).abs() * p.sqrt()
            if part is _SIPM:
                dim = _below(n, _DIM)
                totals += [(pull * dim).sum(1), (pull * (1 - dim)).sum(1)]
                numbers += [(ok * dim).sum(1), (ok * (1 - dim)).sum(1)]
            else:
                totals.append(pull.sum(1))
                numbers.append(ok.sum(1))
        number = torch.stack(numbers, 1)
        spread = torch.log((torch.stack(totals, 1) + 0.1) / (number + 0.1))
        many = torch.stack([number[:, :2].sum(1), number[:, 2]], 1)
        return torch.cat([torch.stack(slopes, 1), spread], 1), torch.cat([many, number], 1) >= 2 * _FEW

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


def _below(nphe: Tensor, edge: float) -> Tensor:
    """1 where there are fewer photoelectrons, else 0: several times as fast as a comparison and a conversion."""
    return ((edge - nphe) * 1e30).clamp(0.0, 1.0)


def _distance(spot: Tensor, positions: Tensor) -> Tensor:
    """Distances (B, 4760) in cm of sensors from local u, v, w (B, 3)."""
    point = _cartesian(spot)
    square = point.square().sum(1, keepdim=True) + positions.square().sum(1) - 2 * point @ positions.T
    return square.clamp_min(1e-2).sqrt()


def _cartesian(spot: Tensor) -> Tensor:
    u, v, w = spot.unbind(1)
    r, angle = w + geometry.INNER_RADIUS, v / geometry.INNER_RADIUS
    return torch.stack([-r * torch.cos(angle), r * torch.sin(angle), u], 1)
