"""Makes a Plan's device ready: its compiler, its cache, tinygrad's default."""

from __future__ import annotations

import os
import sys

from llmspec.kernels import toolchain


def open_device(device: str) -> None:
    """Call before any tensor is made. Raises ToolchainError where a CPU has no compiler."""
    if device.startswith("CPU"):
        toolchain.prepare()
    if "tinygrad" not in sys.modules:
        os.environ["DEV"] = device
    from tinygrad import Device
    from tinygrad.helpers import DEV

    if device != Device.DEFAULT:
        DEV.value = device  # type: ignore[assignment]  # Device.DEFAULT itself cannot be assigned any more
