"""Constants of positions that are made as far as somebody reads are those that are made at once."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import gguf_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmspec
from llmspec.backends.backend import backend
from llmspec.backends.tensors import memory
from llmspec.formats.gguf.tables import tables
from llmspec.model.position_tables import PositionTables
from llmspec.model.transformer import Transformer
from llmspec.parts.base import Dims
from llmspec.parts.positions import TABLE
from llmspec.parts.positions.base import STRETCH
from llmspec.spec.schema import Spec

KINDS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in TABLE},
    "yarn": {"kind": "rope", "scaling": {"kind": "yarn", "factor": 4.0, "original_context": 700}},
    "dynamic": {"kind": "rope", "scaling": {"kind": "dynamic", "factor": 2.0, "original_context": 2900}},
    "pairs": {"kind": "rope", "interleaved": True, "fraction": 0.5},
}
CONTEXT = 3000


def plan(position: dict[str, Any], **more: Any) -> Any:
    model = {"context": CONTEXT, "d_model": 16, "layers": 1, "attention": {"kind": "multi_head", "heads": 2}}
    found = {**model, "position": position, **more}
    return llmspec.compile(Spec.model_validate_json(json.dumps({"name": "a", "model": found}))).model


@pytest.mark.parametrize("kind", KINDS)
@given(reached=st.lists(st.integers(1, CONTEXT), max_size=4))
@settings(max_examples=6, deadline=None)
def test_rows_are_bit_for_bit_those_of_the_whole_table(kind: str, reached: list[int]) -> None:
    model = Transformer(plan(KINDS[kind]))
    whole, made = model.tables(), PositionTables(model.positions, backend("CPU"))
    assert {*made.tensors} == {*whole}
    for count in itertools.accumulate(reached, max, initial=0):
        made.reach(count)
        for name, table in whole.items():
            held = memory(made.tensors[name])
            assert held.shape == table.shape and held.dtype == table.dtype == np.float32
            upto = len(table) if len(table) != CONTEXT else count
            assert held[:upto].tobytes() == table[:upto].tobytes()


def test_an_encoder_has_its_own_length() -> None:
    model = Transformer(
        plan({"kind": "rope"}, encoder={"context": 1100}, cross_attention={"kind": "multi_head", "heads": 2})
    )
    made = PositionTables(model.positions, backend("CPU"))
    made.reach(CONTEXT)
    lengths = {name: len(memory(tensor)) for name, tensor in made.tensors.items()}
    assert {*lengths.values()} == {CONTEXT, 1100}
    assert all(memory(made.tensors[name]).tobytes() == table.tobytes() for name, table in model.tables().items())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is as tinygrad has it")
def test_a_long_context_takes_what_is_read_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, own = list[tuple[int, int]](), TABLE["rope"].table_rows

    def counted(self: Any, dims: Dims, begin: int, end: int) -> Any:
        rows.append((begin, end))
        return own(self, dims, begin, end)

    monkeypatch.setattr(TABLE["rope"], "table_rows", counted)
    run = llmspec.open(gguf_files.small(tmp_path / "a.gguf", tables()["llama"], **{"llama.context_length": 8192}))
    assert run.plan.model.context == 8192
    ids = [1, 2, 3]
    first = run.logits(ids)
    cache, _ = run.decoder.prefill([ids])
    long = [1 + i % 250 for i in range(1500)]
    near = run.decoder.step(cache, [4])
    assert np.allclose(near, run.decoder.prefill([[*ids, 4]])[1], atol=1e-4)
    assert max(end for _, end in rows) == STRETCH
    cache, after = run.decoder.prefill([long])
    assert np.array_equal(after[0], run.logits(long)[0, -1]) or np.allclose(
        after[0], run.logits(long)[0, -1], atol=1e-4
    )
    assert max(end for _, end in rows) == 2 * STRETCH and len(rows) < 20
    assert np.array_equal(run.logits(ids), first)
