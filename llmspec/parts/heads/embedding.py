"""One vector for a sequence, to compare texts by."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.heads.base import Head, HeadFunctions
from llmspec.parts.heads.pooling import Pooling, pooled

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Embedding(Head):
    """A vector of d_model numbers for a whole sequence (Reimers & Gurevych 2019, section 3)."""

    kind: Literal["embedding"] = "embedding"
    per_sequence: ClassVar[bool] = True
    formula: ClassVar[str] = "pooled(x), over its length where normalised"
    pooling: Pooling = "mean"
    """What stands for a sequence: the mean of its tokens, its first token (cls) or its last one."""
    normalised: bool = True
    """Whether the vector is divided by its length."""

    def outputs(self, dims: Dims) -> int:
        return dims.d_model

    @property
    def has_layer(self) -> bool:
        return False

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return ()

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        return ElementwiseOps(1, 1).times(dims.d_model)

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            x_BD = pooled(ops, self.pooling, x_BTD, filled_BT)
            length_B1 = x_BD.square().sum(-1, keepdim=True).sqrt().maximum(1e-12)
            return x_BD / length_B1 if self.normalised else x_BD

        return HeadFunctions(features, lambda w, embedding: None)
