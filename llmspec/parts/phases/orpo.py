"""Odds ratio preference optimisation (Hong, Lee & Thorne 2024, arXiv:2403.07691)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmspec.core.table import choice
from llmspec.parts import objectives
from llmspec.parts.phases.answers import AnswerPhase


class ORPO(AnswerPhase):
    """Learns the chosen answer of each pair, and to prefer it over the rejected one, at once and without a reference:
    it may start from a pretrained model."""

    kind: Literal["orpo"] = "orpo"
    preferences: ClassVar[bool] = True
    objective: Annotated[objectives.Objective, choice(objectives.TABLE, "orpo")] = Field(
        default_factory=objectives.TABLE.default("orpo")
    )
    """What is minimised."""
