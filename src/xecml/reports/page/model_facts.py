"""Facts about a model as pairs of text: file, hash, date, network, recipe, sample."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from xecml.inference import calibration_record
from xecml.inference.trained_model import Model, TorchModel

_BLOCK = 1 << 20

Facts = list[tuple[str, str]]


def file_facts(path: str | Path) -> Facts:
    """Name, hash and date of a file; of what is no single file, such as a pattern of several, its name."""
    file = Path(path)
    if not file.is_file():
        return [("file", str(file))]
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(file.stat().st_mtime))
    return [("file", str(file)), ("SHA-256", digest.hexdigest()), ("written", written)]


def model_facts(path: str | Path, model: Model) -> Facts:
    """What a model is and what it was trained on, as far as its file says."""
    facts = [*file_facts(path), ("predicts", ", ".join(model.tasks)), ("inputs", ", ".join(model.branches))]
    if said := calibration_record.line(model.calibration):
        facts.append(("calibrated", said))
    if isinstance(model, TorchModel):
        facts += checkpoint_facts(model.content)
        facts.append(("parameters", f"{sum(p.numel() for p in model.network.parameters()):,}"))
    if model.training is None:
        facts.append(("what its training events were like", "not known, so that no event is called an outlier"))
    return facts


def checkpoint_facts(content: Mapping[str, Any]) -> Facts:
    """What a checkpoint says; those of other systems say less."""
    recipe = content.get("config", {})
    data, training = recipe.get("data", {}), recipe.get("training", {})
    metrics = content.get("metrics", {})
    found = {
        "run": content.get("run_name"),
        "preset": recipe.get("model", {}).get("preset"),
        "epochs trained": content["epoch"] - 1 if "epoch" in content else None,
        "training files": data.get("train_path"),
        "validation files": data.get("val_path"),
        "data fingerprint": content.get("data_fingerprint"),
        "events a batch": data.get("batch_size"),
        "learning rate, seed": _joined(training, ("lr", "seed")),
        "validation loss": f"{metrics['val/loss']:.5g}" if isinstance(metrics.get("val/loss"), float) else None,
        "made with": _joined(content, ("xecml", "torch", "revision")),
        "geometry": content.get("geometry_hash"),
    }
    selected = {
        f"{sample} events taken": f"{taken['left']} of {taken['events']}: {taken['cut']}"
        for sample, taken in (content.get("selected") or {}).items()
    }
    return [(name, str(value)) for name, value in {**found, **selected}.items() if value not in (None, "", [])]


def _joined(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in names if values.get(name) not in (None, ""))


def recipe_text(model: Model) -> str:
    """The whole recipe of a checkpoint as YAML; empty where the file has none."""
    return recipe_of(model.content) if isinstance(model, TorchModel) else ""


def recipe_of(content: Mapping[str, Any]) -> str:
    """The recipe in a checkpoint's content as YAML; empty in those of other systems."""
    return str(yaml.safe_dump(content["config"], sort_keys=False, width=100)) if "format_version" in content else ""
