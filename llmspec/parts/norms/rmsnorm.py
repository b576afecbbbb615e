"""Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.norms.base import HeadsNorm, Norm

if TYPE_CHECKING:
    from llmspec.parts.ops import Layer, Tensor


class RMSNorm(Norm):
    """x / sqrt(mean(x²) + eps) · weight, or · (1 + weight) (Zhang & Sennrich 2019)."""

    kind: Literal["rmsnorm"] = "rmsnorm"
    formula: ClassVar[str] = "x / √(mean(x²) + eps) · weight, or · (1 + weight) with unit_offset"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(6, 10)
    unit_offset: bool = False
    """Whether 1 is added to the weight, which then starts at 0, so that weight decay pulls the factor towards 1 (Gemma
    Team 2024)."""

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (dims.d_model,), "norm", zeros=self.unit_offset),)

    def factor(self, weight_D: Tensor) -> Tensor:
        """What vectors are multiplied with: a sum over the weights alone, never over the tokens."""
        return weight_D + 1 if self.unit_offset else weight_D

    def build(self, dims: Dims) -> Layer:
        return lambda ops, w, x: ops.rms_norm(x, self.factor(w["weight"]), self.eps)

    def build_heads(self, dims: Dims, whole: bool = False) -> HeadsNorm:
        return lambda ops, w, qkv_BTNd, heads: ops.qk_norm(
            qkv_BTNd, heads, self.factor(w["q_norm.weight"]), self.factor(w["k_norm.weight"]), self.eps
        )
