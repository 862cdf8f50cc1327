"""The jobs that need no truth: the autoencoder (`mae`) and the inpainter (`inpaint`) rebuild hidden sensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from xecml import cpu_load, geometry, rootio
from xecml.config import Config
from xecml.data.batch import Batch
from xecml.data.masks import Masking
from xecml.data.stream import EventStream
from xecml.events import INVALID
from xecml.models.build import build_autoencoder, build_inpainter
from xecml.models.rebuild.autoencoder import Autoencoder
from xecml.models.rebuild.inpainter import Inpainter
from xecml.models.rebuild.sensor_targets import CHANNELS, Ground, Rebuilt, Truth, hide
from xecml.models.training_distribution import remember
from xecml.simulation.settings import read_dead_list
from xecml.training import losses
from xecml.training.losses import TaskBalance
from xecml.training.processes.devices import gather_objects, sum_over_processes, world_size

FACES = geometry.FACES
_EXAMPLES = 512
"""Events in a file of examples."""
_ROOT_SCALE = 10.0
"""Of differences of square roots of photons: about seven standard deviations of a count."""
_VALIDATION_SEED = 7_777_777
"""Validation hides the same sensors in every epoch and every run."""

Network = Autoencoder | Inpainter


class Rebuilding:
    """Learn to rebuild hidden sensors; see `xecml.training.job.Job`.

    Args:
        config: the recipe.
        kind: `mae` or `inpaint`.
    """

    def __init__(self, config: Config, kind: str) -> None:
        self.kind, self.tasks, self.hides = kind, list[str](), True
        self.model: Network = build_autoencoder(config) if kind == "mae" else build_inpainter(config)
        options = config.training
        weights = {"npho": options.npho_weight, "time": options.time_weight}
        self.loss = RebuildingLoss(
            options.loss_fn,
            options.loss_beta,
            weights,
            learned=options.auto_channel_weight,
            count_scale=options.count_scale,
            count_balance=options.count_balance,
        )
        self.step = RebuildingStep(self.model, self.loss)
        masking = config.masking
        self.masking = Masking(
            config.model.mask_ratio,
            masking.patterns(),
            masking.ratio_start,
            masking.ramp_epochs,
            read_dead_list(masking.dead_list) if masking.dead_list else (),
        )
        self.aim = f"to rebuild {100 * self.masking.ratio:g} % of the sensors"

    def fit(self, batches: Iterable[Batch], *, keep_features: bool, tasks: Sequence[str] | None = None) -> None:
        """Fit means and widths of the sensors; there are no tasks."""
        self.model.fit(batches, keep_features=keep_features)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Fit the distribution of the training sample."""
        self.model.eval()
        remember(self.model.training_distribution, self.model.encoder.look, batches)

    def bound(self, training: EventStream) -> None:
        """Store nothing: there is no truth."""

    def prepare(self, batch: Batch, seed: tuple[int, ...], epoch: float, first: int = 0) -> Batch:
        """Choose the sensors to hide."""
        hidden = self.masking(batch.npho.numpy(), batch.valid.numpy(), seed, epoch=epoch, first=first)
        return replace(batch, hidden=torch.from_numpy(np.flatnonzero(hidden)))

    def validate(self, model: nn.Module, batches: Iterable[Batch], fabric: Fabric) -> dict[str, float]:
        """Losses, mean and root mean square errors on hidden sensors by face and channel; share hidden."""
        model.eval()
        self.loss.eval()
        sums = ErrorSums()
        for batch in batches:
            cpu_load.look()
            prepared = self._for_validation(batch).to(fabric.device)
            with torch.no_grad():
                answer, truth = answer_and_truth(model, prepared)
                sums.add(answer, truth, network(model).ground, self.loss, int(prepared.valid.sum()))
        total = ErrorSums.joined(gather_objects(fabric, sums))
        return total.metrics(self.loss)

    def _for_validation(self, batch: Batch) -> Batch:
        """Hide in each event the sensors that go with its place in the sample."""
        return self.prepare(batch, (_VALIDATION_SEED,), float("inf"), batch.position)

    def in_use(self, model: nn.Module, metrics: Mapping[str, float]) -> nn.Module:
        """The same model."""
        return model

    def summary(self, metrics: Mapping[str, float]) -> str:
        """How well sensors are rebuilt, in one line: errors as shares of those of the sensors' means."""
        shares = {channel: metrics.get(f"relative_error_{channel}") for channel in CHANNELS}
        of_means = ", ".join(f"{channel} {100 * share:.1f} %" for channel, share in shares.items() if share is not None)
        return f"errors of hidden sensors against their means: {of_means}"

    def save_examples(self, model: nn.Module, batches: Iterable[Batch], folder: Path, epoch: int) -> Path | None:
        """Write the first validation events: `mae_predictions_epoch_N.root` or `inpainter_predictions_epoch_N.root`."""
        model.eval()
        parts, events = [], 0
        device = next(model.parameters()).device
        for batch in batches:
            prepared = self._for_validation(batch).to(device)
            with torch.no_grad():
                answer, light_time = model(*prepared.inputs(), prepared.hidden)
            photons, seconds = network(model).ground.raw(answer, light_time, prepared.hidden)
            rows = _dense_rows if self.kind == "mae" else _hidden_rows
            parts.append(rows(prepared, photons, seconds, events))
            events += len(batch)
            if events >= _EXAMPLES:
                break
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        name = "mae" if self.kind == "mae" else "inpainter"
        path = folder / f"{name}_predictions_epoch_{epoch}.root"
        rootio.write(path, columns)
        return path


class RebuildingStep(nn.Module):
    """Model and loss as one module."""

    def __init__(self, model: Network, loss: RebuildingLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and its parts by name."""
        answer, truth = answer_and_truth(self.model, batch)
        with torch.autocast(batch.npho.device.type, enabled=False):
            total, parts = self.loss(answer, truth, self.model.ground)
        return total, parts


def network(model: nn.Module) -> Network:
    """The model as what it is."""
    assert isinstance(model, Autoencoder | Inpainter)
    return model


def answer_and_truth(model: nn.Module, batch: Batch) -> tuple[Rebuilt, Truth]:
    """Reconstructed values of the hidden sensors of a batch, and their measured values."""
    answer, light_time = model(*batch.inputs(), batch.hidden)
    return answer, network(model).ground.truth(batch, light_time, batch.hidden)


class RebuildingLoss(nn.Module):
    """Mean over the hidden sensors of each face and channel, summed over faces, weighted by channel.

    Args:
        name: `mse`, `l1` or `smooth_l1`, of differences in widths of the sample about the sensors' means.
        beta: where smooth_l1 turns.
        weights: of `npho` and `time`.
        learned: learn uncertainties of the channels on top: sum of L / (2 s^2) + log s.
        count_scale: compare counts as `transformed`, or as square roots of photons, `sqrt`: bright sensors then weigh
            as their statistics allow.
        count_balance: with `sqrt`, compare photons too, weighing as much as their roots at so many photons, more above
            and less below; 0 for roots alone. Of what can hardly be known, the mean of roots squared is well below the
            mean.
    """

    face: Tensor

    def __init__(
        self,
        name: str,
        beta: float,
        weights: Mapping[str, float],
        *,
        learned: bool = False,
        count_scale: str = "transformed",
        count_balance: float = 0.0,
    ) -> None:
        super().__init__()
        self.count_scale, self.count_balance = count_scale, count_balance
        self.name, self.beta = name, beta
        self.balance = TaskBalance(weights, learned=learned)
        codes = torch.tensor(geometry.face_codes().astype(np.int64))
        self.register_buffer("face", codes, persistent=False)

    def forward(self, answer: Rebuilt, truth: Truth, ground: Ground) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of hidden sensors, and its parts by name; their mean over processes is that of all sensors."""
        sums, weights = self.sums(answer, truth, ground)
        share = sum_over_processes(weights) / world_size()
        return self.total((sums / share.clamp_min(1e-12)).to(answer.counts.dtype))

    def sums(self, answer: Rebuilt, truth: Truth, ground: Ground) -> tuple[Tensor, Tensor]:
        """Weighted sums of losses, and weights, by channel and face, (2, 6) each."""
        face = self.face[truth.sensor]
        late = (answer.nanoseconds - truth.nanoseconds) / ground.width[1]
        pairs = ((self._counts(answer, truth, ground), truth.counted.float()), (late[:, None], truth.time_weight))
        found = []
        for differences, weight in pairs:
            loss = losses.distance(self.name, differences, self.beta) * differences.shape[1]
            # 1e5 numbers added one by one are good to five digits only in 32 bits
            both = torch.stack([loss * weight, weight]).double()
            found.append(both.new_zeros(2, len(FACES)).index_add(1, face, both))
        sums, weights = torch.stack(found, 1)
        return sums, weights

    def _counts(self, answer: Rebuilt, truth: Truth, ground: Ground) -> Tensor:
        """Differences of counts (n, 1), or of roots and of counts (n, 2), whose losses add; of order one."""
        if self.count_scale == "transformed":
            return ((answer.counts - truth.counts) / ground.width[0])[:, None]
        photons = ground.normaliser.photons(answer.counts.clamp_min(0.0))
        # the square root has no derivative at zero
        found = [(torch.sqrt(photons + 1) - torch.sqrt(truth.photons + 1)) / _ROOT_SCALE]
        if self.count_balance:
            # dN = 2 sqrt(N) d(sqrt N)
            found.append((photons - truth.photons) / (2 * math.sqrt(self.count_balance) * _ROOT_SCALE))
        return torch.stack(found, 1)

    def total(self, means: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of means (2, 6) by channel and face, and its parts by name."""
        channels = {channel: means[i].sum() for i, channel in enumerate(CHANNELS)}
        total = self.balance(channels)
        weighted = means * means.new_tensor([self.balance.weights[channel] for channel in CHANNELS])[:, None]
        parts = {"total_loss": total} | {f"loss_{channel}": value for channel, value in channels.items()}
        parts |= {f"loss_{face}": value for face, value in zip(FACES, weighted.sum(0), strict=True)}
        for i, channel in enumerate(CHANNELS):
            parts |= {f"loss_{face}_{channel}": value for face, value in zip(FACES, means[i], strict=True)}
        return total, parts


class ErrorSums:
    """Sums of losses and errors of hidden sensors by channel and face, over batches and processes."""

    def __init__(self) -> None:
        # loss, absolute error, squared error, squared error of the sensors' means; each with the same weights
        self.sums = torch.zeros(4, 2, len(FACES), dtype=torch.float64)
        self.weights = torch.zeros(2, len(FACES), dtype=torch.float64)
        self.hidden = self.valid = self.events = 0

    def add(self, answer: Rebuilt, truth: Truth, ground: Ground, loss: RebuildingLoss, valid: int) -> None:
        """Add the hidden sensors of a batch that has `valid` valid ones."""
        sums, weights = loss.sums(answer, truth, ground)
        means = Rebuilt(*(ground.mean[i][truth.sensor] for i in range(2)))
        face = loss.face[truth.sensor]
        of_channels = zip(
            answer, means, (truth.counts, truth.nanoseconds), (truth.counted.float(), truth.time_weight), strict=True
        )
        errors = []
        for found, mean, true, weight in of_channels:
            d = found - true
            each = torch.stack([d.abs(), d.square(), (mean - true).square()]) * weight
            errors.append(each.new_zeros(3, len(FACES)).index_add(1, face, each))
        self.sums += torch.cat([sums[None], torch.stack(errors, 1)]).double().cpu()
        self.weights += weights.double().cpu()
        self.hidden += len(truth.sensor)
        self.valid += valid

    @staticmethod
    def joined(parts: Iterable[ErrorSums]) -> ErrorSums:
        """Sums over processes."""
        total = ErrorSums()
        for part in parts:
            total.sums += part.sums
            total.weights += part.weights
            total.hidden += part.hidden
            total.valid += part.valid
        return total

    def metrics(self, loss: RebuildingLoss) -> dict[str, float]:
        """Metrics by name: losses in widths; errors of counts in transformed units, of times in ns.

        A channel that no hidden sensor measured (times of relative inputs) has losses of zero, and no errors.
        """
        means = self.sums / self.weights.clamp_min(1e-12)
        with torch.no_grad():  # weights of channels may be learned
            total, parts = loss.total(means[0].float().to(loss.face.device))
        metrics = {"loss": float(total), **{name: float(value) for name, value in parts.items()}}
        # over all faces together: every hidden sensor counts alike
        overall = self.sums.sum(2) / self.weights.sum(1).clamp_min(1e-12)
        for i, channel in enumerate(CHANNELS):
            if not self.weights[i].any():
                continue
            metrics |= {f"mae_{channel}": float(overall[1, i]), f"rmse_{channel}": float(overall[2, i].sqrt())}
            metrics[f"relative_error_{channel}"] = float((overall[2, i] / overall[3, i].clamp_min(1e-30)).sqrt())
            for f, face in enumerate(FACES):
                metrics[f"mae_{face}_{channel}"] = float(means[1, i, f])
                metrics[f"rmse_{face}_{channel}"] = float(means[2, i, f].sqrt())
        return metrics | {"actual_mask_ratio": self.hidden / max(self.valid, 1), "n_masked_total": float(self.hidden)}


def _hidden_rows(batch: Batch, photons: Tensor, seconds: Tensor, first: int) -> dict[str, np.ndarray]:
    """A row for every hidden sensor."""
    hidden = batch.hidden.cpu().numpy()
    event, sensor = np.divmod(hidden, geometry.N_SENSORS)
    truth = [x.flatten()[batch.hidden].cpu().numpy() for x in (batch.npho, batch.time)]
    timed = batch.timed.flatten()[batch.hidden].cpu().numpy()
    pred = [photons.cpu().numpy(), seconds.cpu().numpy()]
    return {
        "event_idx": (event + first).astype(np.int32),
        "sensor_id": sensor.astype(np.int32),
        "face": geometry.face_codes()[sensor].astype(np.int32),
        "truth_npho": truth[0],
        "truth_time": truth[1],
        "pred_npho": pred[0],
        "pred_time": pred[1],
        "error_npho": pred[0] - truth[0],
        "error_time": np.where(timed, pred[1] - truth[1], INVALID).astype(np.float32),
    }


def _dense_rows(batch: Batch, photons: Tensor, seconds: Tensor, first: int) -> dict[str, Any]:
    """A row for every event; predictions at its hidden sensors, 1e10 elsewhere."""
    shape = batch.npho.shape
    hidden = torch.zeros_like(batch.valid).flatten().index_fill(0, batch.hidden, True).reshape(shape)
    masked = hide(*batch.inputs(), batch.hidden)[:2]
    rows: dict[str, Any] = {"event_id": np.arange(first, first + len(batch), dtype=np.int32)}
    for name, truth, covered, found, ok in (
        ("npho", batch.npho, masked[0], photons, batch.valid),
        ("time", batch.time, masked[1], seconds, batch.timed),
    ):
        pred = torch.full_like(truth, INVALID).flatten().index_copy(0, batch.hidden, found.to(truth.dtype))
        pred = pred.reshape(shape)
        error = torch.where(hidden & ok, pred - truth, INVALID)
        for kind, values in (("truth", truth), ("masked", covered), ("pred", pred), ("err", error)):
            rows[f"{kind}_{name}"] = values.float().cpu().numpy().copy()
    return rows | {"mask": hidden.cpu().numpy()}
