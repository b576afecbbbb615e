"""What phases have in common that learn labels: of texts, or of their words."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmspec.parts.phases.documents import DocumentPhase

UNKNOWN_LABELS = ("0", "1")
"""Stand for labels that are found in the data, until these are read."""


class LabelledPhase(DocumentPhase):
    """Learns which of some labels a text, or a word, has."""

    effects: ClassVar[dict[str, tuple[str, str]]] = {
        **DocumentPhase.effects,
        "class_weights": ("what has that label would teach nothing", "the loss would be infinite"),
    }
    labels: tuple[str, ...] = Field((), max_length=1 << 16)
    """The labels, in the order of the head's classes; documents with another one are left out, and counted. If
    omitted, those of a head that is there, or else those found in the training documents, sorted."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=1e6)]] | None = None
    """How much a document, or a word, of each label counts: label -> weight (1 where none is said), or `balanced`, by
    which all labels count the same: documents / (labels · documents of the label). The loss is the weighted mean."""

    @model_validator(mode="after")
    def _labels_fit(self) -> LabelledPhase:
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"in `labels:`, the label `{twice}` stands twice")
        if isinstance(self.class_weights, dict) and self.labels:
            for label in self.class_weights:
                if label not in self.labels:
                    raise ValueError(f"`class_weights:` has `{label}`, which `labels:` has not")
        return self
