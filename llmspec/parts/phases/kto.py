"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.objectives.base import JUDGED
from llmspec.parts.phases.answers import AnswerPhase


class KTO(AnswerPhase):
    """Learns from single answers that were good or bad: no pairs are needed."""

    kind: Literal["kto"] = "kto"
    thumbs: ClassVar[bool] = True
    predicts: ClassVar[str] = JUDGED
    asks_again: ClassVar[int] = 1
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "kto")] = Field(
        default_factory=objectives.TABLE.default("kto")
    )
    """What is minimised."""

    def read_before(self, read: int, once: int, held_out: int) -> int:
        """The answers of each pass behind other prompts, too."""
        return super().read_before(read, once, held_out) + read + held_out

    def measured(self) -> dict[str, str]:
        """And how much more good answers are worth than bad ones, where both are validated with."""
        return {**super().measured(), "rewards/margins": "higher"}
