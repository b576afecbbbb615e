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
from llmspec.parts.phases.labelled import UNKNOWN_LABELS, LabelledPhase


class Classify(LabelledPhase):
    """Learns the `label:` of each document of a source; of encoders, or of decoders by their last token."""

    kind: Literal["classify"] = "classify"
    makes: ClassVar[str] = CLASSIFIER
    predicts: ClassVar[str] = LABELS
    reads: ClassVar[str] = "label"
    multi_label: bool = False
    """Whether a document has none, one or several of the labels, such as a list in its record, each of which is a yes
    or no of its own."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "classification")] = Field(
        default_factory=objectives.TABLE.default("classification")
    )
    """What is minimised."""

    @model_validator(mode="after")
    def _fitting(self) -> Classify:
        if self.multi_label and not self.labels and self.objective.head not in self.heads:
            raise ValueError("`multi_label: true` needs `labels: [...]`, since no document need have all of them")
        if self.multi_label and self.class_weights is not None:
            raise ValueError(
                "`class_weights:` weigh documents by their one label; with `multi_label` they have several"
            )
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
