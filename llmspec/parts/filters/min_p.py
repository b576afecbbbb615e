"""Min-p (Nguyen et al. 2024, arXiv:2407.01082)."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llmspec.parts.filters.base import Context, Filter

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats


class MinP(Filter):
    """Keeps tokens whose probability is at least min_p times that of the most probable one."""

    kind: ClassVar[str] = "min_p"
    by_value: ClassVar[bool] = True
    truncates: ClassVar[bool] = True
    keeps_best: ClassVar[bool] = True
    min_p: float = Field(0.0, ge=0, le=1)
    """Smallest share of the best token's probability that a token may have. 0: off."""

    def active(self) -> bool:
        return self.min_p > 0

    def apply(self, logits: Floats, context: Context) -> Floats:
        import numpy as np

        if not self.active():
            return logits
        # p >= min_p * max p, in logarithms: no softmax is needed, and applying it twice changes nothing.
        return np.where(logits >= logits.max() + log(self.min_p), logits, -np.inf)
