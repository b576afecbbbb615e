"""What turns the inputs of a network into the vectors that its first block reads."""

from __future__ import annotations

from llmspec.parts.base import ModelPart


class Embedding(ModelPart):
    """Inputs of a batch -> the residual stream. build(dims) -> f(ops, w, inputs) -> x_BTD, `inputs` by their names."""
