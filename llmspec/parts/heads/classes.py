"""Logits of classes, one decision a sequence."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import HeadFunctions, outputs_layer
from llmspec.parts.heads.pooling import PooledHead


class Classes(PooledHead):
    """Logits of `classes` for a whole sequence (Devlin et al. 2019, section 4.1)."""

    kind: Literal["classes"] = "classes"
    formula: ClassVar[str] = "logits = pooled(x)·Wᵀ + bias"
    classes: int = Field(gt=0, le=1 << 20)
    """How many there are."""
    bias: bool = True
    """Whether a trained number is added to each logit."""

    def outputs(self, dims: Dims) -> int:
        return self.classes

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (*super().tensors(dims), *outputs_layer("", self.classes, dims, self.bias))

    def build(self, dims: Dims) -> HeadFunctions:
        return HeadFunctions(self.pooled, lambda w, embedding: w.linear(""))
