"""A unigram language model over pieces of words (Kudo 2018, arXiv:1804.10959, section 3.2), over bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from llmspec.core.problems import Problem
from llmspec.parts.tokenizers import learner
from llmspec.parts.tokenizers.base import VOCAB_FIELD
from llmspec.parts.tokenizers.trained import TrainedTokenizer


class Unigram(TrainedTokenizer):
    """The likeliest split of each word into pieces of bytes, each with a probability of its own, trained on the
    mixture. Words are those of `bpe`; every text comes back from its ids."""

    kind: Literal["unigram"] = "unigram"
    algorithm: ClassVar[learner.Algorithm] = "unigram"
    formula: ClassVar[str] = "argmax over splits of a word of the sum of log p(piece)"
    vocab: int = VOCAB_FIELD
    """Number of ids: special tokens, 256 bytes, and the pieces that are learned."""

    def check(self) -> Iterable[Problem]:
        n = len(self.specials())
        yield from self._check_room(self.vocab, n + 256, f"its {n} special tokens and the 256 bytes")
