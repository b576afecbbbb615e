"""Texts with places where spans are left out, and what a model says that stood there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llmspec.core.problems import LlmspecError
from llmspec.decoding.filling import MASK, spaced
from llmspec.decoding.generate import Generation
from llmspec.parts.tokenizers.base import Codec, Continuing
from llmspec.parts.tokenizers.special_tokens import FOREIGN_SENTINEL, SENTINELS

MARKS = re.compile(rf"<\|?extra_id_(\d+)\|?>|{re.escape(MASK)}")
"""How a prompt spells a place where something is left out: by its number, or as a mask, the next one."""


@dataclass(frozen=True)
class SpanText:
    """A text with places where something is left out."""

    pieces: tuple[str, ...]
    """What stands before, between and behind them."""
    ids: tuple[int, ...]
    """Its tokens, with a sentinel for each of them."""

    @property
    def shown(self) -> str:
        """The text with the marks that a prompt has."""
        return filled(self.pieces, [FOREIGN_SENTINEL.format(i) for i in range(len(self.pieces) - 1)])


@dataclass(frozen=True)
class SpansFilled:
    """A text with places where something is left out, and what a model says that stood there."""

    text: str
    """With what is said at every place."""
    spans: tuple[str, ...]
    """Of each place, in their order, as it stands in the text; '' where nothing is said."""
    finish_reason: str


def has_spans(codec: Codec, text: object) -> bool:
    """Whether a prompt has places that sentinels of this tokenizer stand for."""
    return isinstance(text, str) and bool(codec.specials.sentinels) and MARKS.search(text) is not None


def span_text(codec: Codec, text: str) -> SpanText:
    """A prompt as tokens. White space before a place belongs to what is to stand there, where tokens of this tokenizer
    begin with their space.

    Raises LlmspecError where the tokenizer has no sentinels, or fewer than the text has places, or where these are not
    numbered in their order.
    """
    sentinels = codec.specials.sentinels
    found = [mark.group(1) for mark in MARKS.finditer(text)]
    if not sentinels:
        raise LlmspecError("this model's tokenizer has no sentinels", codec.specials.advice(SENTINELS))
    if not found:
        raise LlmspecError(
            "the prompt has no <extra_id_0>",
            "write <extra_id_0>, <extra_id_1>, … where something is to be filled in, or [MASK] for each",
            "this model says what is left out of a text",
        )
    if len(found) > len(sentinels):
        raise LlmspecError(
            f"the prompt has {len(found)} places to fill in, and this model's tokenizer {len(sentinels)} sentinels",
            f"leave out {len(sentinels)} spans or fewer",
            "the last ones would have no name",
        )
    for number, name in enumerate(found):
        if name is not None and int(name) != number:
            raise LlmspecError(
                f"<extra_id_{name}> is place {number + 1} of the prompt to fill in",
                f"write <extra_id_{number}> there: they are numbered from 0, in their order",
                "in training they always are",
            )
    edges = [(0, 0), *(mark.span() for mark in MARKS.finditer(text)), (len(text), len(text))]
    pieces = [text[behind:begin] for (_, behind), (begin, _) in pairwise(edges)]
    if spaced(codec):
        pieces[:-1] = [piece.removesuffix(" ") for piece in pieces[:-1]]
    first, *others = codec.encode([pieces[0], *map(Continuing, pieces[1:])])
    ids = [*first, *(t for mark, part in zip(sentinels, others, strict=False) for t in (mark, *part))]
    return SpanText(tuple(pieces), tuple(ids))


def span_row(codec: Codec, ids: Sequence[int]) -> SpanText:
    """Tokens of a text with sentinels, as they are read."""
    sentinels, pieces = set(codec.specials.sentinels), [list[int]()]
    for token in ids:
        if token in sentinels:
            pieces.append([])
        else:
            pieces[-1].append(token)
    texts = [_text(codec, piece) for piece in pieces]
    return SpanText((texts[0].lstrip(" "), *texts[1:]), tuple(ids))


def spans_said(codec: Codec, ids: Sequence[int], count: int) -> list[str]:
    """What is said of each of `count` places, as it stands in the text; '' of those that nothing is said of."""
    numbers, said = {token: i for i, token in enumerate(codec.specials.sentinels)}, [list[int]() for _ in range(count)]
    here: list[int] | None = None
    for token in ids:
        if token in numbers:
            number = numbers[token]
            # What is said of a place for another time does not stand there.
            here = said[number] if number < count and not said[number] else None
        elif token in (codec.specials.eos, *codec.specials.ends):
            break
        elif here is not None:
            here.append(token)
    return [_text(codec, one) for one in said]


def told(codec: Codec, given: SpanText, answer: Generation) -> SpansFilled:
    """What an answer says of the places of a text."""
    spans = spans_said(codec, answer.tokens, len(given.pieces) - 1)
    return SpansFilled(filled(given.pieces, spans).lstrip(" "), tuple(spans), answer.finish_reason)


def filled(pieces: Sequence[str], spans: Sequence[str]) -> str:
    """A text with what stands at its places."""
    return pieces[0] + "".join(span + behind for span, behind in zip(spans, pieces[1:], strict=True))


def _text(codec: Codec, ids: Sequence[int]) -> str:
    return b"".join(map(codec.token_bytes, ids)).decode(errors="replace")
