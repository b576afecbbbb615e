"""Vectors of texts that are near for texts that belong together (Reimers & Gurevych 2019, arXiv:1908.10084; Karpukhin
et al. 2020, arXiv:2004.04906, section 3.2)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.heads import Head
from llmspec.parts.heads.embedding import Embedding
from llmspec.parts.heads.pooling import Pooling
from llmspec.parts.objectives.base import TOGETHER
from llmspec.parts.phases.base import EMBEDDER
from llmspec.parts.phases.documents import DocumentPhase


class Contrastive(DocumentPhase):
    """Learns which texts belong together, from the `source:` and `target:` of each record: the target of a record is to
    be nearer to its source than those of all other records of the pass. Of encoders, or of decoders by their last
    token."""

    kind: Literal["contrastive"] = "contrastive"
    apart: ClassVar[bool] = True
    makes: ClassVar[str] = EMBEDDER
    predicts: ClassVar[str] = TOGETHER
    micro_batch_size: int = Field(16, gt=0, le=1 << 24)
    """Sequences of `context` tokens per pass, each of several pairs: the more pairs, the more negatives for each.
    Passes whose gradients are summed do not see each other's texts."""
    prompts: tuple[str, ...] = ()
    """Texts that are shown with the nearest targets at each sample; if omitted, the first sources that are validated
    with, or else trained on."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "contrastive")] = Field(
        default_factory=objectives.TABLE.default("contrastive")
    )
    """What is minimised."""

    def measured(self) -> dict[str, str]:
        """What is told of all held-out pairs, too."""
        return {**super().measured(), "recall@1": "higher", "recall@10": "higher"}

    def own_head(self, pooling: Pooling) -> Head:
        return Embedding.model_validate({"kind": "embedding", "pooling": pooling, "max_tokens": self.max_tokens})
