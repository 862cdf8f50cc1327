"""Predict files of any size: read, computed and written at the same time, in as many files as asked for."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xecml import rootio
from xecml.conditions import Correction
from xecml.conditions_file import TREE, as_text, earlier_of, refuse_twice
from xecml.data import source
from xecml.data.runs_of_files import check_covered
from xecml.errors import InputError
from xecml.events import Chunk
from xecml.inference.answer_counts import Answered
from xecml.inference.event_parts import CARRIED, Part, Wanted, as_stored, read_parts
from xecml.inference.precision_loss import MEASURED_ON, PrecisionLoss, loss_of_answers
from xecml.inference.prediction_columns import OF_EVENTS, PREDICTION_TREE, Answer, answers_in_order, chunk_events
from xecml.inference.prediction_outputs import Output, named_outputs, piece_path, planned
from xecml.inference.prediction_record import RECORD, Records, check_no_more, conditions_option, model_record
from xecml.inference.prediction_writers import PredictionFile, described_in
from xecml.inference.trained_model import Model, TorchModel
from xecml.inference.without_pileup import LEAST_SHARE, PILEUP_SHARE, WithoutPileup
from xecml.outputs import claim, making
from xecml.progress import Progress, progress

_OF_FRIENDS = ("run", "event", "n_valid", "n_timed", *OF_EVENTS, "opening_angle")
"""Columns of a friend besides answers; the rest stands in its file."""
_NONE = np.empty(0, np.float32)


@dataclass(frozen=True)
class Report:
    """What a prediction run did."""

    out: Path
    """the first output"""
    events: int
    """in all outputs"""
    seconds: float
    tasks: tuple[str, ...]
    answered: Answered
    corrected: tuple[dict[str, Any], ...] = ()
    """Conditions that were applied, here or before."""
    outputs: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    """outputs that stood there, whole and of this prediction"""
    predicted: int = 0
    """events of the others"""
    loss: PrecisionLoss | None = None
    cleaned: int | None = None
    """events from which light of further photons was removed; None where it was not looked for"""


@making("predict")
def predict_files(
    model: Model,
    files: Sequence[str | Path],
    out: str | Path | None,
    *,
    tree: str = rootio.DEFAULT_TREE,
    model_path: str | Path | None = None,
    correction: Correction | None = None,
    jobs: int | None = None,
    keep: Sequence[str] = (),
    chunk: int | None = None,
    friend: bool = False,
    ntuple: bool = False,
    force: bool = False,
) -> Report:
    """Write the predictions of all events of files, atomically; memory does not grow with the input.

    Args:
        model: what predicts.
        files: event files.
        out: file to write, ending in .root, .parquet or .csv; a folder or a name with a `*` writes one for each input.
        tree: name of the tree in the event files.
        model_path: file that the model comes from, which no output must be.
        correction: of counts and times by the conditions of their runs; what was applied stands in the output.
        jobs: chunks that are computed side by side; answers do not depend on it. As many as cores are free by default.
        keep: branches that are passed through in their own type and shape, in this order behind the other columns.
        chunk: events a piece: OUT_0000.root, ... Pieces that an earlier call finished are kept.
        friend: write only what the input does not have, an entry for each of its entries, for TTree::AddFriend; without
            `out` beside each input.
        ntuple: write RNTuples in place of TTrees.
        force: replace existing files that this function did not make, and pieces of other predictions.

    Raises:
        InputError: input or output are unusable, there are no events, or files that go into one output differ in their
            branches.
    """
    started = time.monotonic()
    paths = source.expand(files)
    if friend and chunk is not None:
        raise InputError(
            "A friend tree has one entry for each entry of its file and cannot be written in pieces; leave --chunk or "
            "--friend out."
        )
    if chunk is not None and model_path is None:
        raise ValueError("pieces are recognised by their model's file: give model_path")
    named = named_outputs(out, paths, friend=friend, ntuple=ntuple)
    counts = {path: source.count_events(path, tree) for path in dict.fromkeys(paths)}
    outputs = planned(named, [counts[path] for path in paths], chunk)
    table = None if correction is None else correction.conditions.path
    wanted = Wanted(model.branches, model.names, tree, chunk_events(model), tuple(dict.fromkeys(keep)))
    options = {"tree": tree, "precision": getattr(model, "precision", "float32"), "keep": list(wanted.keep)}
    options |= {"conditions": conditions_option(correction), "friend": friend, "rntuple": ntuple}
    options |= {"without_pileup": True} if isinstance(model, WithoutPileup) else {}
    records = Records(model_record(model_path), options, chunk, getattr(model, "device", "cpu"))
    done = {o.path for o in outputs if chunk is not None and records.is_done(o, force=force)}
    left = [o for o in outputs if o.path not in done]
    every = [file for o in left for file in described_in(o.path)]
    claim(every, inputs=[model_path, table, *files], force=force)
    for path, _ in named if chunk is not None else ():
        check_no_more(path, next(o.of for o in outputs if o.path == piece_path(path, 0)))
    total = sum(o.events for o in outputs)
    if total == 0:
        raise InputError(f"{files[0]} holds no events; nothing was written.")
    _check_alike(outputs, wanted)
    if correction is not None:
        refuse_twice(paths, correction.what)
        check_covered(correction.conditions, paths, tree, model.names)
    loss = _loss(model, left, wanted, correction)
    records.loss = None if loss is None else loss.as_dict()
    answered = Answered()
    with progress(total, "predict", done=total - sum(o.events for o in left)) as bar:
        applied, cleaned = _write(model, left, wanted, records, answered, bar, correction=correction, jobs=jobs)
    return Report(
        outputs[0].path,
        total,
        time.monotonic() - started,
        model.tasks,
        answered,
        tuple(applied),
        tuple(o.path for o in outputs),
        tuple(o.path for o in outputs if o.path in done),
        sum(o.events for o in left),
        loss,
        cleaned if isinstance(model, WithoutPileup) else None,
    )


def _check_alike(outputs: Sequence[Output], wanted: Wanted) -> None:
    """Make sure that files have what is kept of them, and those of one output the same branches.

    Raises:
        InputError: names what is missing, or in what they differ.
    """
    layouts: dict[str, dict[str, object]] = {}
    for path in dict.fromkeys(part.path for output in outputs for part in output.parts):
        with source.open_events(path, wanted.tree, source.names_here(path, wanted.tree, wanted.names)) as reader:
            kept = {name: as_stored(reader, name, 0, min(1, reader.n_events)) for name in wanted.keep}
            layouts[path] = {name: None for name in CARRIED if reader.has(name)}
            layouts[path] |= {name: (values.dtype, values.shape[1:]) for name, values in kept.items()}
    for output in outputs:
        first = output.parts[0].path
        for part in output.parts:
            mine, others = layouts[part.path], layouts[first]
            odd = [name for name in {**mine, **others} if name not in ("run", "event") or name in wanted.keep]
            odd = [name for name in odd if mine.get(name, "") != others.get(name, "")]
            if odd:
                raise InputError(
                    f"{part.path} and {first} differ in {', '.join(sorted(odd))}; predict them to a file each (--out "
                    "FOLDER/), or give files of the same branches."
                )


def _loss(
    model: Model, outputs: Sequence[Output], wanted: Wanted, correction: Correction | None
) -> PrecisionLoss | None:
    """What a precision below 32 bits loses, measured on the first events; none where nothing is lost or computed."""
    first = next((part for output in outputs for part in output.parts if part.stop > part.start), None)
    if getattr(model, "precision", "float32") == "float32" or first is None:
        return None
    assert isinstance(model, TorchModel)
    some = first._replace(stop=min(first.stop, first.start + MEASURED_ON))
    of_some = None if correction is None else {0: replace(correction, events=Counter())}
    chunks = [read.chunk for read in read_parts([(0, some)], wanted, of_some)]
    npho, times = (np.concatenate([chunk[branch] for chunk in chunks]) for branch in model.branches)
    return loss_of_answers(model, npho, times)


def _write(
    model: Model,
    outputs: Sequence[Output],
    wanted: Wanted,
    records: Records,
    answered: Answered,
    bar: Progress,
    *,
    correction: Correction | None,
    jobs: int | None,
) -> tuple[list[dict[str, Any]], int]:
    """Predict and write, one output after the other, while the events of the next are read and computed.

    Returns:
        Conditions that were applied, and the number of events from which light of further photons was removed.
    """
    corrections = None
    if correction is not None:
        corrections = {i: replace(correction, events=Counter()) for i in range(len(outputs))}
    parts: list[tuple[int, Part]] = [(i, part) for i, output in enumerate(outputs) for part in output.parts]
    reads = read_parts(parts, wanted, corrections)
    applied: list[dict[str, Any]] = []
    cleaned = 0
    answering = answers_in_order(model, reads, answered=answered, jobs=jobs, with_events=False)
    # whatever goes wrong while writing ends the threads that read and compute
    with closing(answering) as answers:
        for owner, output in enumerate(outputs):
            with PredictionFile(output.path, PREDICTION_TREE, ntuple=bool(records.options["rntuple"])) as file:
                for columns in _columns(answers, output.events, friend=bool(records.options["friend"])):
                    file.extend(columns)
                    cleaned += int((columns.get(PILEUP_SHARE, _NONE) > LEAST_SHARE).sum())
                    bar.advance(len(columns["run"]))
                said = earlier_of(dict.fromkeys(part.path for part in output.parts))
                if corrections is not None:
                    said.append(corrections[owner].record("predict"))
                if said:
                    file.add_text(TREE, as_text(said))
                file.add_text(RECORD, json.dumps(records.of(output)))
            applied += [one for one in said if one not in applied]
    return applied, cleaned


def _columns(answers: Iterator[Answer], events: int, *, friend: bool) -> Iterator[Chunk]:
    """Columns of the next events, at least of one chunk; nothing behind them is waited for, which may go wrong."""
    done = -1
    while done < events:
        columns = next(answers).columns
        done = max(done, 0) + len(columns["run"])
        if friend:
            columns = {n: v for n, v in columns.items() if n in _OF_FRIENDS or n.startswith(("pred_", "sigma_"))}
        yield columns
