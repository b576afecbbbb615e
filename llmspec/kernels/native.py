"""Calls of native.c from inside tinygrad's CPU graph: embedding rows and the masked softmax, with their gradients.

Stock tinygrad computes the gradient of an embedding as a one-hot product and recomputes the softmax in its backward
pass; the lab book has what these calls gain.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

from tinygrad import Tensor, UOp, dtypes
from tinygrad.renderer import Estimates
from tinygrad.uop.ops import KernelInfo

from llmspec.kernels.toolchain import prepare

FUNCTIONS = ("gather_rows", "scatter_rows", "softmax_masked", "softmax_backward")
FLAGS = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
"""What lets clang vectorise the sums; nothing that assumes away NaN or infinity."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled native.c. Raises ToolchainError where no compiler is found."""
    source = Path(__file__).with_name("native.c").read_text("utf-8")
    return ctypes.CDLL(str(prepare().shared_library(source, "native", FLAGS)))


@functools.cache
def handle() -> Tensor:
    """The functions' addresses as a realized uint64 tensor, in the order of FUNCTIONS: an input of jitted functions."""
    found = [ctypes.cast(getattr(library(), name), ctypes.c_void_p).value for name in FUNCTIONS]
    return Tensor(found, dtype=dtypes.uint64, device="CPU").realize()


@functools.cache
def _caller(name: str, sizes: tuple[int, ...], operations: int) -> Callable[..., UOp]:
    """A kernel that calls `name`(out, *buffers, *sizes). One object for each, since graphs are cached by identity."""

    def kernel(out: UOp, *rest: UOp) -> UOp:
        *buffers, addresses = rest
        once = UOp.range(1, 0)
        call = (
            addresses[FUNCTIONS.index(name)]
            .load()
            .call(
                out[once],
                *(b[once] for b in buffers),
                *(UOp.const(n, dtypes.int64) for n in sizes),
                ret_dtype=dtypes.void,
            )
        )
        label = f"{name}_{'_'.join(map(str, sizes))}"
        info = KernelInfo(label, opts_to_apply=(), estimates=Estimates(ops=operations, lds=0, mem=0))
        return UOp.sink(call.end(once), arg=info)

    return kernel


def _call(
    name: str,
    count: int,
    buffers: tuple[Tensor, ...],
    sizes: tuple[int, ...],
    address: Tensor,
    gradient: Callable[..., tuple[UOp | None, ...]] | None = None,
) -> Tensor:
    """A flat float32 tensor of `count`, filled by `name`."""
    out = Tensor.invalids(count, dtype=dtypes.float32, device=address.device)
    flat = tuple(b.reshape(-1) for b in buffers)
    fxn = _caller(name, sizes, 2 * count)
    return Tensor.custom_kernel(out, *flat, address, fxn=fxn, grad_fxn=gradient)[0]


def embedding(address: Tensor, weight_VD: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table (V, D) at int32 ids (…) -> (…, D). An id outside 0…V-1 reads what is not the table's."""
    (v, d), n = weight_VD.shape, ids.numel()
    return _call(
        "gather_rows",
        n * d,
        (weight_VD, ids.cast(dtypes.int32)),
        (n, d),
        address,  # type: ignore[arg-type]
        _scatter(n, d, v),
    ).reshape(*ids.shape, d)  # type: ignore[arg-type]


@functools.cache
def _scatter(n: int, d: int, v: int) -> Callable[..., tuple[UOp | None, ...]]:
    def gradient(g: UOp, call: UOp) -> tuple[UOp | None, ...]:
        _, _, ids, address = (Tensor(u) for u in call.src[1:])
        return None, _call("scatter_rows", v * d, (Tensor(g), ids), (n, d, v), address).uop, None, None

    return gradient


def softmax(address: Tensor, scores_BHTS: Tensor, mask: Tensor) -> Tensor:
    """Softmax over S of (B, H, T, S) where mask (B or 1, 1, T, S) is True; exactly 0 elsewhere, also in empty rows."""
    b, h, t, s = scores_BHTS.shape
    sizes = (b, h, t, s, mask.shape[0])
    done = _call(
        "softmax_masked",
        b * h * t * s,
        (scores_BHTS, mask.cast(dtypes.uint8)),
        sizes,
        address,  # type: ignore
        _softmax_gradient(b * h * t, s),
    )  # type: ignore[arg-type,operator]
    return done.reshape(b, h, t, s)


@functools.cache
def _softmax_gradient(rows: int, s: int) -> Callable[..., tuple[UOp | None, ...]]:
    def gradient(g: UOp, call: UOp) -> tuple[UOp | None, ...]:
        done, address = Tensor(call.src[1].after(call)), Tensor(call.src[4])
        return None, _call("softmax_backward", rows * s, (Tensor(g), done), (rows, s), address).uop, None, None

    return gradient
