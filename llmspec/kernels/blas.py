"""Matrix products on the CPU through the BLAS that numpy ships, as calls inside tinygrad's graph.

tinygrad's own loops reach a tenth of its speed. A kernel that calls the BLAS by its address is captured by TinyJit
like any other, and its gradients are such calls again.

Shapes: Z batch, M rows, N columns, K inner; float32, row-major.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinygrad import Tensor, UOp, dtypes
from tinygrad.uop.ops import KernelInfo

from llmspec.kernels import blas_library

ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112
GEMM, GEMV, SET_THREADS, THREADS = 0, 1, 2, 3  # what stands where in the handle
# A product of a batch with fewer operations than this runs on one thread: it is no slower, and where another process
# keeps a core busy, two threads wait for each other once a product, for a time slice of the scheduler each.
ONE_THREAD_OPS = 1 << 25


@dataclass(frozen=True)
class Blas:
    """A BLAS that was found, called and seen to multiply properly. The addresses hold in this process only."""

    name: str
    int_bits: int
    threads: int
    addresses: tuple[int, int, int]  # of sgemm, sgemv and the function that sets the number of threads

    @staticmethod
    def find() -> Blas | None:
        """The BLAS of this process's numpy, or None; `Blas.why_not()` then says why."""
        found = blas_library.search()
        if isinstance(found, str):
            return None
        return Blas(found.name, found.int_bits, found.threads, (found.sgemm, found.sgemv, found.set_threads))

    @staticmethod
    def why_not() -> str:
        """Why `find` returns None, for people; '' where it finds one."""
        found = blas_library.search()
        return found if isinstance(found, str) else ""

    def handle(self) -> Tensor:
        """The addresses and the number of threads as a realized uint64 tensor of 4 on the CPU.

        Make it once and pass it to jitted functions as an input: as a constant it would be captured with them, and a
        captured function that is loaded in another process would call what no longer lies there.
        """
        return Tensor([*self.addresses, self.threads], dtype=dtypes.uint64, device="CPU").realize()


@dataclass(frozen=True)
class _Product:
    """One kernel: Z products of op(A) (M, K) and op(B) (K, N), one after another."""

    Z: int
    M: int
    N: int
    K: int
    ta: bool
    tb: bool
    int_bits: int

    @property
    def name(self) -> str:
        return f"blas_{self.Z}_{self.M}_{self.N}_{self.K}_{'NT'[self.ta]}{'NT'[self.tb]}"

    @property
    def one_thread(self) -> bool:
        return self.Z > 1 and 2 * self.M * self.N * self.K < ONE_THREAD_OPS

    @functools.cached_property
    def kernel(self) -> Callable[..., UOp]:
        return functools.partial(_kernel, self)

    @functools.cached_property
    def gradient(self) -> Callable[..., tuple[UOp | None, ...]]:
        return functools.partial(_gradient, self)


@functools.cache
def _product(Z: int, M: int, N: int, K: int, ta: bool, tb: bool, int_bits: int) -> _Product:
    # One object for each shape: the graph is cached by the identity of the functions in it.
    return _Product(Z, M, N, K, ta, tb, int_bits)


def matmul(
    handle: Tensor, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False, int_bits: int = 64
) -> Tensor:
    """Multiply: op(a) (..., M, K) by op(b) (..., K, N) to (..., M, N), where op swaps the last two axes if asked.

    Leading axes broadcast; a broadcast operand is copied, except a `b` without leading axes, which makes one product
    of all rows. Each operand is read where it lies if it is a buffer, and is materialised once if it is an expression.

    Args:
        handle: from `Blas.handle()`.
        a: float32, (..., M, K), or (..., K, M) with `transpose_a`.
        b: float32, (..., K, N), or (..., N, K) with `transpose_b`.
        int_bits: width of the BLAS's integers, `Blas.int_bits`.

    Raises:
        TypeError: a dtype other than float32, or a symbolic shape.
        ValueError: shapes that do not fit.
    """
    _check(a, b)
    if _rank_of_batch(b) == 0 and not transpose_a:
        rows, weight = a.reshape(1, math.prod(a.shape[:-1]), a.shape[-1]), b.reshape(1, *b.shape[-2:])
        out = _multiply(handle, rows, weight, False, transpose_b, int_bits)
        return out.reshape(*a.shape[:-1], out.shape[-1])
    batch = _broadcast(a.shape[:-2], b.shape[:-2])
    Z = math.prod(batch)
    a, b = (t.expand(*batch, *t.shape[-2:]).reshape(Z, *t.shape[-2:]) for t in (a, b))
    out = _multiply(handle, a, b, transpose_a, transpose_b, int_bits)
    return out.reshape(*batch, *out.shape[-2:])


def linear(handle: Tensor, x: Tensor, weight: Tensor, *, int_bits: int = 64) -> Tensor:
    """x (..., K) times the transpose of weight (N, K): (..., N). The weight's gradient is one product over all rows."""
    if x.ndim == 1:
        return linear(handle, x.reshape(1, -1), weight, int_bits=int_bits).reshape(-1)
    return matmul(handle, x, weight, transpose_b=True, int_bits=int_bits)


def _multiply(handle: Tensor, a: Tensor, b: Tensor, ta: bool, tb: bool, int_bits: int) -> Tensor:
    """`matmul` of exactly three axes with equal Z."""
    (Z, M, K), (inner, N) = _swap(a.shape, ta), _swap(b.shape, tb)[1:]
    if inner != K:
        raise ValueError(f"shapes do not fit: {a.shape}{' transposed' * ta} by {b.shape}{' transposed' * tb}")
    product = _product(Z, M, N, K, ta, tb, int_bits)
    out = Tensor.invalids(Z * M * N, dtype=dtypes.float32, device=a.device)
    # No contiguous() here: the operands of a custom kernel are materialised anyway, and a buffer is taken as it is.
    operands = (out, a.reshape(-1), b.reshape(-1), handle)
    return Tensor.custom_kernel(*operands, fxn=product.kernel, grad_fxn=product.gradient)[0].reshape(Z, M, N)


def _kernel(p: _Product, C: UOp, A: UOp, B: UOp, handle: UOp) -> UOp:
    threads = handle[THREADS].load().cast(dtypes.int32)
    before = handle.after(_set_threads(handle, UOp.const(1, dtypes.int32))) if p.one_thread else handle
    z = UOp.range(p.Z, 0)
    a, b, c = A[z * p.M * p.K], B[z * p.K * p.N], C[z * p.M * p.N]
    if p.M == 1:  # sgemm takes up to six times as long as sgemv on a single row
        call = _gemv(p, before, matrix=b, vector=a, out=c, rows=p.N if p.tb else p.K, transpose=not p.tb)
    elif p.N == 1:
        call = _gemv(p, before, matrix=a, vector=b, out=c, rows=p.K if p.ta else p.M, transpose=p.ta)
    else:
        call = _gemm(p, before, a, b, c)
    done = call.end(z)
    if p.one_thread:
        done = _set_threads(handle.after(done), threads)
    # opts_to_apply=(): otherwise the optimiser unrolls the loop of calls.
    return UOp.sink(done, arg=KernelInfo(p.name, opts_to_apply=()))


def _set_threads(handle: UOp, threads: UOp) -> UOp:
    return handle[SET_THREADS].load().call(threads, ret_dtype=dtypes.void)


def _gemm(p: _Product, handle: UOp, a: UOp, b: UOp, c: UOp) -> UOp:
    size, flag, real = _constants(p.int_bits)
    trans_a, trans_b = (flag(TRANS if t else NO_TRANS) for t in (p.ta, p.tb))
    lda, ldb = size(p.M if p.ta else p.K), size(p.K if p.tb else p.N)
    return (
        handle[GEMM]
        .load()
        .call(
            *(flag(ROW_MAJOR), trans_a, trans_b, size(p.M), size(p.N), size(p.K)),
            *(real(1.0), a, lda, b, ldb, real(0.0), c, size(p.N)),
            ret_dtype=dtypes.void,
        )
    )


def _gemv(p: _Product, handle: UOp, *, matrix: UOp, vector: UOp, out: UOp, rows: int, transpose: bool) -> UOp:
    size, flag, real = _constants(p.int_bits)
    columns = p.K * p.M * p.N // rows
    return (
        handle[GEMV]
        .load()
        .call(
            *(flag(ROW_MAJOR), flag(TRANS if transpose else NO_TRANS), size(rows), size(columns)),
            *(real(1.0), matrix, size(columns), vector, size(1), real(0.0), out, size(1)),
            ret_dtype=dtypes.void,
        )
    )


def _constants(int_bits: int) -> tuple[Callable[[Any], UOp], ...]:
    of = lambda dtype: lambda value: UOp.const(value, dtype)
    return of(dtypes.int64 if int_bits == 64 else dtypes.int32), of(dtypes.int32), of(dtypes.float32)


def _gradient(p: _Product, out_gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
    """Gradients for (C, A, B, handle) in their stored forms, so that a transposed operand needs no transposed copy."""
    _, a_uop, b_uop, handle_uop = call.src[1:]
    handle, g = Tensor(handle_uop), Tensor(out_gradient).reshape(p.Z, p.M, p.N)
    a = Tensor(a_uop).reshape(p.Z, *((p.K, p.M) if p.ta else (p.M, p.K)))
    b = Tensor(b_uop).reshape(p.Z, *((p.N, p.K) if p.tb else (p.K, p.N)))
    times = functools.partial(_multiply, handle, int_bits=p.int_bits)
    da = times(b, g, p.tb, True) if p.ta else times(g, b, False, not p.tb)
    db = times(g, a, True, p.ta) if p.tb else times(a, g, not p.ta, False)
    return None, da.reshape(-1).uop, db.reshape(-1).uop, None


def _swap(shape: tuple[Any, ...], swapped: bool) -> tuple[int, ...]:
    *batch, rows, columns = shape
    return (*batch, columns, rows) if swapped else (*batch, rows, columns)


def _rank_of_batch(t: Tensor) -> int:
    return sum(1 for n in t.shape[:-2] if n != 1) if t.ndim > 2 else 0


def _broadcast(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[int, ...]:
    width = max(len(a), len(b))
    pairs = zip((1,) * (width - len(a)) + a, (1,) * (width - len(b)) + b, strict=True)
    sizes = [(m, n) if n == 1 else (n, m) for m, n in pairs]
    if any(other not in (1, size) for size, other in sizes):
        raise ValueError(f"leading axes do not broadcast: {a} and {b}")
    return tuple(size for size, _ in sizes)


def _check(a: Tensor, b: Tensor) -> None:
    for t in (a, b):
        if t.dtype != dtypes.float32:
            raise TypeError(f"the BLAS multiplies float32, not {t.dtype}")
        if not all(isinstance(n, int) for n in t.shape):
            raise TypeError(f"the BLAS needs sizes that are known, not {t.shape}")
        if t.ndim < 2:
            raise ValueError(f"a matrix has two axes or more: {t.shape}")
