"""Bytes as tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from llmspec.parts.tokenizers.base import Codec, SpelledTokenizer, decode_bytes, foreign, utf8
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np


class Byte(SpelledTokenizer):
    """UTF-8 bytes: 256 ids after the specials; nothing to train."""

    kind: Literal["byte"] = "byte"
    learns: ClassVar[bool] = False

    def size(self) -> int:
        return len(self.specials()) + 256

    def train(self, texts: Iterable[str], tell: Callable[[str], None] = lambda what: None) -> Codec:
        return ByteCodec(self.specials())

    def load(self, text: str) -> Codec:
        codec = ByteCodec(self.specials())
        if text != codec.to_json():
            raise foreign("byte")
        return codec


class ByteCodec:
    """id = byte + number of specials."""

    reversible = True

    def __init__(self, specials: Sequence[str]) -> None:
        self.specials = SpecialTokens.spelled(specials)
        self.vocab = len(specials) + 256
        self._first = len(specials)
        self._spellings = list(specials)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode_flat([text])[0].tolist() for text in texts]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        spelled = [utf8(text) for text in texts]
        ids = np.frombuffer(b"".join(spelled), np.uint8).astype(np.int32) + self._first
        return ids, np.fromiter(map(len, spelled), np.int64, len(spelled))

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        return decode_bytes(
            self._spellings[i].encode() if specials and i < self._first else self.token_bytes(i) for i in ids
        )

    def token_bytes(self, token: int, begins: bool = False) -> bytes:
        return bytes((token - self._first,)) if token >= self._first else b""

    def to_json(self) -> str:
        return json.dumps({"kind": "byte", "specials": self._spellings})
