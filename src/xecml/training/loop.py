"""The training loop, in reading order: batch, forward, backward, clip, step, average, log, validate, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xecml.config import Config
from xecml.data.stream import Batch, EventStream, buffer_events
from xecml.errors import InputError
from xecml.models.regressor import Regressor
from xecml.progress import progress
from xecml.training import checkpoint, regress
from xecml.training.schedule import learning_rate
from xecml.training.tracking import MetricsFile


@dataclass
class Result:
    """What a training leaves: its folder, its best checkpoint, the last epoch's metrics, its time."""

    folder: Path
    best: Path
    metrics: dict[str, Any]
    seconds: float


def streams(config: Config) -> tuple[EventStream, EventStream]:
    """Training and validation events of a recipe."""
    data = config.data
    for key in ("train_path", "val_path"):
        if not getattr(data, key):
            raise InputError(f"data.{key} is not set; give it in the recipe or with --{key}.")
    common: dict[str, Any] = {
        "tasks": list(config.tasks.enabled()),
        "batch_size": data.batch_size,
        "buffer_events": buffer_events(data.chunksize, data.buffer_mb, data.batch_size),
        "npho_branch": data.npho_branch,
        "time_branch": data.time_branch,
        "tree": data.tree_name,
        "seed": config.training.seed,
        "background": data.num_workers > 0,
    }
    return EventStream(data.train_path, **common), EventStream(data.val_path, shuffle=False, **common)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, which decay, and everything else (biases, norms), which does not."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]


def precision(amp: bool) -> Any:
    """Fabric's name of the arithmetic: 16-bit brain floats where the processor has them, else 32-bit."""
    if amp and (torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return "bf16-mixed"
    return "32-true"


def train(config: Config, *, name: str, quiet: bool = False) -> Result:
    """Train a regression as a recipe says, from the start or from `checkpoint.resume_from`.

    Args:
        config: the recipe.
        name: of the run; it lives in `checkpoint.save_dir`/name.
        quiet: print nothing but progress.

    Raises:
        InputError: data, recipe or checkpoint are unusable.
        FloatingPointError: the loss became NaN; names the events of the batch.
    """
    started = time.monotonic()
    options = config.training
    folder = Path(config.checkpoint.save_dir) / name
    seed_everything(options.seed)
    fabric = Fabric(accelerator="auto", devices=1, precision=precision(options.amp))
    training, validation = streams(config)
    model = regress.build_model(config)
    resumed = checkpoint.load(config.checkpoint.resume_from) if config.checkpoint.resume_from else None
    if resumed is None:
        regress.fit_targets(model, training.epoch(0))
    else:
        load_weights(model, resumed["model_state"], str(config.checkpoint.resume_from))
    wrapped, optimizer = fabric.setup(
        model, torch.optim.AdamW(parameter_groups(model, options.weight_decay), lr=options.lr)
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay))  # type: ignore[no-untyped-call]
    averaged = cast(Regressor, average.module)
    loss = regress.RegressionLoss(config).to(fabric.device)
    epoch, batch_in_epoch, best = 1, 0, float("inf")
    if resumed is not None:
        epoch, batch_in_epoch, best = restore(resumed, optimizer, average)
    metrics_file = MetricsFile(folder, epoch)
    metrics: dict[str, Any] = {}
    if not quiet:
        _announce(config, model, training, validation, folder, fabric)

    def state() -> dict[str, Any]:
        return {
            "kind": "regress",
            "config": config.model_dump(mode="json"),
            "tasks": list(model.tasks),
            "model_state": model.state_dict(),
            "ema_state": average.module.state_dict(),
            "ema_updates": int(average.n_averaged),
            "optimizer_state": optimizer.state_dict(),
            "random_state": random_state(),
            "epoch": epoch,
            "batch_in_epoch": batch_in_epoch,
            "best_val_loss": best,
            "metrics": metrics,
            "run_name": name,
        }

    while epoch <= options.epochs:
        model.train()
        sums, seen, clock = _Sums(), 0, _Clock()
        with progress(training.n_batches * training.batch_size, f"epoch {epoch}/{options.epochs}") as bar:
            for batch in clock.waiting(training.epoch(epoch, batch_in_epoch)):
                moved = regress.to_device(batch, fabric.device)
                position = epoch - 1 + batch_in_epoch / training.n_batches
                rate = learning_rate(
                    position,
                    epochs=options.epochs,
                    lr_max=options.lr,
                    lr_min=options.lr_min,
                    warmup_epochs=options.warmup_epochs,
                    cosine=options.use_scheduler,
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                total, parts = loss(model, wrapped(*drop_channels(moved, options.channel_dropout_rate).inputs()), moved)
                fabric.backward(total)
                limit = options.grad_clip or float("inf")
                norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
                if not torch.isfinite(norm):
                    raise FloatingPointError(_nan_message(batch, folder, epoch))
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(model)
                batch_in_epoch += 1
                seen += len(batch)
                sums.add({"loss": total, "grad_norm": norm} | {f"loss_{t}": v for t, v in parts.items()})
                bar.advance(len(batch))
        metrics = {"epoch": epoch, "train/lr": rate} | {f"train/{k}": v for k, v in sums.means().items()}
        valued = regress.validate(averaged, loss, validation.epoch(0), fabric.device)
        metrics |= {f"val/{k}": v for k, v in valued.items()} | clock.system(seen)
        metrics_file.write(metrics)
        if not quiet:
            print(f"epoch {epoch}: loss {metrics['train/loss']:.4f}, validation {valued['loss']:.4f}; "
                  + regress.summary_line(valued, model.tasks), flush=True)  # fmt: skip
        improved = valued["loss"] < best
        best = min(best, valued["loss"])
        epoch, batch_in_epoch = epoch + 1, 0
        content = state()
        if improved:
            checkpoint.save(folder / "checkpoint_best.pth", content)
        if (epoch - 1) % config.checkpoint.save_interval == 0:
            checkpoint.save(folder / f"checkpoint_epoch_{epoch - 1}.pth", content)
        checkpoint.save(folder / "checkpoint_last.pth", content)
    return Result(folder, folder / "checkpoint_best.pth", metrics, time.monotonic() - started)


class _Sums:
    """Running means of step quantities, kept on the device: nothing is read back inside a step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, torch.zeros((), device=value.device)) + value.detach()
        self._steps += 1

    def means(self) -> dict[str, float]:
        return {key: float(value) / max(self._steps, 1) for key, value in self._sums.items()}


class _Clock:
    """Time of an epoch, and how much of it went into waiting for data."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0
        self._batches = 0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            self._batches += 1
            yield batch

    def system(self, events: int) -> dict[str, float]:
        seconds = time.monotonic() - self._start
        return {
            "system/epoch_duration_sec": seconds,
            "system/throughput_events_per_sec": events / seconds,
            "system/avg_data_load_sec": self._waited / max(self._batches, 1),
            "system/compute_efficiency": 100 * (1 - self._waited / seconds),
        }


def drop_channels(batch: Batch, rate: float) -> Batch:
    """Switch sensors off at random: they look exactly like dead ones."""
    if rate == 0:
        return batch
    keep = torch.rand_like(batch.npho) >= rate
    return Batch(batch.npho, batch.time, batch.valid & keep, batch.timed & keep, batch.truth, batch.run, batch.event)


def load_weights(model: Regressor, weights: dict[str, Tensor], path: str) -> None:
    """Load a state exactly; anything missing, left over or of another shape is named.

    Raises:
        InputError: the state does not fit the model.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise InputError(f"{path} does not fit the configured model: {detail}") from error


def restore(saved: dict[str, Any], optimizer: Any, average: AveragedModel) -> tuple[int, int, float]:
    """Put optimizer, average and random states back; return epoch, batch in it and best validation loss."""
    optimizer.load_state_dict(saved["optimizer_state"])
    average.module.load_state_dict(saved["ema_state"])
    average.n_averaged.fill_(saved["ema_updates"])
    torch.set_rng_state(saved["random_state"])
    return int(saved["epoch"]), int(saved["batch_in_epoch"]), float(saved["best_val_loss"])


def random_state() -> Tensor:
    """State of the generator that dropout and channel dropout draw from."""
    return torch.get_rng_state()


def seed_everything(seed: int) -> None:
    """Seed what torch draws from: weights, dropout, channel dropout."""
    torch.manual_seed(seed)


def _nan_message(batch: Batch, folder: Path, epoch: int) -> str:
    pairs = ", ".join(f"{int(r)}/{int(e)}" for r, e in zip(batch.run[:8], batch.event[:8], strict=True))
    return (
        f"The loss is not finite in epoch {epoch}, in a batch with run/event {pairs} ...; the last good weights are in "
        f"{folder}/checkpoint_last.pth: check these events, or lower training.lr."
    )


def _announce(
    config: Config,
    model: Regressor,
    training: EventStream,
    validation: EventStream,
    folder: Path,
    fabric: Fabric,
) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"Training {', '.join(model.tasks)} with '{config.model.preset}' ({parameters:,} parameters, "
        f"{fabric.device}, {precision(config.training.amp)}) on {training.n_events} events, "
        f"validating on {validation.n_events}; run folder {folder}",
        flush=True,
    )
