"""Where networks are computed and how exactly: the processor or a GPU, in 32 bits or in 16-bit brain floats."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xecml.errors import InputError, nearest

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bf16")
CUDA_PROVIDER = "CUDAExecutionProvider"
_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls the instructions: two of x86, one of Arm."""
_CPU_FACTS = Path("/proc/cpuinfo")
_BATCH = {"cpu": 256, "cuda": 1024}


@dataclass(frozen=True)
class Arithmetic:
    """How a PyTorch model computes; see `arithmetic`, which looks whether the machine can.

    Attributes:
        device: `cpu` or `cuda`.
        precision: of `PRECISIONS`; quick looks, anchors and heads stay in 32 bits in any case.
    """

    device: str = "cpu"
    precision: str = "float32"

    @property
    def batch(self) -> int:
        """Events that are computed at once."""
        return _BATCH[self.device]

    def placed(self, module: nn.Module) -> nn.Module:
        """A module where it is computed."""
        return module.to(self.device)

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """An array where it is computed."""
        return torch.from_numpy(values).to(self.device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """While active, PyTorch computes so in this thread."""
        with torch.no_grad():
            if self.precision == "float32":
                yield
                return
            with torch.autocast(self.device, torch.bfloat16):
                yield


def arithmetic(device: str = "auto", precision: str = "float32") -> Arithmetic:
    """What PyTorch is to compute with on this machine.

    Args:
        device: of `DEVICES`; `auto` is a GPU where PyTorch sees one.
        precision: of `PRECISIONS`.

    Raises:
        InputError: there is no such device or precision, here or at all.
    """
    check(device, precision)
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise InputError(
            "--device cuda: PyTorch sees no GPU on this machine"
            f"{'' if torch.version.cuda else ', as its build is for processors only'}; use --device cpu or auto."
        )
    chosen = "cuda" if gpu and device != "cpu" else "cpu"
    if chosen == "cuda":
        # PyTorch lets convolutions round to 10 bits, which nobody asked for
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    if precision == "bf16" and not native_bf16(chosen):
        what = "GPU" if chosen == "cuda" else f"processor ({platform.machine()})"
        raise InputError(
            f"--precision bf16: this {what} has no native 16-bit brain floats, so that they would lose precision and "
            "save no time; use --precision float32."
        )
    return Arithmetic(chosen, precision)


def check(device: str, precision: str) -> None:
    """Make sure that these are names of a device and a precision.

    Raises:
        InputError: one is not.
    """
    for option, name, known in (("--device", device, DEVICES), ("--precision", precision, PRECISIONS)):
        if name not in known:
            raise InputError(f"{option} {name!r} is none{nearest(name, known)}; choose one of {', '.join(known)}.")


def native_bf16(device: str) -> bool:
    """Whether a device multiplies 16-bit brain floats itself, instead of doing so in 32 bits."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_cpu_flags() & _CPU_FLAGS)


@cache
def _cpu_flags() -> frozenset[str]:
    """Abilities of the processor, as Linux names them; none on other systems, which do not say."""
    try:
        lines = _CPU_FACTS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    facts = (line.partition(":") for line in lines)
    return next(
        (frozenset(said.split()) for name, _, said in facts if name.strip() in ("flags", "Features")), frozenset()
    )


def onnx_providers(path: str | Path, device: str, precision: str) -> list[str]:
    """What ONNX Runtime is to compute a file with, best first.

    Raises:
        InputError: there is no such device, or the file is asked for in another precision than its own.
    """
    check(device, precision)
    if precision != "float32":
        raise InputError(
            f"{path} computes in the precision that it was exported in, so --precision {precision} is for checkpoints; "
            "leave it out, or export the model with --precision float16."
        )
    import onnxruntime

    if device != "cpu" and CUDA_PROVIDER in onnxruntime.get_available_providers():
        return [CUDA_PROVIDER, "CPUExecutionProvider"]
    if device == "cuda":
        raise InputError(no_cuda_provider(path))
    if device == "auto" and torch.cuda.is_available():
        say(no_cuda_provider(path))
    return ["CPUExecutionProvider"]


def no_cuda_provider(path: str | Path) -> str:
    """What a user does about an ONNX Runtime that does not use the GPU."""
    return (
        f"{path} is not run on a GPU: the installed ONNX Runtime has no CUDA provider that works here; install "
        "onnxruntime-gpu in place of onnxruntime, predict with the checkpoint, or use --device cpu."
    )


def say(line: str) -> None:
    """Say something about the work where results do not go."""
    print(f"xec: {line}", file=sys.stderr, flush=True)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor of whatever device as an array of 32-bit numbers."""
    values: NDArray[Any] = tensor.detach().float().cpu().numpy()
    return values
