"""Whether an answer is in a language."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import LlmspecError, Problem, one_of
from llmspec.parts.rewards.base import Answered, Open, Reward


class Language(Reward):
    """The probability that the answer is in a language, by the library py3langid (Lui & Baldwin 2012, langid.py)."""

    kind: Literal["language"] = "language"
    formula: ClassVar[str] = "P(language | answer)"
    language: str = Field(pattern="^[a-z]{2,3}$")
    """Its code in ISO 639, such as `de`."""

    def unfit(self, open_: Open) -> Iterable[Problem]:
        try:
            known = sorted(dict(identifier().rank("a")))
        except LlmspecError as error:
            yield from (Problem(p.message, ("kind",), p.hint, "no answer would have a reward") for p in error.problems)
            return
        if self.language not in known:
            said = f"py3langid does not know a language `{self.language}`"
            yield Problem(said, ("language",), one_of(self.language, known), "no answer would have a reward")

    def score(self, answer: Answered) -> float:
        if not answer.text.strip():
            return 0.0
        ranked = dict(identifier().rank(answer.text))
        best = max(ranked.values())
        chances = {name: math.exp(logarithm - best) for name, logarithm in ranked.items()}
        return chances[self.language] / math.fsum(chances.values())


def identifier() -> Any:
    """The library. Raises LlmspecError where it is not installed."""
    try:
        import py3langid
    except ImportError:
        raise LlmspecError(
            "languages are told apart by the library py3langid, which is not installed",
            "pip install 'llmspec[rewards]'",
        ) from None
    return py3langid
