"""What the physics benchmark measures: methods by name, what they were trained on, and their predictions on disk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yardstick
from physics_samples import DECOUPLED, SIGNAL, Sample, refuse_trained_on
from xecml.conventional.constants import FOLDER
from xecml.data import source
from xecml.errors import InputError
from xecml.events import number_of
from xecml.inference.baseline import baseline_files
from xecml.inference.predict import predict_files
from xecml.inference.trained_model import load_model
from xecml.pretrained import model_file
from xecml.simulation.settings import make_settings
from yardstick_blocks import sample as training_sample
from yardstick_blocks import simulated

KINDS = (SIGNAL, DECOUPLED)
SHIPPED = tuple(f"compact@{kind}=pretrained:{kind}" for kind in KINDS)
"""The networks that come with the package, as they would be named on the command line."""
TRAINING_SEEDS = {SIGNAL: 281_801, DECOUPLED: 281_802}


@dataclass(frozen=True)
class Method:
    """Something that answers.

    Attributes:
        name: in tables; methods of different kinds may share one.
        kind: of photons that it is for, None for all.
        family: `conventional`, `trees` or `network`.
        said: what it was calibrated or trained on, for the page.
        key: changes with whatever decides its answers.
        trained_on: files.
        write: takes a file of events and the prediction file to write.
    """

    name: str
    kind: str | None
    family: str
    said: str
    key: str
    trained_on: tuple[str, ...]
    write: Callable[[Path, Path], Any]

    def is_for(self, sample: Sample) -> bool:
        """Whether it is measured on a sample: those of its kind; the conventional one with both constants on all."""
        return self.family == "conventional" or self.kind in (None, sample.kind)

    def predictions(self, sample: Path, folder: Path) -> Path:
        """The prediction file of a sample, made where it is not there.

        Raises:
            InputError: the method was trained on the sample.
        """
        refuse_trained_on(sample, self.name, self.trained_on)
        slug = re.sub(r"\W+", "_", self.name).strip("_")
        out = folder / f"{sample.stem}__{slug}_{self.key}.root"
        if not out.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self.write(sample, out)
        return out


def _key(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def conventional(jobs: int) -> list[Method]:
    """The conventional reconstruction with both of its shipped constants."""
    found = []
    for kind in KINDS:
        path = FOLDER / f"{kind}.json"
        text = path.read_bytes()
        calibrated = json.loads(text)["sample"]

        def write(sample: Path, out: Path, kind: str = kind) -> None:
            baseline_files([sample], out, constants=kind, threads=jobs)

        said = f"`xec baseline --constants {kind}`, calibrated on {number_of(calibrated['events'])}"
        found.append(Method(f"conventional ({kind})", kind, "conventional", said, _key(text), (), write))
    return found


def network(text: str, jobs: int) -> Method:
    """A trained model, `NAME=MODEL` or `NAME@KIND=MODEL`: a checkpoint, an ONNX file or `pretrained:...`.

    Raises:
        InputError: it is of another form, or there is no such model.
    """
    match = re.fullmatch(r"([^=@]+)(?:@(\w+))?=(.+)", text)
    if match is None or match[2] not in (None, *KINDS):
        raise InputError(f"'{text}' is not NAME=MODEL or NAME@KIND=MODEL with the kind {' or '.join(KINDS)}.")
    name, kind, given = match.groups()
    path = model_file(given)
    model = load_model(path, threads=1)
    data = getattr(model, "content", {}).get("config", {}).get("data", {})
    trained_on = [file for key in ("train_path", "val_path") for file in _listed(data.get(key))]

    def write(sample: Path, out: Path) -> None:
        predict_files(load_model(path, threads=1), [sample], out, jobs=jobs)

    return Method(
        name, kind, "network", f"`{Path(given).name}`", _key(Path(path).read_bytes()), tuple(trained_on), write
    )


def _listed(given: Any) -> list[str]:
    """Paths of a recipe: one or a list, empty ones left out."""
    return [str(path) for path in ([given] if isinstance(given, str) else given or []) if str(path)]


def trees(kind: str, events: int, files: Sequence[str | Path] | None, folder: Path, *, jobs: int = 1) -> Method:
    """Boosted trees on the first events of files, or on simulated ones; trained where they have not been.

    Args:
        kind: of photons.
        events: to be trained on; trees of fewer are trained on the first of those of more.
        files: event files; without any, events of 15 to 60 MeV of the nominal detector are simulated.
        folder: for trees and their features.
        jobs: threads.

    Raises:
        InputError: the files hold fewer events, or lightgbm is not installed.
    """
    paths = [str(Path(path).resolve()) for path in source.expand(files)] if files else []
    settings = make_settings({"vertex": kind, "energy_mev": (15.0, 60.0), "relative_branches": False})
    what = " ".join(paths) if paths else f"{TRAINING_SEEDS[kind]} {settings.model_dump_json()}"
    path = folder / "trees" / f"{kind}_{events}_{_key(what.encode())}.json"
    if not path.exists():
        yardstick.lightgbm()
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = folder / "features"
        if paths:
            given = training_sample(paths, kind, events, kept, threads=jobs)
        else:
            given = simulated(settings, TRAINING_SEEDS[kind], kind, events, kept, threads=jobs)
        yardstick.save(yardstick.train(given, kind, threads=jobs), path)
    found = yardstick.load(path)

    def write(sample: Path, out: Path) -> None:
        yardstick.predict_files(found, [sample], out, threads=jobs)

    said = f"trained on {number_of(found.events)} of the nominal detector, 15 to 60 MeV"
    return Method(f"trees {events:,}", kind, "trees", said, _key(path.read_bytes()), found.files, write)
