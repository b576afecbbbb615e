"""What turns the inputs of a network into the vectors that its first block reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from llmspec.parts.base import Dims, ModelPart

if TYPE_CHECKING:
    from llmspec.parts.ops import Layer, Operations, Tensor, WeightView


class EmbeddingFunctions(NamedTuple):
    """An embedding in two steps, between which positions are added."""

    vectors: Callable[[Operations, WeightView, Mapping[str, Tensor]], Tensor]
    """f(ops, w, inputs) -> x_BTD, `inputs` by their names."""
    norm: Layer | None = None
    """f(ops, w, x_BTD) -> x_BTD, of the sum; None for nothing."""


class Embedding(ModelPart):
    """Inputs of a batch -> the residual stream. build(dims) -> EmbeddingFunctions."""

    def build(self, dims: Dims) -> EmbeddingFunctions:
        raise TypeError(f"{type(self).__name__} builds nothing")
