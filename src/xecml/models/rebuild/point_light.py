"""What a point of light at the hot spot would give every sensor: the ground on which hidden sensors are rebuilt.

Counts follow the sensors' solid angles, with a scale a face that the seen sensors set; times follow the light's path.
A network then learns what a shower, scattered light and the walls add to this. Everything runs in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xecml import geometry
from xecml.data.batch import full, was_read
from xecml.models.networks.first_guess import local_spot
from xecml.models.networks.quick_look import GROUP_VELOCITY, Look, QuickLook
from xecml.models.networks.sensor_sums import face_sums
from xecml.models.rebuild.point_sum import solid_angles, sum_of_solid_angles

SIPM_AREA = 1.392
PMT_RADIUS = 2.25
"""Active area of a SiPM in cm2, radius of a PMT's cathode in cm."""
_SCATTERED = 0.1
"""Light that comes round corners, as a share of a face's mean direct light: no sensor is wholly dark."""
_FACES = len(geometry.FACES)


class PointLight(NamedTuple):
    """Expectation for a batch of B events."""

    photons: Tensor
    """(B, 4760): expected counts."""
    nanoseconds: Tensor
    """(B, 4760): expected times less the event's light-weighted time."""
    look: Look
    """The quick look at the seen sensors."""
    distance: Tensor
    """(B, 4760) cm: of the sensors from the point."""


class PointSource(nn.Module):
    """Expected counts and times of all sensors from those that are seen; nothing in it trains."""

    positions: Tensor
    normals: Tensor
    areas: Tensor
    membership: Tensor

    def __init__(self) -> None:
        super().__init__()
        codes = geometry.face_codes()
        self.look: QuickLook = QuickLook()
        areas = np.where(codes == 0, SIPM_AREA, math.pi * PMT_RADIUS**2)
        for name, values in (
            ("positions", geometry.positions()),
            ("normals", geometry.normals()),
            ("areas", areas),
            ("membership", np.eye(_FACES)[codes]),
        ):
            self.register_buffer(name, torch.tensor(np.asarray(values, np.float32)), persistent=False)

    def forward(self, npho: Tensor, time: Tensor, seen: Tensor, timed: Tensor, look: object = None) -> PointLight:
        """Expect from raw counts, times (s) and masks of what is seen, each (B, 4760).

        Args:
            npho: counts.
            time: times.
            seen: sensors whose counts may be used.
            timed: sensors whose times may be used.
            look: the quick look at the same, where it was already taken.
        """
        with torch.autocast(npho.device.type, enabled=False):
            found = look if isinstance(look, Look) else self.look(npho, time, seen, timed)
            spot = cartesian(*local_spot(found.features))
            solid, distance = self.solid_angles(spot)
            light = self.scaled(solid, npho, seen)
            travel = distance / GROUP_VELOCITY
            return PointLight(light, travel - found.features[:, 5:6], found, distance)

    def solid_angles(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Solid angles and distances (cm), (B, 4760), of all sensors from points (B, 3) in cm."""
        return solid_angles(points, self.positions, self.normals, self.areas)

    def sum_of_solid_angles(self, points: Tensor, shares: Tensor) -> Tensor:
        """Sums (B, 4760) over points (B, P, 3) in cm of shares (B, P) times their solid angles."""
        return sum_of_solid_angles(points, shares, self.positions, self.normals, self.areas)

    def scaled(self, solid: Tensor, npho: Tensor, seen: Tensor) -> Tensor:
        """Solid angles (B, 4760) times each face's photons a solid angle, as its sensors that were read have them.

        Those that counted nothing are among them: without these, dim faces would come out bright.
        """
        seen = was_read(npho, seen)
        counts = torch.where(seen, full(npho).clamp_min(0.0), 0.0)
        mean = face_sums(solid) / self.membership.sum(0)
        solid = solid + _SCATTERED * mean @ self.membership.t()
        found, light = face_sums(torch.where(seen, solid, 0.0)), face_sums(counts)
        # a face without a seen sensor is lit as all faces together are
        everywhere = light.sum(1, keepdim=True) / found.sum(1, keepdim=True).clamp_min(1e-6)
        # a floor as of one sensor's share keeps faces of few seen sensors steady
        few = 1e-3 * face_sums(solid).sum(1, keepdim=True)
        scale = (light + few * everywhere) / (found + few)
        return solid * (scale @ self.membership.t())


def cartesian(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Points (..., 3) in cm of local u, v, w of one shape."""
    r, angle = w + geometry.INNER_RADIUS, v / geometry.INNER_RADIUS
    return torch.stack([-r * torch.cos(angle), r * torch.sin(angle), u], -1)
