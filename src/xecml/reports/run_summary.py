"""The present state of a run, from its folder: progress, curves, metrics of its best and its last epoch."""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from xecml.errors import InputError
from xecml.events import number_of
from xecml.figures.style import COLOURS, LINES, STYLE, as_svg, named
from xecml.notebook import lines_html, table_html
from xecml.training.metrics_logging import METRICS


@dataclass(frozen=True)
class RunSummary:
    """A run; in a notebook it shows itself.

    Attributes:
        folder: of the run.
        epochs: numbers of each whole epoch, as `metrics.jsonl` has them.

    Raises:
        InputError: the folder has no metrics.
    """

    folder: Path
    epochs: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        path = Path(self.folder) / METRICS
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(
                f"{self.folder} is no folder of a run: {METRICS} cannot be read ({error.strerror}); name one, such as "
                "artifacts/first."
            ) from error
        found = []
        for line in text.splitlines():
            try:
                values = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            if isinstance(values, dict) and isinstance(values.get("epoch"), int):
                found.append(values)
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "epochs", found)

    @property
    def best(self) -> dict[str, Any]:
        """The epoch of the lowest validation loss; empty where none was validated."""
        validated = [one for one in self.epochs if _number(one.get("val/loss"))]
        return min(validated, key=lambda one: float(one["val/loss"]), default={})

    def curves(self) -> Figure:
        """Losses and learning rate by epoch."""
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(9.0, 3.2))
            left, right = figure.subplots(1, 2)
            for name, colour, dashes in zip(("train/loss", "val/loss"), COLOURS, LINES, strict=False):
                shown = [one for one in self.epochs if _number(one.get(name))]
                style = {"ls": dashes} if len(shown) > 1 else {"ls": "", "marker": "o"}
                left.plot(
                    [one["epoch"] for one in shown], [one[name] for one in shown], color=colour, label=name, **style
                )
            left.set(xlabel="epoch", ylabel="loss", title=named(self.folder.name))
            left.legend()
            shown = [one for one in self.epochs if _number(one.get("train/lr"))]
            right.plot([one["epoch"] for one in shown], [one["train/lr"] for one in shown], color=COLOURS[2])
            right.set(xlabel="epoch", ylabel="learning rate")
        return figure

    def lines(self) -> list[str]:
        """What is to be said in words."""
        seconds = sum(one.get("system/epoch_duration_sec") or 0.0 for one in self.epochs)
        found = [
            f"Run {self.folder}: {number_of(len(self.epochs), 'epoch')} in {seconds / 60:.1f} minutes of training."
        ]
        if self.best:
            found.append(f"Best epoch {self.best['epoch']}: validation loss {self.best['val/loss']:.5g}.")
        return found

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headers and rows: numbers of the validation in the best and in the last epoch."""
        last, best = (self.epochs[-1] if self.epochs else {}), self.best
        names = [name for name in {**best, **last} if name.startswith("val/")]
        rows = [[name.removeprefix("val/"), *(_text(one.get(name)) for one in (best, last))] for name in names]
        return ["validation", f"best ({best.get('epoch', '-')})", f"last ({last.get('epoch', '-')})"], rows

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        alt = html.escape(f"Losses and learning rate of {self.folder}")
        picture = f'<img alt="{alt}" src="{as_svg(self.curves())}">' if self.epochs else ""
        return lines_html(self.lines()) + picture + table_html(*self.table())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _text(value: Any) -> str:
    return f"{value:.5g}" if _number(value) else ""
