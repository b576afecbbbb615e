"""Which words an answer has."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from llmspec.parts.rewards.base import Answered, Reward


class Words(Reward):
    """The share of the listed words that are as they should be: those of `include` in the answer, those of `exclude`
    not. Words are whole ones, large and small letters alike."""

    kind: Literal["words"] = "words"
    formula: ClassVar[str] = "(included that are there + excluded that are not) / listed"
    include: tuple[str, ...] = ()
    """Words, or several with spaces between, that an answer is to have."""
    exclude: tuple[str, ...] = ()
    """Those that it is not to have."""

    @model_validator(mode="after")
    def _some(self) -> Any:
        listed = (*self.include, *self.exclude)
        if not listed:
            raise ValueError("neither `include` nor `exclude` lists a word")
        if not all(word.strip() for word in listed):
            key = "include" if not all(word.strip() for word in self.include) else "exclude"
            raise ValueError(f"`{key}:` lists an empty text, which is no word")
        if both := {w.casefold() for w in self.include} & {w.casefold() for w in self.exclude}:
            raise ValueError(f"`exclude:` lists `{min(both)}`, which `include:` wants to be there")
        return self

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], bool], ...]:
        listed = [(w, True) for w in self.include] + [(w, False) for w in self.exclude]
        return tuple((_whole(word), wanted) for word, wanted in listed)

    def score(self, answer: Answered) -> float:
        text = answer.text.casefold()
        right = sum((pattern.search(text) is not None) == wanted for pattern, wanted in self._patterns)
        return right / len(self._patterns)


def _whole(word: str) -> re.Pattern[str]:
    """What finds a word, or several, where no letter or digit stands beside them."""
    spaced = r"\s+".join(re.escape(piece) for piece in word.casefold().split())
    return re.compile(rf"(?<!\w){spaced}(?!\w)")
