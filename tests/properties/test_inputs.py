"""Inputs: what a phase declares is what its batches hold, what its graphs read, and what its memory counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import phase_kinds
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import specs

from llmspec.bench.batches import batch
from llmspec.compiler import compile_spec
from llmspec.compiler.inputs import declared_inputs, step_inputs
from llmspec.compiler.memory import tables
from llmspec.compiler.schedule import prompt_problems
from llmspec.core.problems import RunError
from llmspec.data.inputs import BatchInputs
from llmspec.parts.base import InputSpec
from llmspec.parts.masks.bidirectional import Bidirectional
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec


class MaskedWords(CrossEntropy):
    """Every seventh token or so, drawn anew for each batch, is replaced and has to be guessed."""

    kind: Literal["masked_words"] = "masked_words"  # type: ignore[assignment]
    counted: ClassVar[tuple[str, ...]] = ("right",)

    def arrays(self, batch: Any, draw: Any, specials: Any) -> dict[str, Any]:
        bits = draw(batch.tokens.size, "masked").reshape(batch.tokens.shape)
        masked = (bits % np.uint64(7) == 0) & (batch.weights > 0)
        tokens = np.where(masked, np.int32(specials.need("mask")), batch.tokens)
        return {"tokens": tokens, "targets": batch.tokens, "loss_weights": masked.astype(np.float32)}


class Undeclared(CrossEntropy):
    """Makes an array of another shape than it says."""

    kind: Literal["undeclared"] = "undeclared"  # type: ignore[assignment]

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        return {**super().inputs(batch, context), "loss_weights": InputSpec((batch,), "float32")}


@settings(max_examples=25)
@given(data=specs(), index=st.integers(0, 9))
def test_batches_hold_exactly_what_is_declared(data: dict[str, Any], index: int) -> None:
    plan = compile_spec(Spec.model_validate_json(json.dumps(data)))
    for phase in plan.phases:
        inputs = BatchInputs(phase.model, phase.phase, plan.tokenizer.meanings(), (plan.seed,))
        arrays = inputs(batch(plan, phase, index), 0, 0)
        declared = declared_inputs(phase.model, phase.phase)
        assert {n: (a.shape, a.dtype.name) for n, a in arrays.items()} == {n: s[:2] for n, s in declared.items()}
        assert sum(a.nbytes for a in arrays.values()) == sum(s.nbytes for s in declared.values())
        more = step_inputs(phase.model, phase.phase)
        assert {n: more[n] for n in declared} == declared
        assert ("key" in more) == bool(phase.model.drawn)
        assert phase.memory is not None
        held = 4 * tables(phase.model)
        assert phase.memory.batch == held + sum(s.nbytes for s in more.values())


@pytest.mark.parametrize("kind", list(phase_kinds.KINDS))
def test_batches_of_a_benchmark_hold_what_every_kind_declares(kind: str, tmp_path: Path) -> None:
    text, sets = phase_kinds.spec_of(kind)
    *_, phase = (plan := compile_spec(load_spec(tiny.write(tmp_path, text), sets).spec)).phases
    arrays = BatchInputs(phase.model, phase.phase, plan.tokenizer.meanings(), (1,))(batch(plan, phase, 0), 0, 0)
    assert arrays["loss_weights"].sum() > 0


def prepared(objective: Any) -> tuple[Any, Any]:
    """(what makes the arrays of a phase with that objective, one of its batches)."""
    from networks import NETWORKS

    plan = next(iter(NETWORKS.values()))
    phase = plan.phases[0].model_copy(
        update={"phase": plan.phases[0].phase.model_copy(update={"objective": objective})}
    )
    return BatchInputs(
        plan.model, phase.phase, SpecialTokens(ids={"<|mask|>": 1}, mask=1), (plan.seed, phase.name)
    ), batch(plan, phase, 0)


def test_an_objective_changes_what_is_read_and_draws_the_same_again() -> None:
    inputs, read = prepared(MaskedWords())
    first, again, other = inputs(read, 3, 0), inputs(read, 3, 0), inputs(read, 4, 0)
    assert all((first[n] == again[n]).all() for n in first)
    assert (first["loss_weights"] != other["loss_weights"]).any()
    masked = first["loss_weights"] > 0
    assert masked.any() and not masked.all()
    assert (first["tokens"][masked] == 1).all() and (first["tokens"][~masked] == read.tokens[~masked]).all()
    assert (first["targets"] == read.tokens).all()


def test_an_objective_that_makes_what_it_does_not_declare_is_refused() -> None:
    inputs, read = prepared(Undeclared())
    with pytest.raises(RunError, match="objective undeclared declares loss_weights"):
        inputs(read, 0, 0)


def test_ids_that_an_objective_makes_are_checked() -> None:
    inputs, read = prepared(CrossEntropy())
    read.targets[0, 0] = 1 << 20
    with pytest.raises(RunError, match="the data hold token id 1048576"):
        inputs(read, 0, 0)


def test_prompts_of_a_model_that_draws_no_text_are_refused() -> None:
    from networks import NETWORKS

    plan = next(iter(NETWORKS.values()))
    (stack,) = plan.model.stacks
    blocks = tuple(block.model_copy(update={"mask": Bidirectional()}) for block in stack.blocks)
    model = plan.model.model_copy(update={"stacks": (stack.model_copy(update={"blocks": blocks}),)})
    phase = plan.phases[0].phase.model_copy(update={"prompts": ("to be",)})
    assert not list(prompt_problems(phase, plan.model))
    (problem,) = prompt_problems(phase, model)
    assert problem.path == ("prompts",) and problem.hint and problem.consequence
