"""The content of a report page; everything except the predictions may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from matplotlib.figure import Figure

from xecml.evaluation.event_identity import aligned
from xecml.evaluation.metrics import Evaluation, evaluate
from xecml.evaluation.paired import Pair, compare_paired
from xecml.evaluation.saliency import Saliency
from xecml.evaluation.stored_tables import Reconstructed
from xecml.evaluation.tables import Reference, Table, quantities
from xecml.evaluation.what_decides import WhatDecides
from xecml.reports.page.model_facts import Facts
from xecml.reports.page.shown_events import Found

CONVENTIONAL = "conventional reconstruction"


@dataclass
class Material:
    """Everything that a page shows; of a training that rebuilds sensors without tables and evaluations.

    Attributes:
        title: heading of the page.
        sample: what the numbers are of, in words.
        tables: predictions by name: the model, other models, then what knows little.
        evaluations: of the tables, in their order.
        pairs: the model beside each of the others on the same events.
        reference: what residuals are taken to.
        facts: what the model is.
        recipe: of its training, as YAML.
        epochs: lines of `metrics.jsonl`.
        saliency: derivatives of its answers.
        decides: what decides its answers, where that was asked for.
        events: to draw.
        validated: numbers of the last validation by name, of a training that rebuilds sensors.
        rebuilt: captions and pictures of events that it rebuilt.
        warnings: to be read first.
        pages: resolution pages, if they are drawn already.
        missing: why parts of the page are not there, a sentence each.
    """

    title: str
    sample: str
    tables: Mapping[str, Table]
    evaluations: Sequence[Evaluation]
    pairs: Sequence[Pair] = ()
    reference: Reference = "truth"
    facts: Facts = field(default_factory=list)
    recipe: str = ""
    epochs: Sequence[Mapping[str, Any]] = ()
    saliency: Saliency | None = None
    decides: WhatDecides | None = None
    events: list[Found] = field(default_factory=list)
    validated: dict[str, float] = field(default_factory=dict)
    rebuilt: list[tuple[str, Figure]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pages: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def with_conventional(tables: Mapping[str, Table], reference: Reference) -> dict[str, Table]:
    """The tables, and the file's own reconstruction (columns `reco_`) beside them where there is one and truth."""
    found = dict(tables)
    first = next(iter(tables.values()))
    if reference == "truth" and any(name.startswith("reco_") for name in first):
        table = Reconstructed(first)
        if quantities(table, reference):
            found[CONVENTIONAL] = table
    return found


def of_tables(title: str, sample: str, tables: Mapping[str, Table], reference: Reference = "truth") -> Material:
    """Evaluate tables of the same events, the model's first, and compare them in pairs.

    Raises:
        InputError: they are not of the same events, which are named, or predict nothing with a reference.
    """
    found = aligned(with_conventional(tables, reference))
    evaluations = [evaluate(table, name, reference=reference) for name, table in found.items()]
    # each of them claims to know something
    rivals = [replace(e, rival=i > 0) for i, e in enumerate(evaluations)]
    warnings = [f"{e.name}: {w}" if len(rivals) > 1 else w for e in rivals for w in e.warnings]
    return Material(
        title, sample, found, rivals, pairs=compare_paired(found, reference), reference=reference, warnings=warnings
    )
