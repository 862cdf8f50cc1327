"""Checkpoints read without running their content, and the networks in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from xecml.config import Config
from xecml.errors import InputError
from xecml.inference.checkpoint_schema import understood
from xecml.models.build import build_model
from xecml.models.weight_files import check_finite, no_larger_than, read
from xecml.schema import explained, one_line

_MOST_NAMES = 6


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to CPU tensors; see `understood` for what is sure of it.

    Raises:
        InputError: not a checkpoint, damaged, of a newer format, or of another geometry.
    """
    return understood(read(path), path)


def restored(content: dict[str, Any], path: str | Path) -> nn.Module:
    """The network of a checkpoint's own recipe with its averaged weights.

    Raises:
        InputError: recipe or weights are those of another version's network, or weights are no finite numbers.
    """
    what = f"the network of its recipe in this version (it was written by xecml {one_line(content['xecml'])})"
    weights = averaged_weights(content)
    try:
        config = Config.model_validate(content["config"])
        with no_larger_than(weights):
            network = build_model(config, content["kind"])
    except ValidationError as error:
        raise InputError(f"{path} does not fit {what}: {explained(error)}.") from error
    except InputError as error:
        raise InputError(f"{path} does not fit {what}: {str(error).rstrip('.')}.") from error
    load_exactly(network, weights, str(path), what)
    return network


def averaged_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """Averaged weights of a checkpoint; its plain weights if it has no average."""
    weights: dict[str, Tensor] = content.get("ema_state") or content["model_state"]
    return weights


def _of_this_version(weights: dict[str, Tensor], own: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights whose part by a prefix is left as the network has it, unless the file has it in this version's form."""
    there = {name: w.shape for name, w in weights.items() if name.startswith(prefix)}
    here = {name: w for name, w in own.items() if name.startswith(prefix)}
    if there == {name: w.shape for name, w in here.items()}:
        return weights
    return {name: w for name, w in weights.items() if name not in there} | here


def load_exactly(module: nn.Module, weights: dict[str, Tensor], path: str, what: str) -> None:
    """Load a state; anything missing, left over, of another shape or not finite is named.

    Raises:
        InputError: the state does not fit.
    """
    own = module.state_dict()
    # a buffer that came after the file says nothing
    weights = {name: own[name] for name in getattr(module, "later_buffers", ())} | weights
    for part in getattr(module, "parts_of_a_version", ()):
        weights = _of_this_version(weights, own, f"{part}.")
    missing = [f"{name} is missing" for name in own if name not in weights]
    over = [f"{name} is left over" for name in weights if name not in own]
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    kinds = [
        f"{name} is of {weights[name].dtype} instead of {tensor.dtype}".replace("torch.", "")
        for name, tensor in own.items()
        if name in weights and weights[name].is_floating_point() != tensor.is_floating_point()
    ]
    wrong = missing + over + shapes + kinds
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMES} more" if len(wrong) > _MOST_NAMES else ""
        raise InputError(f"{path} does not fit {what}: {'; '.join(wrong[:_MOST_NAMES])}{more}.")
    check_finite(weights, path)
    module.load_state_dict(weights)
