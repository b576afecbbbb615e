"""Whether an answer is as long as it should be."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmspec.parts.rewards.base import Answered, Reward


class Length(Reward):
    """1 where the answer's length lies between `least` and `most`; outside, the smaller of length and border divided by
    the larger."""

    kind: Literal["length"] = "length"
    formula: ClassVar[str] = "1 if least ≤ n ≤ most, n / least below, most / n above"
    least: int = Field(1, ge=0, le=1 << 30)
    """Length from which on an answer is long enough."""
    most: int | None = Field(None, ge=1, le=1 << 30)
    """Length up to which an answer is short enough; null: any length."""
    unit: Literal["words", "characters"] = "words"
    """What is counted; words are what stands between white space."""

    @model_validator(mode="after")
    def _ordered(self) -> Any:
        if self.most is not None and self.most < self.least:
            raise ValueError(f"`least: {self.least}`, `most: {self.most}`: no length is at least and at most that")
        return self

    def score(self, answer: Answered) -> float:
        n = len(answer.text.split()) if self.unit == "words" else len(answer.text)
        if n < self.least:
            return n / self.least
        return 1.0 if self.most is None or n <= self.most else self.most / n
