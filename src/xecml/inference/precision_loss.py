"""The loss of 16-bit arithmetic, measured on the first events by comparison with 32 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.events import measured, number_of
from xecml.inference.onnx_files import OUTLIER
from xecml.inference.repair_models import NetworkRepair
from xecml.inference.trained_model import TorchModel

MEASURED_ON = 256
"""Events, the first of the first file."""


@dataclass(frozen=True)
class PrecisionLoss:
    """How far answers are from those in 32 bits, in widths of the targets.

    Attributes:
        precision: that they are in.
        events: that it was measured on.
        within: 68 % of events differ by less, by answer.
        largest: difference, by answer.
    """

    precision: str
    events: int
    within: Mapping[str, float]
    largest: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON and metadata."""
        rounded = {
            key: {name: float(f"{value:.3g}") for name, value in values.items()}
            for key, values in (("within_68", self.within), ("largest", self.largest))
        }
        return {"precision": self.precision, "events": self.events, **rounded}

    def line(self) -> str:
        """In words."""
        said = ", ".join(f"{name} {self.within[name]:.2g} ({self.largest[name]:.2g})" for name in self.within)
        return (
            f"{self.precision} against float32 on the first {number_of(self.events)}, in widths of the targets: 68 % "
            f"of the differences are below (largest difference): {said}."
        )


def loss_of_answers(model: TorchModel, npho: NDArray[Any], time: NDArray[Any]) -> PrecisionLoss:
    """What a model's answers to some events (B, 4760) lose by its precision.

    Raises:
        InputError: an answer is a number in 32 bits and none in its precision.
    """
    rough, exact = model.predict(npho, time), model.exact().predict(npho, time)
    widths = model.widths()
    away = {
        name: _apart(exact[name], rough[name], widths[name.removeprefix("sigma_")])
        for name in exact
        if name != OUTLIER  # which is computed in 32 bits in any case
    }
    return _summed(model.precision, len(npho), away)


def loss_of_repairs(
    repair: NetworkRepair, npho: NDArray[Any], time: NDArray[Any], dead: NDArray[np.bool_]
) -> PrecisionLoss:
    """What filled counts and times of dead sensors (B, 4760) lose; counts against their size, times against theirs.

    Raises:
        InputError: a sensor is filled in 32 bits and not in the repair's precision.
    """
    rough, exact = (one.fill(npho, time, dead) for one in (repair, repair.exact()))
    width = repair.widths[1] * 1e-9
    away = {}
    for name, ours, theirs in zip(("npho", "time"), exact, rough, strict=True):
        one, two = (np.where(measured(values), values, np.nan).astype(np.float64)[dead] for values in (ours, theirs))
        if name == "time":
            # whether a faint sensor has a time is decided by its count, which may round to either side
            two = np.where(np.isnan(two) | np.isnan(one), one, two)
        away[name] = _apart(one, two, np.maximum(np.abs(one), 1.0) if name == "npho" else np.float64(width or np.inf))
    return _summed(repair.precision, len(npho), away)


def _apart(ours: NDArray[Any], theirs: NDArray[Any], width: Any) -> NDArray[Any]:
    """Largest difference (B,) of an event's numbers, in widths; infinite between NaN and a number."""
    width = np.reshape(width, ours.shape[1:]) if np.size(width) != ours.size else width
    with np.errstate(invalid="ignore"):
        away = np.where(np.isnan(ours), 0.0, np.abs(ours - theirs) / width)
    away = np.where(np.isnan(ours) == np.isnan(theirs), away, np.inf)
    return np.asarray(away.reshape(len(ours), -1).max(1, initial=0.0))


def _summed(precision: str, events: int, away: Mapping[str, NDArray[Any]]) -> PrecisionLoss:
    largest = {name: float(values.max(initial=0.0)) for name, values in away.items()}
    if broken := [name for name, value in largest.items() if not np.isfinite(value)]:
        raise InputError(
            f"In {precision} the model has no answer for {', '.join(broken)} where float32 has one; use --precision "
            "float32."
        )
    within = {name: float(np.quantile(values, 0.68)) if len(values) else 0.0 for name, values in away.items()}
    return PrecisionLoss(precision, events, within, largest)
