"""Every token sees every other one of its document, as in encoders (Devlin et al. 2019, section 3)."""

from typing import Any, ClassVar, Literal

from llmspec.parts.masks.base import Mask


class Bidirectional(Mask):
    """Every token sees all tokens of its document; with a `window`, those near it (Beltagy et al. 2020)."""

    kind: Literal["bidirectional"] = "bidirectional"
    formula: ClassVar[str] = "|query − key| < window"

    def allows(self, query: Any, key: Any, key_in_prefix: Any = False) -> Any:
        # `key >= key` is True of every key, in the shape of the arguments.
        return (key >= key) & (query >= query) & self.reaches_back(query, key) & self.reaches_ahead(query, key)

    def ends(self, place: Any, end: Any, prefix_end: Any) -> Any:
        import numpy as np

        return end if self.window is None else np.minimum(end, place + self.window)

    def keys(self, context: int) -> int:
        return context if self.window is None else min(context, 2 * self.window - 1)
