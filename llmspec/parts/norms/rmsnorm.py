"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.norms.base import HeadsNorm, Norm

if TYPE_CHECKING:
    from llmspec.parts.ops import Layer


class RMSNorm(Norm):
    """x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019)."""

    kind: Literal["rmsnorm"] = "rmsnorm"
    formula: ClassVar[str] = "x / √(mean(x²) + eps) · weight"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(6, 10)

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (dims.d_model,), "norm"),)

    def build(self, dims: Dims) -> Layer:
        return lambda ops, w, x: ops.rms_norm(x, w["weight"], self.eps)

    def build_heads(self, dims: Dims) -> HeadsNorm:
        return lambda ops, w, qkv_BTNd, heads: ops.qk_norm(
            qkv_BTNd, heads, w["q_norm.weight"], w["k_norm.weight"], self.eps
        )
