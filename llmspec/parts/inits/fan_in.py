"""A spread that keeps the size of activations at any width (LeCun et al. 1998, section 4.6)."""

import math
from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import TensorSpec
from llmspec.parts.inits.base import Initializer


class FanIn(Initializer):
    """Normal with standard deviation gain / √(inputs) for matrices, and `embedding` for embeddings."""

    kind: Literal["fan_in"] = "fan_in"
    formula: ClassVar[str] = "N(0, (gain/√inputs)²)"
    gain: float = Field(1.0, gt=0)
    """Factor on 1/√(inputs)."""
    embedding: float = Field(0.02, gt=0)
    """Standard deviation of the embeddings and the head."""

    def spread(self, tensor: TensorSpec) -> float:
        return self.gain / math.sqrt(tensor.shape[-1]) if tensor.role == "matrix" else self.embedding
