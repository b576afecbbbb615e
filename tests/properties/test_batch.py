"""Many answers at once: each as alone in any company, shared beginnings read once, and no answer waits for a long
prompt."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies_decoding import HashDecoder, TextCache, ToyCodec, decodings

from llmspec.backends.cpu import native
from llmspec.decoding import batch, generate
from llmspec.decoding.batch import shared_length
from llmspec.spec.decoding import Decoding

CODEC = ToyCodec()
CONTEXT = 64
EXACT = native.products().startswith("own")
"""Whether a prompt's numbers do not depend on how many of its tokens are read at once."""
tokens = st.integers(8, 11)
"""Few, so that prompts begin alike."""


@st.composite
def likes(draw: st.DrawFn, longest: int, most: int) -> list[list[int]]:
    """Prompts of which some begin with others, or with the same system message."""
    begins = draw(st.lists(st.lists(tokens, max_size=longest // 2), min_size=1, max_size=2))
    rests = st.lists(tokens, min_size=1, max_size=longest // 2)
    return [draw(st.sampled_from(begins)) + draw(rests) for _ in range(draw(st.integers(1, most)))]


class Log(HashDecoder):
    """What was done, in its order: how many tokens of prompts were read, and for which rows; or which took a step."""

    def __init__(self, **more: Any) -> None:
        super().__init__(CODEC.vocab, context=CONTEXT, **more)
        self.done: list[tuple[int, set[int]]] = []
        """(tokens of prompts, rows); a step has read none."""

    def prefill(
        self, prompts: Sequence[Sequence[int]], cache: TextCache, rows: Sequence[int], reuse: bool
    ) -> tuple[TextCache, np.ndarray]:
        before = self.read
        found = super().prefill(prompts, cache, rows, reuse)
        self.done.append((self.read - before, set(rows)))
        return found

    def step(self, cache: TextCache, tokens: Sequence[int], active: Sequence[bool]) -> np.ndarray:
        self.done.append((0, set(np.flatnonzero(active).tolist())))
        return super().step(cache, tokens, active)


few = pytest.mark.parametrize("read", [16, 32])


@few
@settings(max_examples=15)
@given(likes(CONTEXT - 1, 20), st.integers(1, 2), st.integers(1, 6), st.sampled_from([1, 4, 1 << 30]), decodings())
def test_answers_are_those_of_each_alone_whatever_is_shared_and_cut(
    read: int, prompts: list[list[int]], n: int, rows: int, least: int, decoding: Decoding
) -> None:
    decoding = decoding.updated(max_tokens=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "READ", read)
        found = generate(Log(least=least), CODEC, prompts, decoding, n=n, seed=3, rows=rows)
    assert [(a.prompt, a.sample) for a in found] == [(p, s) for p in range(len(prompts)) for s in range(n)]
    for prompt, first in zip(prompts, found[::n], strict=True):
        (alone,) = generate(HashDecoder(CODEC.vocab, context=CONTEXT), CODEC, [prompt], decoding, seed=3)
        assert (alone.choices, alone.text, alone.finish_reason) == (first.choices, first.text, first.finish_reason)


@few
@settings(max_examples=15)
@given(likes(CONTEXT - 1, 24), st.integers(1, 6), st.integers(0, 99))
def test_between_two_tokens_of_an_answer_few_tokens_of_prompts_are_read(
    read: int, prompts: list[list[int]], rows: int, seed: int
) -> None:
    decoder = Log(least=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "READ", read)
        generate(decoder, CODEC, prompts, Decoding(max_tokens=8), seed=seed, rows=rows)
    between, going = 0, set[int]()
    for count, done in decoder.done:
        between += count
        if count:
            going -= done  # a row that reads a prompt has another answer than before
        else:
            assert between <= read or not going & done, decoder.done
            between, going = 0, done


def test_without_pieces_a_long_prompt_would_make_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above can fail."""
    monkeypatch.setattr(batch, "READ", 1 << 20)
    decoder = Log(least=1)
    generate(decoder, CODEC, [[8] * 4, [9] * 5, [10] * 60], Decoding(max_tokens=3, temperature=0), rows=2)
    assert max(count for count, _ in decoder.done) >= 60


@settings(max_examples=20)
@given(likes(CONTEXT - 1, 16))
def test_what_prompts_share_is_read_once(prompts: list[list[int]]) -> None:
    """Where there are rows for all: no more is read than their beginnings differ, and a last token for each."""
    decoder = Log(least=1)
    generate(decoder, CODEC, prompts, Decoding(max_tokens=2), rows=16)
    different = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)}
    assert decoder.read <= len(different) + len(prompts)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_what_lists_begin_with_in_common(start: list[int], one: list[int], other: list[int]) -> None:
    a, b = start + one, start + other
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert shared_length(a, b) == length


@functools.cache
def model() -> Any:
    return models.opened(2, context=CONTEXT)


@pytest.mark.parametrize("kind", ["f32", pytest.param("f16", marks=pytest.mark.nightly)])
@settings(deadline=None, max_examples=8)
@example([[8, 9, 10] * 10 + [11] * 20, [8, 9, 10] * 10 + [10, 9] * 9, [9] * 50, [8, 9, 10] * 10 + [11] * 4], 2, 0)
@given(likes(CONTEXT - 1, 12), st.integers(1, 5), st.integers(0, 99))
def test_a_models_answers_are_bit_for_bit_those_of_each_alone(
    kind: str, prompts: list[list[int]], rows: int, seed: int
) -> None:
    made = model()
    decoding = made.settings(temperature=0.8, max_tokens=6, kv_cache=kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "READ", 16)
        found = generate(made.decoder, made.codec, prompts, decoding, seed=seed, rows=rows)
    for prompt, answer in zip(prompts, found, strict=True):
        (alone,) = generate(made.decoder, made.codec, [prompt], decoding, seed=seed)
        if EXACT:
            assert (answer.choices, answer.finish_reason) == (alone.choices, alone.finish_reason)
        else:
            assert answer.choices[0].logprob == pytest.approx(alone.choices[0].logprob, abs=1e-4)
