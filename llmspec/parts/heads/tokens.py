"""Logits of classes at every token, as in tagging."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions, outputs_layer

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Tokens(Head):
    """Logits of `classes` for each token (Devlin et al. 2019, section 5.3)."""

    kind: Literal["tokens"] = "tokens"
    formula: ClassVar[str] = "logits = x·Wᵀ + bias"
    classes: int = Field(gt=0, le=1 << 20)
    """How many there are."""
    bias: bool = True
    """Whether a trained number is added to each logit."""

    def outputs(self, dims: Dims) -> int:
        return self.classes

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return outputs_layer("", self.classes, dims, self.bias)

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            return x_BTD

        return HeadFunctions(features, lambda w, embedding: w.linear(""))
