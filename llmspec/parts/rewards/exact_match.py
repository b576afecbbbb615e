"""Whether an answer is the right one, word by word."""

from __future__ import annotations

from typing import ClassVar, Literal

from llmspec.parts.rewards.base import Answered, Referring


class ExactMatch(Referring):
    """1 where the answer is the reference, but for white space around and between words; else 0."""

    kind: Literal["exact_match"] = "exact_match"
    formula: ClassVar[str] = "1 if answer = reference, else 0"
    ignore_case: bool = False
    """Whether large and small letters are alike."""
    contained: bool = False
    """Whether the reference may stand anywhere in the answer, as whole words."""

    def score(self, answer: Answered) -> float:
        said, wanted = answer.text.split(), self.wanted(answer).split()
        if self.ignore_case:
            said, wanted = [word.casefold() for word in said], [word.casefold() for word in wanted]
        if not self.contained:
            return float(said == wanted)
        return float(any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1)))
