"""Texts to numbers, by the head of a model that was trained to give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmspec.compiler.plan import ModelPlan
from llmspec.decoding.reading import Progress, Reader, Reading
from llmspec.parts.heads.score import Score


@dataclass(frozen=True)
class Predicted:
    """What a model says of a text."""

    value: float
    """Its number, in the unit of the labels that were learned."""
    cut: bool = False
    """Whether the beginning alone of the text was read."""


class Scorer(Reader):
    """A model and the head that gives texts numbers."""

    def look_at(self, head: Any) -> None:
        self.mean, self.std = float(head.mean), float(head.std or 1.0)

    def predict(self, texts: Sequence[str], progress: Progress = lambda done, total: None) -> list[Predicted]:
        """The number of each text. Raises DataError for lone surrogates, LlmspecError for a text without tokens."""
        found = self.read(texts, progress)
        cut = set(found.cut)
        numbers = found.vectors[:, 0].astype(float) * self.std + self.mean
        return [Predicted(float(value), i in cut) for i, value in enumerate(numbers)]


def scoring_head(model: ModelPlan) -> str | None:
    """The name of the last head that gives a text a number; None where there is none."""
    names = [name for name, head in model.heads.items() if isinstance(head, Score)]
    return names[-1] if names else None


PREDICTING = Reading(
    Scorer,
    scoring_head,
    "this model gives no text a number",
    hint="a phase of kind regress trains a model that does",
    consequence="there would be nothing to predict with",
)
"""How texts get numbers."""
