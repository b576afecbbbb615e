"""Byte pair encoding (Sennrich et al. 2016, section 3.2) over bytes (Radford et al. 2019, section 2.2)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, Literal

from llmspec.core.problems import DataError, Problem
from llmspec.parts.tokenizers.base import VOCAB_FIELD, Codec, Tokenizer, foreign, spell, utf8

_PARALLEL = "TOKENIZERS_PARALLELISM"
_HOME = os.getpid()
"""The process that may use the library's threads: not one that was forked from it."""


class BPE(Tokenizer):
    """Byte-level byte pair encoding with GPT-2's pre-tokenizer, trained on the mixture."""

    kind: Literal["bpe"] = "bpe"
    vocab: int = VOCAB_FIELD
    """Number of ids: special tokens, 256 bytes, and one for each merge."""

    def size(self) -> int:
        return self.vocab

    def check(self) -> Iterable[Problem]:
        n = len(self.specials())
        yield from self._check_room(self.vocab, n + 256, f"its {n} special tokens and the 256 bytes")

    def train(self, texts: Iterable[str]) -> Codec:
        from tokenizers import Tokenizer as HF
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if problems := tuple(self.check()):
            raise DataError(problems)
        tokenizer = HF(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab,
            # A pair that was seen once teaches nothing about text that was not.
            min_frequency=2,
            special_tokens=list(self.specials()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        with _threads():
            tokenizer.train_from_iterator(_checked(texts), trainer)
        if (found := tokenizer.get_vocab_size()) < self.vocab:
            raise DataError(Problem(
                f"the training text yields only {found} tokens, not {self.vocab}", ("tokenizer", "vocab"),
                f"vocab: {found}", f"{self.vocab - found} rows of the model would never be used",
            ))
        return BPECodec(tokenizer)

    def load(self, text: str) -> Codec:
        from tokenizers import Tokenizer as HF

        try:
            codec = BPECodec(HF.from_str(text))
        except Exception:  # the library raises bare Exceptions
            raise foreign("bpe") from None
        if codec.specials != {s: i for i, s in enumerate(self.specials())} or codec.vocab != self.vocab:
            raise foreign("bpe")
        return codec


class BPECodec:
    """A tokenizer of the `tokenizers` library whose special tokens cannot be spelled."""

    def __init__(self, tokenizer: Any) -> None:
        # Not part of tokenizer.json, so it is set whenever one is opened: text never becomes a special token.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab: int = tokenizer.get_vocab_size()
        added = tokenizer.get_added_tokens_decoder()
        self.specials: dict[str, int] = {added[i].content: i for i in sorted(added)}

    @cached_property
    def _table(self) -> list[bytes]:
        """id -> bytes; special tokens have none."""
        byte_of = {character: byte for byte, character in enumerate(_alphabet())}
        table = [b""] * self.vocab
        for token, i in self._tokenizer.get_vocab(with_added_tokens=False).items():
            if token not in self.specials:
                table[i] = bytes(byte_of[c] for c in token)
        return table

    @cached_property
    def _spelled(self) -> list[bytes]:
        by_id = {i: spelling.encode() for spelling, i in self.specials.items()}
        return [by_id.get(i, piece) for i, piece in enumerate(self._table)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        texts = list(_checked(texts))
        with _threads():
            return [found.ids for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        return spell(map((self._spelled if specials else self._table).__getitem__, ids))

    def token_bytes(self, token: int) -> bytes:
        return self._table[token]

    def to_json(self) -> str:
        return self._tokenizer.to_str(pretty=False)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts themselves; raises DataError for lone surrogates, on which the library fails without a word."""
    for text in texts:
        utf8(text)
        yield text


def _alphabet() -> list[str]:
    """byte -> the visible character that stands for it in byte-level vocabularies (openai/gpt-2, encoder.py)."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


@contextmanager
def _threads() -> Iterator[None]:
    """Let the library use its threads in here, and only in here, unless the user's environment says otherwise.

    Left unset, the variable makes every later fork print a warning; left on, a forked child, which has none of its
    parent's threads, may hang.
    """
    if _chosen_by_user() or os.getpid() != _HOME:
        yield
        return
    os.environ[_PARALLEL] = "true"
    try:
        yield
    finally:
        os.environ[_PARALLEL] = "false"


@cache
def _chosen_by_user() -> bool:
    """Whether the variable was set before this module first set it."""
    return _PARALLEL in os.environ
