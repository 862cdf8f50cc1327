"""The commands `xec tune ...`: search hyper-parameters of a recipe, and report the results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xecml.cli.printing import Debug, Force, Json, show, show_table
from xecml.cli.train import STOPPED, read_options, recipe_of, warned
from xecml.errors import InputError

if TYPE_CHECKING:
    from xecml.tuning.study import Frozen

tune_app = typer.Typer(
    help="Search hyper-parameters: xec tune regress --space S.yaml --study studies/first --config regress ...",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_TRIALS = 50
CHOSEN = ("sampler", "pruner", "warmup", "seed", "hours")
"""Parameters of a search that all its workers share."""
_MORE = {"ignore_unknown_options": True, "allow_extra_args": True}
StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study.")]


class Sampler(StrEnum):
    """How the values of a trial are chosen."""

    tpe = "tpe"
    random = "random"
    grid = "grid"


class Pruner(StrEnum):
    """What ends trials early."""

    median = "median"
    halving = "halving"
    none = "none"


def _search(
    context: typer.Context,
    study: Annotated[
        Path, typer.Option("--study", help="Folder of the study; several processes and jobs can share it.")
    ],
    space: Annotated[
        Path | None,
        typer.Option("--space", help="YAML file with a range or values for keys of the recipe; begins a study."),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=1, help="Largest number of trials of all workers together.", show_default="50; a grid's"
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option("--hours", help="Hours of training of all trials together, after which no trial begins."),
    ] = None,
    sampler: Annotated[Sampler, typer.Option("--sampler", help="How the values of a trial are chosen.")] = Sampler.tpe,
    pruner: Annotated[
        Pruner, typer.Option("--pruner", help="Rule that ends bad trials early; applied after each epoch.")
    ] = Pruner.median,
    warmup: Annotated[
        int, typer.Option("--prune-after", min=0, help="Epochs before which no trial is ended early.")
    ] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31, help="Seed for the choice of values.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    before = time.monotonic()
    given = dict(zip(CHOSEN, (sampler.value, pruner.value, warmup, seed, hours), strict=True))
    with warned():
        _work(str(context.info_name), study, space, trials, given, list(context.args), as_json, before)


for _job, _what in (("regress", "photon quantities"), ("mae", "autoencoders"), ("inpaint", "repairs")):
    tune_app.command(
        _job,
        help=f"Search for the best recipe of {_what}, or join a study; other options are those of 'xec train {_job}'.",
        context_settings=_MORE,
    )(_search)


def _work(
    job: str,
    folder: Path,
    space: Path | None,
    trials: int | None,
    given: Mapping[str, Any],
    words: list[str],
    as_json: bool,
    before: float,
) -> None:
    frozen = frozen_for(job, space, trials, given, words)
    tuning = _tuning()
    there = tuning.study.frozen_of(folder)
    if frozen is None and there is None:
        raise InputError(f"There is no study in {folder}; begin it with --space, a file of what is to be searched.")
    if frozen is not None and (there is not None or not tuning.study.begin(folder, frozen)):
        tuning.study.agree(folder, tuning.study.frozen_of(folder), frozen)
    from xecml.tuning.search import work

    opened = tuning.study.open_study(folder)
    if opened.frozen.job != job:
        raise InputError(
            f"{folder} is a study of '{opened.frozen.job}'; join it with: xec tune {opened.frozen.job} ..."
        )
    tuning.study.fresh(opened)
    report = work(opened, quiet=as_json)
    done = ", ".join(
        f"{how} {list(report.finished.values()).count(how)}" for how in sorted({*report.finished.values()})
    )
    best = (
        "" if report.best is None else f"; best trial {report.best}: {report.score:.6g}, its recipe is {report.recipe}"
    )
    values = {
        "study": folder, "trials": report.finished, "stopped": report.stopped, "best": report.best,
        "score": report.score, "recipe": report.recipe, "seconds": time.monotonic() - before,
    }  # fmt: skip
    how = f"Stopped ({report.stopped})" if report.stopped else "Nothing is left to begin"
    show(as_json, values, f"{how} in {folder} (here: {done or 'no trial'}){best}.")
    if report.stopped:
        raise typer.Exit(STOPPED)


def frozen_for(
    job: str, space: Path | None, trials: int | None, given: Mapping[str, Any], words: list[str]
) -> Frozen | None:
    """The definition of a study from a command line; None if the command only joins one.

    Raises:
        InputError: recipe or search space are unusable.
    """
    if space is None:
        if words:
            raise InputError(
                f"'{words[0]}' is for the beginning of a study, which needs --space; leave it out to join."
            )
        return None
    tuning = _tuning()
    recipe, _ = recipe_of(read_options([job, *words]), job)
    for key in ("train_path", "val_path"):
        if not getattr(recipe.data, key):
            raise InputError(f"data.{key} is not set; give it in the recipe or with --{key}.")
    if recipe.checkpoint.resume_from:
        raise InputError(
            "Trials of a search cannot begin with checkpoint.resume_from, since each goes on from its own; start from "
            "the encoder of a checkpoint with --mae_checkpoint, or leave the key out."
        )
    wanted = tuning.space.read_space(space)
    found = tuning.space.space_of(wanted, recipe, job)
    points = len(list(found.grid())) if given["sampler"] == "grid" else _TRIALS
    content = {"job": job, "space": wanted, "recipe": recipe.model_dump(mode="json"), "trials": trials or points}
    if given["hours"] is not None and not given["hours"] > 0:
        raise InputError(f"--hours {given['hours']:g} leaves no time; give more, or leave it out.")
    made: Frozen = tuning.study.Frozen.model_validate(content | dict(given))
    return made


@tune_app.command("report")
def report(
    study: StudyFolder,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML page to write; by default only the table is printed.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a study: its trials, the importance of each key, the best recipe; also while it runs."""
    _tuning()
    from xecml.tuning.report import write_page
    from xecml.tuning.study import open_study
    from xecml.tuning.summary import summary_of

    found = summary_of(open_study(study))
    if out is not None:
        write_page(found, out, force=force)
    if as_json:
        show(True, found.as_dict() | {"page": out}, "")
        return
    show_table("", *found.table())
    print("\n".join(found.lines()))
    if out is not None:
        print(f"Wrote {out}.")


def _tuning() -> Any:
    """What describes searches, which needs optuna.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna  # noqa: F401 - looked for, so that its absence is a sentence
    except ImportError:
        raise InputError(
            "Searches need optuna, which is not installed; install it with: pip install 'xecml[tune]'"
        ) from None
    from types import SimpleNamespace

    from xecml.tuning import space, study

    return SimpleNamespace(space=space, study=study)
