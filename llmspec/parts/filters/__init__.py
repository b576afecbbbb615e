"""Decoding filters: pure functions of logits and context."""

from llmspec.core.table import Table
from llmspec.parts.filters.base import Context, Filter

TABLE = Table[Filter](
    __name__,
    {
        "penalties": "Penalties",
        "temperature": "Temperature",
        "top_k": "TopK",
        "top_p": "TopP",
        "min_p": "MinP",
    },
)

__all__ = ["TABLE", "Context", "Filter"]
