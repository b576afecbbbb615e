"""What turns the inputs of a network into vectors."""

from llmspec.core.table import Table
from llmspec.parts.embeddings.base import Embedding, EmbeddingFunctions

TABLE = Table[Embedding](
    __name__,
    {
        "tokens": "Tokens",
    },
)

__all__ = ["TABLE", "Embedding", "EmbeddingFunctions"]
