"""Top-p, nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llmspec.parts.filters.base import Context, Filter, keep_above

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats

ROUNDING = 1e-12
"""A sum this close under p has reached it: eight tokens of 0.1 add up to less than 0.8 in floating point."""
SORTED = 1024
"""As many tokens are sorted outright."""


class TopP(Filter):
    """Keeps the smallest set of most probable tokens whose probability reaches p, at least one; of equals, the
    lowest ids."""

    kind: ClassVar[str] = "top_p"
    by_value: ClassVar[bool] = True
    truncates: ClassVar[bool] = True
    keeps_best: ClassVar[bool] = True
    top_p: float = Field(1.0, ge=0, le=1)
    """Probability that the kept tokens reach together. 1: off."""

    def active(self) -> bool:
        return self.top_p < 1

    def apply(self, logits: Floats, context: Context) -> Floats:
        import numpy as np

        best = logits.max()
        if not self.active() or best == -np.inf:
            return logits
        total = np.exp(logits - best).sum()
        # All tokens under this one together have less than 1 - p, so that none of them is kept.
        least = np.log(total * (1 - self.top_p) / logits.size) if total * (1 - self.top_p) > 0 else -np.inf
        # Only the tokens about the border have to be sorted: while there are many, find out which half it is in.
        rest, kept, reached = logits[logits >= best + min(0.0, least - ROUNDING)], 0, 0.0
        while rest.size > SORTED:
            half = rest.size // 2
            rest = np.partition(rest, half)
            upper = np.exp(rest[half:] - best).sum() / total
            if reached + upper >= self.top_p - ROUNDING:
                rest = rest[half:]
            else:
                rest, kept, reached = rest[:half], kept + rest.size - half, reached + upper
        ranked = np.sort(rest)[::-1]
        sums = reached + np.cumsum(np.exp(ranked - best)) / total
        last = min(int(np.searchsorted(sums, self.top_p - ROUNDING)), ranked.size - 1)
        return keep_above(logits, float(ranked[last]), kept + last + 1)
