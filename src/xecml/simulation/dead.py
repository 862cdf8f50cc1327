"""Dead sensors: by list, whole faces, drawn singly and in clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xecml import geometry
from xecml.simulation.settings import SimulationSettings, read_dead_list


def dead_mask(settings: SimulationSettings, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mask (4760,) of dead sensors: listed, whole faces, drawn singly and in clusters."""
    dead = np.zeros(geometry.N_SENSORS, bool)
    dead[list(settings.dead_sensors)] = True
    if settings.dead_list is not None:
        dead[list(read_dead_list(settings.dead_list))] = True
    for face in settings.dead_faces:
        dead[geometry.face_sensors(face)] = True
    count = round(settings.dead_fraction * geometry.N_SENSORS)
    dead[rng.choice(geometry.N_SENSORS, count, replace=False)] = True
    inner = geometry.positions()[: geometry.N_SIPM]
    for centre in rng.integers(geometry.N_SIPM, size=settings.dead_clusters):
        distance = np.linalg.norm(inner - inner[centre], axis=1)
        dead[np.argsort(distance, kind="stable")[: settings.dead_cluster_size]] = True
    return dead
