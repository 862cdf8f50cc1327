"""Cramer-Rao limits: how well a point of light can be known from the counts of all sensors.

    python -m xecml.simulation.validation.cramer_rao

Parameters are u, v, w and the light L, fitted together. With mean counts m_s of photoelectrons and their variance
F m_s (excess noise factor F of SiPMs), the Fisher information is the sum of (dm_s/da) (dm_s/db) / (F m_s). Models:
direct light alone; indirect light as a background that is known but for the scale of the light (`background`), as in a
fit of solid angles; indirect light with its own derivatives (`all`). Time: sensors above 50 photoelectrons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.events import PDE_SIPM, QE_PMT
from xecml.simulation.cascade.cross_sections import Floats
from xecml.simulation.light.clusters import cluster, new_clusters
from xecml.simulation.light.direct import DIRECT, SCATTERED, direct_light
from xecml.simulation.light.indirect import indirect_light
from xecml.simulation.light.lightmap import LightMap, light_map
from xecml.simulation.light.optics import N_SENSORS, N_SIPM, Optics, near_field, sensor_table
from xecml.simulation.settings import ResponseSettings

LightModel = Literal["direct", "background", "all"]
_TIME_ABOVE = 50
"""Photoelectrons of sensors that take part in the time."""


@dataclass(frozen=True)
class Limits:
    """Smallest standard deviations of unbiased estimates."""

    sigma_u: float
    """cm"""
    sigma_v: float
    """cm"""
    sigma_w: float
    """cm"""
    sigma_light: float
    """relative, with free position"""
    photoelectrons: float
    """in all sensors that are used"""


def counts(uvw: Floats, energy: float, found: LightMap, optics: Optics | None = None) -> tuple[Floats, Floats]:
    """Mean photoelectrons (4760,), of direct and of indirect light, of a point at uvw (cm).

    `energy` (MeV) is that of electrons with the same light.
    """
    constants, work = optics or Optics(), new_clusters()
    point = np.array([[*geometry.xyz_from_uvw(uvw), 0.0, energy]])
    near, far = np.zeros((4, N_SENSORS), np.float32), np.zeros((3, N_SENSORS), np.float32)
    n = cluster(point, 1, work)
    direct_light(work, n, sensor_table(), constants, near_field(constants), near)
    indirect_light(work, n, found, constants, far)
    efficiency = np.where(np.arange(N_SENSORS) < N_SIPM, PDE_SIPM, QE_PMT)
    indirect = np.maximum(near[SCATTERED].astype(float) + far[0], 0.0)
    return efficiency * near[DIRECT], efficiency * indirect


def derivatives(uvw: Floats, energy: float, found: LightMap, step: float = 0.05) -> tuple[Floats, Floats]:
    """Derivatives (3, 4760) of direct and of indirect light by u, v, w, per cm.

    Fourth-order central differences: the counts are in single precision, so steps cannot be small.
    """
    parts = []
    for axis in range(3):
        total = np.zeros((2, N_SENSORS))
        for shift, weight in ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)):
            moved = np.array(uvw, float)
            moved[axis] += shift * step
            total += weight / step * np.stack(counts(moved, energy, found))
        parts.append(total)
    both = np.stack(parts, axis=1)
    return both[0], both[1]


def limits(
    mean: Floats, gradient: Floats, use: NDArray[np.bool_] | None = None, excess_noise_factor: float = 1.0
) -> Limits:
    """Cramer-Rao limits.

    Args:
        mean: (4760,) mean photoelectrons.
        gradient: (3, 4760) their derivatives by u, v, w, per cm.
        use: (4760,) sensors that take part; all by default.
        excess_noise_factor: of the SiPMs.
    """
    factor = np.where(np.arange(N_SENSORS) < N_SIPM, excess_noise_factor, 1.0)
    chosen = mean > 1e-6 if use is None else use & (mean > 1e-6)
    jacobian = np.concatenate([gradient, mean[None]])[:, chosen]
    information = jacobian / (factor * mean)[chosen] @ jacobian.T
    sigma = np.sqrt(np.diag(np.linalg.inv(information)))
    u, v, w, light = (float(s) for s in sigma)
    return Limits(u, v, w, light, float(mean[chosen].sum()))


def time_limit(mean: Floats, response: ResponseSettings | None = None) -> tuple[float, int]:
    """Limit on the time (ns) from the spread of single sensors, and the number of sensors that take part."""
    values = response or ResponseSettings()
    n = mean[mean > _TIME_ABOVE]
    variance = values.time_single_ns**2 / n + values.time_constant_ns**2
    return float(1 / math.sqrt(np.sum(1 / variance))), len(n)


def point_limits(
    w: float,
    light: LightModel,
    found: LightMap,
    *,
    inner_only: bool = False,
    excess_noise_factor: float = 1.0,
    energy: float = 52.8,
    phases: int = 4,
) -> Limits:
    """Limits at depth w (cm), mean variances over `phases` x `phases` places within one pitch of the SiPMs."""
    use = np.arange(N_SENSORS) < N_SIPM if inner_only else None
    pitch_u, pitch_v = 1.5098, 1.5305
    found_limits = []
    for i in range(phases):
        for j in range(phases):
            uvw = np.array([4.0 + pitch_u * (i + 0.5) / phases, 1.2 + pitch_v * (j + 0.5) / phases, w])
            direct, indirect = counts(uvw, energy, found)
            d_direct, d_indirect = derivatives(uvw, energy, found)
            mean = direct if light == "direct" else direct + indirect
            gradient = d_direct + d_indirect if light == "all" else d_direct
            found_limits.append(limits(mean, gradient, use, excess_noise_factor))
    values = np.array([[v.sigma_u, v.sigma_v, v.sigma_w, v.sigma_light] for v in found_limits])
    sigma = np.sqrt((values**2).mean(0))
    sigma_u, sigma_v, sigma_w, sigma_light = (float(s) for s in sigma)
    photoelectrons = float(np.mean([v.photoelectrons for v in found_limits]))
    return Limits(sigma_u, sigma_v, sigma_w, sigma_light, photoelectrons)


def main() -> None:
    """Print the limits at several depths."""
    found = light_map()
    print("   w  light       sensors  sigma_u  sigma_v  sigma_w [mm]  sigma_L/L [%]  photoelectrons")
    rows: tuple[tuple[LightModel, bool, float], ...] = (
        ("direct", True, 1.0), ("direct", False, 1.0), ("background", True, 1.0), ("background", False, 1.0),
        ("all", False, 1.0), ("all", False, 1.2),
    )  # fmt: skip
    for w in (1.0, 2.0, 5.0, 10.0, 20.0):
        for light, inner, factor in rows:
            v = point_limits(w, light, found, inner_only=inner, excess_noise_factor=factor)
            name = f"{light} F={factor:g}" if factor != 1 else light
            print(
                f"{w:4g}  {name:10s}  {'inner' if inner else 'all':7s}  {10 * v.sigma_u:7.3f}  {10 * v.sigma_v:7.3f}  "
                f"{10 * v.sigma_w:7.3f}       {100 * v.sigma_light:7.3f}        {v.photoelectrons:8.0f}"
            )
        sigma, n = time_limit(sum(counts(np.array([4.8, 2.0, w]), 52.8, found), np.zeros(N_SENSORS)))
        print(f"{w:4g}  time: {1e3 * sigma:.1f} ps from {n} sensors")


if __name__ == "__main__":
    main()
