"""One number at every token: a value, a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions, outputs_layer

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Scalar(Head):
    """One number for each token, as reward models and value functions give (Ouyang et al. 2022, section 3.5)."""

    kind: Literal["scalar"] = "scalar"
    formula: ClassVar[str] = "x·w + bias"
    bias: bool = False
    """Whether a trained number is added."""

    def outputs(self, dims: Dims) -> int:
        return 1

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return outputs_layer("", 1, dims, self.bias)

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            return x_BTD

        return HeadFunctions(features, lambda w, embedding: w.linear(""))
