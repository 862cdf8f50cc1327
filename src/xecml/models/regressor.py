"""The regressor: an encoder and a head a task; raw values in, physical values out.

Heads predict standardised targets. A target is standardised as its difference to an anchor, and the network learns
what the anchor leaves. For the time this is the event's rough time, so that a constant added to all
times is added to the answer. Where the encoder has a quick look, the anchor is what it says without any fit (the hot
spot, the sum of the light) with a linear correction that is fitted to the training sample. Corrections of positions,
directions and energies come from counts alone, and no correction goes beyond those of the training sample: a detector
whose times are defined otherwise leaves these anchors where they are. A head may give a width beside its answer.
Corrections that were measured on data come last.

In use, an event without any valid count is answered by NaN in everything, and one without any valid time by NaN in
`timing`: the network would answer these with a number that nothing was measured for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml.data.batch import full
from xecml.errors import InputError
from xecml.events import TASKS
from xecml.geometry import FACES
from xecml.models import sigma_shape
from xecml.models.answerable import answerable, beyond_ends
from xecml.models.corrections import BUFFERS, Corrections
from xecml.models.encoder import Encoder, Glance
from xecml.models.ridge import Ridges
from xecml.models.training_distribution import Judged, TrainingDistribution

SENSORS_SEEN = "sensors_seen"
"""Buffer (4, 6) of what `xecml.data.coverage.usual` says of the training sample; zeros say nothing."""
# a target that varies by less than this share of its size does not vary
_TINY = 1e-6
# an anchor's correction may leave the range of the training sample by this share of it
_REACH = 0.1
UNBOUNDED = 1e30
"""Ends that say nothing: finite, as all numbers of a checkpoint."""
_QUANTILE_EVENTS = 1_000_000
_REACH_QUANTILES = (0.001, 0.999)
# tasks whose anchor is a factor on the first guess
_RATIOS = ("energy",)
ENDED = ("energy",)
"""Tasks whose answers saturate beyond the truth of the training sample, which is therefore kept with the model.

Places and directions end where the detector ends, and times follow the event's own."""
SIGMA_FACTOR, SIGMA_SHAPE = "_sigma_factor", "_sigma_shape"
"""Ends of the names of buffers by which the widths of a task are multiplied once the network is trained: (size,), and
coefficients (N_TERMS, size) of how the factor depends on energy and depth."""
SCALED = ("energy",)
"""Tasks whose answers are scaled once the network is trained, so that the peak of answer over truth is at 1.

Showers leak, so that at a given truth answers have a tail to one side. A loss finds the middle of the truth at a given
answer, which puts the peak of a line on the other side of it."""
# widths stay between e^-6 and e^4 target widths, so that a likelihood cannot run away
_LOG_SIGMA = (-6.0, 4.0)


class Regressor(nn.Module):
    """Predict physical quantities of photons from raw sensor values.

    Args:
        encoder: see `Encoder`.
        tasks: names out of `xecml.events.TASKS`.
        hidden_dim: width of the heads.
        dropout: rate in the heads.
        with_sigma: tasks whose heads predict a width too.
        heads: task to head, in place of the encoder's own.
        linear_path: give heads a linear path beside them that starts as the best linear function of the encoder's code.
            Where an encoder was trained without labels, a few labels suffice for it.
    """

    unit_vectors = True
    """Whether the answer of `angleVec` is made a unit vector."""
    log_sigma_limits = _LOG_SIGMA
    """Between these a width is believed: logarithms, in target widths."""
    parts_of_a_version = ("training_distribution",)
    """Names of modules that checkpoints of other versions lack or have in another form; they are left as they are."""

    @property
    def later_buffers(self) -> tuple[str, ...]:
        """Names of buffers that older checkpoints lack; such a file leaves them as they are."""
        ends = [f"{task}_{end}" for task in self.tasks for end in ("lowest", "highest")]
        truths = [f"{task}_truth_{end}" for task in self.tasks if task in ENDED for end in ("lowest", "highest")]
        widths = [f"{task}{end}" for task in self.with_sigma for end in (SIGMA_FACTOR, SIGMA_SHAPE)]
        return (SENSORS_SEEN, *BUFFERS, *ends, *truths, *widths)

    def __init__(
        self,
        encoder: nn.Module,
        tasks: Sequence[str],
        *,
        hidden_dim: int = 256,
        dropout: float = 0.0,
        with_sigma: Sequence[str] = (),
        heads: Mapping[str, nn.Module] | None = None,
        linear_path: bool = False,
    ) -> None:
        super().__init__()
        unknown = [t for t in tasks if t not in TASKS]
        if unknown or not tasks:
            raise InputError(f"Cannot predict {unknown or 'nothing'}; choose tasks among {', '.join(TASKS)}.")
        if classes := [t for t in with_sigma if TASKS[t].is_class]:
            raise InputError(
                f"{classes[0]} is a class with probabilities and has no width; choose cross_entropy for it."
            )
        self.encoder: Encoder = cast(Encoder, encoder)
        self.tasks, self.with_sigma = tuple(tasks), frozenset(with_sigma)
        # tasks whose heads were trained under other means and widths; fitting these anew keeps their answers
        self.trained_heads: frozenset[str] = frozenset()
        # those among them that learnt their widths too
        self.trained_widths: frozenset[str] = frozenset()
        self.linear_path = linear_path
        own = {}
        for task in tasks:
            size = TASKS[task].size
            answers = 2 * size if task in self.with_sigma else size
            if heads is None:
                own[task] = self.encoder.head(answers, hidden_dim=hidden_dim, dropout=dropout)
            for name, values in (
                ("slope", torch.zeros(self.encoder.n_features, size)),
                ("mean", torch.zeros(size)),
                ("width", torch.ones(size)),
                ("truth_mean", torch.zeros(size)),
                ("lowest", torch.full((size,), -UNBOUNDED)),
                ("highest", torch.full((size,), UNBOUNDED)),
            ):
                self.register_buffer(f"{task}_{name}", values)
            if task in self.with_sigma:
                self.register_buffer(f"{task}{SIGMA_FACTOR}", torch.ones(size))
                self.register_buffer(f"{task}{SIGMA_SHAPE}", torch.zeros(sigma_shape.N_TERMS, size))
            if task in ENDED:
                self.register_buffer(f"{task}_truth_lowest", torch.full((size,), -UNBOUNDED))
                self.register_buffer(f"{task}_truth_highest", torch.full((size,), UNBOUNDED))
        self.heads = nn.ModuleDict(own if heads is None else dict(heads))
        self.paths = nn.ModuleDict()
        self.register_buffer(SENSORS_SEEN, torch.zeros(4, len(FACES)))
        self.corrections = Corrections()
        self.training_distribution = TrainingDistribution()
        for task in tasks if linear_path else ():
            # the path leads, the head adds to it
            last = _silent(cast(nn.Linear, cast(nn.Sequential, self.heads[task])[-1]))
            self.paths[task] = _silent(nn.Linear(self.encoder.out_width, last.out_features))

    # ------------------------------------------------------------------------------------------ targets

    @torch.no_grad()
    def fit_targets(
        self,
        features: Tensor,
        event_time: Tensor,
        truth: Mapping[str, Tensor],
        *,
        codes: Tensor | None = None,
        keep_features: bool = False,
        timed: Tensor | None = None,
        run: Tensor | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        """Fit anchors, means and widths on a training sample.

        Args:
            features: the encoder's numbers (N, n_features).
            event_time: rough times of the events (N,), seconds.
            truth: targets (N, size) of every task, physical units; for `n_gamma` classes (N, 1).
            codes: of the encoder (N, out_width), for linear paths.
            keep_features: keep the standardisation of the numbers, as an encoder that was trained with it needs.
            timed: events (N,) with a valid time, which alone tell of `timing`; all are taken to have one without it.
            run: run numbers (N,); detectors differ between runs.
            tasks: whose are fitted; by default all.

        Raises:
            InputError: a target has zero width in the sample.
        """
        if not keep_features:
            self.encoder.fit_features(features)
        x = self.encoder.standard_features(features).double()

        counts_alone = x * ~self.encoder.from_times

        def solver(numbers: Tensor, events: Tensor | slice, *, with_codes: bool) -> Ridges:
            some = codes[events] if self.linear_path and codes is not None and with_codes else None
            return Ridges(numbers[events], some, None if run is None else run[events])

        known: dict[tuple[bool, bool], Ridges] = {}
        for task in self.tasks if tasks is None else tasks:
            events: Tensor | slice = slice(None)
            of_time = TASKS[task].needs == "time"
            if of_time and timed is not None and not bool(timed.all()):
                events = timed
            y = truth[task][events].double()
            spread = y.std(0) if len(y) > 1 else torch.zeros_like(y[0])
            if not bool((spread > _TINY * y.abs().mean(0).clamp_min(1e-30)).all()):
                raise InputError(
                    f"Task '{task}' has the same truth in every training event; train it on a sample where it varies, "
                    "or leave it out."
                )
            if TASKS[task].is_class:
                continue
            self.get_buffer(f"{task}_truth_mean").copy_(y.mean(0))
            if of_time:
                y = y - event_time[events].double()[:, None]
            guess = self._first_guess(task, features[events])
            target = y if guess is None else _away(task, y, guess.double())
            # a head that was trained elsewhere keeps its answers, so there is nothing for a path to say
            kind = of_time, task not in self.trained_heads
            if kind not in known:
                known[kind] = solver(x if of_time else counts_alone, events, with_codes=kind[1])
            slope, mean, path, rest = known[kind].fit(target)
            correction = known[kind].x @ slope + mean
            ends = torch.quantile(correction[:_QUANTILE_EVENTS], correction.new_tensor(_REACH_QUANTILES), dim=0)
            reach = _REACH * (ends[1] - ends[0])
            if guess is not None:
                whole = target[: len(rest)] - rest  # what anchor and path say
                rest = y[: len(rest)] - _back(task, whole, guess[: len(rest)].double())
            low, high = torch.quantile(rest, torch.tensor([0.159, 0.841], dtype=torch.float64), dim=0)
            width = torch.maximum((high - low) / 2, _TINY * spread)
            if task in self.trained_heads:
                self._keep_answers(task, mean, width)
            for name, value in (("slope", slope), ("mean", mean), ("width", width)):
                self.get_buffer(f"{task}_{name}").copy_(value)
            if task in self.with_sigma:  # they belong to widths that are learnt anew
                self.get_buffer(f"{task}{SIGMA_FACTOR}").fill_(1.0)
                self.get_buffer(f"{task}{SIGMA_SHAPE}").zero_()
            if self.encoder.n_features:
                self.get_buffer(f"{task}_lowest").copy_(ends[0] - reach)
                self.get_buffer(f"{task}_highest").copy_(ends[1] + reach)
            if path is not None:
                linear = cast(nn.Linear, self.paths[task])
                linear.weight[: len(mean)] = (path.weight / width).T
                linear.bias[: len(mean)] = path.bias / width

    def _keep_answers(self, task: str, mean: Tensor, width: Tensor) -> None:
        """Rescale the last layer of a head so that its answers stay under the mean and width (size,) to come.

        Right for encoders without numbers of their own, whose anchor is the mean.
        """
        last, size = cast(nn.Linear, cast(nn.Sequential, self.heads[task])[-1]), len(mean)
        was_mean, was_width = (self.get_buffer(f"{task}_{name}").double() for name in ("mean", "width"))
        bias = (last.bias[:size] * was_width + was_mean - mean) / width
        last.bias[:size].copy_(bias)
        last.weight[:size].copy_(last.weight[:size] * (was_width / width)[:, None])
        if task in self.trained_widths:
            last.bias[size:].sub_(torch.log(width / was_width))

    def _first_guess(self, task: str, features: Tensor) -> Tensor | None:
        """The encoder's first guess; none of a ratio beside a linear path, which adds and does not multiply."""
        return None if self.linear_path and task in _RATIOS else self.encoder.first_guess(task, features)

    def _anchor(self, task: str, look: Glance) -> Tensor:
        """What the quick look alone says of a task, (B, size) in physical units."""
        # never in 16 bits: it carries the absolute position
        with torch.autocast(look.event_time.device.type, enabled=False):
            # an expand to the batch's length would freeze that length in an export
            anchor: Tensor = torch.zeros_like(look.event_time)[:, None] + self.get_buffer(f"{task}_mean")
            if self.encoder.n_features:
                x = self.encoder.standard_features(look.features)
                anchor = x @ self.get_buffer(f"{task}_slope") + anchor
                low, high = self.get_buffer(f"{task}_lowest"), self.get_buffer(f"{task}_highest")
                anchor = torch.minimum(torch.maximum(anchor, low), high)
                guess = self._first_guess(task, look.features)
                anchor = anchor if guess is None else _back(task, anchor, guess)
        return anchor + look.event_time[:, None] if TASKS[task].needs == "time" else anchor

    @torch.no_grad()
    def set_truth_ends(self, ends: Mapping[str, tuple[float, float]]) -> None:
        """Keep the least and the greatest truth of the whole training sample, of tasks of `ENDED`."""
        for task, (low, high) in ends.items():
            if task in ENDED and task in self.tasks:
                self.get_buffer(f"{task}_truth_lowest").fill_(low)
                self.get_buffer(f"{task}_truth_highest").fill_(high)

    @torch.no_grad()
    def scale(self, task: str, factor: float) -> None:
        """Multiply the answers of a task, and their widths, by a factor; see `SCALED`."""
        kept = {name: self.get_buffer(f"{task}_{name}") for name in ("mean", "lowest", "highest", "width", "slope")}
        kept["width"].mul_(factor)
        ends = [kept[name] for name in ("lowest", "highest") if float(kept[name].abs().max()) < UNBOUNDED]
        guess = self.encoder.n_features and self._first_guess(task, kept["slope"].new_zeros(1, self.encoder.n_features))
        if isinstance(guess, Tensor):  # the anchor is the logarithm of a factor on it
            for values in (kept["mean"], *ends):
                values.add_(math.log(factor))
        else:
            for values in (kept["mean"], kept["slope"], *ends):
                values.mul_(factor)

    @torch.no_grad()
    def widen(self, task: str, factors: Sequence[float], shape: Tensor | None = None) -> None:
        """Multiply the widths that a task's answers are given by factors, once the network is trained.

        Args:
            task: one with widths.
            factors: (size,), for all events.
            shape: coefficients (N_TERMS, size) of the dependence on energy and depth, see `xecml.models.sigma_shape`;
                they add to those that are there, which is right to first order.
        """
        kept = self.get_buffer(f"{task}{SIGMA_FACTOR}")
        kept.mul_(kept.new_tensor(factors))
        if shape is not None:
            self.get_buffer(f"{task}{SIGMA_SHAPE}").add_(shape)

    # ------------------------------------------------------------------------------------------ answers

    def standardised(
        self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor
    ) -> tuple[dict[str, Tensor], Glance]:
        """Answers of the heads in float32, (B, size) or (B, 2 size) with widths, and what they refer to."""
        code, look = self.encoder(npho, time, valid, timed)
        with torch.autocast(code.device.type, enabled=False):
            standard = {task: self.heads[task](full(code)) for task in self.tasks}
            return {t: z + self.paths[t](full(code)) if self.linear_path else z for t, z in standard.items()}, look

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> dict[str, Tensor]:
        """Predict from raw counts, times (s) and masks, each (B, 4760).

        Returns:
            Task name to (B, size), or (B,) for scalars, in the physical units of `xecml.events.TASKS`; `n_gamma` as
            probabilities; `sigma_<task>` beside tasks with widths. Where nothing was measured, NaN; see the module. In
            training, numbers everywhere, and also `logits_n_gamma`. The corrections of a calibration are in the
            answers, but not in training.
        """
        return self._answers(npho, time, valid, timed)[0]

    def judged(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[dict[str, Tensor], Judged]:
        """Answers as `forward` gives them, and how the events compare with those of the training sample.

        The latter says something only where `training_distribution.fitted`. An answer beyond the truth of the training
        sample raises `outlier`: light alone does not tell such a photon from one of a brighter detector.
        """
        answers, look = self._answers(npho, time, valid, timed)
        judged = self.training_distribution(npho, time, valid, timed, look)
        outlier = judged.outlier
        for task in (t for t in self.tasks if t in ENDED):
            past = beyond_ends(answers[task], answers.get(f"sigma_{task}"), *self.truth_ends(task))
            outlier = (outlier.square() + past.square()).sqrt()
        return answers, judged._replace(outlier=outlier)

    def truth_ends(self, task: str) -> tuple[Tensor, Tensor]:
        """Where answers of a task of `ENDED` begin to saturate, (1,) each: ends of the truth, corrected as answers."""
        low, high = (self.get_buffer(f"{task}_truth_{end}") for end in ("lowest", "highest"))
        return self.corrections.corrected(task, low), self.corrections.corrected(task, high)

    def _answers(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor) -> tuple[dict[str, Tensor], Glance]:
        standard, look = self.standardised(npho, time, valid, timed)
        # not dict[str, Tensor](), which torch.compile does not follow
        answers: dict[str, Tensor] = {}
        sigmas: dict[str, Tensor] = {}
        for task, z in standard.items():
            if TASKS[task].is_class:
                answers[task] = torch.softmax(z, 1)
                if self.training:
                    answers[f"logits_{task}"] = z
                continue
            width, size = self.get_buffer(f"{task}_width"), TASKS[task].size
            y = z[:, :size] * width + self._anchor(task, look)
            y = y if self.training else self.corrections.corrected(task, y)
            answers[task] = F.normalize(y, dim=1) if TASKS[task].kind == "vector" and self.unit_vectors else _scalar(y)
            if task in self.with_sigma:
                sigmas[task] = torch.exp(z[:, size:].clamp(*self.log_sigma_limits)) * width
        of = None if self.training else sigma_shape.terms(answers)
        for task, sigma in sigmas.items():
            if not self.training:
                factor = self.get_buffer(f"{task}{SIGMA_FACTOR}")
                factor = factor * sigma_shape.factors(self.get_buffer(f"{task}{SIGMA_SHAPE}"), of)
                sigma = self.corrections.corrected_width(task, sigma * factor)
            answers[f"sigma_{task}"] = _scalar(sigma)
        if self.training:
            return answers, look
        known = answerable(answers, valid, timed)
        rows = {name: known[name] if y.ndim == 1 else known[name][:, None] for name, y in answers.items()}
        return {name: torch.where(rows[name], y, torch.nan) for name, y in answers.items()}, look

    def outputs(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Names of the answers, widths after their task."""
        chosen = self.tasks if tasks is None else tasks
        return tuple(name for t in chosen for name in (t, *((f"sigma_{t}",) if t in self.with_sigma else ())))


def _away(task: str, y: Tensor, guess: Tensor) -> Tensor:
    """Targets as differences to the first guess, or as logarithms of their ratio to it."""
    return torch.log(y.clamp_min(1e-30) / guess.clamp_min(1e-30)) if task in _RATIOS else y - guess


def _back(task: str, difference: Tensor, guess: Tensor) -> Tensor:
    """The inverse of `_away`."""
    return guess * torch.exp(difference) if task in _RATIOS else guess + difference


def _silent(linear: nn.Linear) -> nn.Linear:
    """The same layer, with the answer zero at the start."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _scalar(y: Tensor) -> Tensor:
    return y.squeeze(1) if y.shape[1] == 1 else y
