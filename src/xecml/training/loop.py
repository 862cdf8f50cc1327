"""The training loop, in reading order: batch, forward, backward, clip, step, average, log, validate, save."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from xecml.config import RELATIVE_BRANCHES, Config
from xecml.data.augment import Augmentation, step_generator
from xecml.data.reweighting import Reweighting, default_bins
from xecml.data.stream import EventStream, buffer_events
from xecml.errors import InputError
from xecml.models import cpu
from xecml.progress import progress
from xecml.training import checkpoint, processes
from xecml.training.average import WeightAverage
from xecml.training.job import Job
from xecml.training.rebuild import Rebuilding
from xecml.training.regress import Regression
from xecml.training.schedule import learning_rate
from xecml.training.starting import start
from xecml.training.stopping import StopRequest
from xecml.training.sums import Clock, Sums, Watch
from xecml.training.system import memory_metrics
from xecml.training.tracking import Tracker

_NOTE_STEPS = 20
"""Steps between readings of the loss for the progress bar."""


@dataclass
class Result:
    """What a training leaves.

    Attributes:
        folder: of the run.
        best: checkpoint of the best epoch; the last one where none was validated.
        metrics: of the last epoch.
        seconds: it took.
        stopped: why, if before its end.
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


def make_job(config: Config, kind: str) -> Job:
    """The job of a name: `regress`, `mae` or `inpaint`."""
    return Regression(config) if kind == "regress" else Rebuilding(config, kind)


def train(config: Config, *, name: str, kind: str = "regress", quiet: bool = False) -> Result:
    """Train a network as a recipe says, from the start or from `checkpoint.resume_from`.

    Args:
        config: the recipe.
        kind: of job: `regress`, `mae` or `inpaint`.
        name: of the run; it lives in `checkpoint.save_dir`/name.
        quiet: print nothing but progress.

    Raises:
        InputError: data, recipe or checkpoint are unusable.
        FloatingPointError: the loss became NaN; names the events of the batch.
    """
    started = time.monotonic()
    options, folder = config.training, Path(config.checkpoint.save_dir) / name
    best_path, last_path = folder / "checkpoint_best.pth", folder / "checkpoint_last.pth"
    fabric = processes.make_fabric(config)
    fabric.launch()
    torch.use_deterministic_algorithms(options.deterministic)
    torch.manual_seed(options.seed)
    cpu.keep_memory()
    say = print if fabric.global_rank == 0 and not quiet else _silent
    job = make_job(config, kind)
    model = job.model
    reweighting = _reweighting(config) if job.tasks else None
    training, validation = streams(config, fabric, reweighting, tasks=job.tasks)
    begin = start(
        model,
        config.checkpoint.resume_from or options.mae_checkpoint,
        kind=kind,
        tasks=job.tasks,
        weights_only=config.checkpoint.weights_only,
    )
    if kind == "inpaint" and config.model.freeze_encoder and not begin.encoder_given:
        raise InputError(
            "model.freeze_encoder needs an encoder to start from; name one with --mae_checkpoint, or set it to false."
        )
    if not begin.targets_given:
        # every process fits to the same events, those of a single process
        alone = streams(config, None, None, tasks=job.tasks)[0]
        job.fit(alone.epoch(0), keep_features=begin.encoder_given)
    groups = parameter_groups(job.step, options.weight_decay, encoder_scale=options.encoder_lr_scale)
    # one pass over the memory of weights, gradients and moments
    optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=True)
    step, optimizer = fabric.setup(processes.compiled(job.step, options.compile), optimizer)
    average = WeightAverage(model, options.ema_decay)
    augment, watch = _augmentation(config), Watch(fabric.device)
    # sensors are hidden on the CPU, among those that augmentation has left
    place = torch.device("cpu") if job.hides else fabric.device
    torch.manual_seed(options.seed + 1 + fabric.global_rank)  # processes drop different things
    epoch, batch_in_epoch, best, since_best, sums = 1, 0, float("inf"), 0, Sums()
    run_id, metrics, rate = None, dict[str, Any](), 0.0
    if (saved := begin.resumed) is not None:
        optimizer.load_state_dict(saved["optimizer_state"])
        job.loss.load_state_dict(saved["loss_state"])
        average.module.load_state_dict(saved["ema_state"])
        average.updates = saved["ema_updates"]
        processes.restore_random_state(fabric, saved["random_states"])
        epoch, batch_in_epoch, best = saved["epoch"], saved["batch_in_epoch"], saved["best"]
        since_best, metrics, run_id, sums = saved["since_best"], saved["metrics"], saved["run_id"], Sums(saved["sums"])
        _check_position(saved, training, str(config.checkpoint.resume_from))
    tracker = _tracker(config, folder, epoch, name, run_id) if fabric.global_rank == 0 else None
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
        if fabric.global_rank == 0:
            checkpoint.save(path, content)

    stopped: str | None = None
    with StopRequest() as stop:
        while epoch <= options.epochs and stopped is None:
            job.step.train()
            clock = Clock()
            events = training.n_batches * training.batch_size * fabric.world_size
            with progress(events, f"epoch {epoch}/{options.epochs}") as bar:
                bar.advance(batch_in_epoch * training.batch_size * fabric.world_size)
                for batch in clock.waiting(training.epoch(epoch, batch_in_epoch)):
                    elapsed = epoch - 1 + batch_in_epoch / training.n_batches
                    rate = learning_rate(
                        elapsed,
                        epochs=options.epochs,
                        lr_max=options.lr,
                        lr_min=options.lr_min,
                        warmup_epochs=options.warmup_epochs,
                        cosine=options.use_scheduler,
                    )
                    for group in optimizer.param_groups:
                        group["lr"] = rate * group["lr_scale"]
                    last = (batch_in_epoch + 1) % options.accumulate == 0 or batch_in_epoch + 1 == training.n_batches
                    number = batch_in_epoch * fabric.world_size + fabric.global_rank
                    moved = augment(batch.to(place), step_generator(options.seed, epoch, number, place))
                    moved = job.prepare(moved, (options.seed, epoch, number), elapsed).to(fabric.device)
                    with fabric.no_backward_sync(step, enabled=not last):
                        total, parts = step(moved)
                        fabric.backward(total / options.accumulate)
                    batch_in_epoch += 1
                    sums.add({"loss": total, **parts}, len(batch))
                    if last:
                        limit = options.grad_clip or float("inf")
                        norm = nn.utils.clip_grad_norm_(job.step.parameters(), limit)
                        try:
                            watch.step(norm, batch)
                        except FloatingPointError as error:
                            raise FloatingPointError(
                                f"{error} of epoch {epoch}; the last good weights are in {last_path}: check these "
                                "events, or lower training.lr."
                            ) from None
                        optimizer.step()
                        optimizer.zero_grad()
                        average.update()
                        sums.add({"grad_norm": norm})
                    note = f"loss {float(total.detach()):.4g}" if batch_in_epoch % _NOTE_STEPS == 0 else ""
                    bar.advance(len(batch) * fabric.world_size, note)
                    every = config.checkpoint.save_every_steps
                    if (every and batch_in_epoch % every == 0 and last) or stop.requested:
                        watch.look()
                        save(last_path)
                    if stop.requested:
                        stopped = stop.requested
                        break
            if stopped:
                break
            watch.look()
            reduced = sums.all_reduced(lambda value: processes.mean_over_processes(fabric, value))
            metrics = {"epoch": epoch, "train/lr": rate, **{f"train/{k}": v for k, v in reduced.means().items()}}
            metrics |= clock.system() | memory_metrics(fabric.device)
            improved = False
            if epoch % options.validate_every == 0 or epoch == options.epochs:
                valued = job.validate(average.module, validation.epoch(0), fabric)
                metrics |= {f"val/{k}": v for k, v in valued.items()}
                score = _score(valued, config.checkpoint.best_metric)
                improved = score < best
                best, since_best = (score, 0) if improved else (best, since_best + options.validate_every)
                say(f"epoch {epoch}: loss {metrics['train/loss']:.4f}, validation {valued['loss']:.4f}; "
                    + job.summary(valued), flush=True)  # fmt: skip
            every = config.checkpoint.save_predictions
            if every and fabric.global_rank == 0 and (epoch % every == 0 or epoch == options.epochs):
                job.save_examples(average.module, validation.epoch(0), folder, epoch)
            if tracker:
                tracker.epoch(metrics)
            epoch, batch_in_epoch, sums = epoch + 1, 0, Sums()
            if improved:
                save(best_path)
            if (epoch - 1) % config.checkpoint.save_interval == 0:
                save(folder / f"checkpoint_epoch_{epoch - 1}.pth")
            save(last_path)
            if stop.requested:
                stopped = stop.requested
            elif options.early_stop_epochs and since_best >= options.early_stop_epochs:
                stopped = f"no better epoch in {since_best}"
    if stopped:
        say(f"Stopped ({stopped}); go on with --resume_from {last_path}.")
    if tracker:
        tracker.artifacts([path for path in (best_path, tracker.file.path) if path.exists()])
        for hint in tracker.hints():
            say(f"Curves: {hint}")
        tracker.close()
    if fabric.world_size > 1:
        # a process that leaves while others still talk to it aborts
        fabric.barrier()
        torch.distributed.destroy_process_group()
    best_path = best_path if best_path.exists() else last_path
    seconds, first = time.monotonic() - started, fabric.global_rank == 0
    return Result(folder, best_path, metrics, seconds, stopped, reweighting, kind, first)


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


def parameter_groups(module: nn.Module, weight_decay: float, *, encoder_scale: float = 1.0) -> list[dict[str, Any]]:
    """Matrices, which decay, and everything else (biases, norms, GRN, positions), which does not.

    Where the encoder learns at another rate than the rest, its matrices and its others are groups of their own.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]

    def group(encoder: bool | None, decays: bool) -> dict[str, Any]:
        chosen = [
            p
            for name, p in named
            if (p.ndim >= 2 and name.endswith("weight")) == decays and encoder in (None, "encoder." in name)
        ]
        scale = encoder_scale if encoder else 1.0
        return {"params": chosen, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}

    parts = (None,) if encoder_scale == 1 else (False, True)
    return [group(encoder, decays) for encoder in parts for decays in (True, False)]


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
    if name not in metrics:
        raise InputError(f"checkpoint.best_metric '{name}' is not among {', '.join(sorted(metrics))}.")
    return -metrics[name] if "accuracy" in name else metrics[name]


def _check_position(saved: dict[str, Any], training: EventStream, path: str) -> None:
    """A position in the middle of an epoch has a meaning only for the same data."""
    if saved["batch_in_epoch"] and saved["data_fingerprint"] != training.fingerprint:
        raise InputError(
            f"{path} stands at batch {saved['batch_in_epoch']} of an epoch of other data, batches or processes; resume "
            "with the same, or from a checkpoint of a finished epoch."
        )


def _announcement(
    config: Config, job: Job, training: EventStream, validation: EventStream, folder: Path, fabric: Fabric
) -> str:
    parameters = sum(p.numel() for p in job.model.parameters())
    several = f" x {fabric.world_size}" if fabric.world_size > 1 else ""
    arithmetic = processes.precision(config.training.amp, config.training.accelerator)
    return (
        f"Training {job.aim} with '{config.model.preset}' ({parameters:,} parameters, "
        f"{fabric.device.type}{several}, {arithmetic}) on {training.n_events} events, "
        f"validating on {validation.n_events}; run folder {folder}"
    )


def _silent(*_: object, **__: object) -> None:
    """Print nothing."""
