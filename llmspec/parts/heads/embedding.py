"""One vector for a sequence, to compare texts by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
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
    max_tokens: int | None = Field(None, gt=0, le=1 << 24)
    """Tokens of a text that `embed` reads, at most; as many as the context if omitted."""
    embeds: ClassVar[bool] = True

    def check(self, dims: Dims) -> Iterable[Problem]:
        if self.max_tokens is not None and self.max_tokens > dims.context:
            yield Problem(
                f"texts of {self.max_tokens} tokens are longer than the context of {dims.context}",
                ("max_tokens",),
                f"max_tokens: {dims.context}, or a longer model.context",
                "the model knows no place beyond its context",
            )

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
            length_B1 = x_BD.square().sum(-1, keepdim=True).sqrt().maximum(1e-12)
            return x_BD / length_B1 if self.normalised else x_BD

        return HeadFunctions(features, lambda w, embedding: None)
