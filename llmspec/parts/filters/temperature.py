"""Temperature (Ackley, Hinton & Sejnowski 1985): softmax(logits / temperature)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llmspec.parts.filters.base import Context, Filter

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats

SMALLEST = 1e-100
"""Lower temperatures than this, other than 0, count as this one, so that logits stay finite; it is as good as 0,
but for exact ties, which share the probability."""


class Temperature(Filter):
    """Divides the logits: below 1 sharpens, above 1 flattens.

    At 0 it cuts all but the most probable token (the lowest id of equals), so that the draw has no choice left and
    what stands after it in the chain changes nothing; what stands before it, such as penalties, still counts.
    """

    kind: ClassVar[str] = "temperature"
    by_value: ClassVar[bool] = True
    temperature: float = Field(1.0, ge=0)
    """Divides the logits; 1 leaves them as they are, 0 always takes the most probable token."""

    def active(self) -> bool:
        return self.temperature != 1

    def apply(self, logits: Floats, context: Context) -> Floats:
        import numpy as np

        if self.temperature == 0:
            best = int(np.argmax(logits))
            only = np.full_like(logits, -np.inf)
            only[best] = logits[best]
            return only
        return logits / max(self.temperature, SMALLEST)
