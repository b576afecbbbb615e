"""Whether an answer ends by itself."""

from __future__ import annotations

from typing import ClassVar, Literal

from llmspec.parts.rewards.base import Answered, Reward


class Ended(Reward):
    """1 where the model ended its answer, 0 where it was cut at the longest length."""

    kind: Literal["ended"] = "ended"
    formula: ClassVar[str] = "1 if it ended by itself, else 0"

    def score(self, answer: Answered) -> float:
        return float(answer.ended)
