"""Trained networks as repairs of dead sensors, raw values in, raw values out: from checkpoints and from ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from xecml import cpu_load, geometry
from xecml.choices import REPAIRS
from xecml.config import RELATIVE_BRANCHES
from xecml.conventional.dead_sensor_estimates import ConventionalRepair, dead_of_events
from xecml.errors import InputError
from xecml.events import branch_names
from xecml.files import mode_of, regular_file
from xecml.inference.arithmetic import Arithmetic, arithmetic, as_array, check
from xecml.inference.checkpoint_reading import restored
from xecml.inference.checkpoint_schema import understood
from xecml.inference.onnx_files import OUTLIER, OUTLIER_NUMBERS, EncoderMetadata, RepairMetadata, open_onnx
from xecml.inference.training_comparison import Compared, Training
from xecml.inference.training_said import compare, split, training_of, training_said
from xecml.models import cpu
from xecml.models.newer.checkpoints import kind_of, load_newer
from xecml.models.newer.network import NewerRepair
from xecml.models.original.checkpoints import check_readable, recognise
from xecml.models.rebuild.autoencoder import Autoencoder
from xecml.models.rebuild.filler import Filler
from xecml.models.rebuild.inpainter import Inpainter
from xecml.models.weight_files import read

KINDS = ("mae", "inpaint")
_BATCH = 128
_HIDDEN = 60_000
"""Dead sensors in a batch, which bound its memory; more only in a single event."""

Pair = tuple[NDArray[Any], NDArray[Any]]


class Repair(Protocol):
    """Anything that fills dead sensors."""

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Fill photons and seconds (N, 4760) of dead sensors, (N, 4760) or (4760,); live ones pass bit for bit."""


@runtime_checkable
class Knowing(Protocol):
    """A repair that may have a description of its training events."""

    @property
    def training(self) -> Training | None:
        """The distribution of the training events; None if it is not known."""

    def compare(
        self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], Compared] | None:
        """`outlier` (N,) and how events compare with the training sample by their live sensors; none if not known."""


class NetworkRepair:
    """An autoencoder's or inpainter's averaged weights, ready to fill dead sensors.

    Attributes:
        filler: counts, times and dead sensors (B, 4760) to filled counts and times.
        absolute: whether its counts are photons.
        content: of the checkpoint.
        computing: where and how exactly it is computed.
    """

    def __init__(
        self,
        network: Autoencoder | Inpainter | NewerRepair,
        content: Mapping[str, Any],
        computing: Arithmetic | None = None,
    ) -> None:
        data = content["config"]["data"]
        self.branches, self.names = branch_names(data["npho_branch"], data["time_branch"], data.get("branches", {}))
        self.network = network
        self.absolute = self.branches[0] not in RELATIVE_BRANCHES
        self.filler: nn.Module
        if isinstance(network, NewerRepair):
            self.filler = network.eval()
        else:
            roots = content["config"]["training"].get("count_scale") == "sqrt"
            self.filler = Filler(network, absolute=self.absolute, roots=roots).eval()
        self.content, self.computing = content, computing or Arithmetic()
        self.device, self.precision = self.computing.device, self.computing.precision
        self.computing.placed(self.filler)
        self.computing.placed(network)

    def exact(self) -> NetworkRepair:
        """The same repair in 32 bits, with the same weights in memory."""
        return NetworkRepair(self.network, self.content, replace(self.computing, precision="float32"))

    @property
    def widths(self) -> tuple[float, float]:
        """Of transformed counts, and of times in ns; 0 where times are not learnt. What answers are compared in."""
        if isinstance(self.network, NewerRepair):
            timed = "time" in self.network.channels
            return 1.0, float(self.network.encoder.normaliser.time_scale) * 1e9 if timed else 0.0
        count, time = self.network.ground.width.tolist()
        return count, time

    @property
    def training(self) -> Training | None:
        """The distribution of the training events; None if it is not known."""
        return None if isinstance(self.network, NewerRepair) else training_of(self.network.training_distribution)

    def compare(
        self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], Compared] | None:
        """`outlier` (N,) and how events compare with the training sample by their live sensors; none if not known."""
        if isinstance(self.network, NewerRepair):
            return None
        n, t = (np.ascontiguousarray(a, np.float32) for a in (npho, time))
        there = None if dead is None else dead_of_events(dead, len(n))
        return compare(self.network, n, t, there, self.computing)

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> Pair:
        """Fill photons and seconds (N, 4760) of dead sensors, (N, 4760) or (4760,); live ones pass bit for bit."""

        def some(n: NDArray[Any], t: NDArray[Any], d: NDArray[np.bool_]) -> Pair:
            cpu_load.look()
            counts, times = self.filler(*(self.computing.tensor(values) for values in (n, t, d)))
            return as_array(counts), as_array(times)

        with self.computing.active():
            return _in_batches(some, npho, time, dead)


class OnnxRepair:
    """An exported autoencoder or inpainter, run by ONNX Runtime; see `xecml.inference.trained_model.OnnxModel`."""

    precision = "float32"

    def __init__(
        self, path: str | Path, device: str = "cpu", precision: str = "float32", threads: int | None = None
    ) -> None:
        self.session, said = open_onnx(path, device, precision, threads)
        self.device, self.own_threads = self.session.device, threads != 1
        if not isinstance(said, RepairMetadata):
            what = "is an encoder" if isinstance(said, EncoderMetadata) else "predicts physical quantities"
            raise InputError(f"{path} {what} and fills no sensors; export an 'inpaint' checkpoint.")
        self.branches, self.names = said.pair, said.names
        self.training = training_said(said)

    def compare(
        self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], Compared] | None:
        """See `NetworkRepair`."""
        n, t = (np.ascontiguousarray(a, np.float32) for a in (npho, time))
        if self.training is None or not len(n):
            return None
        d = np.zeros(n.shape, bool) if dead is None else dead_of_events(dead, len(n))
        parts = []
        for start in range(0, len(n), _BATCH):
            rows = slice(start, start + _BATCH)
            feed = {"npho": n[rows], "time": t[rows], "dead": np.ascontiguousarray(d[rows])}
            parts.append(self.session.run([OUTLIER, OUTLIER_NUMBERS], feed))
        outlier, numbers = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return outlier, split(numbers)

    def fill(self, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> Pair:
        """See `NetworkRepair`."""

        def some(n: NDArray[Any], t: NDArray[Any], d: NDArray[np.bool_]) -> Pair:
            names = ["npho_filled", "time_filled"]
            counts, times = self.session.run(names, {"npho": n, "time": t, "dead": d})
            return counts, times

        return _in_batches(some, npho, time, dead)


def _in_batches(some: Any, npho: ArrayLike, time: ArrayLike, dead: ArrayLike) -> Pair:
    n, t = (np.ascontiguousarray(a, np.float32) for a in (npho, time))
    if n.ndim != 2 or n.shape[1] != geometry.N_SENSORS or t.shape != n.shape:
        raise InputError(f"npho has shape {n.shape}; it must be (events, {geometry.N_SENSORS}), and time as npho.")
    d = dead_of_events(dead, len(n))
    counts, times, first, number = n.copy(), t.copy(), 0, d.sum(1)
    while first < len(n):
        fits = int(np.searchsorted(np.cumsum(number[first : first + _BATCH]), _HIDDEN, side="right"))
        last = min(first + max(fits, 1), len(n))
        counts[first:last], times[first:last] = some(n[first:last], t[first:last], np.array(d[first:last]))
        first = last
    return counts, times


def load_repair(
    name: str | Path,
    *,
    said: Mapping[str, Any] | None = None,
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
) -> Repair:
    """A repair by its name: a checkpoint of `inpaint` or `mae`, an exported one, or a conventional method.

    Args:
        name: of a method, or a path.
        said: what a checkpoint of the replaced system's newest version leaves open, by key of its `config`.
        device: `cpu`, `cuda`, or `auto`, which is a GPU where there is one.
        precision: `float32`, or `bf16` where the device computes in it; of checkpoints.
        threads: of ONNX Runtime; 1 where several threads of the caller share the repair.

    Raises:
        InputError: no such file or method, a model that fills nothing, or no such device or precision here.
    """
    if str(name) in REPAIRS:
        check(device, precision)
        if device == "cuda" or precision != "float32":
            raise InputError(
                f"'{name}' is no network and is always computed on the processor in 32 bits; leave --device and "
                "--precision out."
            )
        return ConventionalRepair(str(name))
    path = Path(name)
    if mode_of(path, "model") is None:
        raise InputError(f"No such model: {path}; name a checkpoint, an .onnx file, or {', '.join(REPAIRS)}.")
    regular_file(path, "model")
    if path.suffix == ".onnx":
        return OnnxRepair(path, device, precision, threads)
    computing = arithmetic(device, precision)
    cpu.keep_memory()
    file = read(path)
    kind = recognise(file)
    if kind == "newer":
        return _newer(file, path, said, computing)
    if kind is not None:
        check_readable(file, path)
        raise InputError(f"{path} is of the original layout and fills no sensors; train 'inpaint' first.")
    content = understood(file, path)
    if content["kind"] not in KINDS:
        raise InputError(
            f"{path} is a checkpoint of '{content['kind']}', which fills no sensors; train 'inpaint' first."
        )
    network = restored(content, path)
    assert isinstance(network, Autoencoder | Inpainter)
    return NetworkRepair(network, content, computing)


def _newer(
    content: Mapping[str, Any], path: Path, said: Mapping[str, Any] | None, computing: Arithmetic
) -> NetworkRepair:
    """An autoencoder or inpainter of the replaced system's newest version; it takes the branches its file names."""
    network = load_newer(path, content, said=said)
    if not isinstance(network, NewerRepair):
        raise InputError(f"{path} predicts physical quantities and fills no sensors; name an inpainter.")
    npho, time = network.branches
    return NetworkRepair(network, {"config": {"data": {"npho_branch": npho, "time_branch": time}}}, computing)


def is_repair(path: str | Path) -> bool:
    """Whether a file is a checkpoint or an exported model that fills sensors and predicts no physical quantities."""
    regular_file(path, "model")
    if Path(path).suffix == ".onnx":
        return isinstance(open_onnx(path)[1], RepairMetadata)
    file = read(path)
    kind = recognise(file)
    if kind == "newer":
        return kind_of(file, path) != "regressor"
    return kind is None and understood(file, path)["kind"] in KINDS
