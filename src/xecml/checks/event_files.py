"""Whether event files can be used: branches, units, ranges, dead faces, dead and hot sensors, duplicates.

Files are read once, in chunks; memory does not grow with them but for eight bytes an event, which find
duplicates. An error means that the file should not be used as it is, a warning that one should know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.checks.conditions_of_runs import ByRun
from xecml.checks.distributions import Distribution, Distributions
from xecml.checks.rules import RULES, Finding, Marks, Rule, Severity, listing
from xecml.checks.sensor_occupancy import MIN_EVENTS_SENSOR, SensorStatistics, SensorSums, sensor_findings
from xecml.conditions import Correction
from xecml.conditions_file import earlier_of, refuse_twice
from xecml.data.runs_of_files import check_covered
from xecml.data.source import Events, expand, open_events
from xecml.errors import InputError
from xecml.events import (
    BRANCHES,
    ID_BRANCHES,
    SENSOR_BRANCHES,
    TASKS,
    TRUTH_BRANCHES,
    Chunk,
    measured,
    number_of,
    valid_counts,
    valid_times,
)
from xecml.geometry import face_codes
from xecml.notebook import table_html
from xecml.rootio import DEFAULT_TREE, ranges

PAIRS = (("npho", "time"), ("relative_npho", "relative_time"))
_COUNT_OF = {time: npho for npho, time in PAIRS}
_NOTHING = "Nothing to remark."


@dataclass(frozen=True)
class CheckReport:
    """What was found in one or several files taken together."""

    files: tuple[str, ...]
    tree: str
    n_events: int
    present: tuple[str, ...]
    absent: tuple[str, ...]
    sensors: SensorStatistics | None
    findings: tuple[Finding, ...]
    distributions: tuple[Distribution, ...] = ()
    tasks: tuple[str, ...] = ()
    """Tasks whose truth is in all files, and can be learnt from what else is in them."""
    conditions: str = ""
    """The table of conditions that was applied, with its ranges of runs."""
    corrected: tuple[dict[str, Any], ...] = ()
    """Conditions that were applied, here or when the files were made."""

    @property
    def usable(self) -> bool:
        """Whether there is no error among the findings."""
        return all(f.severity != "error" for f in self.findings)

    @property
    def predictable(self) -> bool:
        """Whether there are counts and times, which every job needs."""
        return any(all(branch in self.present for branch in pair) for pair in PAIRS)

    def rows(self) -> list[tuple[str, str, str]]:
        """Rows (subject, verdict, sentence) for a table: facts, faces, findings with errors first, the verdict."""
        rows = [
            ("events", "", f"{self.n_events} in {len(self.files)} file(s), tree '{self.tree}'{self._unanswered()}"),
            ("branches", "", ", ".join(self.present) or "none known"),
            ("absent", "", ", ".join(self.absent) or "none"),
            ("jobs", "", self._jobs()),
        ]
        rows += [("conditions", "", self.conditions)] if self.conditions else []
        rows += [(f"face {face}", "", text) for face, text in self._faces().items()]
        if 0 < self.n_events < MIN_EVENTS_SENSOR:
            rows.append(("sensors", "", f"below {MIN_EVENTS_SENSOR} events none is called dead or hot"))
        rows += [(f.where, f.severity, f.message) for f in self.findings]
        return [*rows, ("verdict", *self.verdict())]

    def verdict(self) -> tuple[str, str]:
        """`ok` or `error`, and the sentence to remember."""
        if not self.usable:
            return "error", "Should not be used as it is."
        if not self.tasks:
            return "ok", "No truth: predict yes, train regress and evaluate no."
        return "ok", f"Can be used, with {number_of(len(self.findings), 'warning')}." if self.findings else _NOTHING

    def _jobs(self) -> str:
        """Which jobs the files serve, by the branches that they have."""
        if not self.predictable or not self.n_events:
            return f"none: there are no {'counts and times' if self.n_events else 'events'}"
        truth = f"yes ({', '.join(self.tasks)})" if self.tasks else "no, there is no truth"
        return f"predict, inpaint, train mae and inpaint: yes; train regress and evaluate: {truth}"

    def _unanswered(self) -> str:
        """How many events a model has no answer for, for the line of events."""
        if self.sensors is None or not self.n_events:
            return ""
        count, time = self.sensors.without_count, self.sensors.without_time
        if not count + time:
            return "; none is without a valid count or time"
        return f"; {count} without any valid count, {time} more without any valid time"

    def text(self) -> str:
        """The rows as lines of plain text."""
        rows = self.rows()
        wide = max(len(subject) for subject, *_ in rows)
        return "\n".join(f"{subject:<{wide}}  {verdict:<7}  {sentence}" for subject, verdict, sentence in rows)

    def _faces(self) -> dict[str, str]:
        if self.sensors is None:
            return {}
        dead, hot = (np.bincount(face_codes()[i], minlength=6) for i in (self.sensors.dead(), self.sensors.hot()))
        shares = self.sensors.dead_fraction()
        return {
            face: f"{100 * share:.3g} % of counts invalid, {dead[i]} dead and {hot[i]} hot sensors"
            + (f" ({100 * shares[face]:.3g} % dead)" if dead[i] else "")
            for i, (face, share) in enumerate(self.sensors.invalid_fraction().items())
        }

    def _repr_html_(self) -> str:
        """As a notebook shows it: the rows that the command prints."""
        return table_html(["", "", ""], self.rows())

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        sensors = self.sensors
        return {
            "files": list(self.files),
            "tree": self.tree,
            "n_events": self.n_events,
            "usable": self.usable,
            "predictable": self.predictable,
            "tasks": list(self.tasks),
            "events_without_count": None if sensors is None else sensors.without_count,
            "events_without_time": None if sensors is None else sensors.without_time,
            "branches": list(self.present),
            "absent": list(self.absent),
            "conditions": list(self.corrected),
            "invalid_fraction": {} if sensors is None else sensors.invalid_fraction(),
            "dead_fraction": {} if sensors is None else sensors.dead_fraction(),
            "dead_channels": [] if sensors is None else sensors.dead().tolist(),
            "hot_channels": [] if sensors is None else sensors.hot().tolist(),
            "findings": [{"severity": f.severity, "where": f.where, "message": f.message} for f in self.findings],
        }


def check_files(
    files: str | Path | Iterable[str | Path],
    tree: str = DEFAULT_TREE,
    *,
    names: Mapping[str, str] | None = None,
    chunk_events: int = 500,
    correction: Correction | None = None,
) -> CheckReport:
    """Read event files and report whether they can be used.

    Args:
        files: path, glob, directory, URL, shards, or a list of them; judged together.
        tree: name of the tree.
        names: canonical branch name -> name in the files.
        chunk_events: events in memory at a time.
        correction: conditions by run, which are held against the events and applied before these are judged.

    Raises:
        InputError: a file is missing, is not a ROOT file, is damaged, or has no such tree.
    """
    paths = expand(files)
    records = earlier_of(paths)
    if correction is not None:
        refuse_twice(paths, correction.what)
        check_covered(correction.conditions, paths, tree, names)
    scan = _Scan(correction)
    for path in paths:
        with open_events(path, tree, names) as reader:
            branches = scan.open(reader)
            for start, stop in ranges(reader.boundaries(branches), chunk_events) if branches else ():
                scan.add(reader.arrays(branches, start, stop), path)
    records += [] if correction is None else [correction.record("check")]
    return replace(scan.report(tuple(paths), tree), corrected=tuple(records))


class _Scan:
    """Running sums over chunks, and the judgement on them."""

    def __init__(self, correction: Correction | None = None) -> None:
        self.by_run = None if correction is None else ByRun(correction)
        self.n_events = 0
        self.files_with: Counter[str] = Counter()
        self.n_files = 0
        self.misshapen: dict[str, str] = {}
        self.not_finite: Counter[str] = Counter()
        self.not_measured: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.broken: Counter[int] = Counter()
        self.examined: Counter[int] = Counter()
        self.ids: list[NDArray[np.int64]] = []
        self.empty_files: list[str] = []
        self.not_closed: list[str] = []
        self.sensors: SensorSums | None = None
        self.distributions = Distributions()

    def open(self, reader: Events) -> list[str]:
        """Note what a file holds, and return the branches that can be read."""
        self.n_files += 1
        if reader.n_events == 0:
            self.empty_files.append(reader.path)
        if getattr(reader, "lost_bytes", 0):
            self.not_closed.append(reader.path)
        known = reader.known()
        self.files_with.update(known)
        return [b for b in known if self._has_right_shape(reader, b)]

    def _has_right_shape(self, reader: Events, branch: str) -> bool:
        try:
            reader.arrays([branch], 0, min(1, reader.n_events))
        except InputError as error:
            # damage has a cause of the reader's; a wrong shape is the file's own doing
            if error.__cause__ is not None and not isinstance(error.__cause__, ValueError):
                raise
            self.misshapen[branch] = str(error)
            return False
        return True

    def add(self, chunk: Chunk, path: str = "") -> None:
        """Add the events of a chunk of a file to all sums."""
        if self.by_run is not None:
            if pair := next((p for p in PAIRS if p[0] in chunk), None):
                self.by_run.add(path, chunk, {b: _measured(chunk, b) for b in pair if b in chunk}, pair)
            chunk = self.by_run.correction(path, chunk)
        self.n_events += len(next(iter(chunk.values()), ()))
        measured = {b: _measured(chunk, b) for b in chunk}
        for b, values in chunk.items():
            finite = np.isfinite(values)
            self.not_finite[b] += int(values.size - finite.sum())
            if b not in SENSOR_BRANCHES:
                self.not_measured[b] += int(len(values) - measured[b].sum())
            self.entries[b] += len(values)
        for i, rule in enumerate(RULES):
            self._apply(i, rule, chunk, measured)
        self._add_sensors(chunk, measured)
        self.distributions.add(chunk, measured)
        if "run" in chunk and "event" in chunk:
            run, event = chunk["run"].astype(np.int64), chunk["event"].astype(np.int64)
            self.ids.append((run << 32) + (event & 0xFFFFFFFF))

    def _apply(self, i: int, rule: Rule, chunk: Chunk, measured: Mapping[str, Marks]) -> None:
        if not all(b in chunk for b in rule.branches):
            return
        good = np.logical_and.reduce([measured[b] for b in rule.branches])
        with np.errstate(all="ignore"):  # a vector of zero length is for another rule to find
            marks = rule.broken(*(chunk[b][good] for b in rule.branches))
        self.examined[i] += len(marks)
        self.broken[i] += int(marks.sum())

    def _add_sensors(self, chunk: Chunk, measured: Mapping[str, Marks]) -> None:
        if self.sensors is None:
            pair = next((p for p in PAIRS if p[0] in chunk), None)
            self.sensors = None if pair is None else SensorSums(*pair)
        if self.sensors is not None:
            self.sensors.add(chunk, measured)

    # ------------------------------------------------------------------------------------------- judgement

    def report(self, files: tuple[str, ...], tree: str) -> CheckReport:
        """Judge the sums."""
        sensors = None if self.sensors is None else self.sensors.statistics()
        findings = [*self._structure(tree), *self._values(), *self._duplicates()]
        if sensors is not None:
            findings += sensor_findings(sensors, None if self.by_run is None else self.by_run.always_dead())
        findings += [] if self.by_run is None else self.by_run.findings()
        findings.sort(key=lambda f: f.severity)  # "error" before "warning"
        present = tuple(b for b in BRANCHES if self.files_with[b])
        absent = tuple(b for b in BRANCHES if not self.files_with[b])
        shown = self.distributions.collected()
        tasks = self._tasks() if any(all(b in present for b in pair) for pair in PAIRS) else ()
        said = "" if self.by_run is None else self.by_run.line()
        return CheckReport(files, tree, self.n_events, present, absent, sensors, tuple(findings), shown, tasks, said)

    def _tasks(self) -> tuple[str, ...]:
        """Tasks whose truth was measured in some event and stands in all files; see `CheckReport.tasks`."""
        whole = {b for b in self.files_with if self.files_with[b] == self.n_files and b not in self.misshapen}
        known = [t for t, task in TASKS.items() if task.truth in whole and self._some_measured(task.truth)]
        # neither scale nor clock is in relative quantities
        return tuple(t for t in known if not TASKS[t].absolute or TASKS[t].needs in whole)

    def _some_measured(self, branch: str) -> bool:
        return self.entries[branch] > self.not_measured[branch]

    def _structure(self, tree: str) -> list[Finding]:
        found = [Finding("error", b, message) for b, message in self.misshapen.items()]
        if len(self.empty_files) == self.n_files:
            found.append(Finding("error", tree, f"The tree '{tree}' has no events."))
        elif self.empty_files:
            found.append(Finding("warning", tree, f"{listing(self.empty_files)} has no events."))
        if self.not_closed:
            text = f"{listing(self.not_closed)} was not closed: what was filled after its last save is lost."
            found.append(Finding("warning", tree, text))
        pairs = [p for p in PAIRS if all(self.files_with[b] for b in p)]
        if not pairs:
            found.append(
                Finding(
                    "error",
                    tree,
                    "There is no pair of npho and time, nor of relative_npho and relative_time.",
                )
            )
        elif pairs[0] != PAIRS[0]:
            text = "Counts and times are relative only: energy and absolute time cannot be learnt from them."
            found.append(Finding("warning", tree, text))
        partial = [b for b in BRANCHES if 0 < self.files_with[b] < self.n_files]
        if partial:
            found.append(Finding("warning", tree, f"Only some of the files have {listing(partial)}."))
        if any(not self.files_with[b] for b in ID_BRANCHES):
            found.append(Finding("warning", tree, "The events have no run and event numbers."))
        return found

    def _values(self) -> list[Finding]:
        found = []
        for b, number in self.not_finite.items():
            if number:
                severity: Severity = "error" if b in TRUTH_BRANCHES else "warning"
                what = "they count as not measured." if b in SENSOR_BRANCHES else "mend or leave out these events."
                found.append(Finding(severity, b, f"{b} holds {number} NaN or infinite values; {what}"))
        for b, number in self.not_measured.items():
            if number > self.not_finite[b]:
                text = f"{b} is not measured (1e10 or not finite) in {number} of {self.entries[b]} events."
                found.append(Finding("warning", b, text))
        return found + self._broken_rules()

    def _broken_rules(self) -> list[Finding]:
        found: list[Finding] = []
        wrong: set[str] = set()
        for i, rule in enumerate(RULES):
            share = self.broken[i] / max(self.examined[i], 1)
            if share <= rule.above or wrong.intersection(rule.branches):
                continue
            if rule.severity == "error":
                wrong.update(rule.branches)
            name = rule.branches[0]
            text = rule.sentence.format(branch=name, share=f"{100 * share:.3g} %")
            found.append(Finding(rule.severity, name, text))
        return found

    def _duplicates(self) -> list[Finding]:
        if not self.ids:
            return []
        ids = np.concatenate(self.ids)
        repeated = len(ids) - len(np.unique(ids))
        text = (
            f"{number_of(repeated)} {'repeats' if repeated == 1 else 'repeat'} the run and event number of another; "
            "are files or seeds used twice?"
        )
        return [Finding("warning", "event", text)] if repeated else []


def _measured(chunk: Chunk, branch: str) -> Marks:
    """Mask of measured values: (events, 4760) of sensor branches, (events,) of others."""
    values = chunk[branch]
    if branch in SENSOR_BRANCHES:
        if not branch.endswith("time"):
            return valid_counts(values)
        count = _COUNT_OF[branch]
        return valid_times(chunk[count] if count in chunk else np.ones_like(values), values)
    below = measured(values)
    return below if values.ndim == 1 else np.asarray(below.all(axis=-1))
