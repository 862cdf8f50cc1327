"""Pictures of a search of hyper-parameters: what mattered, values against scores, all values of a trial at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xecml.figures.style import COLOURS, MAP, STYLE, named

COMPLETE, PRUNED = "complete", "pruned"
_WIDTH = 10.5
_MOST_SLICES = 12
_LABEL = 28


@dataclass(frozen=True)
class ShownTrial:
    """A trial as it is drawn.

    Attributes:
        number: of it; the recipe itself is 0.
        state: `complete`, `pruned`, `failed` or `running`.
        score: lower is better; none where there is none.
        values: by key of the recipe.
        curve: scores by epoch.
    """

    number: int
    state: str
    score: float | None
    values: Mapping[str, Any]
    curve: Mapping[int, float] = field(default_factory=dict)


def importances_figure(importances: Mapping[str, float]) -> Figure:
    """Bars: the importance of each key for the difference between the best trials and the others."""
    names = list(importances)[::-1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 0.8 + 0.32 * len(names)))
        axes = figure.subplots()
        axes.barh(range(len(names)), [100 * importances[name] for name in names], color=COLOURS[0], height=0.6)
        for i, name in enumerate(names):
            axes.text(100 * importances[name], i, f" {100 * importances[name]:.0f} %", va="center", color="0.3")
        axes.set_yticks(range(len(names)), [named(name, 2 * _LABEL) for name in names])
        axes.set(xlabel="importance [%]", xlim=(0, 110 * max(importances.values(), default=1) or 1))
        axes.grid(axis="y", visible=False)
    return figure


def history_figure(trials: Sequence[ShownTrial], metric: str) -> Figure:
    """Scores by number with the best so far, and the score of each epoch of each trial."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 3.6))
        left, right = figure.subplots(1, 2)
        for state, colour, marker in ((COMPLETE, COLOURS[0], "o"), (PRUNED, "0.6", "x")):
            chosen = [t for t in trials if t.state == state and _finite(t.score)]
            left.plot([t.number for t in chosen], [t.score for t in chosen], marker, color=colour, label=state)
        whole = [t for t in trials if t.state == COMPLETE and _finite(t.score)]
        if whole:
            best = np.minimum.accumulate(np.array([t.score for t in whole], float))
            left.step([t.number for t in whole], best, where="post", color=COLOURS[1], label="best so far")
        left.set(xlabel="trial", ylabel=named(metric))
        left.legend()
        _robust_limits(left, [t.score for t in trials if t.state in (COMPLETE, PRUNED) and _finite(t.score)])
        winner = min(whole, key=lambda t: t.score or 0.0, default=None)
        for trial in trials:
            steps = sorted(trial.curve)
            chosen_one = trial is winner
            right.plot(
                steps,
                [trial.curve[step] for step in steps],
                "." if len(steps) < 2 else "--" if trial.number == 0 and not chosen_one else "-",
                color=COLOURS[1] if chosen_one else COLOURS[0] if trial.number == 0 else "0.75",
                linewidth=2.0 if chosen_one or trial.number == 0 else 0.8,
                zorder=3 if chosen_one else 2 if trial.number == 0 else 1,
                label="best" if chosen_one else "recipe" if trial.number == 0 else None,
            )
        right.set(xlabel="epoch", ylabel=named(metric))
        right.legend()
        # the ends of the recipe and of those that came to theirs are in view, whatever they began with
        ends = [t.score for t in trials if t.state == COMPLETE or t.number == 0]
        _robust_limits(right, [v for t in trials for v in t.curve.values() if _finite(v)], ends)
    return figure


def slices_figure(trials: Sequence[ShownTrial], keys: Sequence[str], metric: str, log: Sequence[str]) -> Figure:
    """Score against the value of each key, at most a dozen of them; colour is the number of the trial."""
    keys = list(keys)[:_MOST_SLICES]
    columns = min(len(keys), 3)
    rows = math.ceil(len(keys) / columns)
    shown = _scored(trials)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 0.3 + 2.6 * rows))
        parts = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in parts.flat[len(keys) :]:
            axes.set_visible(False)
        for i, (axes, key) in enumerate(zip(parts.flat, keys, strict=False)):
            places, labels = _places([t.values.get(key) for t in shown])
            for state, marker in ((COMPLETE, "o"), (PRUNED, "x")):
                of = np.array([t.state == state for t in shown], bool)
                if of.any():
                    numbers = [t.number for t in shown if t.state == state]
                    axes.scatter(
                        places[of], np.array([t.score for t in shown], float)[of], 18, numbers, marker=marker,
                        cmap=MAP, vmin=0, vmax=max(t.number for t in shown), linewidths=1.0,
                    )  # fmt: skip
            first = [j for j, t in enumerate(shown) if t.number == 0]
            axes.scatter(places[first], [shown[j].score for j in first], 80, facecolors="none", edgecolors=COLOURS[1])
            _dress(axes, "x", key in log and not labels, labels)
            axes.set_xlabel(named(key, 2 * _LABEL))
            if i % columns == 0:
                axes.set_ylabel(named(metric))
        _robust_limits(parts.flat[0], [t.score for t in shown])
    return figure


def parallel_figure(trials: Sequence[ShownTrial], keys: Sequence[str], metric: str, log: Sequence[str]) -> Figure:
    """Each trial a line through its values and its score: dark lines are the best, grey ones ended early."""
    shown = _scored(trials)
    scores = np.array([t.score for t in shown], float)
    columns = [(key, *_places([t.values.get(key) for t in shown])) for key in keys]
    heights = [_heights(places, labels, log=key in log) for key, places, labels in columns]
    whole = scores[[t.state == COMPLETE for t in shown]] if any(t.state == COMPLETE for t in shown) else scores
    # the colours are for those that came to their end, and a wild one is not to take them all
    low, high = (whole.min(), np.quantile(whole, 0.9)) if len(whole) else (0.0, 1.0)
    scale = Normalize(low, high if high > low else low + 1e-12, clip=True)
    heights.append(np.asarray(scale(scores), float))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 4.2))
        axes = figure.subplots()
        order = np.argsort(-scores)
        for i in order:
            complete = shown[i].state == COMPLETE
            colour = mpl.colormaps[MAP](scale(scores[i])) if complete else "0.85"
            axes.plot(
                range(len(heights)), [h[i] for h in heights], color=colour, linewidth=1.6 if complete else 0.7,
                alpha=0.9, zorder=2 if complete else 1,
            )  # fmt: skip
        for i in (j for j in range(len(shown)) if shown[j].number == 0):
            axes.plot(range(len(heights)), [h[i] for h in heights], "--", color=COLOURS[1], zorder=3, label="recipe")
        paper = {"facecolor": "w", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
        for x, (key, places, labels) in enumerate(columns):
            axes.axvline(x, color="0.4", linewidth=0.8)
            for height, text in _marks(places, labels, log=key in log):
                axes.text(
                    x + 0.02, height, named(text, 16), fontsize=7.5, va="center", color="0.2", zorder=4, bbox=paper
                )
        axes.axvline(len(columns), color="0.4", linewidth=0.8)
        names = [*(named(key.rpartition(".")[2], _LABEL) for key, *_ in columns), named(metric, _LABEL)]
        axes.set_xticks(range(len(names)), names)
        axes.set(yticks=[], ylim=(-0.04, 1.04), xlim=(-0.1, len(columns) + 0.1))
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        if any(t.number == 0 for t in shown):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1))
        figure.colorbar(ScalarMappable(scale, MAP), ax=axes, label=named(metric), pad=0.01, fraction=0.03)
    return figure


def _scored(trials: Sequence[ShownTrial]) -> list[ShownTrial]:
    return [t for t in trials if t.state in (COMPLETE, PRUNED) and _finite(t.score)]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _places(values: Sequence[Any]) -> tuple[NDArray[np.float64], list[str]]:
    """Where values lie on an axis: numbers at themselves; others one after the other, with their names."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.array(values, float), []
    labels = sorted({str(value) for value in values})
    return np.array([labels.index(str(value)) for value in values], float), labels


def _heights(places: NDArray[np.float64], labels: list[str], *, log: bool) -> NDArray[np.float64]:
    """Values between 0 and 1."""
    values = np.log10(places) if log and not labels else places
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def _marks(places: NDArray[np.float64], labels: list[str], *, log: bool) -> list[tuple[float, str]]:
    """Heights and texts of what stands along an axis: ends and middle, or every name."""
    if labels:
        return [(i / max(len(labels) - 1, 1) if len(labels) > 1 else 0.5, text) for i, text in enumerate(labels)]
    if not len(places) or places.min() == places.max():
        return [(0.5, f"{value:.3g}") for value in places[:1]]
    low, high = places.min(), places.max()
    middle = math.sqrt(low * high) if log else (low + high) / 2
    return [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]


def _dress(axes: Axes, axis: str, log: bool, labels: list[str]) -> None:
    if labels:
        axes.set_xticks(range(len(labels)), [named(text, 14) for text in labels])
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif log:
        axes.set_xscale("log")


def _robust_limits(axes: Axes, scores: Sequence[float | None], kept: Sequence[float | None] = ()) -> None:
    """Leave out of view what is far worse than most: a single wild trial is not to flatten all others.

    Args:
        axes: whose ordinate is set.
        scores: all that is drawn.
        kept: of these, what is in view unless it is far worse than most of its kind.
    """
    known, more = (np.array([one for one in group if one is not None], float) for group in (scores, kept))
    if len(known) < 4:
        return
    low, middle = np.quantile(known, [0, 0.5])
    top = min(known.max(), max(middle + 3 * (middle - low), np.quantile(more, 0.9) if len(more) else low))
    if top > low:
        axes.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low))
