"""Which tokens of a vocabulary stand for text, and which of them go on with a word that another one began.

Shape letter: V tokens of the vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.tokenizers.base import Codec


@dataclass(frozen=True)
class Vocabulary:
    """What an objective may ask of a tokenizer."""

    specials: SpecialTokens
    size: int
    """Number of ids, special ones included."""
    spelled: Callable[[int], bytes] | None = None
    """The bytes that a token adds to a text; None where no text is there, as in benchmarks: each token is a word."""

    @classmethod
    def of(cls, codec: Codec) -> Vocabulary:
        """That of a trained tokenizer."""
        return cls(codec.specials, codec.vocab, codec.token_bytes)

    @cached_property
    def special(self) -> np.ndarray:
        """(V,) bool: what text never is, the token for what is unknown included."""
        import numpy as np

        found = np.zeros(self.size, bool)
        found[[i for i in self.specials.values() if i < self.size]] = True
        return found

    @cached_property
    def plain(self) -> np.ndarray:
        """(n,) int32 ids of all others."""
        import numpy as np

        return np.flatnonzero(~self.special).astype(np.int32)

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """((V,) bool, (V,) bool): whether a token begins, and whether it ends, with a character of a word. Two tokens
        are of one word where the first one ends so and the second one begins so."""
        import numpy as np

        begins, ends = np.zeros(self.size, bool), np.zeros(self.size, bool)
        for token in self.plain.tolist() if self.spelled else ():
            text = self.spelled(token).decode(errors="replace") if self.spelled else ""
            if text:
                begins[token], ends[token] = of_word(text[0]), of_word(text[-1])
        return begins, ends


def of_word(character: str) -> bool:
    """Whether a character is one of several that make a word: a letter, a digit, a mark on one of those, or a part of a
    character (U+FFFD). Ideographs are words of their own, as BERT's tokenizer has them."""
    if character == "\ufffd":
        return True
    return (character.isalnum() or unicodedata.category(character)[0] == "M") and not ideograph(character)


def ideograph(character: str) -> bool:
    """Whether it is a character of Chinese script (the blocks that google-research/bert names in tokenization.py)."""
    code = ord(character)
    return (
        0x3400 <= code <= 0x4DBF or 0x4E00 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x2FA1F
    )
