"""Whether an answer has a form."""

from __future__ import annotations

import re
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from llmspec.parts.rewards.base import Answered, Reward


class Regex(Reward):
    """1 where a regular expression (Python's `re`) matches the answer; else 0."""

    kind: Literal["regex"] = "regex"
    formula: ClassVar[str] = "1 if the pattern matches, else 0"
    pattern: str = Field(min_length=1)
    """The expression; `.` matches the ends of lines, too."""
    whole: bool = False
    """Whether it has to match the whole answer, rather than a part of it."""
    ignore_case: bool = False
    """Whether large and small letters are alike."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"it is no regular expression: {error}") from None
        return value

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.DOTALL | (re.IGNORECASE if self.ignore_case else 0))

    def score(self, answer: Answered) -> float:
        match = self._compiled.fullmatch if self.whole else self._compiled.search
        return float(match(answer.text) is not None)
