"""What turns the inputs of a network into the vectors that its first block reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from llmspec.parts.base import Dims, ModelPart

if TYPE_CHECKING:
    from llmspec.parts.ops import Operations, Tensor, WeightView

Embed = Callable[["Operations", "WeightView", "Mapping[str, Tensor]"], "Tensor"]


class Embedding(ModelPart):
    """Inputs of a batch -> the residual stream. build(dims) -> f(ops, w, inputs) -> x_BTD, `inputs` by their names."""

    def build(self, dims: Dims) -> Embed:
        raise TypeError(f"{type(self).__name__} builds nothing")
