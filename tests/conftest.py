"""Shared small data: point sources of light with solid angles, cheap and physical enough to exercise everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# before PyTorch is loaded: tests run beside one another, and threads that wait for one another take minutes
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from numpy.typing import NDArray

from xecml import geometry, rootio
from xecml.events import INVALID, PDE_SIPM, QE_PMT


def point_sources(events: int, seed: int = 0, *, dead: float = 0.0) -> dict[str, NDArray[Any]]:
    """Events of one point of light each: all branches of a simulated file, without a shower.

    The truth lies about the point as a first interaction lies about its shower's light: 2 mm and 30 ps away.
    """
    rng = np.random.default_rng(seed)
    depth = np.minimum(0.5 + rng.exponential(4, events), 30)
    uvw = np.stack([rng.uniform(-22, 22, events), rng.uniform(-55, 55, events), depth], 1)
    xyz = geometry.xyz_from_uvw(uvw)
    energy = rng.uniform(15, 60, events)
    away = xyz[:, None] - geometry.positions()
    distance = np.linalg.norm(away, axis=2)
    cosine = np.clip(np.einsum("nsk,sk->ns", away, geometry.normals()) / distance, 0, 1)
    sipm = geometry.face_codes() == 0
    area, efficiency = np.where(sipm, 1.392, 15.9), np.where(sipm, PDE_SIPM, QE_PMT)
    mean = energy[:, None] * 46300 * area * (cosine / (4 * np.pi * (distance**2 + area / 6)) + 3e-6)
    nphe = rng.poisson(mean * efficiency)
    start = rng.uniform(-1e-8, 1e-8, events)
    noise = np.sqrt(6.25 / np.maximum(nphe, 1) + 0.04) * rng.normal(size=nphe.shape)
    time = start[:, None] + 1e-9 * (distance / 8 + noise)
    missing = (nphe == 0) | (rng.uniform(size=nphe.shape) < dead)
    uvw = uvw + rng.normal(0, 0.2, uvw.shape)
    start = start + rng.normal(0, 30e-12, events)
    xyz = geometry.xyz_from_uvw(uvw)
    direction = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    columns = {
        "npho": np.where(missing, INVALID, nphe / efficiency),
        "time": np.where(missing, INVALID, time),
        "emiAng": geometry.angles_from_direction(direction),
        "energyTruth": energy / 1e3,
        "timeTruth": start,
        "uvwTruth": uvw,
        "xyzTruth": xyz,
        "emiVec": direction,
        "xyzVTX": np.zeros((events, 3)),
    }
    numbers = {"run": np.full(events, seed), "event": np.arange(events), "nGamma": np.ones(events)}
    return {k: v.astype(np.float32) for k, v in columns.items()} | {k: v.astype(np.int32) for k, v in numbers.items()}


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.root (768 events), val.root (256) and test.root (256)."""
    folder = tmp_path_factory.mktemp("sample")
    for seed, (name, events) in enumerate((("train", 768), ("val", 256), ("test", 256)), 1):
        rootio.write(folder / f"{name}.root", point_sources(events, seed, dead=0.01))
    return folder
