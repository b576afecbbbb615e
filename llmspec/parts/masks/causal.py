"""Each token sees itself and what came before it (Vaswani et al. 2017, section 3.2.3)."""

from typing import Any, ClassVar, Literal

from llmspec.parts.masks.base import Mask


class Causal(Mask):
    """Each token sees itself and what came before it; with a `window`, only its last tokens (Beltagy et al. 2020)."""

    kind: Literal["causal"] = "causal"
    causal: ClassVar[bool] = True
    formula: ClassVar[str] = "key ≤ query, and query − key < window"

    def allows(self, query: Any, key: Any, key_in_prefix: Any = False) -> Any:
        return (key <= query) & self.reaches_back(query, key)

    def ends(self, place: Any, end: Any, prefix_end: Any) -> Any:
        return place + 1
