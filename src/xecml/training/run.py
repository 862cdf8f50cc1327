"""A training run: its parts, its position, and how both are saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from xecml import cpu_load
from xecml.config import Config
from xecml.data.augment import Augmentation
from xecml.data.reweighting import Reweighting
from xecml.data.stream import EventStream
from xecml.errors import InputError
from xecml.stopwatch import Stopwatch
from xecml.training import checkpoint_writing
from xecml.training.epoch_metrics import Sums, Watch
from xecml.training.job import Job
from xecml.training.learning_rate import learning_rate
from xecml.training.metrics_logging import Tracker
from xecml.training.processes.devices import random_states, restore_random_state
from xecml.training.starting_points import restore
from xecml.training.weight_average import WeightAverage


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        epoch: that runs, from 1; one more than the last one where all are done.
        batch_in_epoch: batches of it that are done.
        best: score of the best epoch, lower is better.
        since_best: epochs since then.
        metrics: of the last whole epoch.
        sums: of the epoch so far.
    """

    epoch: int = 1
    batch_in_epoch: int = 0
    best: float = float("inf")
    since_best: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    sums: Sums = field(default_factory=Sums)

    def save(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {**vars(self), "sums": self.sums.state()}

    @classmethod
    def restore(cls, saved: dict[str, Any]) -> Position:
        """From a checkpoint."""
        values = {name: saved[name] for name in cls.__dataclass_fields__}
        return cls(**values | {"sums": Sums(saved["sums"])})


@dataclass
class Run:
    """What a run is made of, the same from its first to its last step, and where it stands.

    Attributes:
        config: the recipe.
        name: of the run.
        folder: of its files.
        fabric: device, precision and processes.
        job: what is learnt.
        training: events to learn from.
        validation: events to judge by.
        reweighting: of the training sample, if any.
        step: model and loss, as Fabric runs them.
        optimizer: of the weights.
        groups: of weights, with their rates and decays.
        average: of the weights.
        augment: changes events of training.
        watch: looks for losses and gradients that are no numbers.
        position: where the run stands.
        tracker: where numbers go; none in other processes than the first.
        stopped: the signal that ends the run before its time.
        quiet: print nothing.
        spent: seconds by part.
    """

    config: Config
    name: str
    folder: Path
    fabric: Fabric
    job: Job
    training: EventStream
    validation: EventStream
    reweighting: Reweighting | None
    step: Any
    optimizer: Any
    groups: list[dict[str, Any]]
    average: WeightAverage
    augment: Augmentation
    watch: Watch
    position: Position = field(default_factory=Position)
    tracker: Tracker | None = None
    stopped: str | None = None
    quiet: bool = False
    spent: Stopwatch = field(default_factory=Stopwatch)

    @property
    def best_path(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.folder / checkpoint_writing.BEST

    @property
    def last_path(self) -> Path:
        """Checkpoint of the last step that was saved."""
        return self.folder / checkpoint_writing.LAST

    @property
    def first_process(self) -> bool:
        """Whether this is the one of several processes that writes files."""
        return self.fabric.global_rank == 0

    @property
    def place_of_batches(self) -> torch.device:
        """Where batches are augmented: where sensors are then hidden, which is done on the CPU, or on the device."""
        return torch.device("cpu") if self.job.hides else self.fabric.device

    def say(self, line: str) -> None:
        """Print a line, in the first process."""
        if self.first_process and not self.quiet and line:
            print(line, flush=True)

    def epochs_done(self, batch: int) -> float:
        """Epochs, with the fraction of this one, before a batch of it."""
        return self.position.epoch - 1 + batch / self.training.n_batches

    def rate_at(self, batch: int) -> float:
        """Learning rate of a batch of this epoch."""
        options = self.config.training
        return learning_rate(
            self.epochs_done(batch),
            epochs=options.epochs,
            lr_max=options.lr,
            lr_min=options.lr_min,
            warmup_epochs=options.warmup_epochs,
            cosine=options.use_scheduler,
        )

    def save(self, *paths: Path) -> None:
        """Write checkpoints with all that `restore` needs; all processes take part."""
        for path in paths:
            content = self.content()
            if self.first_process:
                checkpoint_writing.save(path, content)

    def save_best(self, metrics: Mapping[str, float]) -> None:
        """Write the best checkpoint, whose averaged weights are as they are to be used; all processes take part.

        Args:
            metrics: of the validation that found it the best.
        """
        content = self.content()
        if self.first_process:
            content["ema_state"] = self.job.in_use(self.average.module, metrics).state_dict()
            checkpoint_writing.save(self.best_path, content)

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "kind": self.job.kind,
            "config": self.config.model_dump(mode="json"),
            "tasks": self.job.tasks,
            "model_state": self.job.model.state_dict(),
            "loss_state": self.job.loss.state_dict(),
            "ema_state": self.average.module.state_dict(),
            "ema_updates": self.average.updates,
            "optimizer_state": self.optimizer.state_dict(),
            "random_states": random_states(self.fabric),
            **self.position.save(),
            "data_fingerprint": self.training.fingerprint,
            "reweighting": self.reweighting.state() if self.reweighting else None,
            "threads": torch.get_num_threads(),
            "selected": self.taken(),
            "run_name": self.name,
            "run_id": self.tracker.run_id if self.tracker else None,
        }

    def taken(self) -> dict[str, dict[str, Any]]:
        """What selections and shares leave, by sample that has one."""
        both = {"train": self.training.taken(), "val": self.validation.taken()}
        return {of: taken for of, taken in both.items() if taken}

    def restore(self, saved: dict[str, Any], path: str) -> None:
        """Stand where a checkpoint stood; the weights of the model are there already.

        Raises:
            InputError: it is of other weights, another loss, or in the middle of an epoch of other data.
        """
        restore(saved, path, self.optimizer, self.groups, self.job.loss, self.average)
        restore_random_state(self.fabric, saved["random_states"])
        if self.fabric.world_size == 1 and saved.get("threads"):
            cpu_load.go_on_with(saved["threads"])
        self.position = Position.restore(saved)
        if self.position.batch_in_epoch and saved["data_fingerprint"] != self.training.fingerprint:
            raise InputError(
                f"{path} stands at batch {self.position.batch_in_epoch} of an epoch of other data, batches or "
                "processes; resume with the same, or from a checkpoint of a finished epoch."
            )
        if self.position.batch_in_epoch > self.training.n_batches:
            raise InputError(
                f"{path} is damaged: it stands at batch {self.position.batch_in_epoch} of {self.training.n_batches}; "
                "use another checkpoint of this run."
            )
