"""One number for a sequence, such as a grade, a price or a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.heads.base import HeadFunctions, outputs_layer
from llmspec.parts.heads.pooling import PooledHead

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView


class Score(PooledHead):
    """One number for a whole sequence (Ouyang et al. 2022, section 3.5, of its last token). The network gives how many
    times `std` the number lies above `mean`."""

    kind: Literal["score"] = "score"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "mean": ("numbers would be learned from 0 on", "no number would be finite"),
        "std": ("all numbers would be infinitely far from the mean", "all numbers would be the mean"),
    }
    formula: ClassVar[str] = "pooled(x)·w + bias, in units of std above mean"
    bias: bool = True
    """Whether a trained number is added."""
    mean: float = Field(0.0, allow_inf_nan=False)
    """What an output of 0 stands for."""
    std: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What an output of 1 stands for above that; null: 1, until a phase takes both from its training data."""

    def outputs(self, dims: Dims) -> int:
        return 1

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (*super().tensors(dims), *outputs_layer("", 1, dims, self.bias))

    def build(self, dims: Dims) -> HeadFunctions:
        def features(ops: Operations, w: WeightView, x_BTD: Tensor, filled_BT: Tensor | None) -> Tensor:
            return self.pooled(ops, w, x_BTD, filled_BT)

        return HeadFunctions(features, lambda w, embedding: w.linear(""))
