"""Logits of classes, one decision a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions, outputs_layer
from llmspec.parts.heads.pooling import Pooling, pooled

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Classes(Head):
    """Logits of `classes` for a whole sequence (Devlin et al. 2019, section 4.1)."""

    kind: Literal["classes"] = "classes"
    per_sequence: ClassVar[bool] = True
    formula: ClassVar[str] = "logits = pooled(x)·Wᵀ + bias"
    classes: int = Field(gt=0, le=1 << 20)
    """How many there are."""
    pooling: Pooling = "mean"
    """What stands for a sequence: the mean of its tokens, its first token (cls) or its last one."""
    bias: bool = True
    """Whether a trained number is added to each logit."""

    def outputs(self, dims: Dims) -> int:
        return self.classes

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return outputs_layer("", self.classes, dims, self.bias)

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            return pooled(ops, self.pooling, x_BTD, filled_BT)

        return HeadFunctions(features, lambda w, embedding: w.linear(""))
