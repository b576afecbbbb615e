"""Makes a Plan's device ready: its compiler, its cache, tinygrad's default, and its search for fast kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from llmspec.backends import guest, kernel_database, nvidia, owner, sharing, shield
from llmspec.core.problems import RunError
from llmspec.core.units import duration

MISSING = {"nvrtc": nvidia.REMEDY, "cuda": "NVIDIA's driver, which brings libcuda"}
"""Libraries that tinygrad may miss, by its names for them, and what brings them."""

EVERY = 15.0
"""Seconds of search between two words of progress."""


@dataclass
class Search:
    """What the search for fast kernels (BEAM) has cost in this process."""

    kernels: int = 0
    seconds: float = 0.0
    say: Callable[[str], None] = lambda text: None
    """Hears now and then how far it has come; how many kernels there will be is not known before."""
    said: float = 0.0
    """Seconds of the search when that was last told."""

    def told(self) -> str:
        """One line for people."""
        return (
            f"the search for fast kernels took {duration(self.seconds)} for {self.kernels} kernels; later runs "
            "reuse the result"
        )

    def __call__(self, found: Any) -> Any:
        """The function of tinygrad that searches, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.kernels, self.seconds = self.kernels + 1, self.seconds + time.perf_counter() - start
                if self.seconds - self.said > EVERY:
                    self.said = self.seconds
                    self.say(
                        f"searching for fast kernels: {self.kernels} so far, in {duration(self.seconds)}; results "
                        "are kept"
                    )

        timed.__dict__["timed"] = True
        return timed


search = Search()


def open_device(device: str, beam: int = 0) -> None:
    """Call before any tensor is made; `beam` is the width of the search for each kernel of a GPU.

    Raises ToolchainError where a CPU has no compiler, and RunError where another device cannot be opened.
    """
    if device.startswith("CPU"):
        from llmspec.backends.cpu import tinygrad_startup, toolchain  # a GPU needs none of it

        toolchain.prepare()
        guest.choose(device, 0)
        tinygrad_startup.open_cpu()
    else:
        shield.give(**nvidia.libraries())
        kernel_database.keep_kernels()
        guest.choose(device, beam)
        open_gpu(device)
        if beam:
            tell_of_search()


def getting_ready(device: str) -> AbstractContextManager[None]:
    """Within this, what a device needs from a compiler is being made beside whatever else goes on."""
    if not device.startswith("CPU"):
        return nullcontext()
    from llmspec.backends.cpu.early import compiling

    return compiling()


def open_gpu(device: str) -> None:
    """Opens a GPU and its compiler. Raises RunError where one of them is not here."""
    from tinygrad import Device

    try:
        _ = Device[device].renderer
    except Exception as error:  # whatever a driver says; tinygrad has no one error for it
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        brings = next(
            (
                f"what is missing comes with {what}"
                for name, what in MISSING.items()
                if f"load library {name}:" in reason
            ),
            "",
        )
        raise RunError(
            f"{device} cannot be opened: {reason}",
            brings or "`device: auto` takes what is here",
            "nothing could be computed on it",
        ) from error


def allocated() -> int:
    """Bytes of all tensors of this process, on every device; what was let go of no longer counts."""
    from tinygrad.helpers import GlobalCounters

    with owner.turn():
        return int(GlobalCounters.mem_used) + sum(memory.bytes for memory in sharing.APART)


def tell_of_search() -> None:
    """Times tinygrad's search for fast kernels."""
    import tinygrad.codegen.opt.search as module

    if not hasattr(module.beam_search, "timed"):
        module.beam_search = search(module.beam_search)
