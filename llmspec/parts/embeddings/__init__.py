"""What turns the inputs of a network into vectors."""

from llmspec.parts.embeddings.base import Embedding, EmbeddingFunctions
from llmspec.parts.embeddings.tokens import Tokens

TABLE: dict[str, type[Embedding]] = {"tokens": Tokens}

__all__ = ["TABLE", "Embedding", "EmbeddingFunctions"]
