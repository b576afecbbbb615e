"""A trained vector per position, added to the token embedding (GPT-2)."""

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.positions.base import Hooks, Position


class Learned(Position):
    """A trained vector per position, up to the context length (Radford et al. 2019)."""

    kind: Literal["learned"] = "learned"
    embeds: ClassVar[bool] = True
    formula: ClassVar[str] = "x + table[offset + p]"
    offset: int = Field(0, ge=0, le=1 << 20)
    """Rows of the table before that of position 0, which nothing reads (2 in OPT, 2 in RoBERTa after padding's id)."""

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (dims.context + self.offset, dims.d_model), "embedding"),)

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """A sum; its gradient is taken as a product with one-hot rows, once for all sequences."""
        return ElementwiseOps(1, 1).times(dims.d_model)

    def build(self, dims: Dims) -> Hooks:
        offset = self.offset
        if not offset:
            return Hooks(embed=lambda ops, w, x_BTD, p_BT: x_BTD + ops.embedding(w["weight"], p_BT))
        return Hooks(embed=lambda ops, w, x_BTD, p_BT: x_BTD + ops.embedding(w["weight"], p_BT + offset))
