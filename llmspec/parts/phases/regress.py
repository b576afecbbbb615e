"""A number of a text (Devlin et al. 2019, arXiv:1810.04805, section 4.1; Cer et al. 2017, arXiv:1708.00055)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.heads import Head
from llmspec.parts.heads.pooling import Pooling
from llmspec.parts.heads.score import Score
from llmspec.parts.objectives.base import NUMBERS
from llmspec.parts.phases.base import REGRESSOR
from llmspec.parts.phases.documents import DocumentPhase


class Regress(DocumentPhase):
    """Learns the number that is the `label:` of each document of a source; of encoders, or of decoders by their last
    token."""

    kind: Literal["regress"] = "regress"
    makes: ClassVar[str] = REGRESSOR
    predicts: ClassVar[str] = NUMBERS
    reads: ClassVar[str] = "label"
    effects: ClassVar[dict[str, tuple[str, str]]] = {**DocumentPhase.effects, **Score.effects}
    mean: float | None = Field(None, allow_inf_nan=False)
    """What is taken from each number before it is learned, with `std`; if both are omitted, those of a head that is
    there, or else those of the training documents."""
    std: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What the rest is divided by. Answers of the model are in the labels' own unit whatever it is."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "regression")] = Field(
        default_factory=objectives.TABLE.default("regression")
    )
    """What is minimised."""

    @model_validator(mode="after")
    def _both(self) -> Regress:
        if (self.mean is None) != (self.std is None):
            raise ValueError("`mean:` and `std:` belong together; write both, or neither, and the data tell them")
        return self

    def measured(self) -> dict[str, str]:
        """What is told of all answers, too."""
        told = {"MSE": "lower", "MAE": "lower", "R2": "higher", "Pearson": "higher", "Spearman": "higher"}
        return {**super().measured(), **told}

    def own_head(self, pooling: Pooling) -> Head:
        return Score.model_validate({"kind": "score", "pooling": pooling, "max_tokens": self.max_tokens})

    def added_heads(self, base: Mapping[str, Head], sees_ahead: bool) -> Mapping[str, Head]:
        """The same, its head with the mean and the spread of the numbers."""
        added, name = super().added_heads(base, sees_ahead), self.objective.head
        head = added.get(name, base.get(name))
        if self.std is None or not isinstance(head, Score):
            return added
        return {**added, name: head.model_copy(update={"mean": self.mean, "std": self.std})}
