"""Whatever is handed to the Python API is computed with or refused in a sentence, never silently changed."""

from __future__ import annotations

import functools
from decimal import Decimal
from typing import Any

import models
import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.backends.backend import backend
from llmspec.core.problems import LlmspecError
from llmspec.model.decoder import Decoder

model = functools.cache(models.opened)
VOCAB, CONTEXT = models.plan().model.vocab, models.plan().model.context
WRONG: dict[str, tuple[Any, str]] = {
    "too big": ([VOCAB], f"{VOCAB} at place 0 is not a token id"),
    "negative": ([1, -1], "-1 at place 1"),
    "beyond int32": ([2**31], "not a token id"),
    "beyond int64": ([2**63], "not a token id"),
    "beyond all": ([2**70], "not a token id"),
    "unsigned": (np.array([2**63], np.uint64), "not a token id"),
    "in a row": ([[1, 2], [3, 10**6]], "1000000 at row 1, place 1"),
    "empty": ([], "no tokens"),
    "no rows": (np.zeros((0, 3), int), "no tokens"),
    "empty rows": ([[], []], "no tokens"),
    "whole floats": ([1.0], "not float"),
    "floats": ([1.5], "not float"),
    "NaN": ([float("nan")], "not float"),
    "a float among ids": ([[1, 2.5]], "not float"),
    "float32": (np.ones(2, np.float32), "not float32"),
    "bool": ([True], "not bool"),
    "a bool among ids": ([1, True], "not bool"),
    "one bool": (True, "not bool"),
    "None": (None, "not NoneType"),
    "None among ids": ([1, None], "not NoneType"),
    "text": ("abc", "not str"),
    "texts": (["a"], "not str"),
    "bytes": (b"abc", "not bytes"),
    "complex": (np.ones(1, complex), "not complex128"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), "not datetime64"),
    "decimal": ([Decimal(1)], "not Decimal"),
    "a map": ({1: 2}, "not dict"),
    "a set": ({1}, "not set"),
    "a generator": ((i for i in [1]), "not generator"),
    "ragged": ([[1], [1, 2]], "equal length"),
    "three axes": ([[[1]]], "shape"),
    "a number": (5, "shape"),
    "too long": ([1] * (CONTEXT + 1), f"1 to {CONTEXT} tokens"),
    "far too long": ([1] * 10**6, "not 1000000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_are_no_token_ids_is_refused_by_every_entry(name: str) -> None:
    tokens, why = WRONG[name]
    cache, _ = model().decoder.prefill([[1, 2]])
    for entry in (
        model().logits,
        lambda ids: model().decoder.prefill([ids]),
        lambda ids: model().decoder.step(cache, ids),
    ):
        with pytest.raises((TypeError, ValueError)) as said:
            entry(tokens)
        if entry == model().logits:
            assert why in str(said.value)
    assert cache.lengths == [2]


ids = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4)


@settings(deadline=None, max_examples=20)
@given(ids, st.sampled_from([np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, object, list, tuple]))
def test_integers_of_every_kind_are_the_same_ids(drawn: list[int], kind: Any) -> None:
    drawn = [i % 100 for i in drawn]
    given_ = kind(drawn) if kind in (list, tuple) else np.array(drawn, kind)
    assert model().logits(given_).tobytes() == model().logits(np.array([drawn])).tobytes()


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no prompt": (None, {}, "a prompt is a text, or turns"),
    "bytes": (b"x", {}, "a prompt is"),
    "texts": (["ab", "cd"], {}, "a prompt is"),
    "a turn's half": ([("user",)], {}, "a prompt is"),
    "no text": ([("user", 5)], {}, "a prompt is"),
    "no turns": ([], {}, "without turns"),
    "no role": ([("nobody", "x")], {}, "no role is named `nobody`"),
    "too long": ("x" * 999, {}, "context is 48"),
    "n 0": ("x", {"n": 0}, "n is 1 or more"),
    "n -1": ("x", {"n": -1}, "n is 1 or more"),
    "n 1.5": ("x", {"n": 1.5}, "n is an integer"),
    "n True": ("x", {"n": True}, "n is an integer"),
    "n text": ("x", {"n": "2"}, "n is an integer"),
    "n None": ("x", {"n": None}, "n is an integer"),
    "n huge": ("x", {"n": 10**12}, "at most 65,536"),
    "seed float": ("x", {"seed": 1.5}, "seed is an integer"),
    "seed huge": ("x", {"seed": 2**70}, "at most"),
    "chat": ("x", {"chat": "yes"}, "chat is True, False or None"),
    "misspelt": ("x", {"temprature": 1}, "did you mean `temperature`"),
    "cold": ("x", {"temperature": -1}, "at least 0"),
    "hot": ("x", {"temperature": "hot"}, "expected a number"),
    "NaN": ("x", {"temperature": float("nan")}, "finite"),
    "none": ("x", {"max_tokens": 0}, "more than 0"),
    "half": ("x", {"max_tokens": 1.5}, "whole number"),
    "stop": ("x", {"stop": "a"}, "expected a list"),
    "decoding": ("x", {"decoding": 5}, "decoding is"),
    "surrogate": ("\ud800", {}, "surrogate"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("verb", ["generate", "stream"])
def test_what_cannot_be_answered_is_refused_in_a_sentence(verb: str, name: str) -> None:
    prompt, more, why = REFUSED[name]
    with pytest.raises((LlmspecError, TypeError, ValueError)) as said:
        list(getattr(model(), verb)(prompt, **more))
    assert why in str(said.value)


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(LlmspecError) as said:
        model().settings(temperature=-1, top_p=3, max_tokens="x")
    assert len(said.value.problems) == 3


def test_turns_are_tuples_or_maps_as_others_write_them() -> None:
    turns = [("system", "s"), ("user", "u")]
    assert model().tokens(turns) == model().tokens([{"role": r, "content": c} for r, c in turns])


def test_many_prompts_are_answered_as_each_alone() -> None:
    asked = ["a", [("user", "b")], "a", "a longer one"]
    batch = list(model().generate_batch(asked, n=2, max_tokens=5, seed=3))
    for prompt, answers in zip(asked, batch, strict=True):
        alone = model().generate(prompt, n=2, max_tokens=5, seed=3)
        assert [(a.text, a.choices, a.sample) for a in answers] == [(a.text, a.choices, a.sample) for a in alone]
    assert [a.prompt for answers in batch for a in answers] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not list(model().generate_batch([]))
    with pytest.raises(TypeError, match="a list of prompts"):
        model().generate_batch("a")


def test_a_cache_belongs_to_its_rows_and_begins_with_a_prompt() -> None:
    cache, _ = model().decoder.prefill([[1]] * 2)
    for wrong in ([1], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"2 rows|1 to 2 tokens"):
            model().decoder.step(cache, wrong)
    with pytest.raises(ValueError, match="no prompt was read"):
        model().decoder.step(model().decoder.cache(), [1])
    for rows in (0, -1):
        with pytest.raises(ValueError, match="number of rows is 1 or more"):
            model().decoder.cache(rows)
    with pytest.raises(TypeError, match="number of rows is an integer"):
        model().decoder.cache(1.5)
    for wrong in ([1, 2], [], "ab", 5):
        with pytest.raises(TypeError, match=r"list of lists of token ids|integers"):
            model().decoder.prefill(wrong)
    other = networks.NETWORKS[networks.FEW[0]].model
    foreign = Decoder(other, backend("CPU"), networks.Inputs().put(networks.drawn_weights(other, 0)))
    for wrong, why in ((foreign.cache(2), "another shape"), (None, "what `prefill` gives")):
        with pytest.raises((TypeError, ValueError), match=why):
            model().decoder.step(wrong, [1, 2])
    with pytest.raises(ValueError, match="another shape"):
        model().decoder.prefill([[1]], foreign.cache())
    for prompts, rows in (([[1]] * 3, None), ([[1]] * 2, [0]), ([[1]] * 2, [1, 1])):
        with pytest.raises(ValueError, match="prompts need as many rows, and the cache has 2"):
            model().decoder.prefill(prompts, cache, rows)
    for parents in ([0], [0, 2], [0, 0, 0]):
        with pytest.raises(ValueError, match=r"parent"):
            cache.reorder(parents)
    with pytest.raises(ValueError, match="one token for each of 2 rows"):
        model().decoder.step(cache, [1, 1], [True])
    assert cache.lengths == [1, 1]
