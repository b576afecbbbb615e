"""Sentences that stand in a record word by word, each word with its tag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmspec.parts.tokenizers.base import Continuing


def words_in(value: Any) -> list[str] | None:
    """The words, or tags, that a field holds: a list of texts or whole numbers, or a text that is split at white space.
    None where it is neither, or holds a word without a letter."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | tuple):
        return None
    if any(isinstance(word, bool) or not isinstance(word, str | int) for word in value):
        return None
    words = [str(word).strip() for word in value]
    return words if all(words) else None


def stretches(words: Sequence[str]) -> list[str]:
    """A sentence's words as they are tokenised, each by itself: all but the first with the space before it."""
    return [*words[:1], *(Continuing(f" {word}") for word in words[1:])]
