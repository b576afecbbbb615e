"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.phases.answers import AnswerPhase


class DPO(AnswerPhase):
    """Learns from pairs of answers to prefer the chosen one over the rejected one more than a reference does, without a
    reward model and without drawing text. With `reference_free` it is SimPO."""

    kind: Literal["dpo"] = "dpo"
    preferences: ClassVar[bool] = True
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "dpo")] = Field(
        default_factory=objectives.TABLE.default("dpo")
    )
    """What is minimised."""
