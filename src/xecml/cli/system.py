"""What this machine is, and whether the installation fits it: the content of `xec info --system`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from xecml import __version__, geometry
from xecml.errors import InputError

_PACKAGES = ("torch", "numpy", "numba", "uproot", "onnxruntime", "lightning-fabric", "mlflow")
_COMPILERS = ("g++", "clang++", "c++")
_SYMBOLS = re.compile(rb"GLIBCXX_3\.4\.(\d+)")
_SECRET = re.compile(r"(?<=//)([^/@:]*):[^/@]*@")
_PATIENCE_S = 20


def describe_system() -> dict[str, Any]:
    """Versions, processors, memory, accelerators, compiler of this machine, and where trainings are logged."""
    import torch

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    total, free = memory_gb()
    return {
        "xecml": __version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        **versions,
        "PyTorch's build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "for processors",
        "cores": os.cpu_count(),
        "cores of this process": _own_cores(),
        "memory": "unknown" if total is None else f"{total:.1f} GB" + ("" if free is None else f", {free:.1f} GB free"),
        "torch threads": torch.get_num_threads(),
        "16-bit on this processor": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "GPUs": gpus() or "none",
        "NVIDIA driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "none",
        "compiler": compiler(),
        "C++ library": cpp_library(),
        "MLflow": tracking_address(),
        "geometry_hash": geometry.geometry_hash(),
    }


def gpus() -> list[str]:
    """What PyTorch sees: name, memory in GB, compute capability of each."""
    import torch

    found = []
    for i in range(torch.cuda.device_count()):
        has = torch.cuda.get_device_properties(i)
        found.append(f"{has.name}, {has.total_memory / 1e9:.0f} GB, capability {has.major}.{has.minor}")
    return found


def memory_gb() -> tuple[float | None, float | None]:
    """Total and free memory of the machine in 1e9 bytes; nothing if the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return None, None
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        found = None
    return total, int(found[1]) * 1024 / 1e9 if found else None


def compiler() -> str:
    """The C++ compiler that torch.compile would use on a processor: `CXX`, or one that is found."""
    for name in filter(None, (os.environ.get("CXX"), *_COMPILERS)):
        if (path := shutil.which(name)) is not None and (said := _said(path, "--version")):
            return f"{path}: {said}"
    return "none; training.compile needs one (g++, or CXX with its name)"


def cpp_library(maps: str = "/proc/self/maps") -> str:
    """The C++ library that compiled packages of this process use, and the newest symbols that it has."""
    try:
        lines = Path(maps).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    paths = sorted({line.split(maxsplit=5)[5] for line in lines if "/libstdc++.so" in line})
    found = []
    for path in paths:
        try:
            numbers = [int(number) for number in _SYMBOLS.findall(Path(path).read_bytes())]
        except OSError:
            continue
        found.append(f"{path}, up to GLIBCXX_3.4.{max(numbers)}" if numbers else path)
    return "; ".join(found) or "none"


def tracking_address() -> str:
    """The address where trainings are logged, without a password, or what is wrong with it."""
    from xecml.training.metrics_logging import tracking_uri

    try:
        return _SECRET.sub(r"\1:***@", tracking_uri())
    except InputError as error:
        return str(error)


def _own_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _said(*command: str) -> str:
    """The first line of what a program prints; nothing where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0]
