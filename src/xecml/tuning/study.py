"""The folder of a study: what is searched, frozen when it begins; optuna's journal; a run folder for each trial."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, ValidationError

from xecml.config import Config
from xecml.errors import InputError
from xecml.files import atomic_path, mode_of
from xecml.limits import shown
from xecml.outputs import mark
from xecml.schema import Described, checked, read_json
from xecml.tuning.space import Space, space_of

SEARCH, JOURNAL, BEST = "study.json", "journal.log", "best.yaml"
SAMPLERS = ("tpe", "random", "grid")
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "median": lambda warmup: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup),
    "halving": lambda warmup: optuna.pruners.SuccessiveHalvingPruner(min_resource=warmup + 1),
    "none": lambda warmup: optuna.pruners.NopPruner(),
}
"""What ends trials early, by name, from the number of epochs that each trial has in any case."""
_NAME = "study"
_TAKING_S = 120
"""After so long without an end another worker goes on: the one that takes a trial was killed."""
_ADVICE = "name another folder with --study, or put the file back"


class Frozen(Described):
    """What all workers of a study share, as `study.json` has it.

    Attributes:
        job: of the trainings.
        space: a range or values by key.
        recipe: that trial 0 is.
        sampler: `tpe`, `random` or `grid`.
        pruner: `median`, `halving` or `none`.
        warmup: epochs that each trial has in any case.
        seed: of the sampler.
        trials: at most.
        hours: of training, all trials together, after which none begins; none without limit.
    """

    job: Literal["regress", "mae", "inpaint"]
    space: dict[str, Any]
    recipe: dict[str, Any]
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "halving", "none"] = "median"
    warmup: int = Field(ge=0)
    seed: int = Field(ge=0)
    trials: int = Field(ge=1)
    hours: float | None = Field(None, gt=0)


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        folder: of it.
        frozen: what all workers share.
        recipe: that trial 0 is.
        space: what is searched.
        optuna: the study of the library.
    """

    folder: Path
    frozen: Frozen
    recipe: Config
    space: Space
    optuna: optuna.Study

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials that were begun or wait, the first one first."""
        return self.optuna.get_trials(deepcopy=False)

    @property
    def begun(self) -> list[FrozenTrial]:
        """Trials that were begun."""
        return [trial for trial in self.trials if trial.state != TrialState.WAITING]

    def run_folder(self, number: int) -> Path:
        """Folder of a trial's run."""
        return self.folder / run_name(number)

    def recipe_of(self, params: Mapping[str, Any], number: int) -> Config:
        """The recipe of a trial.

        Raises:
            InputError: its values do not go together.
        """
        content = self.recipe.model_dump(mode="json")
        for key, drawn in params.items():
            _put(content, key, self.space.dimensions[key].value(drawn))
        board = content["mlflow"]["tensorboard"]
        board = board and str(self.folder / "tensorboard")
        content["mlflow"] |= {
            "run_name": run_name(number),
            "experiment": self.folder.name,
            "tensorboard": board,
        }
        content["checkpoint"] |= {"save_dir": str(self.folder), "resume_from": "auto", "weights_only": False}
        try:
            return Config.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise InputError(f"The values of trial {number} cannot be combined: {first}.") from None

    def hours_spent(self) -> float:
        """Hours of training, all trials together."""
        return sum(seconds_of(self.run_folder(trial.number)) for trial in self.begun) / 3600

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While active, no other worker takes a trial."""
        lock = JournalFileOpenLock(str(self.folder / "taking"), grace_period=_TAKING_S)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()


def run_name(number: int) -> str:
    """Name of a trial's run."""
    return f"trial_{number:04d}"


def begin(folder: Path, given: Frozen) -> bool:
    """Write down what a study is, unless that stands there already; whether it was written now.

    Raises:
        InputError: the folder cannot be written.
    """
    text = json.dumps({"made": mark()} | given.model_dump(mode="json"), indent=1) + "\n"
    path, temporary = folder / SEARCH, folder / f".{SEARCH}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)  # whole or not at all, and of two workers that begin together by one
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
    except OSError as error:
        raise InputError(f"The study cannot be kept in {folder}: {error.strerror}; name another folder.") from error
    return True


def frozen_of(folder: Path) -> Frozen | None:
    """The definition of a study; None if there is none.

    Raises:
        InputError: its file is damaged.
    """
    path = folder / SEARCH
    if mode_of(path) is None:
        return None
    content = read_json(path, "study", f"{path} is damaged", _ADVICE)
    return checked(Frozen, content, f"{path} is damaged", _ADVICE)


def open_study(folder: Path) -> Study:
    """A study that was begun.

    Raises:
        InputError: there is none in the folder, or its files are damaged.
    """
    frozen = frozen_of(folder)
    if frozen is None:
        raise InputError(
            f"There is no study in {folder}; begin one with: xec tune regress --space S.yaml --study {folder}"
        )
    try:
        recipe = Config.model_validate(frozen.recipe)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(
            f"{folder / SEARCH} has a recipe of another version (key '{key}'); begin a new study."
        ) from error
    space = space_of(frozen.space, recipe, frozen.job)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(folder / JOURNAL)
    lock = JournalFileOpenLock(path)
    try:
        storage = JournalStorage(JournalFileBackend(path, lock_obj=lock))
        study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            sampler=sampler_of(frozen, 0),
            pruner=PRUNERS[frozen.pruner](frozen.warmup),
            load_if_exists=True,
        )
    except OSError as error:
        raise InputError(f"The journal {path} cannot be used: {error.strerror}; check the folder.") from error
    except (ValueError, KeyError) as error:
        raise InputError(f"The journal {path} is damaged ({type(error).__name__}); begin a new study.") from error
    return Study(folder, frozen, recipe, space, study)


def sampler_of(frozen: Frozen, number: int) -> optuna.samplers.BaseSampler:
    """What draws the values of a trial: the same ones whichever worker asks, from the same trials before."""
    seed = int(np.random.SeedSequence([frozen.seed, number]).generate_state(1)[0])
    if frozen.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def agree(folder: Path, there: Frozen, given: Frozen) -> None:
    """Make sure that a worker means the study that is there.

    Raises:
        InputError: something differs; names what.
    """
    one, two = (dict(_flat(frozen.model_dump(mode="json"))) for frozen in (there, given))
    for key in sorted({*one, *two}):
        if one.get(key) != two.get(key):
            what = key.removeprefix("recipe.")
            raise InputError(
                f"{folder} is a study with {what} {shown(one.get(key))}, not {shown(two.get(key))}; name another "
                f"folder, or join it with: xec tune {there.job} --study {folder}"
            )


def fresh(study: Study) -> None:
    """Put the recipe itself, or all of a grid, before whoever asks first; once, whoever else begins or was killed."""
    with study.alone():
        there = [trial.system_attrs.get("fixed_params") for trial in study.trials]
        points = study.space.grid() if study.frozen.sampler == "grid" else [dict(study.space.start)]
        for point in points:
            if point not in there:
                study.optuna.enqueue_trial(point)


def write_recipe(path: Path, recipe: Config, remarks: list[str]) -> None:
    """Write a whole recipe as YAML that `xec train` takes alone, with remarks above it."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in remarks) + text, encoding="utf-8")


def seconds_of(run: Path) -> float:
    """Seconds of the epochs of a run, as its metrics have them."""
    total = 0.0
    for line in metrics_of(run):
        value = line.get("system/epoch_duration_sec")
        total += value if isinstance(value, int | float) else 0.0
    return total


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Numbers of a run's epochs; a line that was cut off is left out."""
    found = []
    try:
        text = (run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            found.append(values)
    return found


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        content = content[section]
    content[name] = value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
