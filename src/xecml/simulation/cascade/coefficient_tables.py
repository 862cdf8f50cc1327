"""The cascade's tables: all coefficients on one grid of energies, equal steps in log(E)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from xecml.simulation.cascade.cross_sections import (
    DELTA_CUT,
    ENERGIES,
    Floats,
    annihilation,
    bhabha_shape,
    bremsstrahlung_tables,
    collision_loss,
    compton,
    delta_rays,
    moller_shape,
    pair,
    photoelectric,
)
from xecml.simulation.cascade.elastic import ElasticTables, elastic_tables


class CascadeTables(NamedTuple):
    """Tables over `ENERGIES`; rows of two are electron, positron."""

    photoelectric: Floats
    """(N,) per cm"""
    compton: Floats
    """(N,) per cm"""
    pair: Floats
    """(N,) per cm"""
    loss: Floats
    """(2, N) restricted energy loss, MeV/cm: collisions below DELTA_CUT and photons below BREMS_CUT"""
    brems: Floats
    """(N,) photons above BREMS_CUT, per cm"""
    brems_log_k: Floats
    """(N, Q) quantiles of log(k/MeV) of these photons"""
    delta: Floats
    """(2, N) Moller and Bhabha scattering above DELTA_CUT, per cm"""
    annihilation: Floats
    """(N,) annihilation of positrons in flight, per cm"""
    elastic: ElasticTables


@cache
def cascade_tables() -> CascadeTables:
    """Build the tables (once; about 0.1 s)."""
    brems, log_k, soft_loss = bremsstrahlung_tables()
    loss = np.stack([collision_loss(ENERGIES, DELTA_CUT, positron=p) for p in (False, True)]) + soft_loss
    return CascadeTables(
        photoelectric=photoelectric(ENERGIES),
        compton=compton(ENERGIES),
        pair=pair(ENERGIES),
        loss=loss,
        brems=brems,
        brems_log_k=log_k,
        delta=np.stack([delta_rays(moller_shape, 0.5), delta_rays(bhabha_shape, 1.0)]),
        annihilation=annihilation(ENERGIES),
        elastic=elastic_tables(ENERGIES),
    )
