"""What a trained classifier says of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem, one_of
from llmspec.parts.others import StartModel
from llmspec.parts.rewards.base import Answered, Open, Reward


class ByClassifier(Reward):
    """The probability that a classifier gives a label of the answer's text."""

    kind: Literal["classifier"] = "classifier"
    asks: ClassVar[tuple[str, ...]] = ("classifier",)
    formula: ClassVar[str] = "P(label | answer)"
    model: StartModel
    """The classifier: folder of a run whose last phase classifies, or of a saved model."""
    label: str = Field(min_length=1)
    """The label that is wanted."""

    def unfit(self, open_: Open) -> Iterable[Problem]:
        labels = open_(self.model).labels
        if self.label not in labels:
            said = f"the model has no label `{self.label}`" if labels else "the model gives texts no labels"
            hint = one_of(self.label, labels) if labels else "name a run whose last phase classifies"
            yield Problem(said, ("label",) if labels else ("model",), hint)

    def scores(self, answers: Sequence[Answered], open_: Open) -> list[float]:
        said = [i for i, answer in enumerate(answers) if answer.text.strip()]  # an empty text has no label
        found = open_(self.model).classify([answers[i].text for i in said]) if said else []
        scores = [0.0] * len(answers)
        for i, probabilities in zip(said, found, strict=True):
            scores[i] = probabilities[self.label]
        return scores
