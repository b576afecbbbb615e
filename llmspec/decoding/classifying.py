"""Texts to labels, with probabilities, by the head of a model that was trained to tell them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmspec.compiler.plan import ModelPlan
from llmspec.decoding.reading import Progress, Reader, Reading

if TYPE_CHECKING:
    import numpy as np

CANDIDATES = 3
"""Labels that are named in a sentence, at most."""


@dataclass(frozen=True)
class LabelChance:
    """A label, and how probable it is."""

    label: str
    probability: float


@dataclass(frozen=True)
class Classified:
    """What a model says of a text."""

    labels: tuple[LabelChance, ...]
    """Every label, the most probable first. Of a text with one label the probabilities total 1; where it may have
    several, each is a yes or no of its own."""
    multi_label: bool = False
    cut: bool = False
    """Whether the beginning alone of the text was read."""

    @property
    def label(self) -> str:
        """The most probable one."""
        return self.labels[0].label

    @property
    def said(self) -> tuple[str, ...]:
        """The labels that it has: the most probable one, or where there may be several, those above one half."""
        return tuple(c.label for c in self.labels if c.probability > 0.5) if self.multi_label else (self.label,)


class Classifier(Reader):
    """A model and the head that tells labels."""

    def look_at(self, head: Any) -> None:
        self.labels: tuple[str, ...] = tuple(head.labels or map(str, range(head.classes)))
        self.multi_label = bool(head.multi_label)

    def classify(self, texts: Sequence[str], progress: Progress = lambda done, total: None) -> list[Classified]:
        """The labels of each text. Raises DataError for lone surrogates, LlmspecError for a text without tokens."""
        found = self.read(texts, progress)
        return self._said(found.vectors, set(found.cut))

    def of_rows(self, rows: Sequence[Sequence[int]]) -> list[Classified]:
        """The same of texts as ids, special tokens around them included."""
        return self._said(self.read_rows(rows), set())

    def _said(self, logits: np.ndarray, cut: set[int]) -> list[Classified]:
        chances = probabilities(logits, self.multi_label)
        return [
            Classified(
                tuple(LabelChance(self.labels[j], float(row[j])) for j in (-row).argsort(kind="stable").tolist()),
                self.multi_label,
                i in cut,
            )
            for i, row in enumerate(chances)
        ]


def probabilities(logits: np.ndarray, multi: bool) -> np.ndarray:
    """(N, C) float64 of logits (N, C): of one label each, softmax; where there may be several, each by itself."""
    import numpy as np

    x = logits.astype(np.float64)
    if multi:
        return 0.5 * (1 + np.tanh(0.5 * x))
    x = np.exp(x - x.max(-1, keepdims=True))
    found: np.ndarray = x / x.sum(-1, keepdims=True)
    return found


def labelled_head(model: ModelPlan, kind: str) -> str | None:
    """The name of the last head of a kind whose outputs have names; None where there is none."""
    names = [n for n, head in model.heads.items() if head.kind == kind and getattr(head, "labels", None)]
    return names[-1] if names else None


def classifying_head(model: ModelPlan) -> str | None:
    """The name of the last head that tells labels by their names; None where there is none."""
    return labelled_head(model, "classes")


CLASSIFYING = Reading(
    Classifier,
    classifying_head,
    "this model tells no labels",
    hint="a phase of kind classify trains a model that does; a head of kind classes needs `labels:`",
    consequence="there would be nothing to choose among",
)
"""How texts get labels."""


def listed(found: Classified) -> str:
    """Its most probable labels in a line: `fresh 83%, rotten 17%`."""
    shown = [f"{c.label} {c.probability:.0%}" for c in found.labels[:CANDIDATES]]
    return ", ".join(shown) + (", …" if len(found.labels) > CANDIDATES else "")
