"""A prefix that sees itself in both directions, and a causal rest (Raffel et al. 2020, section 3.2.1; prefix LM)."""

from typing import Any, ClassVar, Literal

from llmspec.parts.masks.base import Mask


class Prefix(Mask):
    """Every token sees the prefix of its document, and what came before it. The prefix is what a document begins with
    and is not learned: the first prompt of a dialogue, the prompt in decoding; plain text has none, and is causal
    (Raffel et al. 2020, section 3.2.1)."""

    kind: Literal["prefix"] = "prefix"
    has_prefix: ClassVar[bool] = True
    formula: ClassVar[str] = "key ≤ query or key in the prefix, and query − key < window"

    def allows(self, query: Any, key: Any, key_in_prefix: Any = False) -> Any:
        return ((key <= query) | key_in_prefix) & self.reaches_back(query, key)

    def ends(self, place: Any, end: Any, prefix_end: Any) -> Any:
        import numpy as np

        return np.maximum(place + 1, prefix_end)
