"""What a model says of its training sample, from a network's buffers and from the metadata of an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xecml.data.event_numbers import KEYS
from xecml.inference.onnx_files import Metadata, TrainingMetadata
from xecml.inference.training_comparison import Compared, Training
from xecml.models.training_distribution import QUANTILES, Judged, TrainingDistribution


def training_of(distribution: TrainingDistribution) -> Training | None:
    """What a network says; none if nothing was fitted."""
    if not distribution.fitted:
        return None
    low, middle, high = (QUANTILES.index(level) for level in (0.159, 0.5, 0.841))
    quantiles = distribution.quantiles.double().numpy()
    return Training(
        KEYS,
        quantiles[middle],
        quantiles[low],
        quantiles[high],
        distribution.between.double().numpy(),
        distribution.depth_edges.double().numpy(),
        int(distribution.events),
    )


def training_said(metadata: Metadata) -> Training | None:
    """What an exported file says; none if it does not."""
    said: TrainingMetadata | None = metadata.training
    if said is None:
        return None
    medians, lows, highs, between, edges = (
        np.array(values, np.float64) for values in (said.medians, said.lows, said.highs, said.between, said.depth_edges)
    )
    return Training(tuple(said.keys), medians, lows, highs, between, edges, said.events)


def joined(judged: Judged) -> Tensor:
    """All that files are compared with in one tensor (B, 3 K + 1), as graphs give it; see `split`."""
    return torch.cat([judged.differences, judged.expected, judged.widths, judged.depth[:, None]], 1)


def split(numbers: NDArray[Any]) -> Compared:
    """The parts of what a graph gives."""
    size = (numbers.shape[1] - 1) // 3
    differences, expected, widths = (numbers[:, i * size : (i + 1) * size] for i in range(3))
    return Compared(differences, expected, widths, numbers[:, -1])


def as_compared(parts: Sequence[Judged]) -> Compared:
    """Batches joined, in numpy."""
    names = ("differences", "expected", "widths", "depth")
    return Compared(*(torch.cat([getattr(part, name) for part in parts]).numpy() for name in names))
