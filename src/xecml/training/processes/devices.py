"""Devices, precision and several processes: what Fabric needs, and what metrics need of it."""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from xecml.config import Config
from xecml.errors import InputError
from xecml.events import number_of
from xecml.training.processes.peers import Peers, listen
from xecml.training.processes.rank import OWN, TORCHRUN, Environment, Place, place_of

_MOST_ANYWHERE = 8
"""Processes that any machine may be given, for a trial."""


def launched(config: Config, peers: Peers) -> Fabric:
    """Fabric for a recipe, with the processes that train together joined."""
    fabric = make_fabric(config, peers.place)
    fabric.launch()
    if peers.place.world > 1 and peers.place.started_by == TORCHRUN:
        # torchrun has the port that all know, and looks after those that do not come
        server = listen(free := replace(peers.place, port=0)) if fabric.global_rank == 0 else None
        peers.place = replace(peers.place, port=fabric.broadcast(free.port if server else 0))
        peers.meet(server=server)
    return fabric


def make_fabric(config: Config, place: Place | None = None) -> Fabric:
    """Fabric for a recipe, of this process's place: alone, or among those that torchrun, srun or it itself started."""
    own, options = place or place_of(config), config.training
    # what it says of itself is in our own first line
    for name in ("lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if own.world > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, _processors() // own.per_node))
    with warnings.catch_warnings():
        # given where SLURM is installed, on login nodes too, whatever place a process is told to have
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        return Fabric(
            accelerator=_accelerator(config),
            devices=own.per_node,
            num_nodes=own.nodes,
            strategy=_Joined() if own.world > 1 else "auto",
            precision=precision(options.amp, options.accelerator),
            plugins=Environment(own),
        )


class _Joined(DDPStrategy):
    """Processes that are all there: Fabric has none to start, and is not to ask whether this is a notebook."""

    def _configure_launcher(self) -> None:
        self._launcher = None


def check_devices(config: Config, place: Place) -> None:
    """Check that the machine has the devices that a recipe asks for.

    Raises:
        InputError: it has no such device, or fewer than processes on it.
    """
    if _accelerator(config) == "cuda":
        there = torch.cuda.device_count()
        if place.per_node > there:
            raise InputError(
                f"training.accelerator=cuda needs {place.per_node} GPU{'s' if place.per_node > 1 else ''} on this "
                f"machine, one a process, and PyTorch sees {there}; use fewer, or training.accelerator=cpu."
            )
    elif place.per_node > max(_MOST_ANYWHERE, _processors()):
        raise InputError(
            f"{place.per_node} processes on a machine of {_processors()} processors would wait for each other; lower "
            "training.devices."
        )


def found(fabric: Fabric, place: Place, config: Config) -> str:
    """One line on the processes and devices of a training; empty for a single process without a GPU.

    Args:
        fabric: all processes take part.
        place: of this one.
        config: the recipe, for the events of a step.
    """
    gpu = fabric.device.type == "cuda"
    if place.world == 1 and not gpu:
        return ""
    names = Counter(gather_objects(fabric, torch.cuda.get_device_name(fabric.device) if gpu else "no GPU"))
    several = ", ".join(f"{n} with {name}" for name, n in names.items())
    with_what = several if len(names) > 1 else f"{'each ' if place.world > 1 else ''}with {next(iter(names))}"
    factors = [n for n in (place.world, config.training.accumulate) if n > 1] + [config.data.batch_size]
    product = f"{' x '.join(map(str, factors))} = " if len(factors) > 1 else ""
    by = "" if place.started_by == OWN else f", started by {place.started_by}"
    return (
        f"Found {place.world} process{'es' if place.world > 1 else ''} on {number_of(place.nodes, 'node')}{by}; "
        f"{with_what}; a step is of {product}{number_of(math.prod(factors))}"
    )


def make_deterministic(wanted: bool) -> None:
    """Take only algorithms that give the same bits every time, on GPUs too, or any."""
    if wanted:  # without it CUDA's products refuse; it is read when the first one is made
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)


def _accelerator(config: Config) -> str:
    """Of what a machine may have besides, not all takes 64-bit sums."""
    if config.training.accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.training.accelerator


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def precision(amp: bool, accelerator: str = "auto") -> Any:
    """Fabric's name of the arithmetic: 16-bit brain floats where the processor has them, else 32-bit."""
    gpu = torch.cuda.is_available() and accelerator != "cpu"
    if amp and (gpu or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return "bf16-mixed"
    return "32-true"


def compiled(model: nn.Module, wanted: bool) -> nn.Module:
    """The model, compiled where this is wanted and works; `TORCH_COMPILE=0` forbids it."""
    if not wanted or os.environ.get("TORCH_COMPILE") == "0":
        return model
    return _Compiled(model)


class _Compiled(nn.Module):
    """A compiled module that goes on uncompiled if the compiler fails, with one line."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._call: Any = torch.compile(module)
        self._tried = False

    def forward(self, *inputs: Any) -> Any:
        if self._tried:
            return self._call(*inputs)
        try:
            answer = self._call(*inputs)
        except Exception as error:  # the compiler and its C++ compiler fail in many ways
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"Compiling failed, so the training runs without it: {first[:160]}", file=sys.stderr, flush=True)
            self._call = self.module
            answer = self._call(*inputs)
        self._tried = True
        return answer


def mean_over_processes(fabric: Fabric, value: Tensor) -> Tensor:
    """Mean of a tensor over processes."""
    if fabric.world_size == 1:
        return value
    return cast(Tensor, fabric.all_reduce(value, reduce_op="mean"))


def gather_objects(fabric: Fabric, value: Any) -> list[Any]:
    """One process's value from each, in the order of ranks."""
    if fabric.world_size == 1:
        return [value]
    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, value)
    return parts


def random_states(fabric: Fabric) -> list[list[Tensor]]:
    """States of every process's generators, which dropout draws from: the processor's, and a GPU's."""
    own = [torch.get_rng_state()]
    if fabric.device.type == "cuda":
        own.append(torch.cuda.get_rng_state(fabric.device))
    return gather_objects(fabric, own)


def restore_random_state(fabric: Fabric, states: Sequence[Sequence[Tensor] | Tensor]) -> None:
    """Put this process's generators back; with another number of processes the draws differ, and are seeded anew."""
    if len(states) != fabric.world_size:
        return
    own = states[fabric.global_rank]
    own = [own] if isinstance(own, Tensor) else own
    torch.set_rng_state(own[0])
    if fabric.device.type == "cuda" and len(own) > 1:
        torch.cuda.set_rng_state(own[1], fabric.device)


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over processes, without a gradient."""
    total = value.detach().clone()
    if world_size() > 1:
        torch.distributed.all_reduce(total)
    return total


def world_size() -> int:
    """Number of processes that train together."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1
