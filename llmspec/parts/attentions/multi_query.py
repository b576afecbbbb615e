"""All query heads share one head of keys and values (Shazeer 2019, arXiv:1911.02150)."""

from typing import Literal

from llmspec.parts.attentions.base import Attention


class MultiQuery(Attention):
    """One key/value head: the smallest cache."""

    kind: Literal["multi_query"] = "multi_query"

    def key_value_heads(self) -> int:
        return 1
