"""A reward model (Ouyang et al. 2022, arXiv:2203.02155, section 3.5, step 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.heads import Head
from llmspec.parts.heads.score import Score
from llmspec.parts.objectives.preference_ranking import RANKED
from llmspec.parts.phases.base import REWARD_MODEL, Phase


class Reward(Phase):
    """Learns what answers are worth, from which of them are better: a number for a prompt with its answer, by its last
    token. Lists of answers are learned in their order."""

    kind: Literal["reward"] = "reward"
    preferences: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    makes: ClassVar[str] = REWARD_MODEL
    takes: ClassVar[tuple[str, ...]] = (*Phase.takes, REWARD_MODEL)
    predicts: ClassVar[str] = RANKED
    usual_lr: ClassVar[float | None] = 1e-4
    document_mask: Literal[True] = True
    """Tokens see only their own prompt and answer; positions restart with each."""
    max_tokens: int | None = Field(None, gt=0, le=1 << 24)
    """Tokens of a prompt with its answer that are read, at most; as many as the context if omitted."""
    truncation: Literal["none", "prompt"] = "none"
    """What is cut off what is longer: the beginning of its `prompt`, as much of it for all answers; or `none`, and it
    is left out, and counted."""
    prompts: tuple[str, ...] = ()
    """Not to be written: samples show held-out answers with their rewards."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "preference_ranking")] = Field(
        default_factory=objectives.TABLE.default("preference_ranking")
    )
    """What is minimised."""

    @field_validator("document_mask", mode="before")
    @classmethod
    def _apart(cls, value: Any) -> Any:
        if value is not True:  # 1 would pass for it
            raise ValueError("answers of a row never see each other in this kind of phase; leave it out, or write true")
        return value

    def measured(self) -> dict[str, str]:
        """What is told of all held-out answers, too."""
        return {**super().measured(), "ECE": "lower"}

    def added_heads(self, base: Mapping[str, Head], sees_ahead: bool) -> Mapping[str, Head]:
        """Those of the spec, and a number of the last token where there is none of the objective's name."""
        name = self.objective.head
        if name in base or name in self.heads:
            return self.heads
        own = Score.model_validate({"kind": "score", "pooling": "last", "bias": False, "max_tokens": self.max_tokens})
        return {**self.heads, name: own}
