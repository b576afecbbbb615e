"""What every norm has: its epsilon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llmspec.core.float32 import LARGEST
from llmspec.core.problems import Problem
from llmspec.parts.base import Dims, ElementwiseOps, ModelPart

if TYPE_CHECKING:
    from llmspec.parts.ops import Layer, Operations, Tensor, WeightView

HeadsNorm = Callable[["Operations", "WeightView", "Tensor", int], "Tensor"]
"""f(ops, w, qkv_BTNd, heads) -> qkv_BTNd, its `heads` queries and its keys normalised by q_norm and k_norm of `w`."""

SMALLEST_EPS = 1.01 * LARGEST ** (-2 / 3)
"""About 2.1e-26."""


class Norm(ModelPart):
    """Normalises each token's vector. build(dims) -> f(ops, w, x_BTD) -> x_BTD."""

    per_number: ClassVar[ElementwiseOps]
    """Operations for each number, the sum with the residual stream included."""
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "eps": ("a constant vector would be divided by 0 and become NaN", "every vector would become 0")
    }
    eps: float = Field(1e-5, gt=0)
    """Added to the variance, so that a constant vector does not divide by zero."""

    def strained(self) -> Iterable[Problem]:
        """The gradient divides by (variance + eps)^1.5, and the variance of a constant vector is 0."""
        if self.eps < SMALLEST_EPS:
            yield Problem(
                f"{self.eps!r} to the power of -1.5, as in the gradient, is infinite in float32",
                ("eps",),
                f"eps: {SMALLEST_EPS:.2g} or more; 1e-05 is the default",
                "the gradient of a constant vector would be NaN",
            )

    def build(self, dims: Dims) -> Layer:
        raise TypeError(f"{type(self).__name__} builds nothing")

    def build_heads(self, dims: Dims, whole: bool = False) -> HeadsNorm:
        """The same of each query and key head, or with `whole` of all heads of a token's queries, and of its keys, as
        one vector. `dims.d_model` is the width of a head, or of all queries."""
        norm = self.build(dims)

        def normed(ops: Operations, w: WeightView, x_BTHd: Tensor) -> Tensor:
            return norm(ops, w, x_BTHd.flatten(2)).reshape(x_BTHd.shape) if whole else norm(ops, w, x_BTHd)

        def heads_norm(ops: Operations, w: WeightView, qkv_BTNd: Tensor, heads: int) -> Tensor:
            kv = (int(qkv_BTNd.shape[2]) - heads) // 2
            q, k, v = qkv_BTNd.split([heads, kv, kv], dim=2)
            both = normed(ops, w.under("q_norm"), q).cat(normed(ops, w.under("k_norm"), k), v, dim=2)
            return ops.contiguous_barrier(both)

        return heads_norm

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        return self.per_number.times(dims.d_model)

    def saved_for_backward(self, dims: Dims) -> float:
        """What it gives, and the sum that it is taken of."""
        return 2.0 * dims.d_model
