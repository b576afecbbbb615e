"""Top-k (Fan, Lewis & Dauphin 2018, arXiv:1805.04833, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llmspec.parts.filters.base import Context, Filter, keep_above

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats


class TopK(Filter):
    """Keeps the k most probable tokens, or all that are left where those are fewer; of equals, the lowest ids."""

    kind: ClassVar[str] = "top_k"
    by_value: ClassVar[bool] = True
    truncates: ClassVar[bool] = True
    keeps_best: ClassVar[bool] = True
    top_k: int | None = Field(None, ge=0, le=1 << 31)
    """How many of the most probable tokens are kept. null or 0: off."""

    def active(self) -> bool:
        return bool(self.top_k)

    def apply(self, logits: Floats, context: Context) -> Floats:
        import numpy as np

        k = self.top_k
        if not k or k >= np.count_nonzero(logits > -np.inf):
            return logits
        return keep_above(logits, float(np.partition(logits, -k)[-k]), k)
