"""Decoding with a cache gives what the whole forward pass gives, token by token and row by row."""

from __future__ import annotations

import functools

import networks
import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import CONTEXT, EPS, FEW, NETWORKS, PAIRS, ROWS, VOCAB, Inputs, drawn_tokens, drawn_weights, plan_of

from llmspec.backends.backend import backend
from llmspec.model.buckets import SHORTEST
from llmspec.model.decoder import Decoder

seeds, starts = st.integers(0, 2**32 - 1), st.integers(1, CONTEXT)
few_draws = settings(deadline=None, max_examples=3)
TOLERANCE = 400 * EPS
"""Of the norm of a position's logits: two orders of summing up what a logit consists of."""


@functools.cache
def decoder(name: str) -> tuple[Decoder, Inputs]:
    weights = Inputs().put(drawn_weights(NETWORKS[name].model, 0))
    return Decoder(NETWORKS[name].model, backend("CPU"), weights), weights


def decoded(name: str, seed: int, tokens: np.ndarray, start: int) -> np.ndarray:
    """Logits (ROWS, CONTEXT - start + 1, VOCAB) from the prompt's last token on; all rows share the prompt."""
    made, weights = decoder(name)
    weights.put(drawn_weights(NETWORKS[name].model, seed))
    cache, first = made.prefill([tokens[0, :start].tolist()] * ROWS)
    rest = [made.step(cache, tokens[:, at].tolist()) for at in range(start, CONTEXT)]
    return np.stack([first, *rest], axis=1)


def drawn(seed: int, start: int) -> np.ndarray:
    tokens = drawn_tokens(seed)
    tokens[:, :start] = tokens[0, :start]
    return tokens


def close(made: np.ndarray, exact: np.ndarray) -> None:
    room = TOLERANCE * np.linalg.norm(exact, axis=-1)
    assert (np.linalg.norm(made - exact, axis=-1) <= room).all()


@pytest.mark.parametrize("name", networks.continued(PAIRS))
@few_draws
@given(seeds, starts)
def test_every_position_equals_the_whole_pass(name: str, seed: int, start: int) -> None:
    tokens = drawn(seed, start)
    whole = networks.logits(name, drawn_weights(NETWORKS[name].model, seed), tokens)
    close(decoded(name, seed, tokens, start), whole[:, start - 1 :])


@pytest.mark.parametrize("name", FEW)
@few_draws
@given(seeds, starts)
def test_the_order_of_rows_does_not_matter(name: str, seed: int, start: int) -> None:
    tokens = drawn(seed, start)
    close(decoded(name, seed, tokens[::-1].copy(), start), decoded(name, seed, tokens, start)[::-1])


@pytest.mark.parametrize("name", networks.continued(FEW))
@few_draws
@given(seeds, st.integers(1, CONTEXT - 4))
def test_greedy_text_is_that_of_the_whole_pass(name: str, seed: int, start: int) -> None:
    made, inputs = decoder(name)
    weights = drawn_weights(NETWORKS[name].model, seed)
    inputs.put(weights)
    text = drawn_tokens(seed)[0, :start].tolist()
    cache, logits = made.prefill([text] * ROWS)
    while len(text) < CONTEXT:
        padded = np.array([text + [0] * (CONTEXT - len(text))] * ROWS, np.int32)
        whole = networks.logits(name, weights, padded)[0, len(text) - 1]
        second, best = np.sort(whole)[-2:]
        if best - second > 2 * TOLERANCE * np.linalg.norm(whole):
            assert (logits.argmax(-1) == whole.argmax()).all()
        text.append(int(whole.argmax()))
        logits = made.step(cache, [text[-1]] * ROWS)


@functools.cache
def long() -> tuple[Decoder, Inputs]:
    plan = plan_of(
        {
            "context": LONG,
            "layers": 1,
            "position": {"kind": "rope"},
            "mlp": {"kind": "relu"},
            "attention": {"heads": 2, "kv_heads": 1},
        }
    ).model
    weights = Inputs().put(drawn_weights(plan, 5))
    return Decoder(plan, backend("CPU"), weights), weights


LONG = SHORTEST + 8


@settings(deadline=None, max_examples=5)
@example(1, SHORTEST)
@example(2, SHORTEST + 1)
@example(3, LONG)
@given(seeds, st.integers(1, LONG))
def test_prompts_of_every_length_and_another_number_of_rows(seed: int, start: int) -> None:
    """Prompts pad to a bucket: neither the padding nor an earlier text in the cache may show."""
    made, weights = long()
    tokens = drawn_tokens(seed, 1, LONG)
    values = {n: networks.memory(t) for n, t in weights.items()}
    exact = reference.logits(made._plan, values, tokens)[0]
    rows = 1 + seed % 2
    cache, logits = made.prefill([tokens[0, :start].tolist()] * rows)
    close(logits, exact[None, start - 1])
    for at in range(start, min(start + 3, LONG)):
        close(made.step(cache, [int(tokens[0, at])] * rows), exact[None, at])


def test_what_does_not_fit_is_refused() -> None:
    made, _ = decoder(PAIRS[0])
    for length, why in ((0, "no tokens"), (CONTEXT + 1, f"1 to {CONTEXT} tokens")):
        with pytest.raises(ValueError, match=why):
            made.prefill([[1] * length] * ROWS)
    cache, logits = made.prefill([[1] * CONTEXT] * ROWS)
    assert logits.shape == (ROWS, VOCAB) and logits.dtype == np.float32
    with pytest.raises(ValueError, match="full"):
        made.step(cache, [1] * ROWS)
