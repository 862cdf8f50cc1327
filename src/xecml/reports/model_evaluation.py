"""Evaluate a model on files: predictions, numbers and plots in one folder, trivial predictors beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xecml import rootio
from xecml.data import source
from xecml.data.runs_of_files import check_covered, runs_in
from xecml.data.selected_events import Chosen, Cut, Left, look_at_files
from xecml.errors import InputError
from xecml.evaluation import metrics
from xecml.evaluation.event_identity import refuse_lacking
from xecml.evaluation.light_columns import light_columns
from xecml.evaluation.paired import Pair, compare_paired
from xecml.evaluation.periods import check_periods
from xecml.evaluation.real_data import Asked, RealData, measure
from xecml.evaluation.tables import (
    PREFIX,
    QUANTITIES,
    Columns,
    Table,
    column,
    impossible,
    quantities,
    read_table,
    same_events,
)
from xecml.evaluation.what_decides import WhatDecides
from xecml.events import TASKS, Chunk, number_of
from xecml.figures import real_data_pages, resolution_pages
from xecml.figures.what_decides import save_what_decides
from xecml.files import atomic_path, is_url
from xecml.inference import calibration_record
from xecml.inference.answer_counts import Answered
from xecml.inference.event_parts import Wanted, read_chosen
from xecml.inference.precision_loss import MEASURED_ON, PrecisionLoss, loss_of_answers
from xecml.inference.prediction_columns import PREDICTION_TREE, predict_chunks
from xecml.inference.trained_model import Model, TorchModel, load_model
from xecml.notebook import lines_html, table_html
from xecml.outputs import claim, making, mark
from xecml.pretrained import PREFIX as PREFIX_SHIPPED
from xecml.pretrained import model_file
from xecml.progress import Progress, progress
from xecml.reports.page.material import Material, with_conventional
from xecml.reports.page.model_facts import model_facts, recipe_text
from xecml.reports.page.report_page import write_page
from xecml.reports.page.sources import look_at_events
from xecml.reports.saliency import decided

Reference = Literal["truth", "reco"]
CONSTANT = "mean of training truth"
CENTROID = "light centroid"
FILES = ("predictions.root", "evaluation.json", "resolution.pdf", "report.html")
_ENOUGH = 20
"""Events with light and truth in each half of a sample, for the centroid to be corrected."""


@dataclass(frozen=True)
class Report:
    """An evaluation: the model first, then other models, then trivial predictors; and the files written.

    `calibrations` says of the models that are calibrated how, a sentence each; `cut` and `left` what was taken of
    the files and how many events that leaves; `data` is what was found where data are looked at, `pairs` the model
    beside each other one on the same events, and `inputs` what was read.
    """

    evaluations: list[metrics.Evaluation]
    files: dict[str, Path]
    answered: Answered
    calibrations: dict[str, str] = field(default_factory=dict)
    cut: Cut = field(default_factory=Cut)
    left: Left = field(default_factory=Left)
    device: str = "cpu"
    loss: PrecisionLoss | None = None
    """what a precision below 32 bits loses, where one was asked for"""
    data: RealData | None = None
    pairs: Sequence[Pair] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    decides: WhatDecides | None = None
    """what decides the model's answers, where that was asked for"""

    def sentences(self) -> list[str]:
        """What stands in no table: line, linearity and background, how others compare, what decides answers."""
        found = [*metrics.further_lines(self.evaluations[0]), *(s for pair in self.pairs for s in pair.sentences())]
        return found + (self.decides.sentences() if self.decides else [])

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "evaluations": [e.as_dict() for e in self.evaluations],
            "answers": self.answered.as_dict(),
            "calibrations": self.calibrations,
            "device": self.device,
            **({} if self.loss is None else {"loss": self.loss.as_dict()}),
            "comparisons": [pair.as_dict() for pair in self.pairs],
            "inputs": dict(self.inputs),
            **({"selected": {"cut": self.cut.named(), **self.left.as_dict()}} if self.cut else {}),
            **({"real_data": self.data.as_dict()} if self.data is not None else {}),
            **({"saliency": self.decides.as_dict()} if self.decides is not None else {}),
            "files": {name: str(path) for name, path in self.files.items()},
        }

    def headline(self) -> dict[str, float]:
        """The widths of the model alone, by quantity with its unit; all depths together."""
        model = self.evaluations[0]
        found = {
            f"{QUANTITIES[q].label} s68 [{QUANTITIES[q].unit}]": bins[metrics.ALL].s68
            for q, bins in model.figures.items()
            if metrics.ALL in bins
        }
        if metrics.ALL in model.opening:
            found["opening angle q68 [deg]"] = model.opening[metrics.ALL].q68
        return found

    def _repr_html_(self) -> str:
        """As a notebook shows it: the table of all depths, and what is to be said beside it."""
        tables = [table_html(headers, rows, title) for title, headers, rows in self.tables(depths=False)]
        lines = [*self.evaluations[0].warnings, *self.calibrations.values(), self.answered.line()]
        return "".join(tables) + lines_html(lines)

    def tables(self, *, depths: bool = True) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables to read: title, headers, rows; all depths together, then each bin of depth that has events.

        Args:
            depths: whether the bins of depth are among them.
        """
        model = self.evaluations[0]
        filled = [depth for depth, events in model.events.items() if events and (depths or depth == metrics.ALL)]
        return [(model.title(depth), *metrics.summary(self.evaluations, depth)) for depth in filled]


@making("evaluate")
def evaluate_files(
    model_path: str | Path,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    reference: Reference = "truth",
    tree: str = rootio.DEFAULT_TREE,
    cut: Cut | None = None,
    device: str = "cpu",
    precision: str = "float32",
    jobs: int | None = None,
    asked: Asked | None = None,
    saliency_events: int | None = None,
    force: bool = False,
) -> Report:
    """Predict files, measure against truth, and write predictions, `evaluation.json`, `resolution.pdf`, `report.html`.

    Args:
        model_path: checkpoint, exported model, or `pretrained:NAME`, as others may be.
        files: event files.
        out: folder for the results.
        others: further models (`.pth`, `.onnx`) or prediction files (`.root`) to stand beside it.
        reference: measure against truth or against reconstructed quantities.
        tree: name of the tree in the event files.
        cut: what is taken of the event files; all by default. Prediction files are compared as they are.
        device: where models are computed, see `xecml.inference.arithmetic`.
        precision: of checkpoints, the first and others; exported ones beside it have their own.
        jobs: batches that are computed side by side; as many as cores are free by default.
        asked: lines, edges, periods, conditions that are looked at, in `real_data.pdf`, which `reco` has in any case.
        saliency_events: on so many of the first events it is found what decides the answers, in `saliency.pdf`, too.
        force: replace existing files that this function did not make.

    Raises:
        InputError: unusable models or files, or files without the reference.
    """
    if reference not in PREFIX:
        raise InputError(f"Unknown reference '{reference}'; choose truth or reco.")
    model_path, others = model_file(model_path), [model_file(other) for other in others]
    folder = Path(out)
    looked_at = reference == "reco" or bool(asked)
    more = [name for name, wanted in (("real_data.pdf", looked_at), ("saliency.pdf", saliency_events)) if wanted]
    written = {name: folder / name for name in (*FILES, *more)}
    asked = asked or Asked()
    table_of_conditions = None if asked.conditions is None else asked.conditions.path
    claim(written.values(), inputs=[model_path, *others, table_of_conditions, *files], force=force)
    model = load_model(model_path, device=device, precision=precision, threads=1)
    _need_reference(model, files, tree, reference)
    cut, paths = cut or Cut(), source.expand(files)
    _need_runs(asked, paths, tree, model)
    chosen, left = look_at_files(paths, cut, tree, model.names) if cut else (None, Left())
    total = source.count_events(files, tree) if chosen is None else left.last
    # names are those of files; two models of one name are told apart by their folder
    names = _distinct([Path(model_path), *map(Path, others)])
    # what cannot be opened is found before the work
    opened = [_opened(other, device, precision) for other in others]
    models = {name: one for name, one in zip(names, [model, *opened], strict=True) if not isinstance(one, dict)}
    calibrations = {n: said for n, one in models.items() if (said := calibration_record.line(one.calibration))}
    decides = decided(model, paths, tree, chosen, saliency_events) if saliency_events else None
    with progress(total * (1 + sum(Path(o).suffix != ".root" for o in others)), "evaluate") as bar:
        loss = _loss(model, files, tree, chosen)
        table, centroid = _predict(model, files, tree, bar, chosen, answered := Answered(), jobs)
        tables: dict[str, Table] = {names[0]: table}
        for name, other in zip(names[1:], opened, strict=True):
            tables[name] = other if isinstance(other, dict) else _predict(other, files, tree, bar, chosen, jobs=jobs)[0]
    if not quantities(table, reference):
        raise InputError(_nothing(table, answered, files, reference))
    for name, one in zip(names[1:], opened, strict=True):
        if isinstance(one, dict):
            refuse_lacking(names[0], table, name, one)
    data = measure(tables, asked, reference, str(files[0])) if looked_at else None
    tables = with_conventional(tables, reference) | _trivial(model, table, centroid)
    results = metrics.compare(tables, reference=reference)
    evaluations = [replace(e, rival=e.name not in (CONSTANT, CENTROID)) for e in results]
    # trivial predictors differ from a model by more than anyone asks to be told
    knowing = {name: one for name, one in same_events(tables).items() if name not in (CONSTANT, CENTROID)}
    pairs = compare_paired(knowing, reference)
    rootio.write(written["predictions.root"], table, tree=PREDICTION_TREE)
    sample = ", ".join(Path(str(f)).name for f in files) + (f" ({cut.named()})" if cut else "")
    pages: list[Figure] = []
    resolution_pages.save_resolution_plots(
        written["resolution.pdf"],
        tables,
        reference=reference,
        evaluations=evaluations,
        title=f"{names[0]}{' (calibrated)' if names[0] in calibrations else ''} on {sample}",
        drawn=pages,
    )
    if data is not None:
        real_data_pages.save_real_data_plots(written["real_data.pdf"], data, title=sample)
    if decides is not None:
        save_what_decides(written["saliency.pdf"], decides, title=f"{names[0]} on {sample}")
    where = getattr(model, "device", "cpu")
    read = {"model": _whole(model_path), "files": [_whole(file) for file in files], "tree": tree}
    report = Report(evaluations, written, answered, calibrations, cut, left, where, loss, data, pairs, read, decides)
    _write_page(report, tables, f"{number_of(len(table['run']))} of {sample}", model, pages)
    with atomic_path(written["evaluation.json"]) as temporary:
        content = {"made_by": mark()} | report.as_dict()
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return report


def _write_page(report: Report, tables: Mapping[str, Table], sample: str, model: Model, pages: list[Figure]) -> None:
    """Write the page of the report; light of events is read again, and what cannot be is said on the page."""
    page = Material(
        f"Evaluation of {report.evaluations[0].name}",
        sample,
        same_events(tables),
        report.evaluations,
        pairs=report.pairs,
        reference=report.evaluations[0].reference,
        pages=pages,
        warnings=[*report.evaluations[0].warnings, *filter(None, [report.answered.line()])],
        decides=report.decides,
    )
    page.facts, page.recipe = model_facts(model_file(report.inputs["model"]), model), recipe_text(model)
    try:
        look_at_events(page, report.inputs["files"], report.inputs["tree"], model)
    except InputError as error:
        page.missing.append(f"Events and saliency: {error}")
    write_page(page, report.files["report.html"])


def _whole(path: str | Path) -> str:
    """A name that means the same from other folders; addresses and names of shipped models are such."""
    text = str(path)
    return text if is_url(text) or text.startswith(PREFIX_SHIPPED) else str(Path(text).absolute())


_NO_REFERENCE = {
    "truth": "{} has no true value of what the model predicts",
    "reco": "{} has no reconstructed value of what the model predicts",
}


def _need_reference(model: Model, files: Sequence[str | Path], tree: str, reference: Reference) -> None:
    """Refuse files without any branch to measure against, before anything is predicted."""
    if model.tasks == ("n_gamma",):
        raise InputError("The model predicts the number of photons alone, which has no resolution; use 'xec predict'.")
    of_task = {
        task: [TASKS[task].truth] if reference == "truth" else [b for b in [TASKS[task].reconstructed] if b]
        for task in TASKS
    }
    # directions are compared as angles, whichever way they are given; reconstructed ones go by the position
    of_task["angle"] = of_task["angleVec"] = (
        [*of_task["angle"], *of_task["angleVec"]] if reference == "truth" else of_task["uvwFI"]
    )
    wanted = sorted({branch for task in model.tasks for branch in of_task[task]})
    for path in source.expand(files):
        with source.open_events(path, tree, source.names_here(path, tree, model.names)) as reader:
            if any(reader.has(branch) for branch in wanted):
                return
    need = f"it needs {' or '.join(wanted)}" if wanted else f"there is none of {', '.join(model.tasks)}"
    hint = "to predict them use 'xec predict'" + (
        ", and to measure against reconstructed values --reference reco" if reference == "truth" else ""
    )
    raise InputError(f"{_NO_REFERENCE[reference].format(files[0])} ({need}); {hint}.")


def _need_runs(asked: Asked, paths: Sequence[str], tree: str, model: Model) -> None:
    """Refuse periods without events and runs that no conditions cover, before anything is predicted."""
    if asked.conditions is not None:
        check_covered(asked.conditions, paths, tree, model.names)
    if asked.periods:
        runs = [runs_in(path, tree, model.names, needs="--periods") for path in paths]
        check_periods({"run": np.concatenate(runs)}, asked.periods, paths[0])


def _nothing(table: Columns, answered: Answered, files: Sequence[str | Path], reference: Reference) -> str:
    """Why there is nothing to measure although there are branches to measure against."""
    if answered.without_count == answered.events:
        return f"No event of {files[0]} has a valid count, so that none is answered; look at it with 'xec check'."
    why = " ".join(impossible(table, reference))
    missing = f"{_NO_REFERENCE[reference].format(files[0])} in any event that was answered"
    return f"{missing}{f' ({why})' if why else ''}; look at it with 'xec check'."


def _opened(other: str | Path, device: str, precision: str) -> Columns | Model:
    """A further model, or a prediction file."""
    if Path(other).suffix == ".root":
        return read_table(other)
    own = "float32" if Path(other).suffix == ".onnx" else precision
    return load_model(other, device=device, precision=own, threads=1)


def _loss(
    model: Model, files: Sequence[str | Path], tree: str, chosen: Mapping[str, Chosen] | None
) -> PrecisionLoss | None:
    """What the model's precision loses on the first events; none where it is computed in 32 bits."""
    if not isinstance(model, TorchModel) or model.precision == "float32":
        return None
    wanted = Wanted(model.branches, model.names, tree, MEASURED_ON)
    read = next(read_chosen(source.expand(files), wanted, chosen), None)
    return None if read is None else loss_of_answers(model, *(read.chunk[branch] for branch in model.branches))


def _predict(
    model: Model,
    files: Sequence[str | Path],
    tree: str,
    bar: Progress,
    chosen: Mapping[str, Chosen] | None,
    answered: Answered | None = None,
    jobs: int | None = None,
) -> tuple[Columns, NDArray[np.float64]]:
    """Prediction table of all events, and the light centroids (N, 2) in cm."""
    parts: list[Chunk] = []
    centroids = []
    for chunk, columns in predict_chunks(model, files, tree=tree, answered=answered, chosen=chosen, jobs=jobs):
        parts.append(columns | light_columns(chunk[model.branches[0]]))
        centroids.append(metrics.light_centroid(chunk[model.branches[0]]))
        bar.advance(len(columns["run"]))
    if not parts:
        raise InputError(f"{files[0]} holds no events; name files with events.")
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in shared}, np.concatenate(centroids)


def _trivial(model: Model, table: Columns, centroid: NDArray[np.float64]) -> dict[str, Columns]:
    """Predictors that know nothing: the training sample's mean, and the corrected centroid of the light."""
    tables = {}
    if model.truth_means:
        tables[CONSTANT] = metrics.constant_table(table, model.truth_means)
    if {"true_u", "true_v"} <= table.keys():
        truth = np.stack([column(table, name) for name in ("true_u", "true_v")], 1)
        known = np.isfinite(np.concatenate([centroid, truth], 1).sum(1))
        if min(known[half::2].sum() for half in (0, 1)) >= _ENOUGH:
            tables[CENTROID] = metrics.centroid_table(table, _cross_fitted(centroid, truth))
    return tables


def _cross_fitted(centroid: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centroids corrected linearly, each half of the events with the coefficients of the other half."""
    corrected = np.empty_like(centroid)
    for half in (0, 1):
        coefficients = metrics.fit_linear(centroid[half::2], truth[half::2])
        corrected[1 - half :: 2] = metrics.apply_linear(coefficients, centroid[1 - half :: 2])
    return corrected


def _distinct(paths: Sequence[Path]) -> list[str]:
    """Short names of files that differ from one another."""
    for parts in range(1, 8):
        names = ["/".join(p.parts[-parts:]) for p in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"The same model is named twice: {paths[0]}.")
