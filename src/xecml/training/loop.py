"""The training loop, in reading order: batch, forward, backward, clip, step, average, log, validate, save."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xecml import cpu_load
from xecml.config import Config
from xecml.data.augment import step_generator
from xecml.data.batch import Batch
from xecml.data.reweighting import Reweighting
from xecml.errors import InputError
from xecml.notebook import lines_html, table_html
from xecml.outputs import making
from xecml.progress import progress
from xecml.stopwatch import Stopwatch
from xecml.training import checkpoint_writing
from xecml.training.epoch_metrics import Clock, Sums
from xecml.training.going_on import save_every_s
from xecml.training.metrics_logging import check_places, failures_told
from xecml.training.processes.devices import check_devices, mean_over_processes
from xecml.training.processes.launch import together
from xecml.training.processes.peers import Peers
from xecml.training.processes.rank import TORCHRUN, TORCHRUN_SIGNALS, Place, place_of
from xecml.training.run import Run
from xecml.training.setup import begin, score_of
from xecml.training.stopping import EARLY, Stopped, StopRequest
from xecml.training.system_metrics import memory_metrics

EARLY_END = "as it was asked to"
"""Why a run has no more epochs that `each_epoch` ended."""
EachEpoch = Callable[[int, float], bool]
"""Is told of each validated epoch its number and score, lower is better; answers whether the run should end."""


@dataclass
class Result:
    """What a training leaves.

    Attributes:
        folder: of the run.
        best: checkpoint of the best epoch; the last one where none was validated.
        metrics: of the last epoch.
        seconds: it took.
        stopped: the signal that ended it before its time.
        score: of the best epoch, lower is better; infinite where none was validated.
        reweighting: of the training sample, if any.
        kind: of job.
        first_process: whether this is the one of several processes that writes files.
        spent: seconds by part.
    """

    folder: Path
    best: Path
    metrics: dict[str, Any]
    seconds: float
    stopped: str | None = None
    score: float = float("inf")
    reweighting: Reweighting | None = None
    kind: str = "regress"
    first_process: bool = True
    spent: Stopwatch = field(default_factory=Stopwatch)

    @property
    def validated(self) -> bool:
        """Whether `best` was chosen by a validation."""
        return self.best.name == checkpoint_writing.BEST

    def to_its_end(self) -> Result:
        """Itself, for those who need a finished training.

        Raises:
            InputError: a signal stopped it.
        """
        if self.stopped:
            raise InputError(f"The training {self.folder.name} was stopped by {self.stopped}; give the command again.")
        return self

    def _repr_html_(self) -> str:
        """As a notebook shows it: how it ended, and the numbers of the last epoch."""
        how = f"stopped ({self.stopped})" if self.stopped else "finished"
        line = f"Training in {self.folder}: {how} after {self.seconds / 60:.1f} minutes; best checkpoint {self.best}"
        numbers = {name: value for name, value in self.metrics.items() if isinstance(value, int | float)}
        rows = [[name, f"{value:.5g}"] for name, value in numbers.items() if not name.startswith("system/")]
        return lines_html([line]) + table_html(["last epoch", ""], rows)


@making("train")
def train(
    config: Config,
    *,
    name: str,
    kind: str = "regress",
    quiet: bool = False,
    place: Place | None = None,
    recipe_path: str | Path | None = None,
    force: bool = False,
    each_epoch: EachEpoch | None = None,
) -> Result:
    """Train a network as a recipe says, from the start or from `checkpoint.resume_from`.

    `auto` there means the run's own last checkpoint, or the start where there is none.

    Args:
        config: the recipe.
        kind: of job: `regress`, `mae` or `inpaint`.
        name: of the run; it lives in `checkpoint.save_dir`/name.
        quiet: print nothing but progress.
        place: of this process among several; by default what torchrun, srun or the recipe say.
        recipe_path: file that the recipe comes from, which the run must not replace.
        force: replace files in the run's folder that no training made.
        each_epoch: is told, in the first process, how each validated epoch went, and may end the run.

    Raises:
        InputError: data, recipe or checkpoint are unusable, or another process ended.
        FloatingPointError: a loss or gradient is not finite; names the events of the batch.
    """
    check_places(config, name)
    own = place or place_of(config)
    check_devices(config, own)
    if own.started_by == TORCHRUN and own.rank == 0:
        print(f"Warning: {TORCHRUN_SIGNALS}", file=sys.stderr, flush=True)
    with together(own, config, name=name, kind=kind) as peers:
        spent = Stopwatch()
        with spent.part("files, fits, first weights"):
            run = begin(config, peers, name=name, kind=kind, quiet=quiet, recipe_path=recipe_path, force=force)
        run.spent = spent
        several = run.fabric.world_size > 1
        stops = StopRequest(several=several, silent=not run.first_process, save_every_s=save_every_s())
        with failures_told(run.tracker), stops as stop:
            ended = run_epochs(run, stop, each_epoch)
        finish(run, peers, ended)
    best = run.best_path if run.best_path.exists() else run.last_path
    at = run.position
    left = (run.folder, best, at.metrics, spent.total(), run.stopped, at.best, run.reweighting)
    return Result(*left, kind=kind, first_process=run.first_process, spent=spent)


def run_epochs(run: Run, stop: StopRequest, each_epoch: EachEpoch | None = None) -> str:
    """All epochs that are left; returns why there are no more, if that is not their number."""
    options, saving, at = run.config.training, run.config.checkpoint, run.position
    # a process that was killed between its checkpoint and the telling of it has left that to the next one
    if each_epoch is not None and at.epoch > 1 and not at.batch_in_epoch:
        if run.first_process and (last := last_score(run)) is not None and each_epoch(at.epoch - 1, last):
            stop.end_early()
        if stop.at_epoch_end() == EARLY:
            return EARLY_END
    while at.epoch <= options.epochs:
        with run.spent.part("epochs"):
            clock = train_epoch(run, stop)
        if run.stopped:
            break
        found, improved = training_metrics(run, clock), False
        valued: dict[str, float] = {}
        if at.epoch % options.validate_every == 0 or at.epoch == options.epochs:
            if stop.worth_saving():
                run.save(run.last_path)
                run.watch.saved = run.last_path
                stop.saved()
            try:
                with run.spent.part("validation"):
                    valued = run.job.validate(run.average.module, stop.during(run.validation.epoch(0)), run.fabric)
            except Stopped:  # the epoch's steps are kept; it is validated when the run continues
                run.stopped = stop.requested
                run.save(run.last_path)
                break
            found |= {f"val/{k}": v for k, v in valued.items()}
            improved = judge(run, found, valued)
        rows = saving.save_predictions
        if rows and run.first_process and (at.epoch % rows == 0 or at.epoch == options.epochs):
            run.job.save_examples(run.average.module, run.validation.epoch(0), run.folder, at.epoch)
        at.metrics = found
        if run.tracker:
            run.tracker.epoch(found)
        done, at.epoch, at.batch_in_epoch, at.sums = at.epoch, at.epoch + 1, 0, Sums()
        numbered = [run.folder / f"checkpoint_epoch_{done}.pth"] if done % saving.save_interval == 0 else []
        with run.spent.part("checkpoints"):
            if improved:
                run.save_best(valued)
            run.save(*numbered, run.last_path)
        run.watch.saved = run.last_path
        stop.saved()
        score = score_of(valued, saving.best_metric) if valued else None
        if each_epoch is not None and run.first_process and score is not None and each_epoch(done, score):
            stop.end_early()
        run.stopped = stop.at_epoch_end()
        if run.stopped == EARLY:
            run.stopped = None
            return EARLY_END
        if options.early_stop_epochs and at.since_best >= options.early_stop_epochs:
            return f"no better epoch in {at.since_best}"
        if run.stopped:
            break
    return ""


def last_score(run: Run) -> float | None:
    """Of the epoch that ended last, lower is better; None if it was not validated."""
    valued = {key.removeprefix("val/"): value for key, value in run.position.metrics.items() if key.startswith("val/")}
    return score_of(valued, run.config.checkpoint.best_metric) if valued else None


def train_epoch(run: Run, stop: StopRequest) -> Clock:
    """The batches of an epoch that are left, up to a stop."""
    fabric, at, options = run.fabric, run.position, run.config.training
    every, world, batches = run.config.checkpoint.save_every_steps, fabric.world_size, run.training.n_batches
    run.job.step.train()
    clock, due = Clock(), False
    cpu_load.look()
    events, before = (n * run.training.batch_size * world for n in (batches, at.batch_in_epoch))
    label = f"epoch {at.epoch}/{options.epochs}"
    with progress(events, label, done=before, silent=not run.first_process) as bar:
        for batch in clock.waiting(run.training.epoch(at.epoch, at.batch_in_epoch)):
            for group in run.optimizer.param_groups:
                group["lr"] = run.rate_at(at.batch_in_epoch) * group["lr_scale"]
            in_group = at.batch_in_epoch % options.accumulate
            group_size = min(options.accumulate, batches - at.batch_in_epoch + in_group)
            last = in_group + 1 == group_size
            moved = prepared(run, batch)
            with fabric.no_backward_sync(run.step, enabled=not last):
                total, parts = run.step(moved)
                fabric.backward(total / group_size)
            at.batch_in_epoch += 1
            run.watch.loss(total, moved)
            at.sums.add({"loss": total, **parts}, len(batch))
            if last:
                norm = nn.utils.clip_grad_norm_(run.job.step.parameters(), options.grad_clip or float("inf"))
                run.watch.step(norm)
                run.optimizer.step()
                run.optimizer.zero_grad()
                run.average.update()
                at.sums.add({"grad_norm": norm})
            bar.advance(len(batch) * world, run.watch.note)
            cpu_load.look()
            run.stopped = run.stopped or stop.after_step()
            due |= stop.save_due or (bool(every) and at.batch_in_epoch % every == 0)
            if last and (due or run.stopped):  # gradients of half a group would be lost
                run.watch.look()
                run.save(run.last_path)
                run.watch.saved, due = run.last_path, False
                stop.saved()
            if last and run.stopped:
                break
    return clock


def prepared(run: Run, batch: Batch) -> Batch:
    """A batch as the step wants it: augmented, with hidden sensors where the job hides some, on the device."""
    at, seed, rank = run.position, run.config.training.seed, run.fabric.global_rank
    place = run.place_of_batches
    number = at.batch_in_epoch * run.fabric.world_size + rank
    moved = run.augment(batch.to(place), step_generator(seed, at.epoch, number, place))
    drawn, first = (seed, at.epoch, at.batch_in_epoch), rank * len(batch)
    return run.job.prepare(moved, drawn, run.epochs_done(at.batch_in_epoch), first).to(run.fabric.device)


def training_metrics(run: Run, clock: Clock) -> dict[str, Any]:
    """Numbers of the training part of an epoch, under the names they are logged by."""
    run.watch.look()
    reduced = run.position.sums.all_reduced(lambda value: mean_over_processes(run.fabric, value))
    found = {"epoch": run.position.epoch, "train/lr": run.rate_at(run.training.n_batches - 1)}
    found |= {f"train/{k}": v for k, v in reduced.means().items()}
    return found | clock.system(run.fabric.world_size) | memory_metrics(run.fabric.device)


def judge(run: Run, found: dict[str, Any], valued: dict[str, float]) -> bool:
    """Compare a validation with the best one, and say how the epoch went; whether it is the best so far."""
    at, score = run.position, score_of(valued, run.config.checkpoint.best_metric)
    run.watch.validation(valued["loss"], at.epoch)
    improved = score < at.best
    at.best, at.since_best = (score, 0) if improved else (at.best, at.since_best + run.config.training.validate_every)
    losses = f"loss {found['train/loss']:.4f}, validation {valued['loss']:.4f}"
    run.say(f"epoch {at.epoch}: {losses}; {run.job.summary(valued)}")
    return improved


def finish(run: Run, peers: Peers, ended: str) -> None:
    """Say how a run ended, close what it logs to, and leave the other processes."""
    if run.stopped:
        run.say(f"Stopped ({run.stopped}); continue with --resume_from {run.last_path}.")
    elif ended:
        run.say(f"Ended early ({ended}).")
    if run.tracker:
        run.tracker.close("KILLED" if run.stopped else "FINISHED")
        examples = run.folder.glob("*_predictions_epoch_*.root")
        files = [run.best_path, run.tracker.file.path, *examples]
        run.tracker.artifacts([path for path in files if path.exists()])
        for hint in run.tracker.hints():
            run.say(f"Curves: {hint}")
    if run.fabric.world_size > 1:
        # a process that leaves while others still talk to it aborts
        run.fabric.barrier()
        peers.finish()
        torch.distributed.destroy_process_group()
