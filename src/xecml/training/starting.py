"""What a training starts from: nothing, its own checkpoint, or the encoder of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from xecml.errors import InputError
from xecml.training import checkpoint

_MOST_NAMES = 6


@dataclass(frozen=True)
class Start:
    """How a training begins.

    Attributes:
        resumed: content of the checkpoint that is gone on from; none where the epoch is 1.
        encoder_given: whether the encoder came from elsewhere, and keeps its constants.
        line: what was taken and left, in one line; empty for a start from nothing.
    """

    resumed: dict[str, Any] | None
    encoder_given: bool
    line: str


def start(model: nn.Module, path: str | None, *, kind: str, tasks: list[str], weights_only: bool = False) -> Start:
    """Load into a model what a checkpoint has for it.

    The same job with the same tasks is gone on with, or gives its weights alone; of anything else the encoder is
    taken, exactly or not at all.

    Raises:
        InputError: unusable checkpoint, or one that does not fit; names the layers.
    """
    if path is None:
        return Start(None, False, "")
    content = checkpoint.load(path)
    same = content["kind"] == kind and list(content["tasks"]) == tasks
    if same and not weights_only:
        load_exactly(model, content["model_state"], path, "the configured model")
        at = f"epoch {content['epoch']}" + (f", batch {content['batch_in_epoch']}" if content["batch_in_epoch"] else "")
        return Start(
            content, True, f"Going on from {path} at {at}: weights, average, optimizer, schedule, random state."
        )
    weights = averaged_weights(content)
    if same:
        load_exactly(model, weights, path, "the configured model")
        return Start(None, True, f"Took all weights of {path}{_source(content)}; epoch 1, a new optimizer.")
    encoder = {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}
    if not encoder:
        raise InputError(f"{path} ({content['kind']}) has no encoder; start from a regression or an autoencoder.")
    load_exactly(model.get_submodule("encoder"), encoder, path, "the configured encoder")
    left = sorted({name.split(".")[0] for name in weights if not name.startswith("encoder.")})
    return Start(
        None,
        True,
        f"Took the encoder ({len(encoder)} tensors) of {path}{_source(content)}; left {', '.join(left) or 'nothing'}; "
        "epoch 1, a new optimizer, heads from scratch.",
    )


def _source(content: dict[str, Any]) -> str:
    averaged = "averaged weights" if content.get("ema_state") else "weights, since it has no average"
    return f" ({content['kind']} of {', '.join(content['tasks']) or 'no task'}; {averaged})"


def averaged_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """Averaged weights of a checkpoint; its plain weights if it has no average."""
    weights: dict[str, Tensor] = content.get("ema_state") or content["model_state"]
    return weights


def load_exactly(module: nn.Module, weights: dict[str, Tensor], path: str, what: str) -> None:
    """Load a state; anything missing, left over or of another shape is named.

    Raises:
        InputError: the state does not fit.
    """
    own = module.state_dict()
    missing = [f"{name} is missing" for name in own if name not in weights]
    over = [f"{name} is left over" for name in weights if name not in own]
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    wrong = missing + over + shapes
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMES} more" if len(wrong) > _MOST_NAMES else ""
        raise InputError(f"{path} does not fit {what}: {'; '.join(wrong[:_MOST_NAMES])}{more}.")
    module.load_state_dict(weights)
