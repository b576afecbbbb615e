"""What objectives have in common that ask one thing of each document of a row.

Shape letters: B rows, T tokens, K documents of a row at most, N = B·K of them, C outputs of the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llmspec.parts.base import InputSpec
from llmspec.parts.objectives.base import Draw, Objective
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.heads.base import Head

TOKENS_PER_DOCUMENT = 16
"""A row has room for a document for so many of its tokens: more than most rows hold, and few numbers."""


class DocumentObjective(Objective):
    """A loss of what a head says of each document, beside what stands in its record."""

    documents: ClassVar[bool] = True

    def places(self, context: int) -> int:
        """How many documents a row has at most."""
        return max(1, context // TOKENS_PER_DOCUMENT)

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        return {}

    def wrong_head(self, head: Head) -> str:
        return "" if head.per_sequence else f"a head of kind {head.kind} says something of every token"

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        """The targets as the layout read them, and what each document counts."""
        return {"targets": batch.labels.targets, "loss_weights": batch.labels.weights}
