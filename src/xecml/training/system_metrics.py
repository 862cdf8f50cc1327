"""What the machine is doing, for the logs. On a CPU the GPU's figures are absent, not zero."""

from __future__ import annotations

import contextlib
import resource
import sys

import torch


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Memory in GB and the GPU's true utilisation, under `system/`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes on Linux, bytes on macOS
    values = {"system/ram_peak_gb": peak / (1e9 if sys.platform == "darwin" else 1e6)}
    with contextlib.suppress(ImportError):
        import psutil

        values["system/ram_used_gb"] = psutil.Process().memory_info().rss / 1e9
    if device.type != "cuda":
        return values
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    values |= {
        "system/memory_allocated_GB": allocated / 1e9,
        "system/memory_reserved_GB": reserved / 1e9,
        "system/memory_peak_GB": torch.cuda.max_memory_allocated(device) / 1e9,
        "system/memory_fragmentation": (reserved - allocated) / max(reserved, 1),
        "system/memory_used_pct": 100 * allocated / torch.cuda.get_device_properties(device).total_memory,
    }
    # without the driver's library there is no figure
    with contextlib.suppress(ImportError, RuntimeError):
        values["system/gpu_utilization_pct"] = float(torch.cuda.utilization(device))
    return values
