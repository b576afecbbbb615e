"""Tags of the words of a text, such as names of persons and places, or parts of speech (Devlin et al. 2019,
arXiv:1810.04805, section 5.3; Tjong Kim Sang & De Meulder 2003)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.heads import Head
from llmspec.parts.heads.pooling import Pooling
from llmspec.parts.heads.tokens import Tokens
from llmspec.parts.objectives.base import TAGS
from llmspec.parts.phases.base import TAGGER
from llmspec.parts.phases.labelled import UNKNOWN_LABELS, LabelledPhase


class Tag(LabelledPhase):
    """Learns the `tags:` of the `words:` of each record; of encoders, or of decoders, which know of a word only what
    stands before it and its own first token."""

    kind: Literal["tag"] = "tag"
    makes: ClassVar[str] = TAGGER
    predicts: ClassVar[str] = TAGS
    reads: ClassVar[str] = "tags"
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "tagging")] = Field(
        default_factory=objectives.TABLE.default("tagging")
    )
    """What is minimised."""

    def measured(self) -> dict[str, str]:
        """What is told of all words, too, and of the entities that their tags make."""
        told = dict.fromkeys(("accuracy", "precision", "recall", "F1 micro", "F1 macro"), "higher")
        return {**super().measured(), **told}

    def own_head(self, pooling: Pooling) -> Head:
        labels = self.labels or UNKNOWN_LABELS
        return Tokens.model_validate({"kind": "tokens", "classes": len(labels), "labels": tuple(labels)})
