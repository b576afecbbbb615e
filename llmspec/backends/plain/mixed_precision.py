"""Products of rounded operands: what tensor cores multiply. Sums, weights, norms and losses stay float32.

Shape letters: M rows, K inner length, N columns.
"""

from __future__ import annotations

import math

from tinygrad import Tensor, UOp, dtypes, function
from tinygrad.dtype import DType

from llmspec.backends.plain.ops import Ops
from llmspec.parts.dropout import Dropout

TYPES = {"bfloat16": dtypes.bfloat16, "float16": dtypes.float16}
NARROW = frozenset({dtypes.float16})
"""Types whose exponent is too short for gradients: 6e-8 is the least that float16 holds."""
SMALLEST = 1e-30
"""Stands for the largest gradient where all are zero."""


class MixedPrecisionOps(Ops):
    """Plain tinygrad, each operand of a product rounded to `precision`, and each product summed in float32."""

    def __init__(self, precision: str, key: Tensor | None = None, dropout: float | Dropout = 0.0) -> None:
        super().__init__(key, dropout)
        self._type = TYPES[precision]

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """(…, M, K) @ (K, N) or (…, K, N) -> (…, M, N) float32."""
        if b.ndim > 2 or a.ndim == 2:
            return rounded_product(a, b, self._type)
        rows = a.reshape(math.prod(int(n) for n in a.shape[:-1]), a.shape[-1])  # one product, whatever the rows are
        return rounded_product(rows, b, self._type).reshape(*a.shape[:-1], b.shape[-1])


def rounded_product(a: Tensor, b: Tensor, dtype: DType) -> Tensor:
    """a (…, M, K) by b (…, K, N), leading axes equal, both rounded -> (…, M, N), summed in float32.

    Its gradients are products of the same kind: left to automatic differentiation, each would be rounded once more on
    its way out. The rounded operands are written down, since a product reads each of its numbers many times.
    """
    low_a, low_b = (x.detach().cast(dtype).contiguous() for x in (a, b))

    def forward(a: Tensor, b: Tensor, low_a: Tensor, low_b: Tensor) -> Tensor:
        return low_a.dot(low_b, dtype=dtypes.float32)

    def backward(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
        g, back = lowered(Tensor(gradient), dtype)
        of_a = g.dot(low_b.transpose(-1, -2), dtype=dtypes.float32) * back
        of_b = low_a.transpose(-1, -2).dot(g, dtype=dtypes.float32) * back
        if a.uop is b.uop:  # a square: tinygrad hands equal inputs on once
            return (of_a + of_b).contiguous().uop, None
        return of_a.contiguous().uop, of_b.contiguous().uop, None, None

    return function(forward, grad_fxn=backward)(a, b, low_a, low_b)


def lowered(gradient: Tensor, dtype: DType) -> tuple[Tensor, Tensor | float]:
    """A gradient as operands of a product, and what to multiply that product with.

    Where the type's exponent is short, the gradient is first divided by its largest number, so that none is lost below
    the type's smallest or above its largest: no scale of the loss has to be chosen or adjusted.
    """
    if dtype not in NARROW:
        return gradient.cast(dtype).contiguous(), 1.0
    gradient = gradient.contiguous()
    largest = gradient.abs().max().maximum(SMALLEST).contiguous()
    return (gradient / largest).cast(dtype).contiguous(), largest
