"""What a model says of its training sample, from a network's buffers and from the metadata of an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xecml.data.event_numbers import CONDITIONS, KEYS
from xecml.inference.arithmetic import Arithmetic, as_array
from xecml.inference.onnx_files import Metadata, TrainingMetadata
from xecml.inference.training_comparison import Compared, Training
from xecml.models.encoder import Encoder
from xecml.models.normalise import validity
from xecml.models.training_distribution import QUANTILES, Judged, TrainingDistribution

_BATCH = 256


def training_of(distribution: TrainingDistribution) -> Training | None:
    """What a network says; none if nothing was fitted."""
    if not distribution.fitted:
        return None
    low, middle, high = (QUANTILES.index(level) for level in (0.159, 0.5, 0.841))
    quantiles = _numbers(distribution.quantiles)
    return Training(
        KEYS,
        quantiles[middle],
        quantiles[low],
        quantiles[high],
        _numbers(distribution.between),
        _numbers(distribution.depth_edges),
        _numbers(distribution.extremes),
        int(distribution.events),
    )


def _numbers(buffer: Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = buffer.cpu().double().numpy()
    return values


def training_said(metadata: Metadata) -> Training | None:
    """What an exported file says; none if it does not."""
    said: TrainingMetadata | None = metadata.training
    if said is None:
        return None
    medians, lows, highs, between, edges, extremes = (
        np.array(values, np.float64)
        for values in (said.medians, said.lows, said.highs, said.between, said.depth_edges, said.extremes)
    )
    return Training(tuple(said.keys), medians, lows, highs, between, edges, extremes, said.events)


def joined(judged: Judged) -> Tensor:
    """All that files are compared with in one tensor (B, 3 K + C), as graphs give it; see `split`."""
    return torch.cat([judged.differences, judged.expected, judged.widths, judged.conditions], 1)


def split(numbers: NDArray[Any]) -> Compared:
    """The parts of what a graph gives."""
    size = (numbers.shape[1] - len(CONDITIONS)) // 3
    differences, expected, widths = (numbers[:, i * size : (i + 1) * size] for i in range(3))
    return Compared(differences, expected, widths, numbers[:, 3 * size :])


def as_compared(parts: Sequence[Judged]) -> Compared:
    """Batches joined, in numpy."""
    return Compared(*(as_array(torch.cat([getattr(part, name) for part in parts])) for name in Compared._fields))


class _Network(Protocol):
    training_distribution: TrainingDistribution
    encoder: Encoder


@torch.no_grad()
def compare(
    network: _Network,
    npho: NDArray[np.float32],
    time: NDArray[np.float32],
    dead: NDArray[np.bool_] | None = None,
    computing: Arithmetic | None = None,
) -> tuple[NDArray[np.float32], Compared] | None:
    """`outlier` (B,) and how events compare with a network's training sample; none if it is not known.

    Args:
        network: that was trained.
        npho: raw counts (B, 4760).
        time: seconds (B, 4760).
        dead: sensors (B, 4760) that are not looked at.
        computing: where the network is.
    """
    if not network.training_distribution.fitted or not len(npho):
        return None
    parts, there = [], computing or Arithmetic()
    for start in range(0, len(npho), _BATCH):
        rows = slice(start, start + _BATCH)
        n, t = there.tensor(npho[rows]), there.tensor(time[rows])
        valid, timed = validity(n, t)
        if dead is not None:
            live = there.tensor(~dead[rows])
            valid, timed = valid & live, timed & live
        inputs = (n, t, valid, timed)
        parts.append(network.training_distribution(*inputs, network.encoder.look(*inputs)))
    return as_array(torch.cat([part.outlier for part in parts])), as_compared(parts)
