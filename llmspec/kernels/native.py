"""Calls of native.c from inside tinygrad's CPU graph, with their gradients.

Stock tinygrad computes the gradient of an embedding as a one-hot product, recomputes the softmax in its backward pass
and spends most of an activation in a scalar polynomial; the lab book has what these calls gain.

Shape letters: B batch, H heads, T queries, S keys, V vocabulary or rows, D width, N positions.
"""

from __future__ import annotations

import ctypes
import functools
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinygrad import Tensor, UOp, dtypes
from tinygrad.uop.ops import KernelInfo

from llmspec.kernels.toolchain import prepare

FUNCTIONS = ("gather_rows", "scatter_rows", "softmax_masked", "softmax_backward", "silu_gated", "silu_gated_backward",
             "cross_entropy", "cross_entropy_backward", "rms_norm", "rms_norm_backward")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
FLAGS = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", *WIDE)
"""What lets clang vectorise the sums; nothing that assumes away NaN or infinity."""

Gradient = Callable[..., "tuple[UOp | None, ...]"]


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
def _caller(name: str, sizes: tuple[int, ...]) -> Callable[..., UOp]:
    """A kernel that calls `name`(*buffers, *sizes). One object for each, since graphs are cached by identity."""

    def kernel(*buffers: UOp) -> UOp:
        *rest, addresses = buffers
        once = UOp.range(1, 0)
        call = addresses[FUNCTIONS.index(name)].load().call(
            *(b[once] for b in rest), *(UOp.const(n, dtypes.int64) for n in sizes), ret_dtype=dtypes.void)
        info = KernelInfo(f"{name}_{'_'.join(map(str, sizes))}", opts_to_apply=())
        return UOp.sink(call.end(once), arg=info)

    return kernel


def _call(name: str, counts: tuple[int, ...], buffers: tuple[Tensor, ...], sizes: tuple[int, ...], address: Tensor,
          gradient: Gradient | None = None) -> list[Tensor]:
    """Flat float32 tensors of `counts` elements, filled by `name`(outputs, buffers, sizes)."""
    outs = [Tensor.invalids(n, dtype=dtypes.float32, device=address.device) for n in counts]
    flat = [b.reshape(-1) for b in buffers]
    done = Tensor.custom_kernel(*outs, *flat, address, fxn=_caller(name, sizes), grad_fxn=gradient)
    return done[: len(counts)]


def _sizes(*tensors_or_numbers: Any) -> tuple[int, ...]:
    """Shapes as plain integers. Raises TypeError for a symbolic one."""
    if not all(isinstance(n, int) for n in tensors_or_numbers):
        raise TypeError(f"C functions need sizes that are known, not {tensors_or_numbers}")
    return tensors_or_numbers


def embedding(address: Tensor, weight_VD: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table (V, D) at ids (…) -> (…, D). Ids must lie in 0 … V-1: nothing checks them here."""
    v, d, n = _sizes(*weight_VD.shape, ids.numel())
    rows = _call("gather_rows", (n * d,), (weight_VD, ids.cast(dtypes.int32)), (n, d), address, _scatter(n, d, v))[0]
    return rows.reshape(*ids.shape, d)


@functools.cache
def _scatter(n: int, d: int, v: int) -> Gradient:
    def gradient(g: UOp, call: UOp) -> tuple[UOp | None, ...]:
        ids, address = Tensor(call.src[3]), Tensor(call.src[4])
        return None, _call("scatter_rows", (v * d,), (Tensor(g), ids), (n, d, v), address)[0].uop, None, None

    return gradient


def softmax(address: Tensor, scores_BHTS: Tensor, mask: Tensor) -> Tensor:
    """Softmax over S of (B, H, T, S) where mask (B or 1, 1, T, S) is True; exactly 0 elsewhere, also in empty rows."""
    b, h, t, s, bm = _sizes(*scores_BHTS.shape, mask.shape[0])
    done = _call("softmax_masked", (b * h * t * s,), (scores_BHTS, mask.cast(dtypes.uint8)), (b, h, t, s, bm), address,
                 _softmax_gradient(b * h * t, s))[0]
    return done.reshape(b, h, t, s)


@functools.cache
def _softmax_gradient(rows: int, s: int) -> Gradient:
    def gradient(g: UOp, call: UOp) -> tuple[UOp | None, ...]:
        done, address = Tensor(call.src[1].after(call)), Tensor(call.src[4])
        back = _call("softmax_backward", (rows * s,), (Tensor(g), done), (rows, s), address)[0]
        return None, back.uop, None, None

    return gradient


def silu_gated(address: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, element by element."""
    (n,) = _sizes(math.prod(gate.shape))
    return _call("silu_gated", (n,), (gate, up), (n,), address, _gated_gradient(n))[0].reshape(gate.shape)


@functools.cache
def _gated_gradient(n: int) -> Gradient:
    def gradient(g: UOp, call: UOp) -> tuple[UOp | None, ...]:
        gate, up, address = (Tensor(u) for u in call.src[2:])
        to_gate, to_up = _call("silu_gated_backward", (n, n), (Tensor(g), gate, up), (n,), address)
        return None, to_gate.uop, to_up.uop, None

    return gradient


def cross_entropy(address: Tensor, logits_NV: Tensor, targets_N: Tensor, label_smoothing: float) -> Tensor:
    """Losses (N,) in nats of targets in 0 … V-1; smoothing counts in millionths."""
    n, v, ppm = _sizes(*logits_NV.shape, round(label_smoothing * 1e6))
    return _call("cross_entropy", (n, n), (logits_NV, targets_N.cast(dtypes.int32)), (n, v, ppm), address,
                 _entropy_gradient(n, v, ppm))[0]


@functools.cache
def _entropy_gradient(n: int, v: int, ppm: int) -> Gradient:
    def gradient(g: UOp, call: UOp) -> tuple[UOp | None, ...]:
        totals = Tensor(call.src[2].after(call))
        logits, targets, address = (Tensor(u) for u in call.src[3:])
        back = _call("cross_entropy_backward", (n * v,), (Tensor(g), logits, totals, targets), (n, v, ppm), address)[0]
        return None, None, back.uop, None, None

    return gradient


def rms_norm(address: Tensor, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axis; eps counts in 10⁻¹²."""
    d, n, small = _sizes(weight_D.shape[0], x.numel() // weight_D.shape[0], max(1, round(eps * 1e12)))
    done = _call("rms_norm", (n * d, n), (x, weight_D), (n, d, small), address, _norm_gradient(n, d))[0]
    return done.reshape(x.shape)


@functools.cache
def _norm_gradient(n: int, d: int) -> Gradient:
    def gradient(g: UOp, call: UOp) -> tuple[UOp | None, ...]:
        r = Tensor(call.src[2].after(call))
        x, weight, address = (Tensor(u) for u in call.src[3:])
        to_x, to_weight = _call("rms_norm_backward", (n * d, d), (Tensor(g), x, weight, r), (n, d), address)
        return None, None, to_x.uop, to_weight.uop, None

    return gradient
