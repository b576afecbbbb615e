"""WordPiece (Schuster & Nakajima 2012; in the form of Devlin et al. 2019, section 3: longest pieces first)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from llmspec.core.problems import Problem
from llmspec.core.units import Share
from llmspec.parts.tokenizers import learner
from llmspec.parts.tokenizers.base import VOCAB_FIELD
from llmspec.parts.tokenizers.special_tokens import UNKNOWN
from llmspec.parts.tokenizers.trained import TrainedTokenizer


class WordPiece(TrainedTokenizer):
    """Words cut into the longest pieces of a vocabulary that is trained on the mixture, as BERT reads them.

    Text does not come back as it was: white space becomes one space, control characters are left out, marks stand
    apart, and with `lowercase` capitals and accents are gone. What is decoded has the same ids again.
    """

    kind: Literal["wordpiece"] = "wordpiece"
    algorithm: ClassVar[learner.Algorithm] = "wordpiece"
    always: ClassVar[tuple[str, ...]] = (UNKNOWN,)
    vocab: int = VOCAB_FIELD
    """Number of ids: special tokens, the letters of the text, and the pieces that are learned."""
    lowercase: bool = True
    """Whether capitals become small letters and accents are left out, as in BERT's uncased models."""
    max_unknown: Share = Share(5)
    """Share of a source's characters that may be missing from the vocabulary: their words become `<|unk|>`."""

    @property
    def most_unknown(self) -> float:  # type: ignore[override]
        return self.max_unknown.fraction

    def identity(self) -> dict[str, Any]:
        # A limit shapes no text.
        return {key: value for key, value in super().identity().items() if key != "max_unknown"}

    def options(self) -> dict[str, Any]:
        return {"lowercase": self.lowercase}

    def check(self) -> Iterable[Problem]:
        smallest = len(self.specials()) + 1
        yield from self._check_room(self.vocab, smallest, f"its {smallest - 1} special tokens and one letter")
