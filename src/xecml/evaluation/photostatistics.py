"""The resolution that the number of photons alone would allow: Cramer-Rao limits of a point of light.

A shower is no point: it fluctuates, and its first interaction is not where its light is. The limit says how far a
quantity is from being one of photon statistics, not what a network could reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xecml.evaluation.linearity import SIGNAL_ENERGY
from xecml.evaluation.tables import Table, find_column

DEPTHS_CM = (1.0, 2.0, 5.0, 10.0, 20.0)
LIMITS = {
    "u": (0.055, 0.10, 0.25, 0.47, 0.73),
    "v": (0.053, 0.10, 0.22, 0.39, 0.54),
    "w": (0.045, 0.08, 0.22, 0.45, 0.68),
    "energy_relative": (0.29, 0.29, 0.30, 0.31, 0.31),
    "timing": (16.0, 14.0, 13.0, 12.0, 15.0),
}
"""At these depths and 52.8 MeV, in quoted units: `python -m xecml.simulation.validation.cramer_rao`, all sensors,
direct and indirect light, excess noise factor 1.2.
"""


def photostatistics(table: Table, quantities: Sequence[str]) -> dict[str, float]:
    """Limits by quantity for the depths and energies of a table's truth: mean squares over its events, rooted.

    Numbers of photons go with the energy, and limits with one over their root. Empty without depth or energy.
    """
    w, energy = find_column(table, "true_w"), find_column(table, "true_energy")
    if w is None or energy is None:
        return {}
    good = np.isfinite(w) & (energy > 0)
    if not good.any():
        return {}
    fewer = SIGNAL_ENERGY / energy[good]
    found = {}
    for quantity in (q for q in LIMITS if q in quantities):
        at_depth = np.interp(w[good], DEPTHS_CM, LIMITS[quantity])
        found[quantity] = float(np.sqrt(np.mean(at_depth**2 * fewer)))
    return found
