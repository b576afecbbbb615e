"""The C functions of backends/cpu/c: compiled once for this processor, called by address from tinygrad's CPU graph."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tinygrad import Tensor, UOp, dtypes

from llmspec.backends import owner
from llmspec.backends.cpu import early
from llmspec.backends.cpu.products import provider
from llmspec.backends.tensors import tensor
from llmspec.backends.tinygrad_private import KernelInfo, Ops
from llmspec.core.devices import threads
from llmspec.core.problems import RunError
from llmspec.core.units import size

FUNCTIONS = (
    "matmul",
    "linear",
    "linear_backward",
    "linear_by_sequence",
    "half_linear",
    "quantised_linear",
    "quantised_rows",
    "frozen_linear",
    "frozen_linear_backward",
    "frozen_cross_entropy",
    "frozen_cross_entropy_backward",
    "router",
    "router_backward",
    "dispatch",
    "dispatch_backward",
    "combine",
    "combine_backward",
    "grouped_linear",
    "grouped_held",
    "grouped_linear_backward",
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "gather_rows",
    "scatter_rows",
    "rms_norm",
    "rms_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "qk_norm",
    "qk_norm_backward",
    "add",
    "activation",
    "activation_backward",
    "gated",
    "gated_backward",
    "rotate",
    "attention",
    "attention_backward",
    "attention_kept",
    "keep_halves",
    "keep_bytes",
    "take_kept",
    "square_sum",
    "adam",
    "muon",
    "lion",
    "schedule_free_adamw",
    "adafactor",
    "adafactor_vector",
    "average",
)
SMALL = {"muon": 2}
"""Functions whose work is too small to be divided well, and how many buffers, the first ones, they write: where a step
calls several one after another, each thread does its own."""
READ = (dtypes.float32, dtypes.int32, dtypes.float16, dtypes.int8, dtypes.bfloat16)
"""Types of numbers that C functions read; the last three are those of a KV cache that rounds, and of weights."""

Gradient = Callable[..., "tuple[UOp | None, ...]"]
Number = int | float


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled functions, their threads started. Raises ToolchainError where no compiler is found."""
    found = early.load()

    def start() -> None:
        found.forget_threads()
        found.start_threads(ctypes.c_int64(threads()))

    start()
    owner.after_fork(start)
    return found


OUT_OF_MEMORY, INDEX_OUT_OF_RANGE = 1, 2


def raise_error() -> None:
    """Raises RunError where a C function has failed since this was last asked; its results are then worth nothing."""
    words = (ctypes.c_int64 * 2)()
    kind = library().take_error(words)
    if kind == OUT_OF_MEMORY:
        raise owner.out_of_memory(f"{size(words[0])} more were wanted while computing")
    if kind == INDEX_OUT_OF_RANGE:
        raise RunError(
            f"{words[0]} was looked up in a table of {words[1]} rows, which are counted from 0",
            "a token id or a position is wrong; ids are 0 … vocabulary - 1",
            "memory that belongs to something else would have been read",
        )


@functools.cache
def products() -> str:
    """Has matrices multiplied by what this processor's provider is; its name and threads, for people."""
    made = provider()
    if made.blas:
        if not made.whole:  # ours call it side by side; its own threads would fight with them
            owner.bands_by(*made.blas.thread_functions())
        sgemm, bits = ctypes.c_void_p(made.blas.sgemm), ctypes.c_int64(made.blas.int_bits)
        library().use_blas(sgemm, bits, ctypes.c_int64(made.whole))
    return f"{made.name}, {library().thread_count()} threads"


@functools.cache
def handle() -> Tensor:
    """The functions' addresses as a realized uint64 tensor, in the order of FUNCTIONS: an input of jitted functions.

    As constants they would be captured, and a captured function that another process loads would call what no longer
    lies there.
    """
    products()
    found = [ctypes.cast(getattr(library(), name), ctypes.c_void_p).value for name in FUNCTIONS]
    return tensor(np.array(found, np.uint64), "CPU")


@functools.cache
def _caller(name: str, numbers: tuple[Number, ...], arguments: tuple[tuple[int, int], ...]) -> Callable[..., UOp]:
    """A kernel that calls `name`(*buffers, *numbers), or with those places in its buffers that `arguments` names.

    One object for each, since graphs are cached by identity.
    """
    constants = [UOp.const(n, dtypes.int64 if isinstance(n, int) else dtypes.float32) for n in numbers]

    def kernel(*buffers: UOp) -> UOp:
        *rest, addresses = buffers
        once = UOp.range(1, 0)
        pointers = [rest[i][once + at] for i, at in arguments] if arguments else [b[once] for b in rest]
        call = addresses[FUNCTIONS.index(name)].load().call(*pointers, *constants, ret_dtype=dtypes.void)
        label = "_".join(str(n) if isinstance(n, int) else format(n, "g").translate(LETTERS) for n in numbers)
        return UOp.sink(call.end(once), arg=KernelInfo(f"{name}_{label}", opts_to_apply=()))

    return kernel


LETTERS = str.maketrans({".": "p", "-": "m", "+": ""})


def called(kernel: UOp) -> tuple[str, int] | None:
    """(function, which argument holds the addresses) of a kernel that does nothing but call a function of FUNCTIONS.

    Read off the kernel's graph, whatever the kernel is named: it loads an address from a table and calls it.
    """
    nodes = kernel.toposort()
    calls = [u for u in nodes if u.op is Ops.CALL]
    if len(calls) != 1 or calls[0].src[0].op is not Ops.LOAD or any(u.op is Ops.STORE for u in nodes):
        return None
    table, index = calls[0].src[0].src[0].src[:2]
    while index.op is Ops.CAST:
        index = index.src[0]
    if table.op is not Ops.PARAM or table.dtype != dtypes.uint64 or index.op is not Ops.CONST:
        return None
    return FUNCTIONS[index.arg], table.arg.slot


def call(
    name: str,
    outputs: tuple[int | Tensor, ...],
    inputs: tuple[Tensor, ...],
    numbers: tuple[Number, ...],
    address: Tensor,
    gradient: Gradient | None = None,
    arguments: tuple[tuple[int, int], ...] = (),
) -> list[Tensor]:
    """`name`(*outputs, *inputs, *numbers) inside the graph.

    `arguments` are the function's pointers where they are others: a number of an output or input, counted through, and
    how many elements into it.

    An output is a number of float32 elements to make, or a tensor to change in place. Returns the outputs, flat, as
    they are after the call; `gradient(g, call)` gives the gradients for outputs, inputs and `address`.
    """
    if not all(isinstance(n, int | float) for n in numbers):
        raise TypeError(f"C functions need sizes that are known, not {numbers}")
    made = [
        o if isinstance(o, Tensor) else Tensor.invalids(o, dtype=dtypes.float32, device=address.device) for o in outputs
    ]
    flat = [t.reshape(-1) for t in (*made, *(in_order(t) for t in inputs))]
    if wrong := [t.dtype.name for t in flat if t.dtype not in READ]:
        raise TypeError(f"C functions read {', '.join(t.name for t in READ)}, not {', '.join(wrong)}")
    done = Tensor.custom_kernel(*flat, address, fxn=_caller(name, tuple(numbers), arguments), grad_fxn=gradient)
    return done[: len(made)]


def no_gradient(*_: Any) -> Any:
    """The `gradient` of calls that read weights as they lie in a file. Raises TypeError."""
    raise TypeError("weights that stay quantised have no gradient: open the model with weights of float32 to train it")


def integers(count: int, address: Tensor) -> Tensor:
    """Room for so many int32 that a call writes."""
    return Tensor.invalids(count, dtype=dtypes.int32, device=address.device)


def shape_of(x: Tensor) -> tuple[int, ...]:
    """A tensor's shape as plain integers. Raises TypeError for a symbolic one."""
    sizes = tuple(n for n in x.shape if isinstance(n, int))
    if len(sizes) < len(x.shape):
        raise TypeError(f"C functions need sizes that are known, not {x.shape}")
    return sizes


def operands(node: UOp, outputs: int) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs (as they are after the call) and inputs of a call, its address last."""
    return [Tensor(u.after(node)) for u in node.src[1 : 1 + outputs]], [Tensor(u) for u in node.src[1 + outputs :]]


MOVED = (Ops.PERMUTE, Ops.EXPAND, Ops.FLIP, Ops.PAD)
"""What makes another order of a tensor's numbers, or more of them."""


def in_order(x: Tensor) -> Tensor:
    """The tensor, its numbers in memory of their own where they lie apart or in another order: tinygrad 0.14 gives
    calls the memory of such a view, as it lies, where something else in the graph reads that too. A stretch of numbers
    that lie next to each other stays the view that it is: of those, a copy is what calls are given wrongly."""
    node = x.uop
    while node.op is Ops.RESHAPE or (node.op is Ops.SHRINK and is_stretch(node.src[0].shape, node.shape)):
        node = node.src[0]
    return x.contiguous() if node.op in (Ops.SHRINK, *MOVED) else x


def is_stretch(whole: Sequence[Any], part: Sequence[Any]) -> bool:
    """Whether a part of an array of these shapes, the same range of each axis, lies in one stretch of memory."""
    cut = [axis for axis, (a, b) in enumerate(zip(whole, part, strict=True)) if a != b]
    return not cut or all(size == 1 for size in part[: cut[-1]])


def made(x: Tensor) -> bool:
    """Whether a tensor is all that a call wrote, in its order: it has memory of its own already."""
    node = x.uop
    while node.op is Ops.RESHAPE:
        node = node.src[0]
    return node.op is Ops.AFTER
