"""Texts as vectors, by the head of a model that embeds.

Shape letters: N texts, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from llmspec.backends.plain.backend import Backend
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import LlmspecError
from llmspec.decoding.reading import Embedded, Progress, Reader
from llmspec.model.steps import Tensors
from llmspec.parts.heads.embedding import Embedding
from llmspec.parts.ops import WeightLayout
from llmspec.parts.tokenizers.base import Codec

if TYPE_CHECKING:
    import numpy as np

POOLED = "embedding"
"""Name of the head that is added where the caller says how to pool."""


class Embedder(Reader):
    """A model and the head that it embeds by."""

    def __init__(
        self,
        model: ModelPlan,
        backend: Backend,
        weights: Tensors,
        codec: Codec,
        pooling: str | None,
        layouts: Mapping[str, WeightLayout] = MappingProxyType({}),
    ) -> None:
        """`pooling` None: as the model's own head says. Raises LlmspecError where it has none."""
        head, model = embedding_head(model, pooling)
        super().__init__(model, head, backend, weights, codec, layouts)

    def embed(self, texts: Sequence[str], progress: Progress = lambda done, total: None) -> Embedded:
        """Vectors of texts; raises as `read` does."""
        return self.read(texts, progress)


def embedding_head(model: ModelPlan, pooling: str | None) -> tuple[str, ModelPlan]:
    """The name of the head that embeds, and the model that has it: one is added where `pooling` says how.

    Raises LlmspecError where the model has none, and for an encoder–decoder.
    """
    if model.encoder is not None:
        raise LlmspecError(
            "this model has an encoder and a decoder, and no state that stands for a text",
            hint="open a model of one stack, such as an encoder",
        )
    if pooling is not None:
        head = Embedding.model_validate({"kind": "embedding", "pooling": pooling})
        return POOLED, model.model_copy(update={"heads": {**model.heads, POOLED: head}})
    for name, part in model.heads.items():
        if part.embeds:
            return name, model
    raise LlmspecError(
        "this model has no head that makes vectors of texts",
        hint="say how its states are pooled: --pooling mean (or cls, last); in Python, pooling='mean'",
        consequence="there would be nothing to compare texts by",
    )


def similarities(vectors: np.ndarray) -> np.ndarray:
    """(N, N) cosines of vectors (N, D), float64."""
    import numpy as np

    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    found: np.ndarray = unit @ unit.T
    return found
