"""Hypothesis strategies and small stand-ins for decoding: logits, contexts, settings of any filter, a toy codec."""

from __future__ import annotations

import itertools
import types
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types as at
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from llmspec.parts.filters import TABLE, Context, Filter
from llmspec.parts.tokenizers.special_tokens import SPECIALS, SpecialTokens
from llmspec.spec.decoding import Decoding

# Machines that run tests are busy: how long an example takes says nothing.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


@st.composite
def logits(draw: st.DrawFn, min_size: int = 1, max_size: int = 12, bound: float = 1e4, cut: bool = True) -> np.ndarray:
    """Logits (V,) float64, read-only: any within ±bound, close ones, or ones with many ties; with `cut`, some -inf."""
    size = draw(st.integers(min_size, max_size))
    value = draw(
        st.sampled_from(
            [
                st.floats(-bound, bound),
                st.floats(-min(5, bound), min(5, bound)),
                st.integers(-2, 2).map(float),
            ]
        )
    )
    values = draw(st.lists(st.one_of(value, st.just(-np.inf)) if cut else value, min_size=size, max_size=size))
    return frozen(values)


@st.composite
def contexts(draw: st.DrawFn, vocab: int) -> Context:
    """Prompt and generated tokens, either may be empty."""
    ids = st.lists(st.integers(0, vocab - 1), max_size=8).map(lambda x: np.array(x, dtype=np.int64))
    return Context(draw(ids), draw(ids))


@st.composite
def logits_in_context(draw: st.DrawFn, **kwargs: Any) -> tuple[np.ndarray, Context]:
    """Logits (V,) and a context of tokens under V."""
    values = draw(logits(**kwargs))
    return values, draw(contexts(values.size))


def settings_of(part: type[Filter]) -> st.SearchStrategy[Filter]:
    """The filter with any settings that its fields allow, found from the fields themselves."""
    return st.builds(part, **{key: values_of(field) for key, field in part.model_fields.items()})


def decodings() -> st.SearchStrategy[Decoding]:
    """Decoding sections: any filter settings, stops, and at times an explicit order of all filters."""
    fields = {key: values_of(field) for part in TABLE.values() for key, field in part.model_fields.items()}
    return st.builds(
        Decoding,
        **fields,
        max_tokens=st.integers(1, 1000),
        stop=st.lists(st.text(min_size=1, max_size=4), max_size=3).map(tuple),
        order=st.none() | st.permutations(list(TABLE)).map(tuple),
        seed=st.none() | st.integers(0, 2**63 - 1),
    )


def values_of(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values that a field's type and bounds allow; numbers are mostly small, since most limits are there."""
    return st.just(field.default) | _values(field.annotation, field.metadata)


def _values(kind: Any, bounds: Iterable[Any]) -> st.SearchStrategy[Any]:
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of(*(_values(member, bounds) for member in get_args(kind)))
    if kind is types.NoneType:
        return st.none()
    if kind is bool:
        return st.booleans()
    low, high = (-(10**6), 10**6) if kind is int else (-1e300, 1e300)
    open_low = open_high = False
    for bound in bounds:
        if isinstance(bound, at.Ge | at.Gt):
            low, open_low = bound.ge if isinstance(bound, at.Ge) else bound.gt, isinstance(bound, at.Gt)
        if isinstance(bound, at.Le | at.Lt):
            high, open_high = bound.le if isinstance(bound, at.Le) else bound.lt, isinstance(bound, at.Lt)
    if kind is int:
        low, high = low + open_low, high - open_high
        return st.integers(low, high) | st.integers(low, min(high, low + 8))
    if kind is float:
        wide = st.floats(low, high, exclude_min=open_low, exclude_max=open_high)
        return wide | st.floats(low, min(high, low + 2), exclude_min=open_low, exclude_max=open_high)
    raise TypeError(f"no strategy for fields of type {kind}: add one here")


def frozen(values: Any) -> np.ndarray:
    """A float64 array that cannot be written to, so that a filter which changes its input is found out."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


class ToyCodec:
    """Special tokens first, then any byte strings as tokens; by default the 256 single bytes."""

    def __init__(self, pieces: Sequence[bytes] | None = None, markers: Sequence[str] = ()) -> None:
        self.specials = SpecialTokens.spelled((*SPECIALS, *markers))
        self.pieces = [bytes([b]) for b in range(256)] if pieces is None else list(pieces)
        self.vocab = len(self.specials) + len(self.pieces)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        first = len(self.specials)
        return [[first + self.pieces.index(bytes([b])) for b in text.encode()] for text in texts]

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token: int, begins: bool = False) -> bytes:
        return b"" if token < len(self.specials) else self.pieces[token - len(self.specials)]

    def to_json(self) -> str:
        return ""


@st.composite
def split_texts(draw: st.DrawFn, text: st.SearchStrategy[str]) -> tuple[str, ToyCodec, list[int]]:
    """A text, a codec whose tokens are pieces of its UTF-8 cut anywhere, and the text's ids in that codec."""
    drawn = draw(text)
    data = drawn.encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(data)))) | {0, len(data)})
    codec = ToyCodec([data[a:b] for a, b in itertools.pairwise(cuts)])
    return drawn, codec, list(range(len(codec.specials), codec.vocab))


class TextCache:
    """What rows have read, as it is."""

    def __init__(self, rows: int) -> None:
        self.read: list[list[int]] = [[] for _ in range(rows)]

    def shorten(self, row: int, length: int) -> None:
        del self.read[row][length:]

    def reorder(self, parents: Sequence[int]) -> None:
        self.read = [list(self.read[p]) for p in parents]


class HashDecoder:
    """A decoder without weights: a row's logits follow from the tokens it has read, and from nothing else.

    Attributes:
        fed: the active rows' tokens of every step.
        prompts: all that were read, in their order.
        read: tokens of prompts that were read.
        most: rows that its memory holds.
        least: tokens of a prompt that are worth keeping.
    """

    def __init__(
        self, vocab: int, context: int = 64, spread: float = 2.0, most: int = 64, least: int = 1 << 30
    ) -> None:
        self.vocab, self.context, self.spread, self.most = vocab, context, spread, most
        self.least, self.read, self.encoder_context = least, 0, 0
        self.fed: list[list[int]] = []
        self.prompts: list[list[int]] = []

    def fit(self, rows: int, tokens: int, kind: str) -> tuple[int, int]:
        assert tokens <= self.context, "more than the context"
        return min(rows, self.most), self.context

    def worth(self, kept: int, tokens: int) -> bool:
        return kept >= self.least

    def cache(self, rows: int, places: int, kind: str) -> TextCache:
        return TextCache(rows)

    def prefill(
        self, prompts: Sequence[Sequence[int]], cache: TextCache, rows: Sequence[int], reuse: bool
    ) -> tuple[TextCache, np.ndarray]:
        for row, prompt in zip(rows, prompts, strict=True):
            kept = cache.read[row] if reuse and list(prompt[: len(cache.read[row])]) == cache.read[row] else []
            assert len(kept) < len(prompt), "nothing is left to read"
            self.prompts.append(list(prompt))
            self.read += len(prompt) - len(kept)
            cache.read[row] = list(prompt)
        return cache, np.stack([self.logits_after(cache, row) for row in rows])

    def step(self, cache: TextCache, tokens: Sequence[int], active: Sequence[bool]) -> np.ndarray:
        self.fed.append([token for token, on in zip(tokens, active, strict=True) if on])
        out = np.full((len(cache.read), self.vocab), np.nan, np.float32)
        for row in np.flatnonzero(active):
            cache.read[row].append(tokens[row])
            assert len(cache.read[row]) < self.context, "read past the context"
            out[row] = self.logits_after(cache, int(row))
        return out

    def logits_of(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits (V,) float32 after these tokens."""
        rng = np.random.default_rng(zlib.crc32(repr(list(tokens)).encode()))
        return rng.normal(0, self.spread, self.vocab).astype(np.float32)

    def logits_after(self, cache: TextCache, row: int) -> np.ndarray:
        """Logits (V,) float32 of what follows a row."""
        return self.logits_of(cache.read[row])


class ScriptDecoder(HashDecoder):
    """A decoder whose answers say script[0], script[1] … in the order in which they begin, token by token, and then
    repeat the last token."""

    def __init__(self, vocab: int, script: Sequence[Sequence[int]], context: int = 64) -> None:
        super().__init__(vocab, context)
        self.script = script

    def logits_after(self, cache: TextCache, row: int) -> np.ndarray:
        at, said = len(cache.read[row]) - len(self.prompts[-1]), self.script[row % len(self.script)]
        out = np.full(self.vocab, -5.0, dtype=np.float32)
        out[said[min(at, len(said) - 1)]] = 5.0
        return out
