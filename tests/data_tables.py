"""Prediction tables as data give them: runs, a reference with errors, energies of lines and below an edge, drift."""

from __future__ import annotations

import numpy as np

from tests.test_calibrate import draw_line

Columns = dict[str, np.ndarray]
FIRST_RUN, EDGE = 430000, 52.83


def responses(rng: np.random.Generator, n: int, tail: float = 1.2) -> np.ndarray:
    """Relative answers (n,) about 0, of width 1, with a line's tail, in no order."""
    drawn = draw_line(rng, n, 0.0, 1.0, tail)
    rng.shuffle(drawn)
    return drawn


def energies(rng: np.random.Generator, n: int, kind: str) -> np.ndarray:
    """True energies (n,), MeV: `edge` (flat, then none), `rising` (to low energies, from nothing), `lines`."""
    if kind == "edge":
        return rng.uniform(36, EDGE, n)
    if kind == "rising":
        return EDGE * (1 - 0.35 * np.sqrt(rng.random(n)))
    return np.where(rng.random(n) < 0.5, 54.9, 82.9)


def data_table(
    n: int, seed: int = 1, *, kind: str = "edge", runs: int = 6, drift: float = 0.0, sigma: float = 0.02
) -> Columns:
    """A table of `n` events in `runs` runs; predicted energies drift by the share `drift` from run to run.

    Predictions are off by 1, -2 and 3 mm in u, v, w and by 20 ps; the energy by 0.02 % for each cm of u.
    """
    rng = np.random.default_rng(seed)
    run = np.sort(FIRST_RUN + rng.integers(0, runs, n))
    true = energies(rng, n, kind)
    place = {"u": rng.uniform(-23, 23, n), "v": rng.uniform(-67, 67, n), "w": np.minimum(rng.exponential(6, n), 35)}
    widths, biases = {"u": 0.25, "v": 0.25, "w": 0.5}, {"u": 0.1, "v": -0.2, "w": 0.3}
    start = rng.uniform(-1e-8, 1e-8, n)
    angles = {"theta": rng.uniform(70, 110, n), "phi": rng.uniform(-50, 50, n)}
    scale = (1 + drift * (run - FIRST_RUN)) * (1 + 2e-4 * place["u"])
    table = {
        "run": run.astype(np.int32),
        "event": np.arange(n, dtype=np.int32),
        "pred_energy": true * scale * (1 + sigma * responses(rng, n)) / 1e3,
        "reco_energy": true * (1 + 0.018 * rng.standard_normal(n)) / 1e3,
        "reco_timing": start,
        "pred_timing": start + rng.normal(20e-12, 70e-12, n),
    }
    for name, values in (place | angles).items():
        table[f"reco_{name}"] = values
        table[f"pred_{name}"] = values + rng.normal(biases.get(name, 0.0), widths.get(name, 2.0), n)
    return table
