"""Characters as tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core import strict_json
from llmspec.core.problems import DataError, Problem
from llmspec.core.units import Share
from llmspec.parts.tokenizers.base import Codec, SpelledTokenizer, decode_bytes, foreign, utf8
from llmspec.parts.tokenizers.special_tokens import UNKNOWN, SpecialTokens

if TYPE_CHECKING:
    import numpy as np


class Char(SpelledTokenizer):
    """The most frequent characters of the training text; the others become `<|unk|>`, read back as U+FFFD."""

    kind: Literal["char"] = "char"
    always: ClassVar[tuple[str, ...]] = (UNKNOWN,)
    vocab: int = Field(128, gt=0, le=1_000_000)
    """Number of ids, special tokens included; those that the text does not fill stay unused."""
    max_unknown: Share = Share(5)
    """Share of a source's characters that may be missing from the vocabulary and become `<|unk|>`."""

    @property
    def most_unknown(self) -> float:  # type: ignore[override]
        return self.max_unknown.fraction

    def identity(self) -> dict[str, Any]:
        # A limit shapes no text.
        return {key: value for key, value in super().identity().items() if key != "max_unknown"}

    def size(self) -> int:
        return self.vocab

    def check(self) -> Iterable[Problem]:
        smallest = len(self.specials()) + 1
        yield from self._check_room(self.vocab, smallest, f"its {smallest - 1} special tokens and one character")

    def train(self, texts: Iterable[str], tell: Callable[[str], None] = lambda what: None) -> Codec:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        # Ties go to the smaller code point, so that the same text always gives the same ids.
        ranked = sorted(counts, key=lambda c: (-counts[c], c))
        return CharCodec(self.vocab, self.specials(), ranked[: self.vocab - len(self.specials())])

    def load(self, text: str) -> Codec:
        try:
            saved = strict_json.loads(text)
            codec = CharCodec(saved["vocab"], saved["specials"], saved["characters"])
        except (ValueError, KeyError, TypeError, DataError):
            raise foreign("char") from None
        if (codec.vocab, tuple(codec.specials)) != (self.vocab, self.specials()) or not sound(
            saved["characters"], self.vocab - len(codec.specials)
        ):
            raise foreign("char")
        return codec


def sound(characters: Any, most: int) -> bool:
    """Whether these are characters, each once, and no more than there are ids for."""
    return (
        isinstance(characters, list)
        and len(characters) <= most
        and len(set(characters)) == len(characters)
        and all(isinstance(c, str) and len(c) == 1 and not "\ud800" <= c <= "\udfff" for c in characters)
    )


class CharCodec:
    """Ids of the specials, then of the characters by falling frequency."""

    reversible = False

    def __init__(self, vocab: int, specials: Sequence[str], characters: Sequence[str]) -> None:
        self.vocab = vocab
        self.specials = SpecialTokens.spelled(specials)
        self._first, self._unknown = len(specials), self.specials.need("unk")
        self._spellings = [*specials, *characters]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode_flat([text])[0].tolist() for text in texts]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        for text in texts:
            utf8(text)
        points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        known, ids = self._known
        if not len(known):
            return np.full(len(points), self._unknown, np.int32), lengths
        near = np.searchsorted(known, points).clip(max=len(known) - 1)
        return np.where(known[near] == points, ids[near], self._unknown).astype(np.int32), lengths

    @cached_property
    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """Code points that have ids, in order, and their ids."""
        import numpy as np

        codes = np.array([ord(c) for c in self._spellings[self._first :]], np.uint32)
        order = np.argsort(codes)
        return codes[order], (order + self._first).astype(np.int32)

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        return decode_bytes(
            self._spellings[i].encode() if specials and i < self._first else self.token_bytes(i) for i in ids
        )

    def token_bytes(self, token: int, begins: bool = False) -> bytes:
        if token == self._unknown:
            return "\N{REPLACEMENT CHARACTER}".encode()
        return self._spellings[token].encode() if self._first <= token < len(self._spellings) else b""

    def to_json(self) -> str:
        characters = self._spellings[self._first :]
        saved = {"kind": "char", "vocab": self.vocab, "specials": list(self.specials), "characters": characters}
        return json.dumps(saved, ensure_ascii=False)
