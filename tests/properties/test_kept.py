"""A KV cache that rounds: both backends round alike, and it matters to nobody how or beside whom a row was read."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SPEC, opened
from networks import Inputs, drawn_tokens, drawn_weights, model_of, without_unrolling

from llmspec.backends.backend import backend
from llmspec.backends.cpu import native
from llmspec.compiler import compile_spec
from llmspec.core.problems import RunError, SpecError
from llmspec.model.buckets import SHORTEST
from llmspec.model.decoder import Decoder
from llmspec.model.kv_cache import KINDS
from llmspec.spec.schema import Spec

CONTEXT, ROWS = 4 * SHORTEST, 3
WIDE = {"kind": "grouped_query", "heads": 4, "kv_heads": 2, "head_dim": 32}
MODELS = {
    "rotary": {"position": {"kind": "rope"}, "attention": WIDE},
    "bounded": {"position": {"kind": "alibi"}, "attention": {**WIDE, "softcap": 5.0, "sinks": True}},
    "window": {"position": {"kind": "t5_relative"}, "attention": WIDE, "mask": {"kind": "causal", "window": 7}},
}
ROUNDED = [kind for kind in KINDS if kind != "f32"]
FEW = {("rotary", "q8_0"), ("window", "f16")}
"""What every run of the tests compares; the others are compared at night."""
FAR = {"f16": 3e-3, "q8_0": 3e-2}
EXACT = native.products().startswith("own")
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def decoder(name: str, plain: bool = False) -> Decoder:
    model = model_of({"context": CONTEXT, **MODELS[name]})
    return Decoder(model, backend("CPU", plain), Inputs().put(drawn_weights(model, 3)))


def texts(seed: int) -> list[list[int]]:
    return drawn_tokens(seed, ROWS, CONTEXT).tolist()


def read(made: Decoder, kind: str, prompt: list[int], rest: list[int]) -> np.ndarray:
    """Logits after the prompt, and after each token of the rest."""
    cache, logits = made.prefill([prompt], made.cache(1, kind=kind))
    return np.stack([logits[0], *(made.step(cache, [token])[0] for token in rest)])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in FEW else pytest.mark.nightly)
        for name in MODELS
        for kind in ROUNDED
    ],
)
@settings(deadline=None, max_examples=2)
@given(seeds, st.integers(1, CONTEXT - 4))
def test_both_backends_round_alike_and_little(name: str, kind: str, seed: int, length: int) -> None:
    text = texts(seed)[0]
    own, plain, whole = (
        run(decoder(name, plain), of, text[:length], text[length : length + 3])
        for run, plain, of in ((read, False, kind), (without_unrolling(read), True, kind), (read, False, "f32"))
    )
    size = np.abs(whole).max()
    # A number that lies between two of what the cache holds may be rounded to either.
    assert np.abs(own - plain).max() <= (FAR[kind] if kind == "q8_0" else FAR[kind] / 3) * size
    assert 0 < np.abs(own - whole).max() <= FAR[kind] * size


@pytest.mark.parametrize("kind", [pytest.param("f16", marks=pytest.mark.nightly), "q8_0"])
@settings(deadline=None, max_examples=4)
@given(seeds, st.lists(st.integers(1, CONTEXT - 2), min_size=ROWS, max_size=ROWS))
def test_a_row_has_bit_for_bit_what_it_has_alone(kind: str, seed: int, lengths: list[int]) -> None:
    made, given_ = decoder("bounded"), texts(seed)
    prompts = [text[:n] for text, n in zip(given_, lengths, strict=True)]
    cache, logits = made.prefill(prompts, made.cache(ROWS, kind=kind))
    stepped = made.step(cache, [text[n] for text, n in zip(given_, lengths, strict=True)])
    for row, prompt in enumerate(prompts):
        alone = read(made, kind, prompt, [given_[row][lengths[row]]])
        assert (alone[0] == logits[row]).all() and (alone[1] == stepped[row]).all()


@pytest.mark.skipif(not EXACT, reason="a BLAS sums in another order where fewer tokens are read at once")
@pytest.mark.parametrize("kind", ROUNDED)
@settings(deadline=None, max_examples=4)
@given(seeds, st.integers(SHORTEST + 1, CONTEXT - 1))
def test_a_kept_beginning_gives_the_same_bits(kind: str, seed: int, length: int) -> None:
    made, text = decoder("rotary"), texts(seed)[0]
    cache, fresh = made.prefill([text[:length]], made.cache(1, kind=kind))
    cache.shorten(0, length // 2)
    _, again = made.prefill([text[:length]], cache)
    assert (fresh == again).all()


def test_what_a_row_takes() -> None:
    made = decoder("rotary")
    whole = made.row_bytes()
    assert made.row_bytes(kind="f16") * 2 == whole
    assert made.row_bytes(kind="q8_0") * 128 == whole * 34
    cache = made.cache(2, kind="q8_0")
    assert sum(t.nbytes() for t in cache.tensors.values()) == 2 * made.row_bytes(kind="q8_0")


def test_heads_that_are_no_whole_blocks_are_refused() -> None:
    narrow = {"d_model": 16, "attention": {"kind": "multi_head", "heads": 2}}
    spec = {**SPEC, "decoding": {"kv_cache": "q8_0"}}
    with pytest.raises(SpecError, match="heads are 12 wide") as caught:
        compile_spec(Spec.model_validate_json(json.dumps(spec)))
    assert caught.value.problems[0].path == ("decoding", "kv_cache")
    model = model_of(narrow)
    made = Decoder(model, backend("CPU"), Inputs().put(drawn_weights(model, 0)))
    with pytest.raises(RunError, match="rounds 32 numbers of a head together"):
        made.cache(1, kind="q8_0")
    with pytest.raises(ValueError, match="f32, f16, q8_0, not 'f8'"):
        made.cache(1, kind="f8")


def test_answers_are_drawn_from_what_the_spec_says() -> None:
    """`decoding.kv_cache` reaches the cache: rounded logits draw with other probabilities."""
    model = opened()
    probabilities = {}
    for kind in ("f32", "f16"):
        (answer,) = model.generate("ab", max_tokens=4, seed=1, kv_cache=kind)
        probabilities[kind] = [choice.probability for choice in answer.choices]
    assert probabilities["f32"] != probabilities["f16"]
    assert probabilities["f32"] == pytest.approx(probabilities["f16"], rel=0.05)
