"""Makes a Plan's device ready: its compiler, its cache, tinygrad's default, and its search for fast kernels."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from llmspec.core.units import duration
from llmspec.kernels import opening, toolchain


@dataclass
class Search:
    """What the search for fast kernels (BEAM) has cost in this process."""

    kernels: int = 0
    seconds: float = 0.0

    def told(self) -> str:
        """One line for people."""
        return (f"the search for fast kernels took {duration(self.seconds)} for {self.kernels} kernels; later runs "
                "find what it has found")

    def __call__(self, found: Any) -> Any:
        """The function of tinygrad that searches, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.kernels, self.seconds = self.kernels + 1, self.seconds + time.perf_counter() - start

        timed.__dict__["timed"] = True
        return timed


search = Search()


def open_device(device: str, beam: int = 0) -> None:
    """Call before any tensor is made; `beam` is the width of the search for each kernel of a GPU.

    Raises ToolchainError where a CPU has no compiler.
    """
    if device.startswith("CPU"):
        toolchain.prepare()
    else:
        toolchain.keep_kernels()
    if "tinygrad" not in sys.modules:
        os.environ["DEV"] = device
    from tinygrad.helpers import DEV

    if device != DEV.device:  # Device.DEFAULT would look for every kind of device there is, and cannot be assigned
        DEV.value = device  # type: ignore[assignment]
    if device.startswith("CPU"):
        opening.open_cpu()
    else:
        choose_search(beam)


def choose_search(beam: int) -> None:
    """What the Plan says holds, whatever BEAM is set to in the environment."""
    import tinygrad.codegen.opt.search as module
    from tinygrad.helpers import BEAM

    BEAM.value = beam
    if beam and not hasattr(module.beam_search, "timed"):
        module.beam_search = search(module.beam_search)
