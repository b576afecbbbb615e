"""Classification of texts (Devlin et al. 2019, arXiv:1810.04805, section 4.1; Radford et al. 2018, section 3.2)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.heads import Head
from llmspec.parts.heads.classes import Classes
from llmspec.parts.heads.pooling import Pooling
from llmspec.parts.objectives.base import LABELS
from llmspec.parts.phases.base import CLASSIFIER
from llmspec.parts.phases.documents import DocumentPhase

UNKNOWN_LABELS = ("0", "1")
"""Stand for labels that are found in the data, until these are read."""


class Classify(DocumentPhase):
    """Learns the `label:` of each document of a source; of encoders, or of decoders by their last token."""

    kind: Literal["classify"] = "classify"
    makes: ClassVar[str] = CLASSIFIER
    predicts: ClassVar[str] = LABELS
    reads: ClassVar[str] = "label"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        **DocumentPhase.effects,
        "class_weights": ("documents of that label would teach nothing", "the loss would be infinite"),
    }
    labels: tuple[str, ...] = Field((), max_length=1 << 16)
    """The labels, in the order of the head's classes; documents with another one are left out, and counted. If
    omitted, those of a head that is there, or else those found in the training documents, sorted."""
    multi_label: bool = False
    """Whether a document has none, one or several of the labels, such as a list in its record, each of which is a yes
    or no of its own."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=1e6)]] | None = None
    """How much a document of each label counts: label -> weight (1 where none is said), or `balanced`, by which all
    labels count the same: documents / (labels · documents of the label). The loss is the weighted mean."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "classification")] = Field(
        default_factory=lambda: objectives.Classification()
    )
    """What is minimised."""

    @model_validator(mode="after")
    def _fitting(self) -> Classify:
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"the label `{twice}` stands twice in `labels:`")
        if self.multi_label and not self.labels and self.objective.head not in self.heads:
            raise ValueError("`multi_label: true` needs `labels: [...]`, since no document need have all of them")
        if self.multi_label and self.class_weights is not None:
            raise ValueError(
                "`class_weights:` weigh documents by their one label; with `multi_label` they have several"
            )
        if isinstance(self.class_weights, dict) and self.labels:
            for label in self.class_weights:
                if label not in self.labels:
                    raise ValueError(f"`class_weights:` has `{label}`, which `labels:` has not")
        return self

    def measured(self) -> dict[str, str]:
        """What is told of all answers, too."""
        told = {"accuracy": "higher", "F1 macro": "higher", "F1 micro": "higher", "ECE": "lower"}
        return {**super().measured(), **told}

    def own_head(self, pooling: Pooling) -> Head:
        labels = list(self.labels or UNKNOWN_LABELS)
        return Classes.model_validate(
            {"kind": "classes", "classes": len(labels), "labels": tuple(labels), "pooling": pooling}
            | {"multi_label": self.multi_label, "max_tokens": self.max_tokens}
        )
