"""Checkpoints of networks that were not trained: constants fitted to points of light, weights random but alive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tests.conftest import point_sources
from xecml.events import TASKS
from xecml.inference.example_events import analogue
from xecml.models.build import build_model, build_regressor
from xecml.models.normalise import validity
from xecml.recipes import load_config
from xecml.training import checkpoint_writing

WIDTHS = {"angle": 3.0, "energy": 1e-3, "timing": 1e-10, "uvwFI": 1.0}
"""Degrees, GeV, s, cm by which showers, unlike points of light, hide the truth: what answers are compared in."""


def regression(out: Path, *settings: str, events: int = 1200, tasks: Sequence[str] = tuple(WIDTHS)) -> Path:
    """A regression that knows what its sample was like."""
    torch.manual_seed(0)
    config = load_config(None, [*settings, *(f"tasks.{task}.enabled={str(task in tasks).lower()}" for task in WIDTHS)])
    network = build_regressor(config)
    # whole numbers of photoelectrons lie on limits that runtimes decide about by rounding
    sample = point_sources(events, seed=6, dead=0.02)
    n, t = torch.from_numpy(analogue(sample["npho"])), torch.from_numpy(sample["time"])
    inputs = (n, t, *validity(n, t))
    with torch.no_grad():
        look = network.encoder.look(*inputs)
        truth = {task: torch.from_numpy(sample[TASKS[task].truth]).reshape(events, -1) for task in network.tasks}
        for task in truth.keys() & WIDTHS.keys():
            truth[task] = truth[task] + WIDTHS[task] * torch.randn_like(truth[task])
        network.fit_targets(look.features, look.event_time, truth)
        distribution = network.training_distribution
        distribution.fit(distribution.numbers(*inputs), torch.from_numpy(sample["run"]))
        for view in (getattr(network.encoder, name, None) for name in ("window", "surroundings")):
            if view is not None:  # which begin at zero
                view[-1].reset_parameters()
    content = {"kind": "regress", "config": config.model_dump(mode="json"), "ema_state": network.eval().state_dict()}
    checkpoint_writing.save(out, content | {"run_name": "untrained"})
    return out


def rebuilding(out: Path, kind: str, *settings: str) -> Path:
    """An autoencoder (`mae`) or inpainter (`inpaint`), whose constants were not fitted."""
    torch.manual_seed(0)
    config = load_config(None, ["model.freeze_encoder=false", *settings], job=kind)
    network = build_model(config, kind).eval()
    content = {"kind": kind, "config": config.model_dump(mode="json"), "ema_state": network.state_dict()}
    checkpoint_writing.save(out, content)
    return out


def analogue_events(events: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and times (events, 4760) of points of light, as sensors with gains of their own give them."""
    found = point_sources(events, seed=seed, dead=0.02)
    return analogue(found["npho"], seed), found["time"]
