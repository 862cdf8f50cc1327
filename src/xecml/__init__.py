"""XECML: machine-learning reconstruction of photons in the MEG II liquid-xenon detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from xecml.inference.trained_model import Model

__version__ = "0.2.0"
__all__ = ["__version__", "load_model"]


def load_model(path: str | Path, *, said: Mapping[str, Any] | None = None) -> Model:
    """Load a trained model from a checkpoint (`.pth`) or an ONNX file.

    `said` is what a checkpoint of the replaced system's newest version leaves open, as {"log_transform": ["energy"]}.

    The result has `predict(npho, time) -> {task: array}`: numpy in, numpy out, physical units.
    torch and ONNX Runtime are imported only here, so that `import xecml` stays light.
    """
    from xecml.inference.trained_model import load_model as load

    return load(path, said=said)
