"""Kinds of attention: how queries, keys and values are made of the residual stream."""

from llmspec.core.table import Table
from llmspec.parts.attentions.base import Attention

TABLE = Table[Attention](
    __name__,
    {
        "multi_head": "MultiHead",
        "grouped_query": "GroupedQuery",
        "multi_query": "MultiQuery",
    },
)

__all__ = ["TABLE", "Attention"]
