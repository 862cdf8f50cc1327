"""How colours look: in grey, to readers with a colour vision deficiency, and how far they are from one another.

Deficiencies as Machado, Oliveira and Fernandes simulate them (IEEE Trans. Visualization and Computer Graphics 15, 2009,
table 1, severity 1.0), in linear sRGB. Distances are those of CIELAB (1976), white of sRGB (D65): 2.3 is just noticed
side by side; for a thin line or a small mark one needs several times that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DEFICIENCIES: dict[str, Floats] = {
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def rgb(colours: Sequence[Any]) -> Floats:
    """Colours as matplotlib knows them, as numbers from 0 to 1, (N, 3)."""
    return np.array([to_rgb(colour) for colour in colours], np.float64)


def linear(values: ArrayLike) -> Floats:
    """Intensities of sRGB values."""
    v = np.asarray(values, np.float64)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _encoded(intensities: Floats) -> Floats:
    v = np.clip(intensities, 0, 1)
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


def seen(values: ArrayLike, deficiency: str) -> Floats:
    """What colours (..., 3) look like with a deficiency."""
    return _encoded(linear(values) @ DEFICIENCIES[deficiency].T)


def lab(values: ArrayLike) -> Floats:
    """CIELAB (..., 3) of sRGB values (..., 3)."""
    xyz = linear(values) @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def distances(values: ArrayLike) -> dict[str, Floats]:
    """Distances (N, N) between colours (N, 3), to the eye without and with each deficiency."""
    found = {}
    for name in ("none", *DEFICIENCIES):
        places = lab(values if name == "none" else seen(values, name))
        found[name] = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return found


def contrast(one: Any, other: Any) -> float:
    """Contrast of two colours, from 1 to 21, as the Web Content Accessibility Guidelines 2.2 define it."""
    a, b = sorted(float(linear(to_rgb(colour)) @ _TO_XYZ[1]) for colour in (one, other))
    return (b + 0.05) / (a + 0.05)
