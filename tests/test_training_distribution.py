"""What a model keeps of its training events: the chance of `outlier`, and which files are said to be unlike them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.conftest import point_sources
from xecml import geometry
from xecml.data.batch import Batch
from xecml.data.event_numbers import BY_KEY, KEYS, NUMBERS
from xecml.events import INVALID, TASKS, photoelectrons, relative_quantities
from xecml.inference.answer_counts import Answered
from xecml.inference.training_comparison import UNKNOWN, Comparison
from xecml.inference.training_said import as_compared, joined, split, training_of
from xecml.models.networks.event_numbers import Numbers
from xecml.models.normalise import validity
from xecml.models.training_distribution import LEAST, Judged, TrainingDistribution, depth_bin
from xecml.recipes import load_config
from xecml.training.regression_job import Regression

Events = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]
EVENTS = 3000


def inputs(npho: np.ndarray, time: np.ndarray) -> tuple[torch.Tensor, ...]:
    n, t = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (npho, time))
    return (n, t, *validity(n, t))


@torch.no_grad()
def fitted(npho: np.ndarray, time: np.ndarray, runs: np.ndarray | None = None) -> TrainingDistribution:
    distribution = TrainingDistribution()
    parts = [distribution.numbers(*inputs(npho[i : i + 256], time[i : i + 256])) for i in range(0, len(npho), 256)]
    numbers = Numbers(*(torch.cat(part) for part in zip(*parts, strict=True)))
    distribution.fit(numbers, torch.zeros(len(npho)) if runs is None else torch.from_numpy(runs))
    return distribution


@torch.no_grad()
def judged(distribution: TrainingDistribution, npho: np.ndarray, time: np.ndarray) -> Judged:
    parts = [distribution(*inputs(npho[i : i + 256], time[i : i + 256])) for i in range(0, len(npho), 256)]
    return Judged(*(torch.cat(part) for part in zip(*parts, strict=True)))


def compared(distribution: TrainingDistribution, npho: np.ndarray, time: np.ndarray) -> Comparison:
    training = training_of(distribution)
    assert training is not None
    comparison = Comparison(training)
    for start in range(0, len(npho), 300):
        one = judged(distribution, npho[start : start + 300], time[start : start + 300])
        comparison.add(as_compared([one]), one.outlier.numpy())
    return comparison


@pytest.fixture(scope="module")
def events() -> Events:
    return point_sources(EVENTS, seed=1)


@pytest.fixture(scope="module")
def distribution(events: Events) -> TrainingDistribution:
    return fitted(events["npho"], events["time"])


@pytest.fixture(scope="module")
def fresh() -> Events:
    return point_sources(1000, seed=2)


# ---------------------------------------------------------------------------------------------------------- outlier


def test_one_per_cent_of_fresh_events_lie_beyond_the_limit_at_every_depth(
    distribution: TrainingDistribution, fresh: Events
) -> None:
    """1000 events: 10 +- 3.2 beyond, of a limit from 3000; in three bins of depth 3.3 +- 1.8 each."""
    found = judged(distribution, fresh["npho"], fresh["time"])
    beyond = (found.outlier > 1).numpy()
    assert 2 <= beyond.sum() <= 25
    depth = found.conditions[:, 2].contiguous()
    thirds = torch.bucketize(depth, torch.quantile(depth, torch.tensor([1 / 3, 2 / 3]))).numpy()
    assert all(beyond[thirds == i].sum() <= 13 for i in range(3))
    # and of the training sample itself, most of which the limit was not fitted to
    assert 0.2 < found.outlier.median() < 0.9


def test_events_unlike_all_of_the_training_are_far_beyond(distribution: TrainingDistribution, fresh: Events) -> None:
    npho, time = fresh["npho"][:60].copy(), fresh["time"][:60].copy()
    rng = np.random.default_rng(3)
    npho[:20] = rng.permuted(npho[:20], axis=1)  # light without a place
    time[20:40] = rng.permuted(time[20:40], axis=1)
    npho[40:] = np.where(npho[40:] < 9e9, 5 * npho[40:], npho[40:])  # five times the energy
    outlier = judged(distribution, npho, time).outlier
    assert (outlier > 1.5).all()
    assert torch.isfinite(outlier).all()


def test_events_of_little_are_judged_and_those_of_nothing_are_not(
    distribution: TrainingDistribution, fresh: Events
) -> None:
    npho, time = fresh["npho"][:8].copy(), fresh["time"][:8].copy()
    npho[0], npho[1], npho[2] = INVALID, 0.0, np.nan
    time[3] = INVALID
    npho[4], npho[4, 2000] = INVALID, 1000.0  # a single sensor
    npho[5, geometry.N_SIPM :] = INVALID  # no PMT
    npho[6, : geometry.N_SIPM] = INVALID  # no SiPM
    found = judged(distribution, npho, time)
    assert torch.isnan(found.outlier).tolist() == [True] * 3 + [False] * 5
    assert (found.outlier[3:7] > 1).all()
    assert found.outlier[7] < 1
    assert torch.isnan(found.differences[:3]).all()
    assert torch.isfinite(found.expected).all()


def test_dead_sensors_raise_outlier_only_as_far_as_the_training_says(fresh: Events) -> None:
    """Trained with 4 % dead, an event with 4 % dead is as any other; trained without, it lies somewhat further away."""
    holed = point_sources(1500, seed=4, dead=0.04)
    whole = point_sources(1500, seed=4)
    dead = np.random.default_rng(5).random(fresh["npho"].shape) < 0.04
    npho, time = (np.where(dead, INVALID, fresh[name]) for name in ("npho", "time"))
    medians = []
    for sample in (holed, whole):
        known = fitted(sample["npho"], sample["time"])
        found = judged(known, npho, time).outlier
        medians.append(float(found.median() / judged(known, fresh["npho"], fresh["time"]).outlier.median()))
        assert (found > 1).float().mean() < (0.03 if sample is holed else 0.6)
    assert medians[0] < 1.05 < medians[1] < 3


def test_events_are_judged_alone_and_whatever_their_clock(distribution: TrainingDistribution, fresh: Events) -> None:
    npho, time = fresh["npho"][:20], fresh["time"][:20]
    found = judged(distribution, npho, time).outlier
    one = torch.cat([judged(distribution, npho[i : i + 1], time[i : i + 1]).outlier for i in range(20)])
    torch.testing.assert_close(one, found, rtol=1e-4, atol=1e-5)
    later = judged(distribution, npho, np.where(time < 9e9, time + 5e-8, time)).outlier
    torch.testing.assert_close(later, found, rtol=2e-2, atol=1e-3)


def test_relative_counts_and_times_are_judged_too(events: Events, fresh: Events) -> None:
    known = fitted(*relative_quantities(events["npho"][:1500], events["time"][:1500]))
    outlier = judged(known, *relative_quantities(fresh["npho"], fresh["time"])).outlier
    assert 0.001 < (outlier > 1).float().mean() < 0.035


def test_samples_of_few_events_or_of_none_with_light_are_not_fitted(events: Events) -> None:
    few = fitted(events["npho"][: LEAST - 1], events["time"][: LEAST - 1])
    assert not few.fitted
    assert training_of(few) is None
    enough = fitted(events["npho"][:LEAST], events["time"][:LEAST])
    assert enough.fitted
    assert all(torch.isfinite(buffer).all() for buffer in enough.state_dict().values())


def test_samples_without_times_or_of_one_event_are_fitted_to_numbers(events: Events) -> None:
    for npho, time in (
        (events["npho"][:200], np.full((200, 4760), INVALID)),
        (np.repeat(events["npho"][:1], 200, 0), np.repeat(events["time"][:1], 200, 0)),
    ):
        known = fitted(npho, time)
        assert all(torch.isfinite(buffer).all() for buffer in known.state_dict().values())
        assert torch.isfinite(judged(known, npho, time).outlier).all()


def test_what_detectors_of_a_sample_differ_by_is_known(events: Events) -> None:
    """Runs of 100 events whose PMT times are off by 0.3 ns at random; one run alone has no such spread."""
    runs = np.arange(EVENTS) // 100
    offsets = np.random.default_rng(6).normal(0, 0.3e-9, runs.max() + 1)[runs]
    time = events["time"].astype(np.float64)
    time[:, geometry.N_SIPM :] += offsets[:, None]
    time = np.where(events["time"] < 9e9, time, INVALID)
    between = fitted(events["npho"], time, runs).between
    place = KEYS.index("time_outer")
    assert between[place] > 0.5
    assert between[KEYS.index("light_outer")] < 0.2
    assert fitted(events["npho"], events["time"], runs).between[place] < 0.2


def test_light_in_the_middle_of_a_bin_of_depth_is_in_it() -> None:
    edges = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert depth_bin(torch.tensor([-1.0, 0.5, 1.5, 2.5, 9.0]), edges).tolist() == [0, 0, 1, 2, 2]


def test_graphs_give_what_files_are_compared_with(distribution: TrainingDistribution, fresh: Events) -> None:
    one = judged(distribution, fresh["npho"][:5], fresh["time"][:5])
    back, there = split(joined(one).numpy()), as_compared([one])
    for a, b in zip(back, there, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------------------------- files


def as_it_is(npho: np.ndarray, time: np.ndarray) -> Pair:
    return npho, time


def gains(npho: np.ndarray, time: np.ndarray) -> Pair:
    gain = np.random.default_rng(7).normal(1, 0.05, 4760)
    return np.where(npho < 9e9, npho * gain, npho), time


def threshold(npho: np.ndarray, time: np.ndarray) -> Pair:
    below = photoelectrons(npho) < 3
    return np.where(below, 0, npho), np.where(below, INVALID, time)


def first(npho: np.ndarray, time: np.ndarray) -> Pair:
    """The first of n photoelectrons of a decay of 45 ns comes 45 ns / n after the earliest possible one."""
    delay = 45e-9 / np.maximum(photoelectrons(npho), 1)
    return npho, np.where(time < 9e9, time + delay, time)


def early_pmts(npho: np.ndarray, time: np.ndarray) -> Pair:
    early = np.where(np.arange(4760) < geometry.N_SIPM, 0, 0.4e-9)
    return npho, np.where(time < 9e9, time - early, time)


def stretched(npho: np.ndarray, time: np.ndarray) -> Pair:
    start = np.where(time < 9e9, time, np.inf).min(1, keepdims=True)
    return npho, np.where(time < 9e9, start + 1.1 * (time - start), time)


def dim_outer(npho: np.ndarray, time: np.ndarray) -> Pair:
    outer = geometry.face_codes() == geometry.FACES.index("outer")
    return np.where(outer & (npho < 9e9), 0.8 * npho, npho), time


def untimed(npho: np.ndarray, time: np.ndarray) -> Pair:
    return npho, np.where(np.random.default_rng(8).random(time.shape) < 0.3, INVALID, time)


def dead_face(npho: np.ndarray, time: np.ndarray) -> Pair:
    us = geometry.face_codes() == geometry.FACES.index("us")
    return np.where(us & (np.arange(4760) % 2 == 0), INVALID, npho), time


FILES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Pair], str]] = {
    "as simulated": (as_it_is, ""),
    "gains spread by 5 %": (gains, ""),
    "3 photoelectrons": (threshold, "of the SiPMs with a count have under 2.25 photoelectrons where training had"),
    "first photoelectrons": (first, "times of SiPMs under 3 photoelectrons come"),
    "PMT times 0.4 ns early": (
        early_pmts,
        "times of the PMT faces come 0.4 ns earlier against those of the inner face",
    ),
    "times further apart": (stretched, "times of "),
    "outer face dim": (dim_outer, "sensors of the outer face have 18 % less light than in training at the same depth"),
    "times missing": (untimed, "70 % of the PMTs with a count have a time where training had 100 %"),
    "dead on one face": (dead_face, "% of the sensors of the upstream face have a count where training had"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_are_unlike_the_training_by_what_differs(
    what: str, distribution: TrainingDistribution, fresh: Events
) -> None:
    change, words = FILES[what]
    line = compared(distribution, *change(fresh["npho"][:500], fresh["time"][:500])).line()
    assert (words in line) if words else not line, line
    assert line.count("\n") == 0
    assert not line or line.startswith("The file is unlike the training: ")


def test_files_of_a_part_of_the_sample_are_like_it(distribution: TrainingDistribution, fresh: Events) -> None:
    """A single energy, one end of the detector, the deepest events."""
    more = point_sources(2000, seed=9)
    u, w = more["uvwTruth"][:, 0], more["uvwTruth"][:, 2]
    for part in (more["energyTruth"] < 0.025, more["energyTruth"] > 0.05, u > 10, w > 6):
        assert part.sum() > 150
        assert not compared(distribution, more["npho"][part], more["time"][part]).line()


def test_few_events_say_nothing_and_no_events_neither(distribution: TrainingDistribution, fresh: Events) -> None:
    comparison = compared(distribution, *first(fresh["npho"][:60], fresh["time"][:60]))
    assert comparison.line() == ""
    assert "a file with fewer than 100 is not judged as a whole" in comparison.verdict()
    nothing = compared(distribution, fresh["npho"][:0], fresh["time"][:0])
    assert nothing.line() == ""
    assert {row["verdict"] for row in nothing.as_dict()["numbers"]} == {"too few"}
    blank = compared(distribution, np.full((200, 4760), INVALID), fresh["time"][:200])
    assert blank.events == 0
    assert blank.line() == ""


def test_a_tiny_shift_of_many_events_is_no_difference(distribution: TrainingDistribution, fresh: Events) -> None:
    """20 ps are significant in 16,000 events, and nothing to warn of."""
    npho, time = fresh["npho"], fresh["time"]
    shift = np.where(np.arange(4760) < geometry.N_SIPM, 0, 20e-12)
    plain, late = (compared(distribution, npho, np.where(time < 9e9, time + s, time)) for s in (0 * shift, shift))
    for comparison in (plain, late):
        comparison._counts *= 16
    place = KEYS.index("time_outer")
    apart = late.differences()[place].away - plain.differences()[place].away
    assert 0 < apart < 0.5
    assert late.line() == ""


def test_events_of_several_photons_are_said_to_be_so_and_do_not_blame_the_detector(
    distribution: TrainingDistribution, fresh: Events
) -> None:
    npho, time = fresh["npho"][:400], fresh["time"][:400]
    other = np.roll(npho, 1, axis=0)
    both = np.where((npho < 9e9) | (other < 9e9), np.where(npho < 9e9, npho, 0) + np.where(other < 9e9, other, 0), npho)
    some = np.where((np.arange(400) % 8 == 0)[:, None], both, npho)
    few = compared(distribution, some, time)
    assert few.line() == ""
    assert few.many_outliers()
    assert 40 <= few.beyond <= 70
    assert "unlike those of the training ('outlier' above 1, where it has 1 %" in few.outliers_in_words()
    line = compared(distribution, both, time).line()
    assert line.startswith("The file is unlike the training: in ")
    assert line.endswith(
        "% of the events the light is not that of a single photon, unlike in training, and the others are too few to "
        "judge the "
        "detector."
    )


def test_what_lies_beyond_the_sample_is_said(distribution: TrainingDistribution, fresh: Events) -> None:
    npho = np.where(fresh["npho"] < 9e9, 4 * fresh["npho"], fresh["npho"])
    comparison = compared(distribution, npho[:300], fresh["time"][:300])
    assert "with more light than any there" in comparison.outliers_in_words()


def test_chunks_add_up(distribution: TrainingDistribution, fresh: Events) -> None:
    npho, time = fresh["npho"][:300], fresh["time"][:300]
    training = training_of(distribution)
    assert training is not None
    whole, parts = Comparison(training), Comparison(training)
    one = judged(distribution, npho, time)
    whole.add(as_compared([one]), one.outlier.numpy())
    for start in (0, 100, 200):
        some = Judged(*(part[start : start + 100] for part in one))
        parts.add(as_compared([some]), some.outlier.numpy())
    assert whole.as_dict() == parts.as_dict()


def test_one_line_says_what_was_missing_once(distribution: TrainingDistribution, fresh: Events) -> None:
    """The comparison names the face of which sensors are missing; events short of them are not counted beside it."""
    from xecml.data.coverage import coverage, usual

    class Model:
        tasks = ("energy", "timing")
        usual_sensors = usual([coverage(fresh["npho"], fresh["time"])])
        truth_ends: ClassVar[dict[str, tuple[float, float]]] = {}

    training = training_of(distribution)
    lines = []
    for npho, time in (dead_face(fresh["npho"][:300], fresh["time"][:300]), (fresh["npho"][:300], fresh["time"][:300])):
        answered, found = Answered(), judged(distribution, npho, time)
        answered.add(coverage(npho, time), Model())
        answered.compare(training, as_compared([found]), found.outlier.numpy())
        lines.append(answered.line())
        assert answered.as_dict()["training"]["events"] == 300
    assert lines[0].startswith("Warning: The file is unlike the training: ")
    assert "of the upstream face have a count" in lines[0]
    assert "answered on fewer sensors" not in lines[0]
    assert lines[1] == ""
    unknown = Answered()
    unknown.add(coverage(npho, time), Model())
    unknown.compare(None, None, None)
    assert unknown.line() == UNKNOWN


# ----------------------------------------------------------------------------------------------------------- words


def test_every_number_has_words_of_its_own() -> None:
    assert len(set(KEYS)) == len(KEYS) == len(BY_KEY)
    for number in NUMBERS:
        for more in (0.1, -0.1):
            sentence = number.sentence(0.5 + more, 0.5)
            assert "{" not in sentence
            assert "than in training" in sentence or "where training had" in sentence
            assert sentence[0].islower() or sentence[0].isdigit() or sentence.startswith("SiPM")
    assert len({number.title for number in NUMBERS}) == len(NUMBERS)


def test_differences_are_said_in_units() -> None:
    assert BY_KEY["time_us"].sentence(-0.4, 0.0) == (
        "times of the upstream face come 0.4 ns earlier against those of the inner face than in training"
    )
    assert BY_KEY["light_outer"].sentence(np.log(0.8), 0.0) == (
        "sensors of the outer face have 20 % less light than in training at the same depth and total"
    )
    assert (
        BY_KEY["timed_sipm"].sentence(0.69, 0.97)
        == "69 % of the SiPMs with a count have a time where training had 97 %"
    )
    assert BY_KEY["spread_dim"].sentence(np.log(4), 0.0) == (
        "times of SiPMs under 10 photoelectrons spread by 300 % more than in training"
    )


def test_a_training_that_begins_with_the_weights_of_another_remembers_its_own_sample(events: Events) -> None:
    job = Regression(load_config(None, ["model.preset=tiny"]))

    def batches(light: float) -> list[Batch]:
        n, t, *masks = inputs(light * events["npho"][:600], events["time"][:600])
        truth = {k: torch.from_numpy(events[TASKS[k].truth][:600]).reshape(600, -1) for k in job.tasks}
        rows = torch.arange(600)
        return [Batch(n, t, *masks, truth, rows, rows)]

    job.fit(batches(1.0), keep_features=False)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    job.remember(batches(1.0))
    again = job.model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in before.items())
    job.remember(batches(1.5))
    after = job.model.state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"training_distribution", "sensors_seen"}
