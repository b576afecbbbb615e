"""Learning from groups of answers to the same prompt (Shao et al. 2024, arXiv:2402.03300, section 4.1)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.objectives.base import REWARDED
from llmspec.parts.phases.rollouts import RolloutPhase


class GRPO(RolloutPhase):
    """Draws a group of answers to each prompt, and makes those more probable whose reward is above the group's mean."""

    kind: Literal["grpo"] = "grpo"
    predicts: ClassVar[str] = REWARDED
    usual_lr: ClassVar[float | None] = 1e-6
    drops: ClassVar[bool] = False
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the distance of a reward from its group's mean is divided by: the standard deviation of the group, or of all
    rewards of the rollout, or nothing, which favours no prompt for being easy (dr_grpo)."""
    mask_truncated_answers: bool = False
    """Whether answers that were cut count nothing in the loss (DAPO; Yu et al. 2025, section 3.4)."""
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "grpo")] = Field(
        default_factory=objectives.TABLE.default("grpo")
    )
    """What is minimised: which ratios are clipped, and what the loss is divided by."""

    @model_validator(mode="after")
    def _groups(self) -> GRPO:
        if self.answers_per_prompt < 2:
            raise ValueError("an answer is compared with others to its prompt: `answers_per_prompt:` is 2 or more")
        return self
