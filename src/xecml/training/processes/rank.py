"""Which of several processes this one is, and where it finds the others: from torchrun, srun, or the recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from xecml.config import Config
from xecml.errors import InputError
from xecml.limits import shown

OWN, TORCHRUN, SRUN = "own", "torchrun", "srun"
TORCHRUN_SIGNALS = (
    "torchrun keeps signals to itself, kills its processes 30 s after its own, and turns exit status 75 into 1; in a "
    "batch job start one task a GPU with srun, so that a training is saved at its limit and goes on."
)
_ADVICE = "torchrun and srun set it: start the training with one of them, or unset what is left of them"


@dataclass
class Place:
    """A process among those that train together.

    Attributes:
        started_by: OWN where the first process of each machine starts the others itself, TORCHRUN or SRUN.
        rank: number among all processes.
        local_rank: number among those of this machine.
        node: number of this machine.
        per_node: processes of each machine.
        nodes: machines.
        address: of the first process.
        port: where it is found.
        patience: seconds to wait for others at the start.
    """

    started_by: str = OWN
    rank: int = 0
    local_rank: int = 0
    node: int = 0
    per_node: int = 1
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    patience: float = 60.0

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.per_node * self.nodes


def place_of(config: Config) -> Place:
    """Where this process stands, as torchrun or srun say, or as the first process of its machine.

    Raises:
        InputError: what the environment says is no number or does not fit together, or another machine is not known.
    """
    options = config.training
    if "LOCAL_WORLD_SIZE" in os.environ:
        place = _of_torchrun()
    elif per_node := tasks_of_srun():
        place = _of_srun(per_node)
    else:
        place = Place(per_node=options.devices, nodes=options.num_nodes)
        if place.nodes > 1:
            _find_machines(place)
    place.patience = options.join_timeout
    return place


def _of_torchrun() -> Place:
    per_node, world = _number("LOCAL_WORLD_SIZE", least=1), _number("WORLD_SIZE", least=1)
    if world % per_node:
        raise InputError(
            f"LOCAL_WORLD_SIZE={per_node} does not divide WORLD_SIZE={world}; start as many processes on each machine."
        )
    return Place(
        TORCHRUN,
        rank=_number("RANK", most=world - 1),
        local_rank=_number("LOCAL_RANK", most=per_node - 1),
        node=_number("GROUP_RANK", default=0),
        per_node=per_node,
        nodes=world // per_node,
        address=os.environ.get("MASTER_ADDR", "127.0.0.1"),
        port=_number("MASTER_PORT", default=29500, most=65535),
    )


def _of_srun(per_node: int) -> Place:
    tasks, nodes = _number("SLURM_NTASKS", least=1), _number("SLURM_NNODES", default=1, least=1)
    if per_node * nodes != tasks:
        raise InputError(
            f"SLURM_NTASKS={tasks} is not {per_node} tasks on each of {nodes} nodes; ask for as many on every node."
        )
    job = os.environ.get("SLURM_JOB_ID", "")
    port = 15000 + int(job[-4:]) if job[-4:].isdecimal() else 12910  # the same in all tasks of a job
    return Place(
        SRUN,
        rank=_number("SLURM_PROCID", most=tasks - 1),
        local_rank=_number("SLURM_LOCALID", most=per_node - 1),
        node=_number("SLURM_NODEID", default=0),
        per_node=per_node,
        nodes=nodes,
        address=os.environ.get("MASTER_ADDR")
        or SLURMEnvironment.resolve_root_node_address(os.environ.get("SLURM_NODELIST", "127.0.0.1")),
        port=_number("MASTER_PORT", default=port, least=1, most=65535),
    )


def _find_machines(place: Place) -> None:
    """Several machines without torchrun or srun find each other by three variables."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"training.num_nodes={place.nodes} needs {', '.join(missing)} set on each machine, or torchrun or srun to "
            "start all of them."
        )
    place.node = _number("NODE_RANK", most=place.nodes - 1)
    place.rank = place.node * place.per_node
    place.address, place.port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", least=1, most=65535)


def tasks_of_srun() -> int:
    """Tasks on this node if srun started several; 0 otherwise.

    Raises:
        InputError: srun started tasks that would not find each other, and all write to one folder.
    """
    # a batch script has most of these variables too, but is no step
    if "SLURM_STEP_ID" not in os.environ or "LOCAL_WORLD_SIZE" in os.environ:
        return 0
    tasks = _number("SLURM_NTASKS", default=1)
    if tasks < 2:
        return 0
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(f"{tasks} tasks were requested by --ntasks; request them by --ntasks-per-node instead.")
    if (name := os.environ.get("SLURM_JOB_NAME")) in ("bash", "interactive"):
        raise InputError(
            f"Tasks of a job named '{name}' do not find each other; give the job another name with --job-name."
        )
    return _number("SLURM_NTASKS_PER_NODE", least=1)


def _number(name: str, *, default: int | None = None, least: int = 0, most: int = 10**6) -> int:
    """A number that a launcher set in the environment."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise InputError(f"{name} is not set in the environment beside LOCAL_WORLD_SIZE or SLURM_STEP_ID; {_ADVICE}.")
    if not (text.isascii() and text.isdecimal() and least <= int(text[:9]) <= most):
        raise InputError(
            f"{name}={shown(text)} in the environment is no whole number from {least} to {most}; {_ADVICE}."
        )
    return int(text)


class Environment(ClusterEnvironment):
    """What Fabric asks of a place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Environment) and self.place == other.place

    __hash__ = None  # type: ignore[assignment]

    @property
    def creates_processes_externally(self) -> bool:
        """All processes are there when Fabric begins."""
        return True

    @property
    def main_address(self) -> str:
        """Address of the first process."""
        return self.place.address

    @property
    def main_port(self) -> int:
        """Where PyTorch's processes meet."""
        return self.place.port

    @staticmethod
    def detect() -> bool:
        """It is given, not detected."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self.place.world

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """Number among all processes."""
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Number among those of this machine."""
        return self.place.local_rank

    def node_rank(self) -> int:
        """Number of this machine."""
        return self.place.node
