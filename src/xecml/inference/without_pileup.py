"""A model whose answers do without the light of further photons in an event: found sensor by sensor, and removed.

The model answers twice. Its first answer says where and when the photon of interest first interacted; the `Separator`
of the package finds from there which share of each sensor's light is of others. Where this is more than a small part of
an event, it is taken away, and the model answers again; other events keep their first answer, and all the energy: too
much of the photon's own light is removed with that of others to gain anything there.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from xecml.errors import InputError
from xecml.events import INVALID, valid_counts
from xecml.inference.arithmetic import as_array
from xecml.inference.trained_model import Model
from xecml.inference.training_comparison import Compared, Training
from xecml.models.normalise import validity
from xecml.models.separator import Separator
from xecml.models.weight_files import read
from xecml.pretrained import FOLDER

WEIGHTS = FOLDER / "pileup.pt"
PILEUP_SHARE = "pileup_share"
"""Column: the share of an event's light that is of further photons."""
LEAST_SHARE = 0.02
"""Of an event's light; below it answers stay as they are."""
_MOSTLY = 0.5
"""Share of a sensor's light from which its time is that of others."""
_BATCH = 128
_NEEDED = ("uvwFI", "timing")
_FIRST_ANSWER = ("energy", "sigma_energy")
"""What stays as it is in every event."""

Floats = NDArray[np.float32]


class WithoutPileup:
    """A model that answers without the light of further photons; see `xecml.inference.trained_model.Model`.

    `predict` gives `pileup_share` (B,) beside the answers: the share of the event's light that is of further photons,
    found with `separator`, whether any was removed or not. NaN where the model does not say where and when. Answers for
    the energy are those of the events as they are.

    Args:
        model: of photons and seconds that predicts `uvwFI` and `timing`.
        separator: by default that of the package.

    Raises:
        InputError: the model predicts other things, takes relative counts, or computes in 16 bits.
    """

    def __init__(self, model: Model, separator: Separator | None = None) -> None:
        if missing := [task for task in _NEEDED if task not in model.tasks]:
            raise InputError(
                "Light of further photons is found from position and time of the first interaction; this model "
                f"does not predict {' and '.join(missing)}."
            )
        if model.branches != ("npho", "time"):
            raise InputError(
                f"Light of further photons is found in photons and seconds; this model takes {model.branches[0]} and "
                f"{model.branches[1]}."
            )
        if model.precision != "float32":
            raise InputError("Light of further photons is found in 32 bits; leave --precision out.")
        self.model = model
        # a copy, for others may use the same one on another device
        self.separator = deepcopy(separator or shipped_separator()).eval().to(model.device)
        self.tasks, self.branches, self.names = model.tasks, model.branches, model.names
        self.truth_means, self.truth_ends, self.calibration = model.truth_means, model.truth_ends, model.calibration
        self.device, self.precision = model.device, model.precision
        self.own_threads = getattr(model, "own_threads", False)

    @property
    def usual_sensors(self) -> Floats:
        """See `Model`."""
        return self.model.usual_sensors

    @property
    def training(self) -> Training | None:
        """See `Model`."""
        return self.model.training

    def few_sensors(self, npho: ArrayLike, time: ArrayLike | None = None) -> NDArray[np.bool_]:
        """See `Model`."""
        return self.model.few_sensors(npho, time)

    def compare(self, npho: ArrayLike, time: ArrayLike) -> tuple[Floats, Compared] | None:
        """See `Model`; of the events as they are."""
        return self.model.compare(npho, time)

    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        """See `Model`."""
        return self.judge(npho, time)[0]

    def judge(self, npho: ArrayLike, time: ArrayLike) -> tuple[dict[str, NDArray[Any]], Compared | None]:
        """See `Model`; the events are compared with the training sample as they are."""
        answers, compared = self.model.judge(npho, time)
        n, t = (np.ascontiguousarray(a, np.float32) for a in (npho, time))
        shares = self.shares(n, t, answers)
        found = light_of_others(n, shares)
        some = np.flatnonzero(found > LEAST_SHARE)
        if len(some):
            again = self.model.predict(*removed(n[some], t[some], shares[some]))
            for name in again.keys() - set(_FIRST_ANSWER):
                # where nothing is left to answer from, the first answer is better than none
                answers[name][some] = np.where(np.isfinite(again[name]), again[name], answers[name][some])
        return answers | {PILEUP_SHARE: found}, compared

    def shares(self, npho: Floats, time: Floats, answers: dict[str, NDArray[Any]]) -> Floats:
        """Shares (B, 4760) of the light of each sensor that are of further photons, from the model's answers.

        NaN in events for which the model does not say where and when.
        """
        spot, moment = (np.asarray(answers[task], np.float32) for task in _NEEDED)
        known = np.isfinite(spot).all(1) & np.isfinite(moment)
        found = np.full(npho.shape, np.nan, np.float32)
        rows = np.flatnonzero(known)
        for part in np.array_split(rows, -(-len(rows) // _BATCH)) if len(rows) else ():
            with torch.no_grad():
                n, t, x, t0 = (torch.from_numpy(a[part]).to(self.device) for a in (npho, time, spot, moment))
                found[part] = as_array(torch.sigmoid(self.separator(n, t, *validity(n, t), x, t0)))
        return found


def light_of_others(npho: Floats, shares: NDArray[Any]) -> Floats:
    """Shares (B,) of the light of events (B, 4760) that are of further photons; NaN where those of sensors are."""
    light = np.where(valid_counts(npho), npho, 0.0)
    return np.asarray((light * shares).sum(1) / np.maximum(light.sum(1), 1.0), np.float32)


def removed(npho: Floats, time: Floats, shares: NDArray[Any]) -> tuple[Floats, Floats]:
    """Counts (B, 4760) less the shares of others, and no time where more than half of the light is of others."""
    left = np.where(valid_counts(npho), npho * (1 - shares), npho).astype(np.float32)
    return left, np.where(shares > _MOSTLY, INVALID, time).astype(np.float32)


@cache
def shipped_separator() -> Separator:
    """The separator of the package."""
    content = read(WEIGHTS)
    network = Separator(content["width"])
    network.load_state_dict({name: values.float() for name, values in content["state"].items()})
    return network.eval()
