"""Kinds of attention: how queries, keys and values are made of the residual stream."""

from llmspec.parts.attentions.base import Attention
from llmspec.parts.attentions.grouped_query import GroupedQuery
from llmspec.parts.attentions.multi_head import MultiHead
from llmspec.parts.attentions.multi_query import MultiQuery

TABLE: dict[str, type[Attention]] = {
    "multi_head": MultiHead,
    "grouped_query": GroupedQuery,
    "multi_query": MultiQuery,
}

__all__ = ["TABLE", "Attention"]
