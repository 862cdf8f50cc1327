"""What recipes and commands choose from, by name: losses, networks, patterns of hidden sensors, conventional repairs.

An entry says what the thing is and names the function that does it, as `module:function`. The function is fetched when
it is used, so that a recipe can be read without the libraries that it will need. Tasks are in `xecml.events`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from xecml.events import Task


@dataclass(frozen=True)
class Choice:
    """One of several things to choose from by name.

    Attributes:
        meaning: what it is, for lists and help texts.
        function: what does it, as `module:function`.
    """

    meaning: str
    function: str

    @cached_property
    def does(self) -> Callable[..., Any]:
        """The function itself."""
        found: Callable[..., Any] = resolve_name(self.function)
        return found


@dataclass(frozen=True)
class Loss(Choice):
    """A loss of tasks, a function of `xecml.training.losses.Compared`; and for which quantities it is."""

    fits: Callable[[Task], bool] = lambda task: not task.is_class
    predicts_width: bool = False
    """whether heads give a width beside the answer"""


@dataclass(frozen=True)
class Repair(Choice):
    """Photons of dead sensors, flat, from photons (N, 4760), masks of dead and live sensors, and the point of light.

    Attributes:
        by_point: whether it goes by the fitted point of light; else there is none.
    """

    by_point: bool = True


_LOSSES, _BUILD = "xecml.training.losses", "xecml.models.build"
_ESTIMATES = "xecml.conventional.dead_sensor_estimates"

LOSSES = {
    "smooth_l1": Loss("square near 0, linear beyond loss_beta", f"{_LOSSES}:smooth_l1"),
    "l1": Loss("absolute difference", f"{_LOSSES}:l1"),
    "mse": Loss("squared difference", f"{_LOSSES}:mse"),
    "huber": Loss("loss_beta times smooth_l1", f"{_LOSSES}:huber"),
    "gaussian_nll": Loss("predicts a width too", f"{_LOSSES}:gaussian_nll", predicts_width=True),
    "student_nll": Loss("predicts a width too; far events hardly count", f"{_LOSSES}:student_nll", predicts_width=True),
    "opening_angle": Loss(
        "rad, for angle and angleVec", f"{_LOSSES}:opening_angle", fits=lambda task: task.is_direction
    ),
    "cross_entropy": Loss("for n_gamma", f"{_LOSSES}:cross_entropy", fits=lambda task: task.is_class),
}
"""Losses of tasks by name."""
PRESETS = {
    "tiny": Choice("a toy for tests", f"{_BUILD}:compact_encoder"),
    "compact": Choice("the default on a CPU", f"{_BUILD}:compact_encoder"),
    "base": Choice("as compact, wider", f"{_BUILD}:compact_encoder"),
    "large": Choice("wider still", f"{_BUILD}:compact_encoder"),
    "reference": Choice("26 million parameters, for GPUs", f"{_BUILD}:reference_encoder"),
}
"""Networks by name: encoders made from a recipe and its input transform."""
MASK_PATTERNS = {
    "random": "every valid sensor alike",
    "light": "flat in the logarithm of the light",
    "clusters": "round patches of 4 to 24 neighbours, across faces too",
    "boards": "whole blocks of 4 x 4",
    "face": "one whole face that is small enough, and others at random",
    "spot": "SiPMs about the brightest, or 4 x 4 blocks there",
    "listed": "those of dead_list, and others at random",
}
"""Patterns of hidden sensors by name; how each chooses is compiled in `xecml.data.masks`, which numbers them."""
REPAIRS = {
    "neighbour_mean": Repair("the mean of the live neighbours", f"{_ESTIMATES}:neighbour_mean", by_point=False),
    "solid_angle": Repair("their light times the ratio of solid angles", f"{_ESTIMATES}:solid_angle"),
    "point_source": Repair("the light of the fitted point", f"{_ESTIMATES}:point_source"),
}
"""Repairs of dead sensors without learning by name."""

if TYPE_CHECKING:
    LossName = str
    PresetName = str
else:
    LossName, PresetName = Literal[tuple(LOSSES)], Literal[tuple(PRESETS)]
