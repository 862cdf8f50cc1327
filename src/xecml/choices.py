"""What recipes choose from, by name: losses, networks, patterns of hidden sensors. Tasks are in `events`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xecml.events import Task


@dataclass(frozen=True)
class Loss:
    """A loss of tasks: what it is, for the list of keys, and for which quantities."""

    meaning: str
    fits: Callable[[Task], bool] = lambda task: not task.is_class


LOSSES = {
    "smooth_l1": Loss("square near 0, linear beyond loss_beta"),
    "l1": Loss("absolute difference"),
    "mse": Loss("squared difference"),
    "huber": Loss("loss_beta times smooth_l1"),
    "gaussian_nll": Loss("predicts a width too"),
    "opening_angle": Loss("rad, for angle and angleVec", lambda task: task.is_direction),
    "cross_entropy": Loss("for n_gamma", lambda task: task.is_class),
}
"""Losses by name; what each computes is an entry of the same name in `xecml.training.losses`."""
PRESETS = ("tiny", "compact", "base", "large", "reference")
"""Networks by name; what each is made of is an entry of the same name in `xecml.models.build`."""
MASK_PATTERNS = {
    "random": "every valid sensor alike",
    "light": "flat in the logarithm of the light",
    "clusters": "round patches of 4 to 24 neighbours, across faces too",
    "boards": "whole blocks of 4 x 4",
    "face": "one whole face that is small enough, and others at random",
    "spot": "SiPMs about the brightest, or 4 x 4 blocks there",
    "listed": "those of dead_list, and others at random",
}
"""Patterns of hidden sensors by name; how each chooses is in `xecml.data.masks`."""

if TYPE_CHECKING:
    LossName = str
    PresetName = str
else:
    LossName, PresetName = Literal[tuple(LOSSES)], Literal[PRESETS]
