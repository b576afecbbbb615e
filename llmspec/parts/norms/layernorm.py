"""Layer normalisation (Ba et al. 2016, arXiv:1607.06450)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.norms.base import Norm

if TYPE_CHECKING:
    from llmspec.parts.ops import Layer


class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) · weight + bias (Ba et al. 2016)."""

    kind: Literal["layernorm"] = "layernorm"
    formula: ClassVar[str] = "(x − mean(x)) / √(variance(x) + eps) · weight + bias"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(9, 18)
    bias: bool = True
    """Whether a trained bias is added."""

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        weight = TensorSpec("weight", (dims.d_model,), "norm")
        return (weight, TensorSpec("bias", (dims.d_model,), "bias")) if self.bias else (weight,)

    def build(self, dims: Dims) -> Layer:
        return lambda ops, w, x: ops.layer_norm(x, w["weight"], w["bias"] if self.bias else None, self.eps)
