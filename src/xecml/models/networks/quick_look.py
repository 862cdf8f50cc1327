"""A quick look at an event, as part of a network: hot spot, depth, sums, times less the light's travel.

Light is compared with what a point at the hot spot would give, by distance: how far it reaches tells the liquid's and
the walls' optics, which differ between detectors, and with them what the sum of the light means.

What a conventional reconstruction computes first, vectorised over a batch and exportable: the network then
learns what this leaves. Everything runs in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml import geometry
from xecml.data.batch import full
from xecml.events import PDE_SIPM, QE_PMT
from xecml.models.networks.sensor_sums import INNER_SHAPE, face_sums, in_cells, mean_around, sums_by_class

GROUP_VELOCITY = 8.0
"""Of 175 nm light in liquid xenon, cm/ns."""
WINDOW = 24
"""Rows and columns of the inner face seen around the hot spot, at full granularity."""
_PAD = WINDOW // 2
_SQUARES = (1, 3, 5, 9, 15, 23)
_RINGS = (0, 5, 9, 15, WINDOW)
_FACES = len(geometry.FACES)
_TIME_NOISE_STATISTICAL, _TIME_NOISE_CONSTANT = 6.25, 0.04
"""Variance of a sensor's time is 6.25 / photoelectrons + 0.04 ns2."""
_DEPTHS = np.array([0.3, 0.7, 1.2, 1.8, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0])


class Look(NamedTuple):
    """What the quick look finds, for a batch of B events."""

    features: Tensor
    """(B, N_FEATURES): position, direction, sums, shape, regional times; physical units of order one."""
    light_time: Tensor
    """(B,) seconds: light-weighted mean time of the event."""
    event_time: Tensor
    """(B,) seconds: mean time of the bright sensors near the hot spot, less the light's travel from it."""
    counts: Tensor
    """(B, 4760) photons, 0 where invalid on PMTs, the mean of valid neighbours where invalid on SiPMs."""
    residuals: Tensor
    """(B, 4760) ns: time less event time less the light's travel from the hot spot; 0 if untimed."""
    sharpness: Tensor
    """(B, 4760) 1/ns2: inverse variance of a sensor's time if it is that of the first photoelectron; 0 if untimed."""
    expected: Tensor
    """(B, 4760) photons that a point at the hot spot would give, scaled to the light of all sensors with a count."""
    cells: Tensor
    """(B, 4, 264): counts, expected ones, times after the event's by sharpness, sharpness, summed over 4 x 4 SiPMs."""
    row: Tensor
    column: Tensor


class Steps(NamedTuple):
    """What of a quick look moves in steps where its input moves smoothly, for a batch of B events."""

    row: Tensor
    """(B,) of the SiPM at the hot spot"""
    column: Tensor
    """(B,) of the same"""
    counts: Tensor
    """(B, 4760) photons, by which sensors are sorted into classes of brightness"""


_KINDS = (slice(0, geometry.N_SIPM), slice(geometry.N_SIPM, geometry.N_SENSORS))
"""SiPMs, PMTs."""
_POWERS = (1, 2)
_BRIGHTNESS = (3.0, 10.0, 30.0, 100.0)
"""Photoelectrons that part sensors into five classes, SiPMs and PMTs apart: how times move with the size of a pulse."""
_FEW_SENSORS = 5.0
"""A class's mean time counts with n / (n + this) of n sensors."""
_LARGEST_TIME = 4.0
"""ns; times of regions and classes bend off towards it, so that no definition of times leads out of all bounds."""
_DIM_FACE = 1e-3
"""Share of all light added to a face before the logarithm: whether a few dim sensors are reported says nothing of the
photon."""
_DISTANCES = (8.0, 14.0, 20.0, 27.0, 35.0, 45.0, 55.0, 70.0)
"""cm; they part sensors into nine classes of distance from the hot spot, SiPMs and PMTs apart."""
_SOFT = 2.0
"""cm over which a sensor passes from one class to the next."""
_REACH = 40.0
"""cm over which light that is both scattered and absorbed falls to 1/e beyond its spreading."""
_ROUND_CORNERS = 0.05
"""Scattered light that reaches a window from all sides, over the light that would fall on it at a right angle."""
_FEW_PHOTONS = 50.0
"""Photons added to both sides of a ratio of observed to expected light."""
_SHARP = 25.0, 45.0**2
"""Precision of a sensor's time in 1/ns2 that no sensor exceeds, and that of one photoelectron: the first of n
photoelectrons comes within 45 ns / n, so that the times of bright sensors mean the same by every definition."""
_NEAR = 10.0
"""cm; sensors further from the hot spot than the nearest count the less, since their light was scattered on its way."""
_FORGIVING = (5.0, 1.0)
"""ns; rounds that find the event's time weigh a residual r by 1 / (1 + (r / this)^2): a second photon's light is left
out."""
_REGIONS = len(_RINGS) - 1 + _FACES
_CLASSES = 2 * (len(_DISTANCES) + 1)
_RATIOS = _CLASSES + _FACES + 1
_N_OF_COUNTS = (5 + 1) + (_FACES + len(_SQUARES) + _FACES) + 6 + 2 * len(_POWERS) * (len(_SQUARES) - 1) + _RATIOS
N_FEATURES = _N_OF_COUNTS + 2 * (2 * _REGIONS + _CLASSES) + 2 * (len(_BRIGHTNESS) + 1)
FROM_TIMES = np.arange(N_FEATURES) >= _N_OF_COUNTS
"""Which of the numbers need times, or ask where there are some; the others come from counts alone."""
SUMS = slice(6, 6 + _FACES)
"""Where the sums of faces stand among the numbers."""


def _plane_spread(depth: float) -> float:
    """Share of a 17 x 17 block's direct light that misses its central 5 x 5, for a source at this depth (cm)."""
    pitch = 1.52
    x, y = np.meshgrid(*(np.arange(-8, 9) * pitch,) * 2)
    # averaged over where in a pitch the source stands
    shifts = np.linspace(-0.4, 0.4, 5) * pitch
    light = sum(depth / ((x - a) ** 2 + (y - b) ** 2 + depth**2 + 0.1) ** 1.5 for a in shifts for b in shifts)
    return float(1 - light[6:11, 6:11].sum() / light.sum())


class QuickLook(nn.Module):
    """See the module. Its buffers come from geometry and do not train."""

    positions: Tensor
    middle: Tensor
    normals: Tensor
    areas: Tensor
    efficiency: Tensor
    window_index: Tensor
    square_masks: Tensor
    ring_masks: Tensor
    depth_masks: Tensor
    depth_knots: Tensor
    depth_slopes: Tensor
    lever: Tensor

    def __init__(self, positions: np.ndarray | None = None) -> None:
        super().__init__()
        self.held: Steps | None = None
        """Steps to take in place of an event's own, so that answers along a path of inputs have no jumps."""
        xyz = geometry.positions() if positions is None else positions
        efficiency = np.where(geometry.face_codes() == 0, PDE_SIPM, QE_PMT)
        i, j = np.mgrid[:WINDOW, :WINDOW]
        index = i * (INNER_SHAPE[1] + WINDOW) + j
        # distance in rows or columns, whichever is larger, from the hot spot at (12, 12)
        away = np.maximum(np.abs(i - _PAD), np.abs(j - _PAD)).ravel()
        squares = np.stack([away <= size // 2 for size in _SQUARES], 1)
        inside = np.stack([away <= size // 2 for size in _RINGS[1:]], 1)
        rings = inside & ~np.concatenate([np.zeros_like(inside[:, :1]), inside[:, :-1]], 1)
        spread = np.array([_plane_spread(w) for w in _DEPTHS])
        slopes = np.diff(_DEPTHS) / np.diff(spread)
        # small integers times the pitch: moments about the hot spot, in cm
        lever = np.stack([(i - _PAD).ravel(), (j - _PAD).ravel()], 1) * np.array([-1.5305, 1.5098])
        for name, values in (
            ("positions", xyz),
            ("middle", geometry.positions().mean(0)),
            ("normals", geometry.normals()),
            ("areas", np.where(geometry.face_codes() == 0, geometry.SIPM_AREA, np.pi * geometry.PMT_RADIUS**2)),
            ("efficiency", efficiency),
            ("square_masks", squares),
            ("ring_masks", rings),
            ("depth_masks", np.stack([(away > 2) & (away <= 8), away <= 8], 1)),
            ("depth_knots", spread[:-1]),
            ("depth_slopes", np.diff(slopes, prepend=0.0)),
            ("lever", lever),
        ):
            self.register_buffer(name, torch.tensor(np.asarray(values, np.float32)), persistent=name == "positions")
        self.register_buffer("window_index", torch.tensor(index.ravel()), persistent=False)

    def window(self, inner: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Cut (B, WINDOW * WINDOW) around (row, column) out of maps (B, 93, 44); zeros beyond the face."""
        padded = F.pad(inner, (_PAD, _PAD, _PAD, _PAD)).flatten(1)
        stride = inner.shape[2] + WINDOW
        return padded.gather(1, (row * stride + column)[:, None] + self.window_index)

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> Look:
        """Look at raw counts (photons), times (s) and their validity masks, each (B, 4760)."""
        counts = self._filled(torch.where(valid, full(npho), 0.0), valid.to(full(npho).dtype))
        inner = counts[:, : geometry.N_SIPM].reshape(-1, *INNER_SHAPE)
        row, column = self._peak(inner) if self.held is None else self.held[:2]
        light = self.window(inner, row, column)
        u, v = self._centroid(light, row, column)
        depth = self._depth(light)
        seconds, clocked = torch.where(timed, full(time), 0.0), timed.to(counts.dtype)
        weight = counts * clocked
        total = weight.sum(1, keepdim=True).clamp_min(1e-6)
        rough = (seconds * weight).sum(1, keepdim=True) / total
        # in float32 a sum of 4760 absolute times is good to 10 fs only; about the rough mean it is good to far less
        nanoseconds = (seconds - rough) * (clocked * 1e9)
        beyond = (nanoseconds * weight).sum(1, keepdim=True) / total
        light_time = (rough + beyond * 1e-9).squeeze(1)
        spot = _cartesian(u, v, depth)
        distance, height = self._distances(spot)
        travel = distance / GROUP_VELOCITY
        sharpness = self._sharpness(counts, clocked)
        began = self._event_time(nanoseconds - travel, sharpness, distance)
        event_time = (rough + began * 1e-9).squeeze(1)
        residual = (nanoseconds - travel - began).clamp(-30.0, 30.0) * clocked
        # counts of SiPMs are known everywhere by now
        lit = valid[:, geometry.N_SIPM :].to(counts.dtype)
        lit = torch.cat([torch.ones_like(counts[:, : geometry.N_SIPM]), lit], 1)
        point = self._point(height, distance)
        scale = counts.sum(1, keepdim=True) / (point * lit).sum(1, keepdim=True).clamp_min(1e-6)
        expected = point * scale
        light_travel = (travel * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp_min(1e-6)
        summed = torch.stack([counts, expected * lit, residual * sharpness, sharpness], 1)
        cells, pmts = in_cells(summed[..., : geometry.N_SIPM]), summed[..., geometry.N_SIPM :]
        by_distance = torch.cat(
            [
                sums_by_class(cells, self._cell_distance(spot), _DISTANCES, _SOFT),
                sums_by_class(pmts, distance[:, geometry.N_SIPM :], _DISTANCES, _SOFT),
            ],
            2,
        )
        features = torch.cat(
            [
                torch.stack([u / 10, v / 30, depth / 5, *_angles(spot)], 1),
                light_travel,
                *self._sums(counts, light),
                self._moments(light),
                *self._centroids(light),
                *self._light_ratios(by_distance[:, :2], summed[:, :2], scale),
                *self._regional_times(residual, self._precision(counts, clocked), row, column),
                *self._regional_times(residual, sharpness, row, column),
                *_means(*by_distance[:, 2:].unbind(1)),
                self._times_by_brightness(residual, counts if self.held is None else self.held.counts, clocked),
            ],
            1,
        )
        return Look(features, light_time, event_time, counts, residual, sharpness, expected, cells, row, column)

    def _filled(self, counts: Tensor, valid: Tensor) -> Tensor:
        """Give an invalid SiPM the mean of its valid neighbours, so that sums and the peak do not feel it.

        Inside a dead block, where there are none among the eight, it is that of all within three chips.
        """
        n, ok = (a[:, : geometry.N_SIPM].reshape(-1, 1, *INNER_SHAPE) for a in (counts, valid))
        near = mean_around(ok, 3)
        around = torch.where(
            near > 0.05,
            mean_around(n, 3) / near.clamp_min(0.1),
            mean_around(n, 7) / mean_around(ok, 7).clamp_min(0.02),
        )
        inner = torch.where(ok > 0, n, around).flatten(1)
        return torch.cat([inner, counts[:, geometry.N_SIPM :]], 1)

    def _peak(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        smooth = 0.5 * inner + 0.5 * mean_around(inner[:, None], 3)[:, 0]
        peak = smooth.flatten(1).argmax(1)
        columns = inner.shape[2]
        return torch.div(peak, columns, rounding_mode="floor"), peak % columns

    def _centroid(self, light: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Local u, v (cm) of the hot spot: mean over the 5 x 5 sensors about the peak, weighted by npho squared."""
        weight = light.square() * self.square_masks[:, 2]
        shift = weight @ self.lever / weight.sum(1, keepdim=True).clamp_min(1e-6)
        rows, columns = INNER_SHAPE
        v = -(row.to(shift.dtype) - (rows - 1) / 2) * 1.5305 + shift[:, 0]
        u = (column.to(shift.dtype) - (columns - 1) / 2) * 1.5098 + shift[:, 1]
        return u, v

    def _depth(self, light: Tensor) -> Tensor:
        """Depth (cm) of the point source whose light is as concentrated, from a table of knots."""
        # the ring outside is summed by itself: one minus the inside would lose digits at small depth
        ring, block = (light @ self.depth_masks).unbind(1)
        hinges = ((ring / block.clamp_min(1e-6))[:, None] - self.depth_knots).clamp_min(0.0)
        return (float(_DEPTHS[0]) + hinges @ self.depth_slopes).clamp(0.1, 40.0)

    def _distances(self, spot: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of all sensors from points (B, 3) in cm, and the points' height above their windows, (B, 4760)."""
        # |p - s|^2 = |p|^2 - 2 p s + |s|^2 about the detector's middle is one product; differences would be passes
        # over three numbers a sensor. All comes from the positions: those of a survey are loaded with the weights
        places, spot = self.positions - self.middle, spot - self.middle
        squared = torch.addmm(places.square().sum(1), spot, places.T, alpha=-2.0) + spot.square().sum(1, keepdim=True)
        height = torch.addmm(-(places * self.normals).sum(1), spot, self.normals.T)
        return squared.clamp_min(1e-4).sqrt(), height

    def _cell_distance(self, spot: Tensor) -> Tensor:
        """Distance (B, 264) in cm of the cells of 4 x 4 SiPMs, from the mean of their sensors' positions."""
        places = self.positions[: geometry.N_SIPM].T
        cells = in_cells(places) / in_cells(torch.ones_like(places))
        return (cells.T - spot[:, None, :]).square().sum(2).sqrt()

    def _point(self, height: Tensor, distance: Tensor) -> Tensor:
        """Light on all windows (B, 4760), in no unit, of a point at this height above them and at this distance."""
        facing = (height / distance).clamp_min(0.0) + _ROUND_CORNERS
        # never nearer than half a SiPM
        return facing * self.areas * torch.exp(distance * (-1 / _REACH)) / distance.clamp_min(0.6).square()

    def _light_ratios(self, by_distance: Tensor, light: Tensor, scale: Tensor) -> list[Tensor]:
        """Logarithms of observed over expected light by distance, SiPMs first, by face, and of the light of the point.

        The last is what all light would be without a wall's or the liquid's losses, up to a factor.
        """
        ratio = log_ratio(*torch.cat([by_distance, face_sums(light)], 2).unbind(1))
        return [ratio, torch.log(scale.clamp_min(1e-6) / 1e6)]

    def _sharpness(self, counts: Tensor, clocked: Tensor) -> Tensor:
        """See `Look.sharpness`."""
        most, single = _SHARP
        squared = (counts * self.efficiency).square()
        return squared / (single + squared / most) * clocked

    def _event_time(self, started: Tensor, sharpness: Tensor, distance: Tensor) -> Tensor:
        """When the event began (B, 1) in ns, from times less the light's travel (B, 4760)."""
        further = (distance - distance.amin(1, keepdim=True)) / _NEAR
        precision = sharpness / (1.0 + further.square())
        moment = (started * precision).sum(1, keepdim=True) / precision.sum(1, keepdim=True).clamp_min(1e-9)
        for forgiving in _FORGIVING:
            rest = started - moment
            weight = precision / torch.addcmul(torch.ones_like(moment), rest, rest, value=forgiving**-2)
            moment = (started * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1e-9)
        return moment

    def _precision(self, counts: Tensor, clocked: Tensor) -> Tensor:
        """Inverse variance (1/ns2) of each sensor's time; 0 if untimed."""
        nphe = counts * self.efficiency
        return nphe / (_TIME_NOISE_STATISTICAL + _TIME_NOISE_CONSTANT * nphe) * clocked

    def _sums(self, counts: Tensor, light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        faces = face_sums(counts)
        total = faces.sum(1, keepdim=True) + 1.0
        squares = light @ self.square_masks
        return faces / 1e5, torch.log((squares + 1.0) / total), torch.log(faces / total + _DIM_FACE)

    def _moments(self, light: Tensor) -> Tensor:
        """First and second moments (cm, cm2 over 20) of the light in the window about the peak, log of the sum."""
        total = light.sum(1, keepdim=True).clamp_min(1.0)
        mean = light @ self.lever / total
        square = light @ self.lever.square() / total - mean.square()
        cross = light @ self.lever.prod(1, keepdim=True) / total - mean.prod(1, keepdim=True)
        return torch.cat([mean / 3, square / 20, cross / 20, torch.log(total / 1e5)], 1)

    def _centroids(self, light: Tensor) -> list[Tensor]:
        """Centroids (cm) about the peak in ever larger squares, weighted by the count and by its square.

        How the centroid moves with the size of the square tells the shower's direction, and with it where it began.
        """
        found = []
        for power in _POWERS:
            weight = light.pow(power)
            for square in self.square_masks.unbind(1)[1:]:
                inside = weight * square
                found.append(inside @ self.lever / inside.sum(1, keepdim=True).clamp_min(1e-6))
        return found

    def _regional_times(
        self, residual: Tensor, precision: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log of the precision and precision-weighted mean residual (ns), in rings about the peak and on faces."""
        both = torch.stack([residual * precision, precision])
        maps = both[..., : geometry.N_SIPM].reshape(2, -1, *INNER_SHAPE)
        windows = torch.stack([self.window(m, row, column) for m in maps.unbind(0)])
        weighted, weight = torch.cat([windows @ self.ring_masks, face_sums(both)], 2).unbind(0)
        return _means(weighted, weight)

    def _times_by_brightness(self, residual: Tensor, counts: Tensor, clocked: Tensor) -> Tensor:
        """Mean residual (ns) of the sensors of each class of brightness: (B, 10), SiPMs first.

        A leading edge comes the earlier the larger the pulse, a mean time does not: this is what tells them apart.
        """
        nphe, both = counts * self.efficiency, torch.stack([residual, clocked], 1)
        found = []
        for sensors in _KINDS:
            sums, number = sums_by_class(both[..., sensors], nphe[:, sensors], _BRIGHTNESS).unbind(1)
            found.append(sums / (number + _FEW_SENSORS))
        return _bounded(torch.cat(found, 1))


def _means(weighted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log of summed precisions (1/ns2), and precision-weighted mean residuals (ns)."""
    return torch.log1p(weight) / 5, _bounded(weighted / (weight + 1.0))


def log_ratio(counts: Tensor, expected: Tensor) -> Tensor:
    """Logarithm of observed over expected photons, of one shape; near 0 where both are few."""
    return torch.log((counts + _FEW_PHOTONS) / (expected + _FEW_PHOTONS))


def _bounded(nanoseconds: Tensor) -> Tensor:
    return _LARGEST_TIME * torch.tanh(nanoseconds / _LARGEST_TIME)


def _cartesian(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    r, angle = w + geometry.INNER_RADIUS, v / geometry.INNER_RADIUS
    return torch.stack([-r * torch.cos(angle), r * torch.sin(angle), u], 1)


def _angles(spot: Tensor) -> tuple[Tensor, Tensor]:
    """Theta and phi (degrees, centred and over 30) of the direction from the origin to points (B, 3)."""
    x, y, z = spot.unbind(1)
    theta = torch.atan2(torch.sqrt(x.square() + y.square()), z) * (180 / torch.pi)
    return (theta - 90) / 30, torch.atan2(y, -x) * (180 / torch.pi / 30)
