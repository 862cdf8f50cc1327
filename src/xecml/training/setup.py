"""The parts of a training, made from its recipe: data, network, optimizer, and the checkpoint that it continues."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from xecml import cpu_load, geometry
from xecml.config import RELATIVE_BRANCHES, Config
from xecml.data.augment import Augmentation
from xecml.data.reweighting import Reweighting, default_bins
from xecml.data.selected_events import Cut
from xecml.data.stream import EventStream, buffer_events
from xecml.errors import InputError, nearest
from xecml.events import number_of
from xecml.models import cpu
from xecml.outputs import claim, refuse_inputs
from xecml.pretrained import model_file
from xecml.training import checkpoint_writing, going_on
from xecml.training.epoch_metrics import Watch
from xecml.training.job import Job
from xecml.training.learning_rate import parameter_groups
from xecml.training.metrics_logging import METRICS, Tracker
from xecml.training.overlap import shared_events
from xecml.training.processes import devices
from xecml.training.processes.peers import Peers
from xecml.training.rebuilding_job import Rebuilding
from xecml.training.regression_job import Regression
from xecml.training.run import Run
from xecml.training.starting_points import start
from xecml.training.weight_average import WeightAverage

_NO_SCORES = ("_peak_percent", "_pull_width")
"""Ends of names of metrics that do not tell how good an epoch is."""


def make_job(config: Config, kind: str) -> Job:
    """The job of a name: `regress`, `mae` or `inpaint`."""
    return Regression(config) if kind == "regress" else Rebuilding(config, kind)


def begin(
    config: Config,
    peers: Peers,
    *,
    name: str,
    kind: str,
    quiet: bool,
    recipe_path: str | Path | None,
    force: bool,
) -> Run:
    """All that a run needs before its first step, from the start or from where a checkpoint stands.

    Args:
        config: the recipe.
        peers: the other processes; all of them begin.
        name: of the run.
        kind: of job.
        quiet: print nothing.
        recipe_path: file that the recipe comes from, which the run must not replace.
        force: replace files in the run's folder that no training made.

    Raises:
        InputError: data, recipe or checkpoint are unusable.
    """
    options, folder = config.training, Path(config.checkpoint.save_dir) / name
    fabric = devices.launched(config, peers)
    if fabric.world_size > 1 or options.deterministic:
        cpu_load.stop_following()  # processes share cores as they were told to; equal runs want equal threads
    cpu_load.look()
    first_process = fabric.global_rank == 0
    config, auto = going_on.resolved(config, folder, fabric), config.checkpoint.resume_from == going_on.AUTO
    devices.make_deterministic(options.deterministic)
    torch.manual_seed(options.seed)
    cpu.keep_memory()
    job = make_job(config, kind)
    reweighting = reweighting_of(config) if job.tasks else None
    training, validation = streams(config, fabric, reweighting, tasks=job.tasks)
    for line in shared_events(training, validation) if first_process else ():
        print(f"Warning: {line}", file=sys.stderr, flush=True)
    given = start(job.model, config, kind=kind, tasks=job.tasks)
    if auto and config.checkpoint.resume_from and given.resumed is None:
        raise InputError(
            f"{config.checkpoint.resume_from} belongs to another training; give this run another --name, or name the "
            "checkpoint to start from with --resume_from."
        )
    if kind == "inpaint" and config.model.freeze_encoder and not given.encoder_given:
        raise InputError(
            "model.freeze_encoder needs an encoder to start from; name one with --mae_checkpoint, or set it to false."
        )
    if first_process:
        resumed = given.resumed is not None
        _claim(config, [*training.files, *validation.files, recipe_path], folder, resumed=resumed, force=force)
    if given.resumed is None:
        # every process fits to the same events, those of a single process
        alone = streams(config, None, None, tasks=job.tasks)[0]
        if not given.targets_given or given.from_scratch:
            job.fit(alone.epoch(0), keep_features=given.encoder_given, tasks=given.from_scratch or None)
        if given.targets_given:
            job.remember(alone.epoch(0))
        job.bound(training)
    groups = parameter_groups(job.step, options.weight_decay, encoder_scale=options.encoder_lr_scale)
    # one pass over the memory of weights, gradients and moments
    optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=True)
    step, optimizer = fabric.setup(devices.compiled(job.step, options.compile), optimizer)
    run = Run(
        config, name, folder, fabric, job, training, validation, reweighting, step, optimizer, groups,
        average=WeightAverage(job.model, options.ema_decay), augment=augmentation_of(config),
        watch=Watch(fabric, job.step), quiet=quiet,
    )  # fmt: skip
    torch.manual_seed(options.seed + 1 + fabric.global_rank)  # processes drop different things
    if given.resumed is not None:
        run.restore(given.resumed, str(config.checkpoint.resume_from))
    _check_best_metric(run)
    if first_process:
        going_on.count_start(folder, run.position.epoch, run.position.batch_in_epoch)
        checkpoint_writing.take_over(folder, config.checkpoint.resume_from if given.resumed else None)
        tracker = run.tracker = tracker_of(
            config, folder, run.position.epoch, name, given.resumed["run_id"] if given.resumed else None
        )
        tracker.parameters({f"selected.{of}": taken for of, taken in run.taken().items()})
        peers.at_forced_end.append(lambda: tracker.close("FAILED"))
    run.say(announcement(config, job, training, validation, folder, fabric))
    run.say(devices.found(fabric, peers.place, config))
    for of, stream in (("training", training), ("validation", validation)):
        run.say(f"Selected for {of}: {stream.left.line()}" if stream.cut else "")
    run.say(given.line)
    return run


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
    training = EventStream(data.train_path, weights=reweighting, cut=training_cut(config), **common)
    return training, EventStream(data.val_path, shuffle=False, cut=validation_cut(config), **common)


def training_cut(config: Config) -> Cut:
    """What is trained on of the training files."""
    return Cut.of(config.data.train_selection, config.data.train_share)


def validation_cut(config: Config) -> Cut:
    """What is validated on of the validation files."""
    return Cut.of(config.data.val_selection, config.data.val_share)


def reweighting_of(config: Config) -> Reweighting | None:
    """Weights of the training sample, fitted to it; None if no quantity is reweighted."""
    wanted = {task: options for task, options in config.reweighting if options.enabled}
    if not wanted:
        return None
    bins = {task: default_bins(task, o.nbins, o.nbins_2d) for task, o in wanted.items()}
    data = config.data
    return Reweighting.fit(data.train_path, bins, tree=data.tree_name, names=data.branches, cut=training_cut(config))


def augmentation_of(config: Config) -> Augmentation:
    """What a recipe does to events of training."""
    given = config.augmentation.model_dump()
    relative = config.data.npho_branch in RELATIVE_BRANCHES
    return Augmentation(**given, channel_dropout=config.training.channel_dropout_rate, relative=relative)


def tracker_of(config: Config, folder: Path, epoch: int, name: str, run_id: str | None) -> Tracker:
    """Where the numbers of a run go, with its parameters written down."""
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


def score_of(metrics: dict[str, float], name: str) -> float:
    """What makes an epoch better: lower, but for accuracies.

    Raises:
        InputError: there is no such metric.
    """
    if name in ("theta_s68", "phi_s68"):  # as older recipes call them
        name = f"{name}_deg"
    aside = {key for key in metrics if key.endswith(_NO_SCORES)}
    if name not in metrics or name in aside:
        of_all = sorted(
            key for key in metrics if not any(face in key.split("_") for face in geometry.FACES) and key not in aside
        )
        which = (
            "choose one of" if len(of_all) == len(metrics) - len(aside) else "choose one of a face, or of all together:"
        )
        raise InputError(
            f"checkpoint.best_metric '{name}' is no metric of this job{nearest(name, of_all)}; {which} "
            f"{', '.join(of_all)}."
        )
    return -metrics[name] if "accuracy" in name else metrics[name]


def announcement(
    config: Config, job: Job, training: EventStream, validation: EventStream, folder: Path, fabric: Fabric
) -> str:
    """The first line of a training: its aim, its network and its data."""
    parameters = sum(p.numel() for p in job.model.parameters())
    several = f" x {fabric.world_size}" if fabric.world_size > 1 else ""
    arithmetic = devices.precision(config.training.amp, config.training.accelerator)
    # what does not fill a batch is left out, other events in every epoch
    used = training.n_batches * training.batch_size * fabric.world_size
    whole = "" if used == training.n_events else f" ({used} of them an epoch, in full batches)"
    return (
        f"Training {job.aim} with '{config.model.preset}' ({parameters:,} parameters, "
        f"{fabric.device.type}{several}, {arithmetic}) on {number_of(training.n_events)}{whole}, "
        f"validating on {validation.n_events}; run folder {folder}"
    )


def _claim(config: Config, read: Sequence[str | Path | None], folder: Path, *, resumed: bool, force: bool) -> None:
    """Make sure that a run's files replace neither its inputs nor files that it did not make."""
    start_from = [
        None if path is None else model_file(path)
        for path in (config.training.mae_checkpoint, None if resumed else config.checkpoint.resume_from)
    ]
    inputs = [*read, *start_from, config.masking.dead_list]
    outputs = [folder / name for name in (checkpoint_writing.BEST, checkpoint_writing.LAST, METRICS)]
    own = Path(config.checkpoint.resume_from).parent if resumed and config.checkpoint.resume_from else None
    if own is not None and own.resolve() == folder.resolve():
        refuse_inputs(outputs, inputs)
    else:
        claim(outputs, inputs=inputs, force=force)


def _check_best_metric(run: Run) -> None:
    """Look whether the job has the metric that epochs are judged by: a wrong name is not to cost an epoch."""
    wanted = run.config.checkpoint.best_metric
    if wanted == "loss":
        return
    for batches in (islice(run.validation.epoch(0), 1), run.validation.epoch(0)):  # a metric may be of few events
        known = run.job.validate(run.average.module, batches, run.fabric)
        if wanted in known:
            break
    score_of(known, wanted)
