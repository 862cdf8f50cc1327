"""Results of a study so far, as plain values: trials, importances, the best trial beside the recipe."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from xecml.events import number_of
from xecml.figures.search_pictures import ShownTrial
from xecml.notebook import lines_html, table_html
from xecml.tuning.search import WHY, best_of, write_best
from xecml.tuning.study import Study, metrics_of, seconds_of

_STATES = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}  # fmt: skip
_ENOUGH = 4
"""Trials that ended, below which importances would be noise alone."""


@dataclass(frozen=True)
class Row:
    """A trial.

    Attributes:
        shown: what is drawn of it.
        epochs: whole ones.
        hours: of training.
        why: it failed; empty if it did not.
        metrics: of the validation of its best epoch.
    """

    shown: ShownTrial
    epochs: int
    hours: float
    why: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """A study.

    Attributes:
        folder: of it.
        job: of the trainings.
        metric: that is compared, lower is better.
        sampler: how values are chosen.
        pruner: what ends trials early.
        budget: trials and hours at most.
        keys: that are searched, the most important first.
        log: those of them with a logarithmic range.
        rows: trials that were begun, in their order.
        importances: shares by key, the largest first; empty where there are too few trials.
        best: number of the best trial.
        recipe: file of its recipe.
    """

    folder: Path
    job: str
    metric: str
    sampler: str
    pruner: str
    budget: tuple[int, float | None]
    keys: list[str]
    log: list[str]
    rows: list[Row]
    importances: dict[str, float]
    best: int | None
    recipe: Path | None

    @property
    def winner(self) -> Row | None:
        """The best trial."""
        return next((row for row in self.rows if row.shown.number == self.best), None)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers and rows: trials, the best one first."""
        headers = ["trial", "state", self.metric, "epochs", "hours", *self.keys]
        # what has no score yet comes last
        order = sorted(self.rows, key=lambda row: (row.shown.state != "complete", _or_last(row.shown.score)))
        return headers, [
            [
                f"{row.shown.number}{' (recipe)' if row.shown.number == 0 else ''}",
                row.shown.state,
                "" if row.shown.score is None else f"{row.shown.score:.5g}",
                str(row.epochs),
                f"{row.hours:.2f}",
                *(_text(row.shown.values.get(key)) for key in self.keys),
            ]
            for row in order
        ]

    def lines(self) -> list[str]:
        """What is to be said in words."""
        states = [row.shown.state for row in self.rows]
        counted = ", ".join(f"{state} {states.count(state)}" for state in _STATES.values() if state in states)
        hours = sum(row.hours for row in self.rows)
        at_most = f"of at most {self.budget[0]}" + (f" and {self.budget[1]:g} hours" if self.budget[1] else "")
        found = [f"{number_of(len(self.rows), 'trial')} {at_most}: {counted or 'none'}; {hours:.2f} hours of training."]
        if self.importances:
            shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in self.importances.items())
            found.append(f"What separates the best trials from the others: {shares}.")
        own = next((row.shown.score for row in self.rows if row.shown.number == 0), None)
        if (winner := self.winner) is not None and winner.shown.score is not None:
            beside = "" if own is None or winner.shown.number == 0 else f" (the recipe itself: {own:.5g})"
            found.append(f"Best is trial {winner.shown.number}: {self.metric} {winner.shown.score:.5g}{beside}.")
            found.append(f"Its recipe: xec train {self.job} --config {self.recipe}")
        found += [f"Trial {row.shown.number} failed: {row.why}." for row in self.rows if row.why]
        return found

    def _repr_html_(self) -> str:
        """As a notebook shows it: what is to be said, and the table."""
        return lines_html(self.lines()) + table_html(*self.table())

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        trials = [
            vars(row.shown) | {"epochs": row.epochs, "hours": row.hours, "why": row.why, "metrics": row.metrics}
            for row in self.rows
        ]
        plain = {key: value for key, value in vars(self).items() if key not in ("rows", "budget")}
        return plain | {"trials": trials, "most_trials": self.budget[0], "most_hours": self.budget[1]}


def summary_of(study: Study) -> Summary:
    """Look at a study, and write the recipe of its best trial beside it."""
    best, _ = best_of(study)
    importances = importances_of(study)
    keys = [*importances, *(key for key in study.space.dimensions if key not in importances)]
    return Summary(
        folder=study.folder,
        job=study.frozen.job,
        metric=study.recipe.checkpoint.best_metric,
        sampler=study.frozen.sampler,
        pruner=study.frozen.pruner,
        budget=(study.frozen.trials, study.frozen.hours),
        keys=keys,
        log=[key for key, one in study.space.dimensions.items() if one.log],
        rows=[_row(study, trial) for trial in study.begun],
        importances=importances,
        best=best,
        recipe=None if best is None else write_best(study, best),
    )


def importances_of(study: Study) -> dict[str, float]:
    """Importance of each key for the difference between the best trials and the others (PED-ANOVA), largest first.

    Empty where there are too few trials, or all are alike.
    """
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if len(complete) < _ENOUGH or len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study.optuna)
    total = sum(found.values())
    return {key: value / total for key, value in found.items()} if total > 0 else {}


def _row(study: Study, trial: FrozenTrial) -> Row:
    run = study.run_folder(trial.number)
    epochs = metrics_of(run)
    metric = f"val/{study.recipe.checkpoint.best_metric}"
    curve = {int(step): value for step, value in trial.intermediate_values.items()}
    score = trial.value if trial.state == TrialState.COMPLETE else min(curve.values(), default=None)
    at = min(curve, key=curve.__getitem__, default=None)
    there = next((one for one in epochs if one.get("epoch") == at and metric in one), {})
    values = {key: study.space.dimensions[key].value(drawn) for key, drawn in trial.params.items()}
    return Row(
        shown=ShownTrial(trial.number, _STATES[trial.state], score, values, curve),
        epochs=len(epochs),
        hours=seconds_of(run) / 3600,
        why=str(trial.user_attrs.get(WHY, "")),
        metrics={k.removeprefix("val/"): v for k, v in there.items() if k.startswith("val/") and isinstance(v, float)},
    )


def _or_last(score: float | None) -> float:
    return float("inf") if score is None else score


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
