"""Every name of tinygrad 0.14 that tinygrad does not promise to keep: nothing else in llmspec imports one.

`from llmspec.backends.tinygrad_private import NAME` looks a name of NAMES up in tinygrad when it is imported, so that
this module itself imports nothing. PATCHED and HELD list the attributes that are replaced in tinygrad, and that its
objects have. tests/test_tinygrad_private.py names each: another version of tinygrad fails there, with a list.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from llmspec.core.problems import RunError


class Name(NamedTuple):
    """Where a private name lies, and what llmspec does with it."""

    module: str
    use: str


NAMES: dict[str, Name] = {
    "KernelInfo": Name("tinygrad.uop.ops", "names a kernel that calls C or is written in UOps"),
    "Ops": Name("tinygrad.uop.ops", "kinds of graph nodes"),
    "buffers": Name("tinygrad.uop.ops", "buffers that exist before a step is captured"),
    "get_call_arg_uops": Name("tinygrad.engine.realize", "the arguments of a captured kernel"),
    "get_runtime": Name("tinygrad.engine.realize", "the compiled code of a captured kernel"),
    "resolve_params": Name("tinygrad.engine.realize", "the buffers of a captured kernel"),
    "capturing": Name("tinygrad.engine.realize", "records a step's graph without running it"),
    "compile_linear": Name("tinygrad.engine.realize", "compiles a graph's kernels to count their operations"),
    "estimate_uop": Name("tinygrad.engine.realize", "counts a kernel's operations"),
    "memory_plan_rewrite": Name("tinygrad.schedule.memory", "shares memory between buffers of a graph"),
    "to_program": Name("tinygrad.codegen", "renders a kernel for a GPU that is not here"),
    "CompileError": Name("tinygrad.device", "what a GPU's compiler refuses"),
    "TinyELF": Name("tinygrad.device", "machine code as a program of the CPU"),
    "CPUProgram": Name("tinygrad.runtime.ops_cpu", "loads machine code"),
    "worker_prog": Name("tinygrad.runtime.ops_cpu", "the loop of a CPU device's thread, started anew after a fork"),
    "PARALLEL": Name("tinygrad.helpers", "the number of processes that compile kernels"),
    "_to_np_dtype": Name("tinygrad.dtype", "numpy's type of a tensor's"),
    "_without_main": Name("tinygrad.engine.worker", "starts processes that do not import the user's main module"),
}
"""Names that are read, by where they are defined."""

PATCHED: dict[str, tuple[str, ...]] = {
    "tinygrad.helpers": (
        "os",
        "getenv.cache_clear",
        "sqlite3",
        "CACHEDB",
        "diskcache_get",
        "diskcache_put",
        "_db_connection",
        "_db_tables",
        "ContextVar._cache",
    ),
    "tinygrad.device": ("diskcache_get", "diskcache_put"),
    "tinygrad.codegen.opt.search": (
        "beam_search",
        "diskcache_get",
        "diskcache_put",
        "get_worker_pool",
        "terminate_worker_pool",
    ),
    "tinygrad.engine.realize": ("get_worker_pool", "terminate_worker_pool"),
    "tinygrad.engine.worker": ("worker_pool",),
    "tinygrad.runtime.ops_cpu": (
        "CPUAllocator._alloc",
        "mv_address",
        "MMIOInterface",
        "HCQBuffer",
        "do_to_program",
        "LVPRenderer",
    ),
    "tinygrad.runtime.support.compiler_cpu": ("ClangCompiler.compile",),
    "tinygrad.runtime.support.compiler_cuda": ("NVRTCCompiler",),
}
"""Attributes of tinygrad's modules that are replaced, or that a replacement needs."""

HELD: dict[str, tuple[str, ...]] = {
    "buffer": ("base", "nbytes", "size", "ensure_allocated", "get_buf", "allocator", "allocator._copyin", "_buf"),
    "jit": ("cnt", "captured", "captured.linear.src", "captured.ret"),
    "devices": ("_opened_devices",),
    "cpu": ("synchronize", "runtime_t", "workers", "prgs", "func_ptr", "renderer.target", "allocator.free_cache"),
    "tensor": ("_threefry_random_bits",),
}
"""Attributes of a realized tensor's buffer, a captured TinyJit, Device, the CPU's device, and Tensor."""


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(NAMES[name].module), name)
    except (ImportError, AttributeError) as error:
        raise missing(f"{NAMES[name].module}.{name}", NAMES[name].use) from error


def missing(name: str, use: str) -> RunError:
    """The sentence for a name that this version of tinygrad does not have."""
    return RunError(
        f"this tinygrad has no {name}",
        "pip install tinygrad==0.14.0",
        f"it is needed for this: {use}",
    )


# -- buffers -----------------------------------------------------------------------------------------------------------
def buffer_of(tensor: Any) -> Any:
    """The buffer of a realized tensor, or of the tensor that it is a part of."""
    return tensor.uop.base.buffer


def address_of(buffer: Any) -> int:
    """The address of a CPU's buffer in memory, which is allocated where it was not yet."""
    address: int = buffer.ensure_allocated().get_buf("CPU").va_addr
    return address


def keep_alive(buffer: Any, owner: object) -> None:
    """Has a CPU's buffer, whose memory is somebody else's, hold on to whose it is."""
    buffer._buf.meta = owner


def copy_in(buffer: Any, content: memoryview) -> None:
    """Copies bytes into a buffer, as many as it has."""
    buffer.ensure_allocated().allocator._copyin(buffer._buf, content)


def numpy_type(dtype: Any) -> Any:
    """numpy's type of a tensor's."""
    return __getattr__("_to_np_dtype")(dtype)


def free_unused(device: Any) -> None:
    """Gives back memory that a device keeps for later buffers."""
    device.allocator.free_cache()


# -- graphs and devices ------------------------------------------------------------------------------------------------
def jit(function: Callable[..., Any]) -> Any:
    """A TinyJit that captures at its first call: everything that it needs is realized, so no dry run is due."""
    from tinygrad import TinyJit

    made = TinyJit(function)
    made.cnt = 1
    return made


def random_bits(key: Any, low: Any, high: Any) -> Any:
    """Two uint32 for each of two counters, under a key (2,) uint32 (Threefry; Salmon et al. 2011)."""
    from tinygrad import Tensor

    return Tensor._threefry_random_bits(key, low, high)


def settings() -> dict[str, Any]:
    """tinygrad's settings by name; each has a `value`."""
    from tinygrad.helpers import ContextVar

    return ContextVar._cache


def opened_devices() -> set[str]:
    """Names of the devices that are open in this process."""
    from tinygrad import Device

    return Device._opened_devices
