"""The training loop, in reading order: batch, forward, backward, clip, step, average, log, validate, save."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from xecml import geometry
from xecml.config import RELATIVE_BRANCHES, Config
from xecml.data.augment import Augmentation, step_generator
from xecml.data.reweighting import Reweighting, default_bins
from xecml.data.stream import EventStream, buffer_events
from xecml.errors import InputError, nearest
from xecml.events import number_of
from xecml.models import cpu
from xecml.outputs import claim, making, refuse_inputs
from xecml.progress import progress
from xecml.training import checkpoint, processes
from xecml.training.average import WeightAverage
from xecml.training.job import Job
from xecml.training.overlap import shared_events
from xecml.training.peers import Peers
from xecml.training.place import Place, place_of
from xecml.training.rebuild import Rebuilding
from xecml.training.regress import Regression
from xecml.training.schedule import learning_rate, parameter_groups
from xecml.training.starting import restore, start
from xecml.training.stopping import Stopped, StopRequest
from xecml.training.sums import Clock, Sums, Watch
from xecml.training.system import memory_metrics
from xecml.training.together import together
from xecml.training.tracking import METRICS, Tracker, check_places, failures_told


@dataclass
class Result:
    """What a training leaves.

    Attributes:
        folder: of the run.
        best: checkpoint of the best epoch; the last one where none was validated.
        metrics: of the last epoch.
        seconds: it took.
        stopped: the signal that ended it before its time.
        reweighting: of the training sample, if any.
        kind: of job.
        first_process: whether this is the one of several processes that writes files.
    """

    folder: Path
    best: Path
    metrics: dict[str, Any]
    seconds: float
    stopped: str | None = None
    reweighting: Reweighting | None = None
    kind: str = "regress"
    first_process: bool = True

    @property
    def validated(self) -> bool:
        """Whether `best` was chosen by a validation."""
        return self.best.name == checkpoint.BEST


def make_job(config: Config, kind: str) -> Job:
    """The job of a name: `regress`, `mae` or `inpaint`."""
    return Regression(config) if kind == "regress" else Rebuilding(config, kind)


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
) -> Result:
    """Train a network as a recipe says, from the start or from `checkpoint.resume_from`.

    Args:
        config: the recipe.
        kind: of job: `regress`, `mae` or `inpaint`.
        name: of the run; it lives in `checkpoint.save_dir`/name.
        quiet: print nothing but progress.
        place: of this process among several; by default what torchrun, srun or the recipe say.
        recipe_path: file that the recipe comes from, which the run must not replace.
        force: replace files in the run's folder that no training made.

    Raises:
        InputError: data, recipe or checkpoint are unusable, or another process ended.
        FloatingPointError: a loss or gradient is not finite; names the events of the batch.
    """
    check_places(config, name)
    own = place or place_of(config)
    processes.check_devices(config, own)
    with together(own, config, name=name, kind=kind) as peers:
        return _train(config, peers, name=name, kind=kind, quiet=quiet, recipe_path=recipe_path, force=force)


def _train(
    config: Config,
    peers: Peers,
    *,
    name: str,
    kind: str,
    quiet: bool,
    recipe_path: str | Path | None,
    force: bool,
) -> Result:
    """Train in this process, with the others there."""
    started = time.monotonic()
    options, folder = config.training, Path(config.checkpoint.save_dir) / name
    best_path, last_path = folder / checkpoint.BEST, folder / checkpoint.LAST
    fabric = processes.launched(config, peers)
    torch.use_deterministic_algorithms(options.deterministic)
    torch.manual_seed(options.seed)
    cpu.keep_memory()
    say = print if fabric.global_rank == 0 and not quiet else _silent
    job = make_job(config, kind)
    model = job.model
    reweighting = _reweighting(config) if job.tasks else None
    training, validation = streams(config, fabric, reweighting, tasks=job.tasks)
    for line in shared_events(training, validation) if fabric.global_rank == 0 else ():
        print(f"Warning: {line}", file=sys.stderr, flush=True)
    begin = start(model, config, kind=kind, tasks=job.tasks)
    if kind == "inpaint" and config.model.freeze_encoder and not begin.encoder_given:
        raise InputError(
            "model.freeze_encoder needs an encoder to start from; name one with --mae_checkpoint, or set it to false."
        )
    if fabric.global_rank == 0:
        resumed = begin.resumed is not None
        _claim(config, training, validation, folder, recipe_path, resumed=resumed, force=force)
    if not begin.targets_given:
        # every process fits to the same events, those of a single process
        alone = streams(config, None, None, tasks=job.tasks)[0]
        job.fit(alone.epoch(0), keep_features=begin.encoder_given)
    groups = parameter_groups(job.step, options.weight_decay, encoder_scale=options.encoder_lr_scale)
    # one pass over the memory of weights, gradients and moments
    optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=True)
    step, optimizer = fabric.setup(processes.compiled(job.step, options.compile), optimizer)
    average = WeightAverage(model, options.ema_decay)
    augment, watch = _augmentation(config), Watch(fabric, job.step)
    # sensors are hidden on the CPU, among those that augmentation has left
    place = torch.device("cpu") if job.hides else fabric.device
    torch.manual_seed(options.seed + 1 + fabric.global_rank)  # processes drop different things
    epoch, batch_in_epoch, best, since_best, sums = 1, 0, float("inf"), 0, Sums()
    run_id, metrics = None, dict[str, Any]()
    if (saved := begin.resumed) is not None:
        restore(saved, str(config.checkpoint.resume_from), optimizer, groups, job.loss, average)
        processes.restore_random_state(fabric, saved["random_states"])
        epoch, batch_in_epoch, best = saved["epoch"], saved["batch_in_epoch"], saved["best"]
        since_best, metrics, run_id, sums = saved["since_best"], saved["metrics"], saved["run_id"], Sums(saved["sums"])
        _check_position(saved, training, str(config.checkpoint.resume_from))
    if config.checkpoint.best_metric != "loss":  # a wrong name is not to cost an epoch
        for batches in (islice(validation.epoch(0), 1), validation.epoch(0)):  # a metric may be of few events
            known = job.validate(average.module, batches, fabric)
            if config.checkpoint.best_metric in known:
                break
        _score(known, config.checkpoint.best_metric)
    first_process = fabric.global_rank == 0
    if first_process:
        checkpoint.take_over(folder, config.checkpoint.resume_from if saved else None)
    tracker = _tracker(config, folder, epoch, name, run_id) if first_process else None
    if tracker:
        peers.at_forced_end.append(lambda: tracker.close("FAILED"))
    say(_announcement(config, job, training, validation, folder, fabric))
    say(begin.line) if begin.line else None

    def state() -> dict[str, Any]:
        return {
            "kind": kind,
            "config": config.model_dump(mode="json"),
            "tasks": job.tasks,
            "model_state": model.state_dict(),
            "loss_state": job.loss.state_dict(),
            "ema_state": average.module.state_dict(),
            "ema_updates": average.updates,
            "optimizer_state": optimizer.state_dict(),
            "random_states": processes.random_states(fabric),
            "epoch": epoch,
            "batch_in_epoch": batch_in_epoch,
            "data_fingerprint": training.fingerprint,
            "sums": sums.state(),
            "best": best,
            "since_best": since_best,
            "metrics": metrics,
            "reweighting": reweighting.state() if reweighting else None,
            "run_name": name,
            "run_id": tracker.run_id if tracker else None,
        }

    def save(path: Path) -> None:
        content = state()  # all processes take part
        if first_process:
            checkpoint.save(path, content)

    def elapsed(batch: int) -> float:
        return epoch - 1 + batch / training.n_batches

    def rate_at(batch: int) -> float:
        return learning_rate(
            elapsed(batch),
            epochs=options.epochs,
            lr_max=options.lr,
            lr_min=options.lr_min,
            warmup_epochs=options.warmup_epochs,
            cosine=options.use_scheduler,
        )

    stopped: str | None = None
    ended = ""
    every, accumulate, world = config.checkpoint.save_every_steps, options.accumulate, fabric.world_size
    with failures_told(tracker), StopRequest(several=world > 1, silent=not first_process) as stop:
        while epoch <= options.epochs and not stopped and not ended:
            job.step.train()
            clock, due = Clock(), False
            events, before = (n * training.batch_size * world for n in (training.n_batches, batch_in_epoch))
            label = f"epoch {epoch}/{options.epochs}"
            with progress(events, label, done=before, silent=not first_process) as bar:
                for batch in clock.waiting(training.epoch(epoch, batch_in_epoch)):
                    for group in optimizer.param_groups:
                        group["lr"] = rate_at(batch_in_epoch) * group["lr_scale"]
                    in_group = batch_in_epoch % accumulate
                    group_size = min(accumulate, training.n_batches - batch_in_epoch + in_group)
                    last = in_group + 1 == group_size
                    number = batch_in_epoch * world + fabric.global_rank
                    moved = augment(batch.to(place), step_generator(options.seed, epoch, number, place))
                    drawn, first = (options.seed, epoch, batch_in_epoch), fabric.global_rank * len(batch)
                    moved = job.prepare(moved, drawn, elapsed(batch_in_epoch), first).to(fabric.device)
                    with fabric.no_backward_sync(step, enabled=not last):
                        total, parts = step(moved)
                        fabric.backward(total / group_size)
                    batch_in_epoch += 1
                    watch.loss(total, moved)
                    sums.add({"loss": total, **parts}, len(batch))
                    if last:
                        limit = options.grad_clip or float("inf")
                        norm = nn.utils.clip_grad_norm_(job.step.parameters(), limit)
                        watch.step(norm)
                        optimizer.step()
                        optimizer.zero_grad()
                        average.update()
                        sums.add({"grad_norm": norm})
                    bar.advance(len(batch) * world, watch.note)
                    stopped = stopped or stop.after_step()
                    due |= bool(every) and batch_in_epoch % every == 0
                    if last and (due or stopped):  # gradients of half a group would be lost
                        watch.look()
                        save(last_path)
                        watch.saved, due = last_path, False
                    if last and stopped:
                        break
            if stopped:
                break
            watch.look()
            reduced = sums.all_reduced(lambda value: processes.mean_over_processes(fabric, value))
            found = {"epoch": epoch, "train/lr": rate_at(training.n_batches - 1)}
            found |= {f"train/{k}": v for k, v in reduced.means().items()}
            found |= clock.system(world) | memory_metrics(fabric.device)
            improved = False
            if epoch % options.validate_every == 0 or epoch == options.epochs:
                try:
                    valued = job.validate(average.module, stop.during(validation.epoch(0)), fabric)
                except Stopped:  # the epoch's steps are kept, its validation comes when it is gone on with
                    stopped = stop.requested
                    save(last_path)
                    break
                found |= {f"val/{k}": v for k, v in valued.items()}
                score = _score(valued, config.checkpoint.best_metric)
                watch.validation(valued["loss"], epoch)
                improved = score < best
                best, since_best = (score, 0) if improved else (best, since_best + options.validate_every)
                say(f"epoch {epoch}: loss {found['train/loss']:.4f}, validation {valued['loss']:.4f}; "
                    + job.summary(valued), flush=True)  # fmt: skip
            rows = config.checkpoint.save_predictions
            if rows and first_process and (epoch % rows == 0 or epoch == options.epochs):
                job.save_examples(average.module, validation.epoch(0), folder, epoch)
            metrics = found
            if tracker:
                tracker.epoch(metrics)
            epoch, batch_in_epoch, sums = epoch + 1, 0, Sums()
            if improved:
                save(best_path)
            if (epoch - 1) % config.checkpoint.save_interval == 0:
                save(folder / f"checkpoint_epoch_{epoch - 1}.pth")
            save(last_path)
            watch.saved = last_path
            stopped = stop.at_epoch_end()
            if options.early_stop_epochs and since_best >= options.early_stop_epochs:
                ended = f"no better epoch in {since_best}"
    if stopped:
        say(f"Stopped ({stopped}); go on with --resume_from {last_path}.")
    elif ended:
        say(f"Ended early ({ended}).")
    if tracker:
        tracker.close("KILLED" if stopped else "FINISHED")
        examples = folder.glob("*_predictions_epoch_*.root")
        tracker.artifacts([path for path in (best_path, tracker.file.path, *examples) if path.exists()])
        for hint in tracker.hints():
            say(f"Curves: {hint}")
    if fabric.world_size > 1:
        # a process that leaves while others still talk to it aborts
        fabric.barrier()
        peers.finish()
        torch.distributed.destroy_process_group()
    best_path = best_path if best_path.exists() else last_path
    seconds = time.monotonic() - started
    return Result(folder, best_path, metrics, seconds, stopped, reweighting, kind, first_process)


def _claim(
    config: Config,
    training: EventStream,
    validation: EventStream,
    folder: Path,
    recipe_path: str | Path | None,
    *,
    resumed: bool,
    force: bool,
) -> None:
    """Make sure that a run's files replace neither what it reads nor files of others; of its own it goes on with."""
    start = [config.training.mae_checkpoint, None if resumed else config.checkpoint.resume_from]
    inputs = [*training.files, *validation.files, *start, config.masking.dead_list, recipe_path]
    names = (checkpoint.BEST, checkpoint.LAST, METRICS)
    outputs = [folder / name for name in names]
    own = Path(config.checkpoint.resume_from).parent if resumed and config.checkpoint.resume_from else None
    if own is not None and own.resolve() == folder.resolve():
        refuse_inputs(outputs, inputs)
    else:
        claim(outputs, inputs=inputs, force=force)


def streams(
    config: Config, fabric: Fabric | None, reweighting: Reweighting | None, *, tasks: Sequence[str]
) -> tuple[EventStream, EventStream]:
    """Training and validation events of a recipe, with the truth of tasks, for this process or for a single one."""
    data = config.data
    for key in ("train_path", "val_path"):
        if not getattr(data, key):
            raise InputError(f"data.{key} is not set; give it in the recipe or with --{key}.")
    common: dict[str, Any] = {
        "tasks": list(tasks),
        "batch_size": data.batch_size,
        "buffer_events": buffer_events(data.chunksize, data.buffer_mb, data.batch_size),
        "npho_branch": data.npho_branch,
        "time_branch": data.time_branch,
        "tree": data.tree_name,
        "names": data.branches,
        "seed": config.training.seed,
        "background": data.num_workers > 0,
        "workers": max(1, data.num_workers),
        "rank": fabric.global_rank if fabric else 0,
        "world": fabric.world_size if fabric else 1,
        "pin_memory": fabric is not None and fabric.device.type == "cuda",
    }
    training = EventStream(data.train_path, weights=reweighting, **common)
    return training, EventStream(data.val_path, shuffle=False, **common)


def _reweighting(config: Config) -> Reweighting | None:
    """Weights of the training sample, fitted to it; none where no quantity is reweighted."""
    wanted = {task: options for task, options in config.reweighting if options.enabled}
    if not wanted:
        return None
    bins = {task: default_bins(task, o.nbins, o.nbins_2d) for task, o in wanted.items()}
    return Reweighting.fit(config.data.train_path, bins, tree=config.data.tree_name, names=config.data.branches)


def _augmentation(config: Config) -> Augmentation:
    given = config.augmentation.model_dump()
    relative = config.data.npho_branch in RELATIVE_BRANCHES
    return Augmentation(**given, channel_dropout=config.training.channel_dropout_rate, relative=relative)


def _tracker(config: Config, folder: Path, epoch: int, name: str, run_id: str | None) -> Tracker:
    board = config.mlflow.tensorboard
    tracker = Tracker(
        folder,
        epoch,
        run_name=name,
        experiment=config.mlflow.experiment if config.mlflow.enabled else None,
        tensorboard=Path(board) if board else None,
        run_id=run_id,
    )
    tracker.parameters(config.model_dump(mode="json"))
    return tracker


def _score(metrics: dict[str, float], name: str) -> float:
    """What makes an epoch better: lower, but for accuracies."""
    if name in ("theta_s68", "phi_s68"):  # as older recipes call them
        name = f"{name}_deg"
    if name not in metrics:
        of_all = sorted(key for key in metrics if not any(face in key.split("_") for face in geometry.FACES))
        which = "choose one of" if len(of_all) == len(metrics) else "choose one of a face, or of all together:"
        raise InputError(
            f"checkpoint.best_metric '{name}' is no metric of this job{nearest(name, metrics)}; {which} "
            f"{', '.join(of_all)}."
        )
    return -metrics[name] if "accuracy" in name else metrics[name]


def _check_position(saved: dict[str, Any], training: EventStream, path: str) -> None:
    """A position in the middle of an epoch has a meaning only for the same data."""
    if saved["batch_in_epoch"] and saved["data_fingerprint"] != training.fingerprint:
        raise InputError(
            f"{path} stands at batch {saved['batch_in_epoch']} of an epoch of other data, batches or processes; resume "
            "with the same, or from a checkpoint of a finished epoch."
        )
    if saved["batch_in_epoch"] > training.n_batches:
        raise InputError(
            f"{path} is damaged: it stands at batch {saved['batch_in_epoch']} of {training.n_batches}; use another "
            "checkpoint of this run."
        )


def _announcement(
    config: Config, job: Job, training: EventStream, validation: EventStream, folder: Path, fabric: Fabric
) -> str:
    parameters = sum(p.numel() for p in job.model.parameters())
    several = f" x {fabric.world_size}" if fabric.world_size > 1 else ""
    arithmetic = processes.precision(config.training.amp, config.training.accelerator)
    # what does not fill a batch is left out, other events in every epoch
    used = training.n_batches * training.batch_size * fabric.world_size
    whole = "" if used == training.n_events else f" ({used} of them an epoch, in full batches)"
    return (
        f"Training {job.aim} with '{config.model.preset}' ({parameters:,} parameters, "
        f"{fabric.device.type}{several}, {arithmetic}) on {number_of(training.n_events)}{whole}, "
        f"validating on {validation.n_events}; run folder {folder}"
    )


def _silent(*_: object, **__: object) -> None:
    """Print nothing."""
