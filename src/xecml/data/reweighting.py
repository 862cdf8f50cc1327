"""Weights that make a training sample flat in its truth: inverse to the content of histograms, with mean 1.

For every task a histogram of the training sample is filled: angle in theta and phi, energy and timing in one
dimension, uvwFI in u, v, w. An event's weight is the product over tasks of 1 / content of its bin, and the mean over
the training sample is 1. An event outside the range of the training sample is taken to the nearest bin. A bin that
the training sample left empty gives 1 / (mean content of the filled bins), which is the weight of a typical event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml import rootio
from xecml.data import source
from xecml.data.selected_events import Cut, look_at_files, read_selected
from xecml.errors import InputError
from xecml.events import TASKS, Chunk

Floats = NDArray[np.float64]
Truth = Mapping[str, NDArray[Any]]

_CHUNK_EVENTS = 65_536
_SHOWN_BINS = 30


def default_bins(task: str, nbins: int = 30, nbins_2d: Sequence[int] | None = None) -> tuple[int, ...]:
    """Bins of each dimension of a task.

    Args:
        task: angle, energy, timing or uvwFI.
        nbins: of energy and timing.
        nbins_2d: of theta and phi, by default 20 and 20; of u and v, by default 10 and 10, the first for w too.

    Raises:
        InputError: the task cannot be reweighted, or a number is not positive.
    """
    flattened = [name for name, known in TASKS.items() if known.flattened]  # of one to three numbers
    if task not in flattened:
        raise InputError(f"'{task}' cannot be reweighted; choose among {', '.join(flattened)}.")
    first, second = nbins_2d or ((20, 20) if task == "angle" else (10, 10))
    bins = {1: (nbins,), 2: (first, second), 3: (first, second, first)}[TASKS[task].size]
    if min(bins) < 1:
        raise InputError(f"reweighting.{task} has {min(bins)} bins; use one or more.")
    return bins


@dataclass(frozen=True)
class Table:
    """Weights of one task by bin.

    Attributes:
        low: lower end of each dimension, (D,).
        high: upper end of each dimension, (D,).
        weights: of each bin, D-dimensional.
    """

    low: Floats
    high: Floats
    weights: Floats

    def __call__(self, values: NDArray[Any]) -> Floats:
        """Weights (N,) of values (N, D)."""
        return np.asarray(self.weights.ravel()[_bins(values, self.low, self.high, self.weights.shape)])


@dataclass(frozen=True)
class Distribution:
    """One quantity of the training sample before and after: contents (30,) between low and high, sums equal."""

    low: float
    high: float
    before: Floats
    after: Floats


class Reweighting:
    """Weights by truth; `fit` makes one from files, `state` and `from_state` keep it with a run.

    Args:
        tables: by task.
        distributions: of the training sample, by column, for a picture.
    """

    def __init__(self, tables: Mapping[str, Table], distributions: Mapping[str, Distribution]) -> None:
        self.tables = dict(tables)
        self.distributions = dict(distributions)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks whose truth the weights depend on."""
        return tuple(self.tables)

    def __call__(self, truth: Truth) -> NDArray[np.float32]:
        """Weights (N,) of events with truth (N, size) by task."""
        factors = [table(truth[task]) for task, table in self.tables.items()]
        return np.asarray(np.prod(factors, axis=0), np.float32)

    @classmethod
    def fit(
        cls,
        files: str | Path | Iterable[str | Path],
        bins: Mapping[str, Sequence[int]],
        *,
        tree: str = rootio.DEFAULT_TREE,
        names: Mapping[str, str] | None = None,
        cut: Cut | None = None,
    ) -> Reweighting:
        """Fit to the truth of files, which is read three times in a stream; nothing else of them is read.

        Args:
            files: ROOT files or shards.
            bins: task to bins of each dimension, see `default_bins`.
            tree: name of the tree.
            names: canonical branch name -> name in the files.
            cut: what is taken of the files; all by default.

        Raises:
            InputError: no task, no events, or no truth in the files.
        """
        if not bins:
            raise InputError("No task is to be reweighted; enable one under reweighting, or leave it out.")
        paths, branches = source.expand(files), [TASKS[task].truth for task in bins]

        chosen = look_at_files(paths, cut, tree, names)[0] if cut else {}
        options: dict[str, Any] = {"tree": tree, "names": names, "chunk_events": _CHUNK_EVENTS}

        def read() -> Iterator[Chunk]:
            if not cut:
                yield from source.read(paths, branches, **options)
            for path in paths if cut else ():
                for _, chunk in read_selected(path, branches, chosen[path], **options):
                    yield chunk

        def chunks() -> Iterator[dict[str, NDArray[Any]]]:
            for chunk in read():
                truth = {task: chunk[TASKS[task].truth].reshape(-1, len(n)) for task, n in bins.items()}
                finite = np.logical_and.reduce([np.isfinite(v).all(1) for v in truth.values()])
                yield {task: values[finite] for task, values in truth.items()}

        return cls._of(chunks, bins, paths[0])

    @classmethod
    def _of(
        cls, chunks: Callable[[], Iterator[dict[str, NDArray[Any]]]], bins: Mapping[str, Sequence[int]], name: str
    ) -> Reweighting:
        low = {task: np.full(len(n), np.inf) for task, n in bins.items()}
        high = {task: np.full(len(n), -np.inf) for task, n in bins.items()}
        for truth in chunks():
            for task, values in truth.items():
                low[task] = np.minimum(low[task], values.min(0, initial=np.inf))
                high[task] = np.maximum(high[task], values.max(0, initial=-np.inf))
        if not all(np.isfinite(v).all() for v in low.values()):
            raise InputError(f"{name} holds no events with truth; there is nothing to reweight.")
        contents = {task: np.zeros(tuple(n)) for task, n in bins.items()}
        for truth in chunks():
            for task, values in truth.items():
                contents[task] += _histogram(values, low[task], high[task], contents[task].shape)
        tables = {task: Table(low[task], high[task], _inverse(contents[task])) for task in bins}
        return _normalised(cls(tables, {}), chunks())

    def state(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for a checkpoint."""
        tables = {
            task: {"low": t.low.tolist(), "high": t.high.tolist(), "weights": t.weights.tolist()}
            for task, t in self.tables.items()
        }
        shown = {
            column: {"low": d.low, "high": d.high, "before": d.before.tolist(), "after": d.after.tolist()}
            for column, d in self.distributions.items()
        }
        return {"tables": tables, "distributions": shown}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Reweighting:
        """The inverse of `state`."""
        tables = {task: Table(**{k: np.array(v) for k, v in t.items()}) for task, t in state["tables"].items()}
        shown = {
            column: Distribution(d["low"], d["high"], np.array(d["before"]), np.array(d["after"]))
            for column, d in state["distributions"].items()
        }
        return cls(tables, shown)


def _bins(values: NDArray[Any], low: Floats, high: Floats, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Flat index (N,) of the bin of each value (N, D); outside, the nearest."""
    width = np.where(high > low, high - low, 1.0)
    inside = np.clip((values.astype(np.float64) - low) / width, 0.0, 1.0)
    index = np.minimum((inside * shape).astype(np.int64), np.array(shape) - 1)
    return np.asarray(np.ravel_multi_index(tuple(index.T), shape))


def _histogram(
    values: NDArray[Any], low: Floats, high: Floats, shape: tuple[int, ...], weights: Floats | None = None
) -> Floats:
    size = int(np.prod(shape))
    return np.bincount(_bins(values, low, high, shape), weights, size).reshape(shape).astype(np.float64)


def _inverse(contents: Floats) -> Floats:
    filled = contents[contents > 0]
    return np.asarray(1 / np.where(contents > 0, contents, filled.mean()))


def _normalised(raw: Reweighting, chunks: Iterator[Truth]) -> Reweighting:
    """Scale the weights to mean 1 over a sample, and note what they do to each quantity of it."""
    shape, total, events = (_SHOWN_BINS,), 0.0, 0
    shown = {task: np.zeros((len(t.low), 2, _SHOWN_BINS)) for task, t in raw.tables.items()}
    for truth in chunks:
        weights = np.prod([table(truth[task]) for task, table in raw.tables.items()], axis=0)
        total += float(weights.sum())
        events += len(weights)
        for task, table in raw.tables.items():
            for i, values in enumerate(truth[task].T):
                ends = (table.low[i : i + 1], table.high[i : i + 1])
                shown[task][i, 0] += _histogram(values[:, None], *ends, shape)
                shown[task][i, 1] += _histogram(values[:, None], *ends, shape, weights)
    scale = events / total
    share = scale ** (1 / len(raw.tables))  # every factor takes its part
    tables = {task: Table(t.low, t.high, t.weights * share) for task, t in raw.tables.items()}
    distributions = {
        column: Distribution(float(t.low[i]), float(t.high[i]), shown[task][i, 0], shown[task][i, 1] * scale)
        for task, t in raw.tables.items()
        for i, column in enumerate(TASKS[task].columns)
    }
    return Reweighting(tables, distributions)
