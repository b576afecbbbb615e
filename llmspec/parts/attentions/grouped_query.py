"""Groups of query heads share keys and values (Ainslie et al. 2023, arXiv:2305.13245)."""

from typing import Literal

from pydantic import Field

from llmspec.parts.attentions.base import Attention
from llmspec.parts.base import Default, Dims


class GroupedQuery(Attention):
    """`kv_heads` heads of keys and values, each shared by heads / kv_heads query heads."""

    kind: Literal["grouped_query"] = "grouped_query"
    kv_heads: int | None = Field(None, gt=0, le=1 << 20)
    """Key/value heads; as many as `heads` (multi-head attention) if omitted."""

    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads or 1

    def defaults(self, dims: Dims) -> dict[str, Default]:
        base = super().defaults(dims)
        heads = self.heads or base["heads"].value
        return {**base, "kv_heads": Default(heads, "as many as heads: multi-head attention")}
