"""What the light of an event makes of an answer, sensor by sensor: integrated gradients.

A sensor's part is its distance from a baseline times the mean derivative on the straight line between them, so that
the parts of all sensors add up to what the answer differs by from that of the baseline (Sundararajan, Taly, Yan 2017).
The baseline is the light of the event that is most alike, moved to this one's hot spot: an event as it could be, with
the same hot spot, depth, total light and rough time. No light at all would be an input that no network ever saw, and
the mean of all events has no hot spot.

On the way the steps of a quick look are held where the event has them: which SiPM is at the hot spot, and in which
class of brightness each sensor is. Else answers would jump, which no derivative sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xecml.errors import InputError
from xecml.evaluation.hot_spots import MovedLight, batches
from xecml.evaluation.saliency import Gathered, Saliency, answers_in_widths, look_of, outputs_of, slopes, units_of
from xecml.inference.trained_model import TorchModel
from xecml.models.networks.quick_look import Steps
from xecml.models.normalise import validity
from xecml.progress import progress
from xecml.resolution import Floats

NODES = 16
"""Points on the way from the baseline at which derivatives are taken (Gauss and Legendre's)."""


@dataclass(frozen=True)
class Integrated:
    """Parts of answers by sensor, region and place about the hot spot.

    Attributes:
        parts: as for derivatives, but `regions` are sums with their signs, and `maps` are means of sizes. Times in
            target widths, too.
        answers: of the events (events, outputs), target widths.
        baseline: answers to their baselines.
        scale: what a target width is in quoted units, (outputs,).
        units: these units.
    """

    parts: Saliency
    answers: Floats
    baseline: Floats
    scale: Floats
    units: tuple[str, ...]

    @property
    def left(self) -> Floats:
        """What parts do not add up to (events, outputs), target widths: 0 but for rounding and the number of nodes."""
        return np.asarray(self.answers - self.baseline - self.parts.regions.sum((0, 3)))


def integrated_gradients(
    model: TorchModel, light: MovedLight, nodes: int = NODES, events: int | None = None
) -> Integrated:
    """Compute the parts of all of a model's answers on events of `light`.

    Args:
        model: a checkpoint's; of an exported file there are no derivatives.
        light: events and their baselines.
        nodes: points on the way at which derivatives are taken.
        events: as many of the first events are taken; all by default.

    Raises:
        InputError: a part is not finite.
    """
    outputs = outputs_of(model)
    number = len(light) if events is None else min(events, len(light))
    gathered = Gathered(model, number, signed=False)
    ends = np.zeros((2, number, len(outputs)))
    with progress(number, "integrated gradients") as bar:
        for part in batches(number):
            seen = light.see(part)
            baseline = light.moved(part, seen)
            values, *both = parts_of(model, (light.npho[part], light.time[part]), baseline, nodes)
            if not np.isfinite(values).all():
                raise InputError("A derivative of the model is not a finite number; there is nothing to draw.")
            gathered.add(values, seen, part)
            ends[:, part] = both
            bar.advance(len(values[0][0]))
    return Integrated(gathered.found(), ends[0], ends[1], *units_of(outputs, model))


def parts_of(
    model: TorchModel,
    event: tuple[NDArray[np.float32], NDArray[np.float32]],
    baseline: tuple[NDArray[np.float32], NDArray[np.float32]],
    nodes: int = NODES,
) -> tuple[Floats, Floats, Floats]:
    """Parts of answers by sensor, and the answers themselves, in target widths.

    Args:
        model: a checkpoint's.
        event: counts and times (B, 4760).
        baseline: the same; sensors that are not measured in the event count as not measured here.
        nodes: points on the way.

    Returns:
        Parts (2, outputs, B, 4760) of counts and of times, answers (B, outputs) to the events, and to the baselines.
    """
    n, t = (model.computing.tensor(a) for a in event)
    n0, t0 = (model.computing.tensor(a) for a in baseline)
    masks = validity(n, t)
    n0, t0 = (torch.where(mask, zero, x) for mask, zero, x in zip(masks, (n0, t0), (n, t), strict=True))
    along = torch.stack([n - n0, t - t0])
    mean: Tensor | None = None
    places, weights = np.polynomial.legendre.leggauss(nodes)
    with held_steps(model, n, t):
        for place, weight in zip((1 + places) / 2, weights / 2, strict=True):
            here = (zero + place * way for zero, way in zip((n0, t0), along, strict=True))
            found = torch.stack(slopes(model, next(here), next(here), *masks)).double() * weight
            mean = found if mean is None else mean + found
        assert mean is not None
        with torch.no_grad():
            ends = [answers_in_widths(model, *x, *masks).double().cpu().numpy() for x in ((n, t), (n0, t0))]
    return (mean * along.double()[:, None]).cpu().numpy(), ends[0], ends[1]


@contextmanager
def held_steps(model: TorchModel, npho: Tensor, time: Tensor, times: int = 1) -> Iterator[None]:
    """While active, a network that begins with a quick look takes its steps as these events (B, 4760) have them.

    Args:
        model: whose network it is.
        npho: counts, photons.
        time: times, seconds.
        times: how often the batch is repeated in what the network is then asked.
    """
    look = look_of(model)
    if look is None:
        yield
        return
    with torch.no_grad():
        seen = look(npho, time, *validity(npho, time))
    held: tuple[Any, ...] = tuple(x.repeat(times, *[1] * (x.ndim - 1)) for x in (seen.row, seen.column, seen.counts))
    look.held = Steps(*held)
    try:
        yield
    finally:
        look.held = None
