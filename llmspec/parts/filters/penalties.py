"""Penalties on used tokens: repetition (Keskar et al. 2019, arXiv:1909.05858, 4.1), frequency and presence (OpenAI)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.parts.filters.base import Context, Filter

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats

LARGEST_FACTOR = 1e100
"""A growing repetition penalty stays within 1/1e100 .. 1e100, so that a logit never overflows to a cut."""


class Penalties(Filter):
    """Makes used tokens less likely: repetition scales their logits, then frequency and presence are subtracted."""

    kind: ClassVar[str] = "penalties"
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    """Divides positive and multiplies negative logits of tokens in the prompt or the text drawn so far. 1: off."""
    repetition_growth: Literal["once", "every_use"] = "once"
    """Whether the repetition penalty applies once, or again for each use: penalty ** uses."""
    frequency_penalty: float = Field(0.0, ge=-100, le=100)
    """Subtracted from a token's logit for each time it has been drawn (the prompt does not count). 0: off."""
    presence_penalty: float = Field(0.0, ge=-100, le=100)
    """Subtracted once from the logit of a token that has been drawn (the prompt does not count). 0: off."""

    def active(self) -> bool:
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    def apply(self, logits: Floats, context: Context) -> Floats:
        import numpy as np

        logits = logits.copy()
        if self.repetition_penalty != 1:
            used, power = np.concatenate([context.prompt, context.generated]), np.array(1)
            if self.repetition_growth == "every_use":  # else a token may stand there twice: it gets one value, twice
                used, power = np.unique(used, return_counts=True)
            with np.errstate(over="ignore", under="ignore"):
                factor = np.clip(np.float64(self.repetition_penalty) ** power, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
            logits[used] = np.where(logits[used] < 0, logits[used] * factor, logits[used] / factor)
        if self.frequency_penalty or self.presence_penalty:
            drawn, counts = np.unique(context.generated, return_counts=True)
            logits[drawn] -= self.frequency_penalty * counts + self.presence_penalty
        return logits
