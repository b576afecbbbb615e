"""Opens tinygrad's CPU without making what captured steps never use.

tinygrad 0.14 generates and compiles four helper programs for its own queue whenever it opens a CPU, which takes 0.3 s
of every start, and imports a renderer for Mesa's drivers, which takes 0.05 s. Here they are made when somebody asks for
one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from llmspec.backends import sharing, tinygrad_private


class Lazy:
    """Stands for an object that is made on the first use of one of its attributes."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __getattr__(self, name: str) -> Any:
        if "made" not in self.__dict__:
            self.__dict__["made"] = self.make()
        return getattr(self.__dict__["made"], name)


MESA = "tinygrad.renderer.nir"


class LVPRenderer:
    """Stands for tinygrad's renderer of that name in its list of what a CPU can use, where names are compared: called,
    it gives the real one."""

    def __new__(cls, *arguments: Any) -> Any:
        return import_module(MESA).LVPRenderer(*arguments)


@contextmanager
def without_mesa() -> Iterator[None]:
    """Within this, an import of the module of Mesa's renderers finds the stand-in, unless the module is there."""
    if MESA in sys.modules:
        yield
        return
    stand_in: Any = ModuleType(MESA)
    stand_in.LVPRenderer = LVPRenderer
    sys.modules[MESA] = stand_in
    try:
        yield
    finally:
        del sys.modules[MESA]


def open_cpu() -> None:
    """Opens the device, once a process."""
    from tinygrad import Context, Device

    with without_mesa():
        from tinygrad.runtime import ops_cpu

    if "CPU" in tinygrad_private.opened_devices():
        return
    sharing.private_memory(ops_cpu)
    compile_now, program_now = ops_cpu.do_to_program, ops_cpu.CPUProgram

    def elf(*args: Any) -> Any:
        with Context(EMULATED_DTYPES="", TRACK_MATCH_STATS=0):  # as where tinygrad does it
            return compile_now(*args).to_elf()

    module: Any = ops_cpu
    module.do_to_program = lambda *args: SimpleNamespace(to_elf=lambda: Lazy(lambda: elf(*args)))
    module.CPUProgram = lambda device, code: Lazy(lambda: program_now(device, code))
    try:
        device: Any = Device["CPU"]
        device.runtime_t = program_now
        sharing.opened(device)
    finally:
        module.do_to_program, module.CPUProgram = compile_now, program_now
