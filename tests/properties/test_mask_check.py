"""The built graph shows who influences whom, and a mask that lies is caught in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from networks import FEW, NETWORKS

from llmspec.compiler import compile_spec
from llmspec.compiler.masks import Relation
from llmspec.model.mask_check import FEW as SOON
from llmspec.model.mask_check import compared, graph_check, small_enough
from llmspec.spec import load_spec


@pytest.mark.parametrize("name", FEW)
def test_every_part_looks_where_the_mask_says(name: str) -> None:
    check = graph_check(NETWORKS[name])
    assert check.holds and "forbidden pairs of 144 changed no bit" in check.evidence


def test_documents_stay_apart_and_a_mask_one_too_wide_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [
        "device=CPU",
        "model.layers=1",
        "model.context=32",
        "tokenizer.vocab=300",
        "phases.chat.document_mask=true",
    ]
    plan = compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", overrides).spec)
    assert "documents apart" in graph_check(plan).evidence
    spans = Relation.ranges

    def wide(self: Relation, tokens: int, *given: Any) -> Any:
        found = spans(self, tokens, *given).copy()
        found[..., 1] = np.minimum(found[..., 1] + 1, tokens)
        return found

    def joined(self: Relation, tokens: int, *given: Any) -> Any:
        return spans(Relation(), tokens)

    monkeypatch.setattr(Relation, "ranges", wide)
    check = graph_check(plan)
    assert check.holds is False and "changing the token at position 1 " in check.evidence
    monkeypatch.setattr(Relation, "ranges", joined)
    check = graph_check(plan)
    assert check.holds is False and "of document 1" in check.evidence


@given(st.integers(2, 12), st.data())
def test_one_pair_too_many_or_too_few_is_named(length: int, data: st.DataObject) -> None:
    documents = np.zeros(length, np.int32)
    right = np.tril(np.ones((length, length), bool))
    assert compared(right, documents, right)[0] == ""
    query = data.draw(st.integers(0, length - 2))
    key = data.draw(st.integers(query + 1, length - 1))
    more, less = right.copy(), right.copy()
    more[query, key], less[query, query] = True, False
    assert (
        f"position {key} of document 0 changes the output at position {query} " in compared(more, documents, right)[0]
    )
    assert f"position {query} does not change" in compared(less, documents, right)[0]


def test_large_models_are_shortened_and_say_so() -> None:
    for name in ("llama2-7b", "gpt2-124m"):
        plan = compile_spec(load_spec(tiny.ROOT / f"specs/{name}.yaml", ["memory_limit=9000 GiB"]).spec)
        model, words = small_enough(plan.model)
        assert model is not None and f"of {plan.model.layers} layers" in words and "256 rows of the vocabulary" in words
        assert model.d_model == plan.model.d_model and model.stacks[0].blocks == plan.model.stacks[0].blocks
        assert model.layers == 1 or model.parameters <= SOON
    small = NETWORKS[FEW[0]].model
    kept = small_enough(small)[0]
    assert kept is not None and [t.name for t in kept.tensors] == [t.name for t in small.tensors]
