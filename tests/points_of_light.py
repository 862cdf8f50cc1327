"""Light that leaves a point at time zero, as every sensor would have it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.models.networks.quick_look import GROUP_VELOCITY


def light_of_a_point(uvw_cm: tuple[float, float, float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Photons and seconds (1, 4760) of one event, counts falling with the square of the distance."""
    distance = np.linalg.norm(geometry.positions() - geometry.xyz_from_uvw(np.array(uvw_cm)), axis=1)[None]
    return (1e6 / (distance**2 + 1)).astype(np.float32), (distance / GROUP_VELOCITY * 1e-9).astype(np.float32)
