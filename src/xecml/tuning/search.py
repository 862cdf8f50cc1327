"""A worker of a study: continues trials of lost workers, then takes new ones, trains each, and records the result."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from xecml.config import Config
from xecml.errors import InputError
from xecml.outputs import making
from xecml.training.checkpoint_writing import LAST
from xecml.training.loop import Result, train
from xecml.tuning import workers
from xecml.tuning.study import BEST, Study, run_name, sampler_of, write_recipe
from xecml.tuning.workers import Start

RECIPE = "recipe.yaml"
_MOST_FAILURES = 3
WHY = "why"
"""User attribute of a failed trial: a sentence."""


@dataclass
class Report:
    """What a worker did.

    Attributes:
        finished: trials that it brought to their end, by number, with how each ended: complete, pruned, failed.
        stopped: the signal that ended it before its time.
        best: number of the best trial so far, of all workers.
        score: of that trial, lower is better.
        recipe: file with its recipe.
    """

    finished: dict[int, str]
    stopped: str | None = None
    best: int | None = None
    score: float | None = None
    recipe: Path | None = None


@dataclass(frozen=True)
class Taken:
    """A trial that this worker works on; `told` are the epochs of which the study knew the score before."""

    trial: Trial
    folder: Path
    start: Start
    told: frozenset[int] = frozenset()


@making("tune")
def work(study: Study, *, quiet: bool = False, train_one: Callable[..., Result] = train) -> Report:
    """Work on a study until nothing is left to begin, or a signal stops it.

    Args:
        study: that this process joins.
        quiet: print nothing.
        train_one: trains a trial, as `training.loop.train` does.

    Raises:
        InputError: the recipe itself cannot be trained, or several trials in a row failed.
    """
    report, in_a_row = Report({}), 0
    while (taken := take(study)) is not None:
        number = taken.trial.number
        try:
            recipe = study.recipe_of(suggested(study, taken.trial), number)
            if workers.leads_nowhere(taken.folder):
                raise InputError(
                    f"{workers.MOST_STARTS - 1} starts of trial {number} were killed before anything was saved."
                )
            with workers.at_work(taken.folder, taken.start):
                how, result = _trained(study, taken, recipe, quiet=quiet, train_one=train_one)
        except (Exception, KeyboardInterrupt) as error:
            if not isinstance(error, Exception):
                workers.release(taken.folder, taken.start)
                raise
            if number == 0 and isinstance(error, InputError) and not workers.leads_nowhere(taken.folder):
                workers.release(taken.folder, taken.start)  # mended, it begins anew
                raise
            in_a_row += 1
            _failed(study, taken.trial, error)
            report.finished[number] = "failed"
            if in_a_row == _MOST_FAILURES:
                raise InputError(
                    f"{in_a_row} trials in a row failed; the last, trial {number}, by: {_sentence(error)}; mend the "
                    "recipe or the search space, in a new study."
                ) from error
        else:
            in_a_row = 0
            if result.stopped is not None:
                workers.release(taken.folder, taken.start)
                report.stopped = result.stopped
                break
            report.finished[number] = how
            _say(f"trial {number}: {how}, {study.recipe.checkpoint.best_metric} {result.score:.6g}", quiet)
        _free_memory()
    report.best, report.score = best_of(study)
    if report.best is not None:
        report.recipe = write_best(study, report.best)
    return report


def take(study: Study) -> Taken | None:
    """A trial for this process: one whose worker is lost, otherwise a new one; None if none is left."""
    with study.alone():
        # what another worker has told meanwhile is read here
        for one in study.trials:
            if one.state != TrialState.RUNNING:
                continue
            folder = study.run_folder(one.number)
            last = workers.last_start(folder)
            # between its drawing and its first start no other worker looks, since that is within this lock
            if (last is None or not workers.is_alive(folder, last)) and (start := workers.claim(folder, folder / LAST)):
                return Taken(Trial(study.optuna, one._trial_id), folder, start, frozenset(one.intermediate_values))
        frozen, begun = study.frozen, study.begun
        over = frozen.hours is not None and study.hours_spent() >= frozen.hours
        grid_done = frozen.sampler == "grid" and len(begun) == len(study.trials)
        if len(begun) >= frozen.trials or over or (grid_done and begun):
            return None
        trial = study.optuna.ask()
        study.optuna.sampler = sampler_of(frozen, trial.number)
        suggested(study, trial)
        folder = study.run_folder(trial.number)
        start = workers.claim(folder, folder / LAST)
        return None if start is None else Taken(trial, folder, start)


def suggested(study: Study, trial: Trial) -> dict[str, object]:
    """Values of a trial by key: drawn now, or those that it has."""
    found: dict[str, object] = {}
    for key, one in study.space.dimensions.items():
        given = one.distribution
        if isinstance(given, CategoricalDistribution):
            found[key] = trial.suggest_categorical(key, given.choices)
        elif isinstance(given, IntDistribution):
            found[key] = trial.suggest_int(key, given.low, given.high, step=given.step, log=given.log)
        elif isinstance(given, FloatDistribution):
            found[key] = trial.suggest_float(key, given.low, given.high, step=given.step, log=given.log)
    return found


def best_of(study: Study) -> tuple[int | None, float | None]:
    """Number and score of the best completed trial; None if there is none."""
    complete = [one for one in study.trials if one.state == TrialState.COMPLETE and one.value is not None]
    if not complete:
        return None, None
    best = min(complete, key=_value)
    return best.number, best.value


def write_best(study: Study, number: int) -> Path:
    """Write the recipe of a trial for a training of its own, and return its file."""
    (trial,) = [one for one in study.trials if one.number == number]
    recipe = study.recipe_of(trial.params, number)
    # as the first recipe has them: this one is no trial any more
    own = recipe.model_copy(update={"checkpoint": study.recipe.checkpoint, "mlflow": study.recipe.mlflow})
    own = own.model_copy(update={"mlflow": own.mlflow.model_copy(update={"run_name": None})})
    path = study.folder / BEST
    changed = ", ".join(f"{key} {study.space.dimensions[key].value(value)}" for key, value in trial.params.items())
    remarks = [
        f"trial {number} of {study.folder}: {study.recipe.checkpoint.best_metric} {trial.value:.6g} ({changed})",
        f"xec train {study.frozen.job} --config {path}",
    ]
    write_recipe(path, own, remarks)
    return path


def _trained(
    study: Study, taken: Taken, recipe: Config, *, quiet: bool, train_one: Callable[..., Result]
) -> tuple[str, Result]:
    """Train a trial from where it stands, and tell how it ended, unless a signal stopped it."""
    trial, number = taken.trial, taken.trial.number
    write_recipe(taken.folder / RECIPE, recipe, [f"trial {number} of {study.folder}"])
    values = ", ".join(f"{key} {value}" for key, value in trial.params.items())
    again = f", start {taken.start.number}" if taken.start.number > 1 else ""
    _say(f"trial {number}{again}: {values}", quiet)
    pruned = False

    def each_epoch(epoch: int, score: float) -> bool:
        nonlocal pruned
        if epoch not in taken.told:
            trial.report(score, epoch)
        pruned = epoch < recipe.training.epochs and number > 0 and trial.should_prune()
        return pruned

    result = train_one(recipe, name=run_name(number), kind=study.frozen.job, quiet=True, each_epoch=each_epoch)
    if result.stopped is not None:
        return "stopped", result
    if pruned:
        study.optuna.tell(trial, state=TrialState.PRUNED)
        return "pruned", result
    if not math.isfinite(result.score):
        raise FloatingPointError(f"{study.recipe.checkpoint.best_metric} is not finite in any epoch")
    study.optuna.tell(trial, result.score)
    return "complete", result


def _failed(study: Study, trial: Trial, error: Exception) -> None:
    sentence = _sentence(error)
    trial.set_user_attr(WHY, sentence)
    study.optuna.tell(trial, state=TrialState.FAIL)
    print(f"xec: trial {trial.number} failed: {sentence}", file=sys.stderr, flush=True)


def _sentence(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    known = isinstance(error, InputError | FloatingPointError)
    return first if known and first else f"{type(error).__name__} ({first})" if first else type(error).__name__


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, flush=True)


def _free_memory() -> None:
    """Leave nothing of a trial on the GPU to the next one."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
