"""A trained vector for each token of the vocabulary."""

from typing import ClassVar, Literal

from llmspec.parts.base import Dims, TensorSpec
from llmspec.parts.embeddings.base import Embed, Embedding


class Tokens(Embedding):
    """A trained vector for each token of the vocabulary (Bengio et al. 2003)."""

    kind: Literal["tokens"] = "tokens"
    formula: ClassVar[str] = "table[token]"

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (dims.vocab, dims.d_model), "embedding"),)

    def build(self, dims: Dims) -> Embed:
        return lambda ops, w, inputs: ops.embedding(w["weight"], inputs["tokens"])
