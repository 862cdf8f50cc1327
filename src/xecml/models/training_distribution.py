"""The distribution of the training events, stored with the model that was trained on them.

An event is described by the numbers of `xecml.data.event_numbers`. What each number should be depends on where the
light is, how deep and how much of it there is; its expectation and its width are smooth functions of these, fitted to
one half of the sample. What is left of the numbers, over their widths, has a covariance, and with it an event a
distance (Mahalanobis 1936). The other half says how large distances are, by depth: `outlier` is the distance over what
1 % of such events exceed. A photon of another energy or place is like those of training as long as the sample had some
there; beyond its ends `outlier` grows with the distance from them.

The second half also gives quantiles by depth of each number, which files are compared with as a whole, see
`xecml.inference.training_comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xecml.data.batch import Batch
from xecml.data.event_numbers import NUMBERS
from xecml.models.networks.event_numbers import N_CONDITIONS, N_NUMBERS, EventNumbers, Numbers
from xecml.models.networks.quick_look import Look, QuickLook

LIMIT = 1.0
"""What 1 % of events of the training kind exceed in `outlier`."""
CHANCE = 0.01
N_KNOTS, N_DEPTHS = 7, 5
"""Depths between which expectations run linearly; bins of depth for quantiles."""
QUANTILES = (0.025, 0.159, 0.5, 0.841, 0.975)
LEAST = 50
"""Events with light that a distribution can be fitted to."""
_POWERS = 19
"""Terms of position and light at each depth."""
_RIDGE = 3.0
_SHRINK = 0.05
_FAR = 10.0
"""Widths beyond which a number tells nothing more of covariances."""
_TAIL = 2.5
_SCALED_AT = 0.97
"""Quantile of distances that is taken depth by depth; further out there are too few."""
_LEAST_LIMIT = 1e-2
_BEYOND = 4.0
"""Of `outlier`, an event for each standard deviation by which it lies beyond all of the sample."""
_REMEMBERED = 20_000
"""Training events to which a distribution is fitted."""
_EVENTS_EACH = 20
"""Runs of a sample from which it is halved by runs."""


class Judged(NamedTuple):
    """How events compare with the training sample's, for a batch of B events."""

    outlier: Tensor
    """(B,): distance over the one that 1 % of the training kind exceed; NaN of an event without any valid count"""
    differences: Tensor
    """(B, N_NUMBERS): numbers less their expectation, over their widths; NaN where not known"""
    expected: Tensor
    """(B, N_NUMBERS): what the numbers should be at the event's place and light"""
    widths: Tensor
    """(B, N_NUMBERS): their widths there"""
    conditions: Tensor
    """(B, N_CONDITIONS): at which, see `xecml.data.event_numbers.CONDITIONS`"""


class TrainingDistribution(nn.Module):
    """See the module. All that is fitted are buffers."""

    events: Tensor
    ends: Tensor
    extremes: Tensor
    spreads: Tensor
    knots: Tensor
    depth_edges: Tensor
    mean: Tensor
    slope: Tensor
    log_variance: Tensor
    covariance: Tensor
    inverse: Tensor
    limit: Tensor
    limit_of_light: Tensor
    quantiles: Tensor
    between: Tensor
    floor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.numbers_of = EventNumbers()
        # for encoders that take no quick look; it is made of geometry alone, which needs no place in files
        self.look = QuickLook()
        self.look.register_buffer("positions", self.look.positions, persistent=False)
        k, c = N_NUMBERS, N_CONDITIONS
        for name, values in (
            ("events", torch.zeros(())),  # of the sample; 0 before anything is fitted
            ("ends", torch.tensor([[-1.0], [1.0]]).expand(2, c).clone()),
            ("extremes", torch.tensor([[-1.0], [1.0]]).expand(2, c).clone()),
            ("spreads", torch.ones(c)),
            ("knots", torch.linspace(-1.0, 3.0, N_KNOTS)),
            ("depth_edges", torch.linspace(-1.0, 3.0, N_DEPTHS + 1)),
            ("mean", torch.zeros(k)),
            ("slope", torch.zeros(N_KNOTS * _POWERS, k)),
            ("log_variance", torch.zeros(2 * N_KNOTS, k)),
            ("covariance", torch.eye(k)),
            ("inverse", torch.eye(k)),
            ("limit", torch.ones(N_KNOTS)),
            ("limit_of_light", torch.ones(3)),
            ("quantiles", torch.zeros(len(QUANTILES), N_DEPTHS, k)),
            ("between", torch.zeros(k)),
        ):
            self.register_buffer(name, values)
        self.register_buffer("floor", torch.tensor([n.floor for n in NUMBERS]), persistent=False)

    @property
    def fitted(self) -> bool:
        """Whether it says anything."""
        return bool(self.events > 0)

    def numbers(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, look: object = None) -> Numbers:
        """Numbers of events from raw counts, times (s) and masks (B, 4760).

        Args:
            npho: counts.
            time: times.
            valid: mask of counts.
            timed: mask of times.
            look: the quick look at the same, where it was already taken.
        """
        with torch.autocast(npho.device.type, enabled=False):
            found = look if isinstance(look, Look) else self.look(npho, time, valid, timed)
            numbers: Numbers = self.numbers_of(npho, valid, timed, found, self.look)
        return numbers

    def forward(self, npho: Tensor, time: Tensor, valid: Tensor, timed: Tensor, look: object = None) -> Judged:
        """Compare events with the training sample, from raw counts, times (s) and masks (B, 4760); see `numbers`."""
        with torch.autocast(npho.device.type, enabled=False):
            numbers = self.numbers(npho, time, valid, timed, look)
            expected, widths = self._expected(numbers.conditions)
            z = torch.where(numbers.known, (numbers.values - expected) / widths, 0.0)
            distance = self._distance(z) / self._limit(*self._shares(numbers.conditions))
            outside = torch.relu(self.extremes[0] - numbers.conditions) + torch.relu(
                numbers.conditions - self.extremes[1]
            )
            beyond = (outside / self.spreads).square().sum(1)
            outlier = (distance.square() + _BEYOND**2 * beyond).sqrt()
            some = valid.to(torch.uint8).amax(1).to(torch.bool)
            shown = some[:, None] & numbers.known
            return Judged(
                torch.where(some, outlier, torch.nan),
                torch.where(shown, z, torch.nan),
                expected,
                widths,
                numbers.conditions,
            )

    # ---------------------------------------------------------------------------------------- what is expected

    def _hats(self, depth: Tensor) -> Tensor:
        """Shares (B, N_KNOTS) of the knots on both sides of logarithms of depth (B,)."""
        step = ((depth[:, None] - self.knots[:-1]) / (self.knots[1:] - self.knots[:-1])).clamp(0.0, 1.0)
        one = torch.ones_like(step[:, :1])
        return torch.cat([one, step], 1) - torch.cat([step, torch.zeros_like(one)], 1)

    def _inside(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions (B, 4) drawn to the ends of the sample, as they are and from -1 to 1."""
        inside = torch.minimum(torch.maximum(conditions, self.ends[0]), self.ends[1])
        middle, half = (self.ends[0] + self.ends[1]) / 2, ((self.ends[1] - self.ends[0]) / 2).clamp_min(1e-3)
        return inside, (inside - middle) / half

    def _shares(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the knots of depth (B, N_KNOTS), and of little, middling and much light (B, 3)."""
        inside, standard = self._inside(conditions)
        light = standard[:, 3:]
        return self._hats(inside[:, 2]), torch.cat([torch.relu(-light), 1 - light.abs(), torch.relu(light)], 1)

    def _limit(self, depths: Tensor, lights: Tensor) -> Tensor:
        """The distance (B,) that 1 % of the sample exceed at some depths and light; see `_shares`."""
        return (depths @ self.limit) * (lights @ self.limit_of_light)

    def _terms(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Terms of the expectation (B, N_KNOTS * _POWERS) and of the width (B, 2 N_KNOTS)."""
        inside, standard = self._inside(conditions)
        u, v, _, light = standard.unbind(1)
        u2, v2, one = u.square(), v.square(), torch.ones_like(u)
        powers = torch.stack(
            [
                *(one, u, u2, u * u2, u2 * u2, v, v2, v * v2, v2 * v2, u * v, u2 * v, u * v2, u2 * v2),
                *(light, light.square(), u * light, v * light, u2 * light, v2 * light),
            ],
            1,
        )
        hats = self._hats(inside[:, 2])
        return (
            (hats[:, :, None] * powers[:, None]).flatten(1),
            (hats[:, :, None] * torch.stack([one, light], 1)[:, None]).flatten(1),
        )

    def _expected(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Expectations and widths (B, N_NUMBERS) of the numbers."""
        terms, few = self._terms(conditions)
        expected = self.mean + terms @ self.slope
        widths = torch.exp((few @ self.log_variance).clamp(-30.0, 30.0) / 2)
        return expected, torch.maximum(widths, self.floor)

    def _distance(self, z: Tensor) -> Tensor:
        """Distances (B,) of standardised numbers (B, N_NUMBERS); about 1."""
        near = _tempered(z)
        return ((near @ self.inverse) * near).sum(1).clamp_min(0.0).div(N_NUMBERS).sqrt()

    # ------------------------------------------------------------------------------------------------ the fit

    @torch.no_grad()
    def fit(self, numbers: Numbers, runs: Tensor) -> None:
        """Fit to the numbers of a training sample's events; without enough events nothing is known.

        Args:
            numbers: of N events that have a valid count.
            runs: their run numbers (N,), which may be of different detectors.
        """
        if len(runs) < LEAST:
            return
        self._fit_conditions(numbers.conditions)
        halves = tuple(Numbers(*(part[half] for part in numbers)) for half in _halves(runs))
        distances = []
        # each half by what the other says; what was fitted last, to the first half, stays
        for own, other in (halves[::-1], halves):
            self._fit_expectation(*own)
            self._fit_covariance(self._standardised(own))
            z = self._standardised(other)
            distances.append(self._distance(z).double())
        conditions = torch.cat([other.conditions for other in halves])
        self._fit_limit(torch.cat(distances), conditions)
        self._fit_quantiles(torch.where(other.known, z, torch.nan), other.conditions[:, 2])
        every = torch.where(numbers.known, self._standardised(numbers), torch.nan)
        self.between.copy_(_between(every, runs))
        self.events.fill_(len(runs))

    def _fit_conditions(self, conditions: Tensor) -> None:
        c = conditions.double()
        at = torch.tensor([0.005, 0.995], dtype=torch.float64)
        self.ends.copy_(torch.quantile(c, at, dim=0))
        self.extremes.copy_(torch.stack([c.amin(0), c.amax(0)]))
        self.spreads.copy_(c.std(0).clamp_min(0.02))
        # samples of one depth have knots all the same
        apart = 1e-3 * torch.arange(N_KNOTS)
        inner = torch.linspace(0.02, 0.98, N_KNOTS - 2, dtype=torch.float64)
        knots = torch.quantile(c[:, 2], torch.cat([at[:1], inner, at[1:]]))
        self.knots.copy_(knots.cummax(0).values + apart)
        edges = torch.quantile(c[:, 2], torch.linspace(0, 1, N_DEPTHS + 1, dtype=torch.float64))
        self.depth_edges.copy_(edges)

    def _fit_expectation(self, values: Tensor, known: Tensor, conditions: Tensor) -> None:
        """Fit the functions number by number, each to the events in which it is known."""
        terms, few = (x.double() for x in self._terms(conditions))
        for k in range(values.shape[1]):
            some = known[:, k]
            if int(some.sum()) < LEAST // 5:
                self.log_variance[:, k] = 0.0
                continue
            x, y = terms[some], values[some, k].double()
            centre = y.median()
            slope, rest = _least_squares(x, y - centre)
            # once more without what lies far away
            width = _width(rest)
            slope, _ = _least_squares(x, y - centre - rest + rest.clamp(-4 * width, 4 * width))
            rest = y - centre - x @ slope
            width = _width(rest).clamp_min(self.floor[k].double() / 3)
            w = few[some]
            log_variance, _ = _least_squares(w, (rest.square() / width.square() + 0.05).log())
            shape = (w @ log_variance / 2).exp()
            # 68 % of all events lie within one width
            scale = _width(rest / shape).clamp_min(1e-9)
            self.mean[k] = centre
            self.slope[:, k] = slope
            # the two terms of each knot are a constant and a slope
            log_variance[::2] += 2 * scale.log()
            self.log_variance[:, k] = log_variance

    def _standardised(self, numbers: Numbers) -> Tensor:
        expected, widths = self._expected(numbers.conditions)
        return torch.where(numbers.known, (numbers.values - expected) / widths, 0.0)

    def _fit_covariance(self, z: Tensor) -> None:
        near = _tempered(z.double())
        covariance = near.T @ near / len(near)
        own = covariance.diagonal()
        # a number that hardly varies is not known better than by its floor, which is one width
        covariance = covariance + torch.diag((1 - own).clamp_min(0.0))
        covariance = (1 - _SHRINK) * covariance + _SHRINK * torch.diag(covariance.diagonal())
        self.covariance.copy_(covariance)
        self.inverse.copy_(torch.linalg.inv(covariance))

    def _fit_limit(self, distance: Tensor, conditions: Tensor) -> None:
        """What 1 % of distances (N,) exceed, by depth and light."""
        depths, lights = (shares.double() for shares in self._shares(conditions))

        def by_share(values: Tensor, shares: Tensor) -> Tensor:
            found = torch.stack([_quantile(values, share, _SCALED_AT) for share in shares.unbind(1)])
            return found.clamp_min(_LEAST_LIMIT)

        self.limit.copy_(by_share(distance, depths))
        self.limit_of_light.copy_(by_share(distance / (depths @ self.limit.double()), lights))
        limit = (depths @ self.limit.double()) * (lights @ self.limit_of_light.double())
        self.limit.mul_(torch.quantile(distance / limit, 1 - CHANCE))
        # events all the same have no distances
        self.limit.clamp_min_(_LEAST_LIMIT)

    def _fit_quantiles(self, z: Tensor, depth: Tensor) -> None:
        """Quantiles of each number by depth; those of all depths where a bin has too few."""
        levels = torch.tensor(QUANTILES)
        whole = _known_quantiles(z, levels)
        for i in range(N_DEPTHS):
            here = z[depth_bin(depth, self.depth_edges) == i]
            found = _known_quantiles(here, levels)
            few = here.isfinite().sum(0) < 2 * LEAST
            self.quantiles[:, i] = torch.where(few, whole, found)


class Gathered:
    """The numbers of a training sample's events, batch by batch, for `TrainingDistribution.fit`."""

    def __init__(self, distribution: TrainingDistribution) -> None:
        self._distribution = distribution
        self._numbers: list[Numbers] = []
        self._runs: list[Tensor] = []

    def add(self, batch: Batch, look: object) -> None:
        """Add a batch and the quick look at it; events without any valid count are left out."""
        some = batch.valid.to(torch.uint8).amax(1) > 0
        numbers = self._distribution.numbers(*batch.inputs(), look)
        self._numbers.append(Numbers(*(part[some].cpu() for part in numbers)))
        self._runs.append(batch.run.cpu()[some.cpu()])

    def fit(self) -> None:
        """Fit the distribution to all that was added."""
        parts = zip(*self._numbers, strict=True)
        self._distribution.fit(Numbers(*(torch.cat(part) for part in parts)), torch.cat(self._runs))


@torch.no_grad()
def remember(distribution: TrainingDistribution, look: Callable[..., object], batches: Iterable[Batch]) -> None:
    """Fit a distribution to the first 20,000 events of a training sample.

    Args:
        distribution: is fitted.
        look: what the model's encoder sees of a batch's counts, times and masks at a glance.
        batches: of the sample; no more of them are read than are needed.
    """
    gathered, events = Gathered(distribution), 0
    for batch in batches:
        gathered.add(batch, look(*batch.inputs()))
        events += len(batch)
        if events >= _REMEMBERED:
            break
    gathered.fit()


def _tempered(z: Tensor) -> Tensor:
    """Standardised numbers that grow as a logarithm beyond `_TAIL` widths: many have long tails in every sample."""
    size = z.abs()
    return torch.where(size > _TAIL, z.sign() * _TAIL * (1 + (size.clamp_min(_TAIL) / _TAIL).log()), z)


def depth_bin(depth: Tensor, edges: Tensor) -> Tensor:
    """Bins (B,) of logarithms of depth between edges (N_DEPTHS + 1,); what lies beyond is in the outermost."""
    return torch.bucketize(depth.contiguous(), edges[1:-1].contiguous())


def _halves(runs: Tensor) -> tuple[Tensor, Tensor]:
    """Two halves (N,) of a sample: of its runs where there are many, since events of a run share a detector."""
    numbers, inverse = torch.unique(runs, return_inverse=True)
    which = inverse if len(numbers) >= _EVENTS_EACH else torch.arange(len(runs))
    return which % 2 == 0, which % 2 == 1


def _between(z: Tensor, runs: Tensor) -> Tensor:
    """Standard deviations (K,) of runs about their common mean, in widths: products of different events of a run."""
    inverse = torch.unique(runs, return_inverse=True)[1]
    known = z.isfinite().double()
    near = torch.where(z.isfinite(), z, 0.0).double().clamp(-_FAR, _FAR)
    shape = (int(inverse.max()) + 1, z.shape[1])
    sums, numbers, squares = (
        torch.zeros(shape, dtype=torch.float64).index_add_(0, inverse, x) for x in (near, known, near.square())
    )
    pairs = (numbers * (numbers - 1)).sum(0).clamp_min(1)
    return ((sums.square() - squares).sum(0) / pairs).clamp_min(0).sqrt()


def _least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Penalised slope of y (N,) on x (N, P), and residuals."""
    gram = x.T @ x + _RIDGE * 0.1 * torch.eye(x.shape[1], dtype=x.dtype)
    slope = torch.linalg.solve(gram, x.T @ y)
    return slope, y - x @ slope


def _width(rest: Tensor) -> Tensor:
    """Half of the central 68 %."""
    low, high = torch.quantile(rest, torch.tensor([0.159, 0.841], dtype=rest.dtype))
    half: Tensor = (high - low) / 2
    return half


def _quantile(values: Tensor, weights: Tensor, level: float) -> Tensor:
    """Quantile of values (N,) with weights (N,); of all alike where nothing weighs anything."""
    if float(weights.sum()) < 1:
        return torch.quantile(values, level)
    order = values.argsort()
    cumulated = weights[order].cumsum(0)
    place = torch.searchsorted(cumulated, level * cumulated[-1]).clamp_max(len(values) - 1)
    chosen: Tensor = values[order][place]
    return chosen


def _known_quantiles(z: Tensor, levels: Tensor) -> Tensor:
    """Quantiles (Q, K) of numbers (N, K), NaN left out; 0 where nothing is known."""
    if not len(z):
        return torch.zeros(len(levels), z.shape[1])
    return torch.nanquantile(z, levels, dim=0).nan_to_num(0.0)
