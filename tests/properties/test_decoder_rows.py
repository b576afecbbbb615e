"""Rows of one cache: each has its own position, and with the CPU kernels bit for bit the numbers that it has alone."""

from __future__ import annotations

import functools
import itertools

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CONTEXT, FEW, NETWORKS, VOCAB, Inputs, drawn_tokens, drawn_weights, plan_of, without_unrolling

from llmspec.backends.backend import backend
from llmspec.backends.cpu import native
from llmspec.model import buckets
from llmspec.model.buckets import SHORTEST, batches
from llmspec.model.decoder import Decoder
from llmspec.model.kv_cache import KVCache

ROWS = 4
EXACT = native.products().startswith("own")
"""Whether a prompt's numbers do not depend on how many of its tokens are read at once."""
seeds = st.integers(0, 2**32 - 1)
lengths = st.lists(st.integers(1, CONTEXT - 1), min_size=ROWS, max_size=ROWS)
masks = st.lists(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS), max_size=6)
parents = st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS)


@functools.cache
def decoder(name: str, plain: bool = False) -> tuple[Decoder, Inputs]:
    weights = Inputs().put(drawn_weights(NETWORKS[name].model, 0))
    return Decoder(NETWORKS[name].model, backend("CPU", plain), weights), weights


def with_weights(name: str, seed: int, plain: bool = False) -> Decoder:
    made, weights = decoder(name, plain)
    weights.put(drawn_weights(NETWORKS[name].model, seed))
    return made


def memory(cache: KVCache, row: int) -> list[np.ndarray]:
    """Everything that the cache holds of a row."""
    return [networks.memory(t)[row].copy() for t in cache.tensors.values()]


@pytest.mark.parametrize("name", FEW)
@settings(deadline=None, max_examples=5)
@given(seeds, lengths, masks)
def test_a_row_has_bit_for_bit_what_it_has_alone(
    name: str, seed: int, lengths: list[int], masks: list[list[bool]]
) -> None:
    made, texts = with_weights(name, seed), drawn_tokens(seed, ROWS, CONTEXT).tolist()
    prompts = [text[:n] for text, n in zip(texts, lengths, strict=True)]
    cache, logits = made.prefill(prompts)
    alone = []
    for row, prompt in enumerate(prompts):
        own, first = made.prefill([prompt])
        assert (first[0] == logits[row]).all()
        alone.append(own)
    at = list(lengths)
    for mask in masks:
        on = [wanted and n < CONTEXT for wanted, n in zip(mask, at, strict=True)]
        if not any(on):
            continue
        before = [memory(cache, row) for row in range(ROWS)]
        logits = made.step(cache, [text[min(n, CONTEXT - 1)] for text, n in zip(texts, at, strict=True)], on)
        for row in range(ROWS):
            if on[row]:
                assert (made.step(alone[row], [texts[row][at[row]]])[0] == logits[row]).all()
                at[row] += 1
            else:
                assert np.isnan(logits[row]).all()
                assert all((a == b).all() for a, b in zip(before[row], memory(cache, row), strict=True))
    assert cache.lengths == at and cache.read == [text[:n] for text, n in zip(texts, at, strict=True)]


@pytest.mark.parametrize("name", FEW[:2])
@settings(deadline=None, max_examples=4)
@given(seeds, lengths, parents)
def test_rows_go_on_from_their_parents(name: str, seed: int, lengths: list[int], parents: list[int]) -> None:
    made, texts = with_weights(name, seed), drawn_tokens(seed, ROWS, CONTEXT).tolist()
    cache, _ = made.prefill([text[:n] for text, n in zip(texts, lengths, strict=True)])
    cache.reorder(parents)
    assert cache.lengths == [lengths[p] for p in parents]
    logits = made.step(cache, list(range(ROWS)))
    for row, parent in enumerate(parents):
        own, _ = made.prefill([texts[parent][: lengths[parent]]])
        assert (made.step(own, [row])[0] == logits[row]).all()


@pytest.mark.parametrize("name", FEW[:2])
@settings(deadline=None, max_examples=3)
@given(seeds, lengths)
@without_unrolling
def test_plain_operations_choose_what_each_row_chooses_alone(name: str, seed: int, lengths: list[int]) -> None:
    """Wherever the two best logits differ by more than rounding."""
    made, texts = with_weights(name, seed, plain=True), drawn_tokens(seed, ROWS, CONTEXT).tolist()
    exact = with_weights(name, seed)
    prompts = [text[:n] for text, n in zip(texts, lengths, strict=True)]
    cache, logits = made.prefill(prompts)
    _, alone = exact.prefill(prompts)
    np.testing.assert_allclose(logits, alone, atol=2e-5 * np.abs(alone).max())
    logits = made.step(cache, [1] * ROWS)
    for row, prompt in enumerate(prompts):
        own, _ = exact.prefill([prompt])
        alone = exact.step(own, [1])[0]
        second, best = np.sort(alone)[-2:]
        assert best - second < 1e-4 or logits[row].argmax() == alone.argmax()


LONG = 4 * SHORTEST


@functools.cache
def long() -> Decoder:
    plan = plan_of({"context": LONG, "layers": 2, "position": {"kind": "rope"}, "mlp": {"kind": "relu"}}).model
    return Decoder(plan, backend("CPU"), Inputs().put(drawn_weights(plan, 5)))


@settings(deadline=None, max_examples=12)
@given(seeds, st.integers(0, LONG - 1), st.integers(1, LONG - 1), st.booleans())
def test_a_prefix_that_a_row_has_read_is_not_read_again(seed: int, kept: int, length: int, longer: bool) -> None:
    made, text = long(), drawn_tokens(seed, LONG).tolist()
    prompt = text[:length]
    before = [*text[:kept], *([(text[kept] + 1) % VOCAB] * longer)][:LONG] or [0]
    cache, _ = made.prefill([before])
    _, fresh = made.prefill([prompt])
    own, logits = made.prefill([prompt], cache)
    assert own is cache and cache.read == [prompt]
    close = (logits == fresh).all() if EXACT else np.allclose(logits, fresh, atol=1e-5 * np.abs(fresh).max())
    assert close
    other, _ = made.prefill([prompt])
    a, b = made.step(cache, [3]), made.step(other, [3])
    assert (a == b).all() if EXACT else np.allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_reading_a_prefix_anew_is_left_out_where_that_saves_a_bucket() -> None:
    made = long()
    read: list[int] = []
    original = made._run
    made._run = lambda jit, cache, inputs: read.append(inputs["tokens"].shape[1]) or original(jit, cache, inputs)  # type: ignore[method-assign]
    try:
        cache, _ = made.prefill([[1] * 40])
        made.prefill([[1] * 40 + [2] * 5], cache)
        made.prefill([[1] * 40 + [2] * 5 + [3]], cache, reuse=False)
        made.prefill([[2] * 10], cache)
    finally:
        del made._run
    assert read == [LONG, SHORTEST, LONG, SHORTEST]


@settings(deadline=None, max_examples=8)
@given(seeds, st.integers(0, LONG // 2), st.integers(LONG // 2, LONG - 1), st.booleans())
def test_a_prompt_in_pieces_is_that_prompt(seed: int, kept: int, length: int, beside: bool) -> None:
    made, text = long(), drawn_tokens(seed, LONG).tolist()
    prompts = [*[text[:7]] * beside, text[:length]]
    whole, expected = made.prefill(prompts)
    cache = made.cache(1 + beside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "PIECE", SHORTEST)
        made.prefill([[1], text[: kept + 1]][1 - beside :], cache)
        _, logits = made.prefill(prompts, cache)
    a, b = made.step(whole, [3] * (1 + beside)), made.step(cache, [3] * (1 + beside))
    assert cache.read == [[*prompt, 3] for prompt in prompts]
    if EXACT:
        assert (logits == expected).all() and (a == b).all()
    else:
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@given(st.integers(0, 4000), st.integers(1, 5000), st.sampled_from([6000, 8192, 9000]))
def test_pieces_follow_one_another_and_read_less(start: int, rest: int, places: int) -> None:
    ends = buckets.pieces(start, start + rest, max(places, start + rest))
    assert ends == sorted(set(ends)) and ends[-1] == start + rest and ends[0] > start
    padded = sum(buckets.bucket(b - a, places) for a, b in itertools.pairwise([start, *ends]))
    assert padded <= buckets.bucket(rest, places) and (len(ends) > 1) == (padded < buckets.bucket(rest, places))
    assert all(b - a == buckets.PIECE for a, b in itertools.pairwise([start, *ends[:-1]]))


@settings(deadline=None, max_examples=6)
@given(seeds, st.integers(1, 2 * SHORTEST - 2))
def test_how_many_places_a_row_has_changes_no_bit(seed: int, length: int) -> None:
    made, prompt = long(), drawn_tokens(seed, LONG).tolist()[:length]
    wide, narrow = made.cache(), made.cache(2, 2 * SHORTEST)
    _, first = made.prefill([prompt], wide)
    _, other = made.prefill([[5], prompt], narrow)
    assert (first[0] == other[1]).all()
    assert (made.step(wide, [3])[0] == made.step(narrow, [1, 3])[1]).all()
    with pytest.raises(ValueError, match=f"1 to {2 * SHORTEST} tokens"):
        made.prefill([prompt * LONG], narrow)


@given(st.lists(st.tuples(st.integers(1, 900), st.booleans()), min_size=1, max_size=70), st.integers(900, 2048))
def test_every_prompt_is_read_once_with_others_of_its_length(prompts: list[tuple[int, bool]], places: int) -> None:
    ids, starts = [[0] * n for n, _ in prompts], [n // 2 if kept else 0 for n, kept in prompts]
    read = list(batches(ids, starts, places))
    assert sorted(i for batch in read for i in batch) == list(range(len(ids)))
    for batch in read:
        assert len({bool(starts[i]) for i in batch}) == 1 and len(batch) <= 16


@pytest.mark.parametrize(("there", "rows", "tokens", "expected"), [
    (None, 16, 9, (16, LONG)), (1 << 40, 16, 9, (16, LONG)), (1 << 19, 16, 9, (16, SHORTEST)),
    (1 << 17, 16, 9, (8, 16)), (1 << 17, 16, 40, (2, LONG)), (1, 16, 9, (1, 16)), (1, 1, 9, (1, 16)),
])  # fmt: skip
def test_as_many_rows_as_memory_holds(
    monkeypatch: pytest.MonkeyPatch, there: int | None, rows: int, tokens: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr("llmspec.model.decoder.device_memory", lambda device: there)
    assert long().fit(rows, tokens) == expected
    monkeypatch.setattr("llmspec.model.decoder.LITTLE", 0)
    assert long().fit(rows, tokens)[1] == max(SHORTEST, 1 << (tokens - 1).bit_length())


SHORT = 2 * SHORTEST


WHOLE = {
    "tokens that see the whole prompt": {"mask": {"kind": "prefix"}, "position": {"kind": "rope"}},
    "angles that follow a prompt's length": {
        "position": {"kind": "rope", "scaling": {"kind": "dynamic", "factor": 4.0, "original_context": 5}}
    },
}
"""Models that make something else of a prompt's first tokens where it is longer."""


@functools.cache
def whole(name: str) -> Decoder:
    plan = plan_of({"context": SHORT, "layers": 1, **WHOLE[name]}).model
    return Decoder(plan, backend("CPU"), Inputs().put(drawn_weights(plan, 6)))


@pytest.mark.parametrize("name", WHOLE)
@settings(deadline=None, max_examples=2)
@given(seeds, st.lists(st.integers(1, SHORT - 1), min_size=ROWS, max_size=ROWS))
def test_prompts_that_count_as_a_whole_are_each_as_alone_and_read_anew(
    name: str, seed: int, lengths: list[int]
) -> None:
    made, texts = whole(name), drawn_tokens(seed, ROWS, SHORT).tolist()
    prompts = [text[:n] for text, n in zip(texts, lengths, strict=True)]
    cache, logits = made.prefill(prompts)
    after = made.step(cache, [1] * ROWS)
    for row, prompt in enumerate(prompts):
        own, first = made.prefill([prompt])
        assert (first[0] == logits[row]).all() and (made.step(own, [1])[0] == after[row]).all()
        longer = [*prompt, 2][:SHORT]
        _, again = made.prefill([longer], own)
        assert (again == made.prefill([longer])[1]).all() and not made.worth(SHORT - 2, SHORT)
