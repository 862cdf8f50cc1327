"""XECML: machine-learning reconstruction of photons in the MEG II liquid-xenon detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from xecml.inference.trained_model import Model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def load_model(path: str | Path) -> Model:
    """Load a trained model from a checkpoint (`.pth`) or an ONNX file.

    The result has `predict(npho, time) -> {task: array}`: numpy in, numpy out, physical units.
    torch and ONNX Runtime are imported only here, so that `import xecml` stays light.
    """
    from xecml.inference.trained_model import load_model as load

    return load(path)
