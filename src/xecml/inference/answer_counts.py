"""How many events a model answered, how many it could not, and how many on fewer sensors than it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from xecml.data.coverage import Coverage, short_faces, short_times
from xecml.events import TASKS, number_of
from xecml.geometry import FACES
from xecml.inference.training_comparison import UNKNOWN, Compared, Comparison, Training
from xecml.models.answerable import beyond_ends


class _Model(Protocol):
    tasks: tuple[str, ...]
    truth_ends: dict[str, tuple[float, float]]

    @property
    def usual_sensors(self) -> NDArray[np.float32]: ...


_MANY_BEYOND, _LEAST_BEYOND = 0.002, 5
"""Share of events that is worth a word, and the least number: some of the ends' own come out beyond by chance."""


def beyond_training(model: _Model, answers: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Events by task whose answers (B,) certainly lie beyond the truth of the training, where answers saturate."""
    found = {}
    for task, ends in model.truth_ends.items():
        sigma = answers.get(f"sigma_{task}")
        answer, width = (None if y is None else torch.from_numpy(np.asarray(y)) for y in (answers[task], sigma))
        assert answer is not None
        past = beyond_ends(answer, width, *(answer.new_tensor(end) for end in ends))
        found[task] = int((past > 1).sum())
    return found


class Answered:
    """Numbers of events, summed over chunks.

    Attributes:
        events: all of them.
        without_count: those without any valid count, of which nothing is answered.
        without_time: those with a count, but without any valid time, of which the time is not answered.
        few: those answered on fewer counts than the training sample had; `faces` (6,) has them by face.
        few_times: those answered on fewer times.
        beyond: events by task whose answer lies beyond the truth of the training; `ends` has the ends of that.
        comparison: of all of them with the training sample, where it is known.
    """

    comparison: Comparison | None = None

    def __init__(self) -> None:
        self.events = self.without_count = self.without_time = self.few = self.few_times = 0
        self.faces = np.zeros(len(FACES), np.int64)
        self._times, self._usual, self._unknown = False, False, False
        self.beyond: dict[str, int] = {}
        self.ends: dict[str, tuple[float, float]] = {}

    def add(self, found: Coverage, model: _Model, beyond: Mapping[str, int] | None = None) -> None:
        """Add what was measured in a chunk that a model has answered, and what `beyond_training` says of it."""
        counted = found.counted()
        short = short_faces(found, model.usual_sensors)
        self.events += len(counted)
        self.without_count += int((~counted).sum())
        self.without_time += int((counted & ~found.n_timed.any(1)).sum())
        self.few += int(short.any(1).sum())
        self.few_times += int(short_times(found, model.usual_sensors).any(1).sum())
        self.faces += short.sum(0)
        self.ends = model.truth_ends
        for task, number in (beyond or {}).items():
            self.beyond[task] = self.beyond.get(task, 0) + number
        self._times, self._usual = (
            any(TASKS[task].needs == "time" for task in model.tasks),
            bool(model.usual_sensors.any()),
        )

    def compare(
        self, training: Training | None, compared: Compared | None, outlier: NDArray[np.float32] | None
    ) -> None:
        """Add how the events of a chunk compare with the training sample; all None where it is not known."""
        if training is None:
            self._unknown = True
            return
        if self.comparison is None:
            self.comparison = Comparison(training)
        if compared is not None and outlier is not None:
            self.comparison.add(compared, outlier)

    def line(self) -> str:
        """One line about events with missing answers or missing input; empty if there are none.

        What the comparison with the training says of sensors without a count or a time is not said twice.
        """
        unlike = "" if self.comparison is None else self.comparison.line()
        named = set() if self.comparison is None else self.comparison.missing()
        said = []
        if self.without_count:
            said.append(f"{self.without_count} not answered (no valid count)")
        if self.without_time and self._times:
            said.append(f"{self.without_time} without an answer for the time (no valid time)")
        if self.few and "counts" not in named:
            faces = ", ".join(f"{face} {n}" for face, n in zip(FACES, self.faces, strict=True) if n)
            said.append(f"{self.few} answered on fewer sensors than the training had ({faces})")
        if self.few_times and "times" not in named:
            said.append(f"{self.few_times} answered on fewer times than the training had")
        said += [
            f"{n} with a predicted {task} outside the range of the training ({self._range(task)}), whose true {task} "
            "lies further outside"
            for task, n in self.beyond.items()
            if n >= max(_LEAST_BEYOND, _MANY_BEYOND * self.events)
        ]
        if self.comparison is not None and not unlike and self.comparison.many_outliers():
            said.append(self.comparison.outliers_in_words())
        counted = f"Of {number_of(self.events)}: {'; '.join(said)}." if said else ""
        return " ".join(part for part in (unlike and f"Warning: {unlike}", counted, self._unknown and UNKNOWN) if part)

    def _range(self, task: str) -> str:
        low, high = (end * TASKS[task].plot_scale for end in self.ends[task])
        return f"{low:.4g} to {high:.4g} {TASKS[task].plot_unit}"

    def as_dict(self) -> dict[str, Any]:
        """The numbers for JSON; `few_...` are none where the model does not know what its training had."""
        faces = {face: int(n) for face, n in zip(FACES, self.faces, strict=True) if n}
        return {
            "no_valid_count": self.without_count,
            "no_valid_time": self.without_time,
            "few_sensors": {"events": self.few, "faces": faces} if self._usual else None,
            "few_times": self.few_times if self._usual else None,
            "beyond_training": {task: self.beyond.get(task, 0) for task in self.ends},
            **({} if self.comparison is None else {"training": self.comparison.as_dict()}),
        }
