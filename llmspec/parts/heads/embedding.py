"""One vector for a sequence, to compare texts by."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.base import Dims, ElementwiseOps
from llmspec.parts.heads.base import HeadFunctions
from llmspec.parts.heads.pooling import PooledHead

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Embedding(PooledHead):
    """A vector of d_model numbers for a whole sequence (Reimers & Gurevych 2019, section 3)."""

    kind: Literal["embedding"] = "embedding"
    formula: ClassVar[str] = "pooled(x), over its length where normalised"
    normalised: bool = True
    """Whether the vector is divided by its length."""
    embeds: ClassVar[bool] = True

    def outputs(self, dims: Dims) -> int:
        return dims.d_model

    @property
    def has_layer(self) -> bool:
        return False

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        return super().elementwise(dims).plus(ElementwiseOps(1, 1).times(dims.d_model))

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            x_BD = self.pooled(ops, w, x_BTD, filled_BT)
            # The bound stands below the root: of a vector of zeros the gradient is 0, too, and not without a number.
            length_B1 = x_BD.square().sum(-1, keepdim=True).maximum(1e-24).sqrt()
            return x_BD / length_B1 if self.normalised else x_BD

        return HeadFunctions(features, lambda w, embedding: None)
