"""One number at every token: a value, a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions, outputs_layer

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Scalar(Head):
    """One number for each token, as reward models and value functions give (Ouyang et al. 2022, section 3.5).

    It starts as 0 for every token, as the value of openai/lm-human-preferences (language/model.py): random weights give
    values that spread more than rewards do, and would be most of every advantage until they are learned.
    """

    kind: Literal["scalar"] = "scalar"
    formula: ClassVar[str] = "x·w + bias"
    bias: bool = False
    """Whether a trained number is added."""

    def outputs(self, dims: Dims) -> int:
        return 1

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return tuple(tensor._replace(zeros=True) for tensor in outputs_layer("", 1, dims, self.bias))

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            return x_BTD

        return HeadFunctions(features, lambda w, embedding: w.linear(""))
