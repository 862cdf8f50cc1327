"""Devices, precision and several processes: what Fabric needs, and what metrics need of it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn

from xecml.config import Config
from xecml.errors import InputError


def make_fabric(config: Config) -> Fabric:
    """Fabric for a recipe: one process, or those that torchrun or srun started, or `training.devices` of its own."""
    options = config.training
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # by torchrun
    per_node = _tasks_of_srun()
    devices: Any = started or per_node or options.devices
    nodes = int(os.environ.get("SLURM_NNODES", "1")) if per_node else options.num_nodes
    if started:
        nodes = int(os.environ.get("WORLD_SIZE", "0")) // started
    # what it says of itself is in our own first line
    for name in ("lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
    several = nodes > 1 or (isinstance(devices, int) and devices > 1) or devices == "auto"
    # of what a machine may have besides, not all takes 64-bit sums
    accelerator = options.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=max(nodes, 1),
        strategy="ddp" if several and devices != "auto" else "auto",
        precision=precision(options.amp, options.accelerator),
        # where neither started this, what Slurm says of the job around it is not about this process
        plugins=None if started or per_node else LightningEnvironment(),
    )


def _tasks_of_srun() -> int:
    """Tasks on this node if srun started several; 0 otherwise.

    Raises:
        InputError: srun started tasks that would not find each other, and all write to one folder.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    # a batch script has most of these variables too, but is no step
    if tasks < 2 or "SLURM_STEP_ID" not in os.environ or "LOCAL_WORLD_SIZE" in os.environ:
        return 0
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(f"{tasks} tasks were asked of Slurm; ask for them with --ntasks-per-node, not --ntasks.")
    if (name := os.environ.get("SLURM_JOB_NAME")) in ("bash", "interactive"):
        raise InputError(f"Tasks of a job named '{name}' do not find each other; name it otherwise with --job-name.")
    return int(os.environ["SLURM_NTASKS_PER_NODE"])


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
            print(f"Training without compilation, which failed here: {first[:160]}", file=sys.stderr, flush=True)
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
