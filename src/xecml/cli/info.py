"""What a file is: the content of `xec info`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xecml import rootio
from xecml.conditions_file import earlier
from xecml.data import manifests, source
from xecml.errors import InputError
from xecml.files import is_url, regular_file


def describe_file(path: str) -> dict[str, Any]:
    """Facts about a ROOT file, a checkpoint or an exported model.

    Raises:
        InputError: the file is missing or of no kind that this package reads.
    """
    suffix = Path(path).suffix
    if not is_url(path):
        if source.is_shard(path):
            return {"file": path, "kind": "shards", **manifests.facts(path)}
        regular_file(path)
    if suffix == ".pth":
        return _checkpoint(path)
    if suffix == ".onnx":
        return _onnx(path)
    if suffix == ".root" or is_url(path):
        return _root(path)
    raise InputError(
        f"The name of {path} does not end in .root, .pth or .onnx; name a ROOT file, a checkpoint or an ONNX file."
    )


def _root(path: str) -> dict[str, Any]:
    trees = rootio.list_trees(path)
    facts: dict[str, Any] = {"file": path, "kind": "ROOT", "trees": trees or "none"}
    for tree in trees:
        with rootio.open_tree(path, tree) as reader:
            facts[f"{tree}: events"] = reader.n_events
            facts[f"{tree}: branches"] = sorted(reader.in_file)
            if uneven := reader.uneven():
                facts[f"{tree}: entries of branches unlike it"] = uneven
            if reader.lost_bytes:
                facts["not closed"] = f"{reader.lost_bytes} bytes were written after the trees were last saved"
    if applied := earlier(path):
        facts["conditions"] = [f"{r.get('command')}: {', '.join(r['applied'])} by {r.get('table')}" for r in applied]
    return facts


def _checkpoint(path: str) -> dict[str, Any]:
    from xecml.inference.calibration_record import calibration_of
    from xecml.inference.calibration_record import facts as corrections
    from xecml.inference.checkpoint_reading import averaged_weights
    from xecml.inference.checkpoint_schema import missing, understood
    from xecml.models.newer.checkpoints import describe_newer
    from xecml.models.original.checkpoints import describe, recognise
    from xecml.models.weight_files import read

    file = read(path)
    if (kind := recognise(file)) is not None:
        return describe_newer(path, file) if kind == "newer" else describe(path, file)
    content = understood(file, path)
    named = ("format_version", "xecml", "torch", "revision", "geometry_hash", "run_name", "tasks")
    data, absent = content["config"]["data"], missing(content)
    return {
        "file": path,
        "kind": f"checkpoint ({content['kind']})",
        **{name: content[name] for name in named if name in content},
        "preset": content["config"]["model"]["preset"],
        "inputs": [data["npho_branch"], data["time_branch"]],
        "numbers stored": sum(w.numel() for w in averaged_weights(content).values()),
        **({"selected": _selected(content["selected"])} if content.get("selected") else {}),
        **({"epochs finished": content["epoch"] - 1} if "epoch" in content else {}),
        **(_best(content) if "best" in content else {}),
        "metrics": {k: round(v, 6) for k, v in content.get("metrics", {}).items() if isinstance(v, float)},
        **({"calibration": corrections(found)} if (found := calibration_of(content)) else {}),
        **({"cannot be gone on from, without": absent} if absent else {}),
    }


def _selected(samples: Mapping[str, Any]) -> dict[str, str]:
    """What the run took of its files, in words."""
    return {of: f"{taken['left']} of {taken['events']} events: {taken['cut']}" for of, taken in samples.items()}


def _best(content: Mapping[str, Any]) -> dict[str, Any]:
    """The best value so far of what the run was judged by, none before the first validation, and its name."""
    name = content["config"]["checkpoint"]["best_metric"]
    # accuracies are kept with the other sign, so that lower is better
    value = -content["best"] if "accuracy" in name else content["best"]
    return {"best": value if math.isfinite(value) else None, "best_metric": f"val/{name}"}


def _onnx(path: str) -> dict[str, Any]:
    from xecml.inference.calibration_record import facts as corrections
    from xecml.inference.onnx_files import open_onnx

    session, said = open_onnx(path)
    metadata = session.metadata
    facts = {
        key.removeprefix("xecml."): _structure(value) for key, value in metadata.items() if key.startswith("xecml.")
    }
    calibration = getattr(said, "calibration", {})
    in_words = {"calibration": corrections(calibration)} if calibration else {}
    return {"file": path, "kind": "ONNX", "bytes": Path(path).stat().st_size, **facts, **in_words}


def _structure(text: str) -> Any:
    """What stands in a string of JSON; the string itself where it is none, or a number alone."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict | list) else text
