"""Which device `auto` means here, and its cores, found without importing tinygrad."""

from __future__ import annotations

import os
import platform
import shutil
import sys


def automatic() -> tuple[str, str]:
    """(device, why): what DEV names, else an NVIDIA GPU, else an Apple GPU, else the CPU."""
    if named := os.environ.get("DEV", ""):
        return named.split(":")[0].upper() if named.upper().startswith("CPU") else named.upper(), "DEV names it"
    if shutil.which("nvidia-smi") and os.path.exists("/dev/nvidiactl"):
        return "CUDA", "an NVIDIA GPU is here"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "METAL", "an Apple GPU is here"
    return "CPU", "no GPU was found"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
