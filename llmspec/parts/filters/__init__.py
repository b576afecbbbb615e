"""Decoding filters: pure functions of logits and context."""

from llmspec.parts.filters.base import Context, Filter
from llmspec.parts.filters.min_p import MinP
from llmspec.parts.filters.penalties import Penalties
from llmspec.parts.filters.temperature import Temperature
from llmspec.parts.filters.top_k import TopK
from llmspec.parts.filters.top_p import TopP

TABLE: dict[str, type[Filter]] = {
    "penalties": Penalties,
    "temperature": Temperature,
    "top_k": TopK,
    "top_p": TopP,
    "min_p": MinP,
}
"""In the order in which they run unless `order:` says otherwise."""

__all__ = ["TABLE", "Context", "Filter"]
